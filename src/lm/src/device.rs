//! Selects the device of tensors, and loads CUDA at run time. So one executable serves machines with and without a GPU.
//! inspect.rs describes the machine.

use std::sync::OnceLock;

use tch::Device;

use raisin_base::error::{Problem, Result};

/// The CUDA device with this index; the CPU if `cuda` is `None`.
///
/// The executable is linked against the CPU part of libtorch only. The CUDA part registers its kernels when it is
/// loaded. It must be loaded before the first tensor is created.
///
/// # Errors
/// The device cannot be used. raisin does not fall back to the CPU: the device is part of a stage's key, and the CPU
/// gives different results.
pub fn device(cuda: Option<usize>) -> Result<Device> {
    let Some(index) = cuda else { return Ok(Device::Cpu) };
    let reason = match load_cuda() {
        Err(reason) => reason,
        Ok(()) if !tch::Cuda::is_available() => "libtorch does not find a driver or a GPU".to_owned(),
        Ok(()) => match tch::Cuda::device_count() {
            count if index < count as usize => return Ok(Device::Cuda(index)),
            count => format!("libtorch finds {count} devices, counted from cuda:0"),
        },
    };
    Err(Problem::new(format!("cuda:{index} cannot be used: {reason}"))
        .hint("`raisin doctor` shows what is missing; `--device cpu` needs no GPU")
        .into())
}

/// Loads libtorch_cuda.so once.
///
/// # Errors
/// The reason why the library cannot be loaded.
pub(super) fn load_cuda() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: the initialisers of libtorch_cuda.so register kernels with the libtorch that is already linked. The
        // initialisers are made to be run by dlopen: Python's torch loads the library in the same way.
        let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
        // The library stays loaded until the process ends, because the registered kernels point into the library.
        library.map(std::mem::forget).map_err(|error| error.to_string())
    });
    loaded.clone()
}

/// The bytes of a CUDA device's memory that are in use, by all processes together.
pub fn device_memory_in_use(index: usize) -> Option<u64> {
    let runtime = runtime()?;
    let (mut free, mut total) = (0usize, 0usize);
    // SAFETY: these functions of the CUDA runtime have the signatures that the header of the runtime declares.
    let status = unsafe {
        (runtime.set_device)(i32::try_from(index).ok()?) | (runtime.mem_get_info)(&raw mut free, &raw mut total)
    };
    (status == 0).then(|| total.saturating_sub(free) as u64)
}

/// Whether the fused attention kernels (FlashAttention) run on this device. They need an Ampere GPU or a newer one.
/// True if the compute capability cannot be read.
pub(super) fn has_flash_kernels(device: Device) -> bool {
    const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
    const AMPERE: i32 = 8;
    let Device::Cuda(index) = device else { return false };
    let Some(runtime) = runtime() else { return true };
    let mut major = 0;
    // SAFETY: as in `device_memory_in_use`.
    let status = unsafe { (runtime.get_attribute)(&raw mut major, COMPUTE_CAPABILITY_MAJOR, index as i32) };
    status != 0 || major >= AMPERE
}

/// Functions of the CUDA runtime that tch does not bind.
struct Runtime {
    set_device: unsafe extern "C" fn(i32) -> i32,
    mem_get_info: unsafe extern "C" fn(*mut usize, *mut usize) -> i32,
    get_attribute: unsafe extern "C" fn(*mut i32, i32, i32) -> i32,
}

/// The functions of the CUDA runtime, looked up once, because a training step calls them several times.
fn runtime() -> Option<&'static Runtime> {
    use libloading::os::unix::{Library, RTLD_NOW};
    static FOUND: OnceLock<Option<Runtime>> = OnceLock::new();
    let find = || {
        load_cuda().ok()?;
        // SAFETY: libtorch has already loaded this CUDA runtime, so the initialisers of the library have already run.
        let library = ["libcudart.so.13", "libcudart.so.12", "libcudart.so"]
            .iter()
            .find_map(|name| unsafe { Library::open(Some(*name), RTLD_NOW) }.ok())?;
        // SAFETY: the functions have the signatures of the struct's fields.
        let found = unsafe {
            Runtime {
                set_device: *library.get(b"cudaSetDevice").ok()?,
                mem_get_info: *library.get(b"cudaMemGetInfo").ok()?,
                get_attribute: *library.get(b"cudaDeviceGetAttribute").ok()?,
            }
        };
        // The functions are valid as long as the library is loaded, so the library is never unloaded.
        std::mem::forget(library);
        Some(found)
    };
    FOUND.get_or_init(find).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::error::render;

    #[test]
    fn a_missing_gpu_is_an_error_and_not_replaced_by_the_cpu() {
        assert_eq!(device(None).unwrap(), Device::Cpu);
        let said = render(&device(Some(999)).expect_err("no machine has a thousand GPUs"));
        assert!(said.starts_with("error: cuda:999 cannot be used: "), "{said}");
        assert!(said.contains("--device cpu"), "{said}");
    }
}
