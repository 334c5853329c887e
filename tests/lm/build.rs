//! Tells the tests where libtorch lies, and what they have to compare with.

#[path = "../support/given.rs"]
mod given;
#[path = "../../src/lm/rpath.rs"]
mod rpath;

fn main() {
    rpath::main();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../support/given.rs");
    let names = [("RAISIN_PYTHON", "has_python"), ("RAISIN_GGUF", "has_gguf"), ("RAISIN_DATA", "has_data")];
    given::variables(&names);
}
