//! Where tensors live. CUDA is loaded at run time, so that one executable serves machines with and without a GPU.

use std::sync::OnceLock;

use tch::Device;

use crate::error::{Problem, Result};

/// The device with this CUDA index; the CPU where none is asked for.
///
/// The executable is linked against the CPU half of libtorch only. The CUDA half registers its kernels when it is
/// loaded, which must happen before the first tensor.
///
/// # Errors
/// The device is not to be had. The CPU is no substitute: the device is part of a stage's key, and the CPU's results are
/// other ones.
pub fn device(cuda: Option<usize>) -> Result<Device> {
    let Some(index) = cuda else { return Ok(Device::Cpu) };
    let lacking = match load_cuda() {
        Err(reason) => reason,
        Ok(()) if !tch::Cuda::is_available() => "libtorch finds no driver or no GPU".to_owned(),
        Ok(()) => match tch::Cuda::device_count() {
            count if index < count as usize => return Ok(Device::Cuda(index)),
            count => format!("libtorch sees {count}, counted from cuda:0"),
        },
    };
    Err(Problem::new(format!("cuda:{index} cannot be used: {lacking}"))
        .hint("`raisin doctor` shows what is lacking; `--device cpu` does without")
        .into())
}

/// Loads libtorch_cuda.so once.
///
/// # Errors
/// The reason why it cannot be loaded.
pub(super) fn load_cuda() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: its initialisers register kernels with the libtorch that is linked already, and are made to be
        // run by dlopen: Python's torch does the same.
        let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
        // Kept for the life of the process: the registered kernels point into it.
        library.map(std::mem::forget).map_err(|error| error.to_string())
    });
    loaded.clone()
}

/// How much of a CUDA device's memory is taken, by whatever process.
pub fn device_memory_in_use(index: usize) -> Option<u64> {
    let (mut free, mut total) = (0usize, 0usize);
    let (set_device, mem_get_info) = runtime()?;
    // SAFETY: both functions of the CUDA runtime with the signatures that its header gives them.
    let status = unsafe { set_device(i32::try_from(index).ok()?) | mem_get_info(&raw mut free, &raw mut total) };
    (status == 0).then(|| total.saturating_sub(free) as u64)
}

/// Whether the flash kernels run on it: they want an Ampere GPU or a newer one. True where it cannot be told.
pub(super) fn has_flash_kernels(device: Device) -> bool {
    static MAJOR: OnceLock<Option<i32>> = OnceLock::new();
    const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
    let Device::Cuda(index) = device else { return false };
    let major = MAJOR.get_or_init(|| {
        use libloading::os::unix::{Library, RTLD_NOW};
        type GetAttribute = unsafe extern "C" fn(*mut i32, i32, i32) -> i32;
        load_cuda().ok()?;
        let mut major = 0;
        // SAFETY: the CUDA runtime that libtorch has loaded already, and a function with the signature of its header.
        let status = unsafe {
            let runtime = Library::open(Some("libcudart.so.13"), RTLD_NOW)
                .or_else(|_| Library::open(Some("libcudart.so.12"), RTLD_NOW))
                .ok()?;
            let get_attribute = runtime.get::<GetAttribute>(b"cudaDeviceGetAttribute").ok()?;
            get_attribute(&raw mut major, COMPUTE_CAPABILITY_MAJOR, i32::try_from(index).ok()?)
        };
        (status == 0).then_some(major)
    });
    major.is_none_or(|major| major >= 8)
}

type SetDevice = unsafe extern "C" fn(i32) -> i32;
type MemGetInfo = unsafe extern "C" fn(*mut usize, *mut usize) -> i32;

/// cudaSetDevice and cudaMemGetInfo, looked up once: a step asks several times.
fn runtime() -> Option<(SetDevice, MemGetInfo)> {
    use libloading::os::unix::{Library, RTLD_NOW};
    static FOUND: OnceLock<Option<(SetDevice, MemGetInfo)>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        load_cuda().ok()?;
        // SAFETY: the CUDA runtime that libtorch has loaded already; its initialisers have run.
        let runtime = ["libcudart.so.13", "libcudart.so.12", "libcudart.so"]
            .iter()
            .find_map(|name| unsafe { Library::open(Some(*name), RTLD_NOW) }.ok())?;
        // SAFETY: the functions have these signatures.
        let found = unsafe {
            (*runtime.get::<SetDevice>(b"cudaSetDevice").ok()?, *runtime.get::<MemGetInfo>(b"cudaMemGetInfo").ok()?)
        };
        // The functions are good for as long as the library stays.
        std::mem::forget(runtime);
        Some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::render;

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_never_the_cpu() {
        assert_eq!(device(None).unwrap(), Device::Cpu);
        let said = render(&device(Some(999)).expect_err("no machine has so many"));
        assert!(said.starts_with("error: cuda:999 cannot be used: "), "{said}");
        assert!(said.contains("--device cpu"), "{said}");
    }
}
