//! Compiles the few lines of C++ that reach what tch does not bind, tells the executables where libtorch's companions lie,
//! so that they run without LD_LIBRARY_PATH, and keeps libtorch out of the light one.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    // `raisin` must never load libtorch. Its code reaches nothing of tch, but tch's C++ part, once it is an input of the
    // link, keeps itself alive by its static initialisers. So it is no input: should tensor code ever become reachable
    // from `raisin`, the link fails with the name of the symbol.
    for input in ["*libtorch_sys-*.rlib", "*libraisin_unbound.a"] {
        println!("cargo:rustc-link-arg-bin=raisin=-Wl,--remap-inputs={input}=/dev/null");
    }
    // At a fixed address nothing has to be relocated when it starts: 400,000 relocations of DataFusion's tables were
    // most of the time of a build that has nothing to do.
    println!("cargo:rustc-link-arg-bin=raisin=-no-pie");
    for name in ["LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let libtorch = std::env::var("LIBTORCH");
    unbound(std::env::var("LIBTORCH_INCLUDE").as_ref().or(libtorch.as_ref()).ok().map(Path::new));
    let Ok(libtorch) = libtorch else { return };
    // The links in .libtorch/link lead into the unpacked wheels; the libraries there find each other by their own rpath.
    if let Ok(library) = Path::new(&libtorch).join("lib/libtorch_cpu.so").canonicalize()
        && let Some(folder) = library.parent()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}

/// `top` is what torch-sys takes the headers from; without one, those of the system's libtorch are found as it finds them.
fn unbound(top: Option<&Path>) {
    println!("cargo:rerun-if-changed=src/lm/unbound.cpp");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(false).opt_level(1).file("src/lm/unbound.cpp");
    build.define("_GLIBCXX_USE_CXX11_ABI", std::env::var("LIBTORCH_CXX11_ABI").as_deref().unwrap_or("1"));
    if let Some(top) = top {
        build.include(top.join("include"));
    }
    // Not bundled into the library: then it is an input of each link, and the light executable can go without.
    build.cargo_metadata(false).compile("raisin_unbound");
    println!("cargo:rustc-link-search=native={}", std::env::var("OUT_DIR").expect("cargo sets it"));
    println!("cargo:rustc-link-lib=static:-bundle=raisin_unbound");
}
