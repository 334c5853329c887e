//! Compiles the few lines of C++ that reach what tch does not bind.

use std::path::Path;

fn main() {
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/unbound.cpp");
    // Headers come from where torch-sys takes them; without either variable the compiler finds those of the system.
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
