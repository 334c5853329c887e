//! Calls two operations of libtorch that tch does not bind: attention over rows of different lengths, and AdamW in one
//! pass over parameters, moments and gradient. Both are PyTorch's own fused kernels. The C++ side is unbound.cpp.

use std::ffi::{CStr, c_char, c_void};

use tch::{Kind as TensorKind, Tensor};

use raisin_base::error::Result;

unsafe extern "C" {
    fn raisin_free(text: *mut c_char);
    fn raisin_flash_attention(
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        starts: *const c_void,
        longest: i64,
        window: i64,
        mixed: *mut *mut c_void,
    ) -> *mut c_char;
    fn raisin_fused_adamw(
        parameters: *const *mut c_void,
        gradients: *const *mut c_void,
        firsts: *const *mut c_void,
        seconds: *const *mut c_void,
        count: usize,
        steps: *const c_void,
        divisor: *const c_void,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
}

/// The largest head_dim of the fused attention kernel.
const WIDEST_HEAD: i64 = 256;

/// Whether [`flash_attention`] supports this dtype and this head_dim, on CUDA.
pub(super) fn has_flash_attention(kind: TensorKind, head_dim: i64) -> bool {
    kind == TensorKind::BFloat16 && head_dim % 8 == 0 && head_dim <= WIDEST_HEAD
}

/// Causal attention within each of several rows that lie one after another. CUDA only. Gradients are supported.
///
/// q is `[tokens, heads, dim]`, k and v are `[tokens, key-value heads, dim]`. `starts` has the start of each row and
/// the end of the last row, `[rows + 1]` as 32-bit integers. `longest` is the length of the longest row. `window` is
/// the number of tokens that a token attends to, including itself. The result is `[tokens, heads, dim]`.
pub(super) fn flash_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    starts: &Tensor,
    longest: i64,
    window: Option<i64>,
) -> Result<Tensor> {
    let mut mixed = std::ptr::null_mut();
    // The kernel takes the number of earlier tokens that a token attends to; -1 means all.
    let before = window.map_or(-1, |window| window - 1);
    // SAFETY: the pointers belong to tensors that outlive the call, in the order and number that the function expects.
    // If the function returns null, it has stored a new tensor in `mixed`.
    unsafe {
        let failed = raisin_flash_attention(
            q.as_ptr().cast(),
            k.as_ptr().cast(),
            v.as_ptr().cast(),
            starts.as_ptr().cast(),
            longest,
            before,
            &raw mut mixed,
        );
        succeeded(failed)?;
        Ok(Tensor::from_ptr(mixed.cast()))
    }
}

/// The constants of an AdamW step.
pub struct AdamWStep {
    /// The number of the step, counted from 1.
    pub number: u64,
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
    pub epsilon: f64,
    /// The factor of the gradient (gradient clipping), at most 1.
    pub factor: f64,
}

/// One AdamW step over f32 tensors. Each entry of `slices` has parameters, first moments, second moments and gradient,
/// in this order. The gradient is overwritten.
pub fn fused_adamw(step: &AdamWStep, slices: &[[Tensor; 4]]) -> Result<()> {
    let Some(first) = slices.first() else { return Ok(()) };
    let device = first[0].device();
    let number = |value: f64| Tensor::f_full([0i64; 0].as_slice(), value, (TensorKind::Float, device));
    let steps = number(step.number as f64)?;
    let divisor = (step.factor < 1.0).then(|| number(1.0 / step.factor)).transpose()?;
    // The tensors at this place in every entry of `slices`, as pointers.
    let column = |place: usize| -> Vec<*mut c_void> {
        slices.iter().map(|tensors| tensors[place].as_ptr().cast_mut().cast()).collect()
    };
    let [parameters, firsts, seconds, gradients] = [column(0), column(1), column(2), column(3)];
    // SAFETY: each list has `slices.len()` pointers to tensors that outlive the call. The function writes to the
    // tensors as tch's in-place operations do.
    let failed = unsafe {
        raisin_fused_adamw(
            parameters.as_ptr(),
            gradients.as_ptr(),
            firsts.as_ptr(),
            seconds.as_ptr(),
            slices.len(),
            steps.as_ptr().cast(),
            divisor.as_ref().map_or(std::ptr::null(), |divisor| divisor.as_ptr().cast()),
            step.learning_rate,
            step.beta1,
            step.beta2,
            step.weight_decay,
            step.epsilon,
        )
    };
    // SAFETY: `failed` is the result of the function above.
    unsafe { succeeded(failed) }
}

/// Turns the result of a C++ function into a `Result`.
///
/// # Safety
/// `failed` is null, or a string that unbound.cpp allocated. This function frees the string.
unsafe fn succeeded(failed: *mut c_char) -> Result<()> {
    if failed.is_null() {
        return Ok(());
    }
    // SAFETY: the string ends with a zero byte, and belongs to this function.
    let words = unsafe { CStr::from_ptr(failed) }.to_string_lossy().into_owned();
    // SAFETY: the string was allocated by the same allocator, and is freed once.
    unsafe { raisin_free(failed) };
    Err(tch::TchError::Torch(words).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_failure_in_libtorch_is_an_error() {
        let heads = Tensor::zeros([3, 2, 8], (TensorKind::Float, Device::Cpu));
        let starts = Tensor::from_slice(&[0i32, 3]);
        let error = flash_attention(&heads, &heads, &heads, &starts, 3, None).expect_err("there is no CPU kernel");
        assert!(error.to_string().contains("_flash_attention_forward"), "{error}");
    }

    #[test]
    fn only_bf16_with_head_dim_divisible_by_8_has_flash_kernels() {
        assert!(has_flash_attention(TensorKind::BFloat16, 64));
        assert!(!has_flash_attention(TensorKind::Float, 64));
        assert!(!has_flash_attention(TensorKind::BFloat16, 12));
        assert!(!has_flash_attention(TensorKind::BFloat16, 512));
    }
}
