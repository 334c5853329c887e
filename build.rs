//! Tells the executables where libtorch's companions lie, so that they run without LD_LIBRARY_PATH, and keeps libtorch
//! out of the light one.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    // `raisin` must never load libtorch. Its code reaches nothing of tch, but tch's C++ part, once it is an input of the
    // link, keeps itself alive by its static initialisers. So it is no input: should tensor code ever become reachable
    // from `raisin`, the link fails with the name of the symbol.
    println!("cargo:rustc-link-arg-bin=raisin=-Wl,--remap-inputs=*libtorch_sys-*.rlib=/dev/null");
    // At a fixed address nothing has to be relocated when it starts: 400,000 relocations of DataFusion's tables were
    // most of the time of a build that has nothing to do.
    println!("cargo:rustc-link-arg-bin=raisin=-no-pie");
    let Ok(libtorch) = std::env::var("LIBTORCH") else { return };
    // The links in .libtorch/link lead into the unpacked wheels; the libraries there find each other by their own rpath.
    if let Ok(library) = Path::new(&libtorch).join("lib/libtorch_cpu.so").canonicalize()
        && let Some(folder) = library.parent()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}
