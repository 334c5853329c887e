//! Sets the run path (rpath) of executables to the folder of libtorch's companion libraries. Then the executables run
//! without LD_LIBRARY_PATH. This file is the build script, or a module of the build script, of every package that links
//! libtorch into an executable or a test. src/lm/build.rs compiles the C++ code.

use std::path::Path;

pub fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Ok(libtorch) = std::env::var("LIBTORCH") else { return };
    // The links in .libtorch/link lead into the unpacked wheels. The libraries in the wheels find each other by their
    // own rpath.
    if let Ok(library) = Path::new(&libtorch).join("lib/libtorch_cpu.so").canonicalize()
        && let Some(folder) = library.parent()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}
