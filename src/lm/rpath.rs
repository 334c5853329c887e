//! Tells executables where the companions of libtorch lie, so that they run without LD_LIBRARY_PATH. The build script of every
//! package that links libtorch into an executable or a test.

use std::path::Path;

pub fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Ok(libtorch) = std::env::var("LIBTORCH") else { return };
    // The links in .libtorch/link lead into the unpacked wheels; the libraries there find each other by their own rpath.
    if let Ok(library) = Path::new(&libtorch).join("lib/libtorch_cpu.so").canonicalize()
        && let Some(folder) = library.parent()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}
