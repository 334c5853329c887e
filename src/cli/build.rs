//! Links `raisin` at a fixed address: it has 50,000 pointers in constants, which a program without a fixed address has to
//! adjust whenever it starts.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-no-pie");
}
