//! Links `raisin-sql` at a fixed address. DataFusion has 300,000 pointers in constants, which a program without a fixed
//! address has to adjust whenever it starts: a quarter of the time of a small query.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-no-pie");
}
