//! Build script of raisin-lm: compiles src/unbound.cpp, which calls the operations of libtorch that tch does not bind.
//! rpath.rs sets the run path.

use std::path::Path;

fn main() {
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/unbound.cpp");
    // torch-sys takes the headers of libtorch from the same two variables. If neither variable is set, the compiler
    // uses the headers of the system.
    let top = std::env::var("LIBTORCH_INCLUDE").or_else(|_| std::env::var("LIBTORCH"));
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(false).opt_level(1).file("src/unbound.cpp");
    build.define("_GLIBCXX_USE_CXX11_ABI", std::env::var("LIBTORCH_CXX11_ABI").as_deref().unwrap_or("1"));
    if let Ok(top) = top {
        build.include(Path::new(&top).join("include"));
    }
    build.compile("raisin_unbound");
    rpath::main();
}

#[path = "rpath.rs"]
mod rpath;
