//! Where tensors live. CUDA is loaded at run time, so that one executable serves machines with and without a GPU.

use std::sync::OnceLock;

use tch::Device;

/// The device with this CUDA index, or the CPU.
///
/// The executable is linked against the CPU half of libtorch only. The CUDA half registers its kernels when it is
/// loaded, which must happen before the first tensor. Where it cannot be loaded, the CPU is the answer;
/// `Device::is_cuda` tells.
pub fn device(cuda: Option<usize>) -> Device {
    match cuda {
        Some(index) if load_cuda() && tch::Cuda::is_available() => Device::Cuda(index),
        _ => Device::Cpu,
    }
}

/// Loads libtorch_cuda.so once; whether that worked.
fn load_cuda() -> bool {
    static LOADED: OnceLock<bool> = OnceLock::new();
    *LOADED.get_or_init(|| {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: its initialisers register kernels with the libtorch that is linked already, and are made to be
        // run by dlopen: Python's torch does the same.
        let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
        // Kept for the life of the process: the registered kernels point into it.
        library.map(std::mem::forget).is_ok()
    })
}
