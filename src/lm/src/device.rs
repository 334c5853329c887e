//! Where tensors live. CUDA is loaded at run time, so that one executable serves machines with and without a GPU.

use std::sync::OnceLock;

use tch::Device;

use raisin_base::error::{Problem, Result};

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
    let runtime = runtime()?;
    let (mut free, mut total) = (0usize, 0usize);
    // SAFETY: functions of the CUDA runtime, with the signatures that its header gives them.
    let status = unsafe {
        (runtime.set_device)(i32::try_from(index).ok()?) | (runtime.mem_get_info)(&raw mut free, &raw mut total)
    };
    (status == 0).then(|| total.saturating_sub(free) as u64)
}

/// Whether the flash kernels run on it: they want an Ampere GPU or a newer one. True where it cannot be told.
pub(super) fn has_flash_kernels(device: Device) -> bool {
    const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
    const AMPERE: i32 = 8;
    let Device::Cuda(index) = device else { return false };
    let Some(runtime) = runtime() else { return true };
    let mut major = 0;
    // SAFETY: as above.
    let status = unsafe { (runtime.get_attribute)(&raw mut major, COMPUTE_CAPABILITY_MAJOR, index as i32) };
    status != 0 || major >= AMPERE
}

/// Functions of the CUDA runtime that tch does not bind.
struct Runtime {
    set_device: unsafe extern "C" fn(i32) -> i32,
    mem_get_info: unsafe extern "C" fn(*mut usize, *mut usize) -> i32,
    get_attribute: unsafe extern "C" fn(*mut i32, i32, i32) -> i32,
}

/// Looked up once: a step asks several times.
fn runtime() -> Option<&'static Runtime> {
    use libloading::os::unix::{Library, RTLD_NOW};
    static FOUND: OnceLock<Option<Runtime>> = OnceLock::new();
    let find = || {
        load_cuda().ok()?;
        // SAFETY: the CUDA runtime that libtorch has loaded already; its initialisers have run.
        let library = ["libcudart.so.13", "libcudart.so.12", "libcudart.so"]
            .iter()
            .find_map(|name| unsafe { Library::open(Some(*name), RTLD_NOW) }.ok())?;
        // SAFETY: the functions have these signatures.
        let found = unsafe {
            Runtime {
                set_device: *library.get(b"cudaSetDevice").ok()?,
                mem_get_info: *library.get(b"cudaMemGetInfo").ok()?,
                get_attribute: *library.get(b"cudaDeviceGetAttribute").ok()?,
            }
        };
        // The functions are good for as long as the library stays.
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
    fn a_gpu_that_is_not_there_is_an_error_and_never_the_cpu() {
        assert_eq!(device(None).unwrap(), Device::Cpu);
        let said = render(&device(Some(999)).expect_err("no machine has so many"));
        assert!(said.starts_with("error: cuda:999 cannot be used: "), "{said}");
        assert!(said.contains("--device cpu"), "{said}");
    }
}
