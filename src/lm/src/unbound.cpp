// Two operations of libtorch that tch does not bind, with a C interface for unbound.rs. A tensor is passed as a pointer
// to an at::Tensor, as in tch.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_fused_adamw.h>

#include <cstring>
#include <vector>

namespace {

// Runs an operation. Returns nullptr, or the reason of the failure; the caller frees the string.
template <typename Run>
char *reason(Run run) {
  try {
    run();
    return nullptr;
  } catch (const c10::Error &error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception &error) {
    return strdup(error.what());
  }
}

}  // namespace

extern "C" {

void raisin_free(char *text) { free(text); }

char *raisin_flash_attention(const at::Tensor *q, const at::Tensor *k, const at::Tensor *v, const at::Tensor *starts,
                             int64_t longest, int64_t window, at::Tensor **mixed) {
  return reason([&] {
    auto results = at::_flash_attention_forward(*q, *k, *v, *starts, *starts, longest, longest, 0.0, /*is_causal=*/true,
                                                /*return_debug_mask=*/false, std::nullopt, window, 0);
    *mixed = new at::Tensor(std::get<0>(results));
  });
}

char *raisin_fused_adamw(at::Tensor *const *parameters, at::Tensor *const *gradients, at::Tensor *const *firsts,
                         at::Tensor *const *seconds, size_t count, const at::Tensor *steps, const at::Tensor *divisor,
                         double learning_rate, double beta1, double beta2, double weight_decay, double epsilon) {
  return reason([&] {
    auto list = [count](at::Tensor *const *tensors) {
      std::vector<at::Tensor> all;
      for (size_t at = 0; at < count; at++) all.push_back(*tensors[at]);
      return all;
    };
    std::vector<at::Tensor> all_steps(count, *steps);
    at::_fused_adamw_(list(parameters), list(gradients), list(firsts), list(seconds), {}, all_steps, learning_rate,
                      beta1, beta2, weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false,
                      divisor ? std::make_optional(*divisor) : std::nullopt);
  });
}

}  // extern "C"
