"""Small models as GGUF files, and what transformers computes with the same, dequantised weights.

Usage: gguf_models.py FOLDER. Makes FOLDER/<name>.gguf, and FOLDER/<name>.safetensors with `tokens` and `logits`.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from golden import SHAPE, VOCABULARY
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# Rows of quantised tensors are whole blocks of 32.
WIDE = SHAPE | dict(hidden_size=64, intermediate_size=96)
LLAMA3 = dict(
    rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192,
    rope_theta=500000.0,
)
LINEAR = dict(rope_type="linear", factor=4.0, rope_theta=10000.0)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**WIDE, tie_word_embeddings=True), "llama", "Q4_1"),
    "llama3": (LlamaForCausalLM, LlamaConfig(**WIDE, rope_parameters=LLAMA3), "llama", "Q8_0"),
    "linear": (LlamaForCausalLM, LlamaConfig(**WIDE, rope_parameters=LINEAR, attention_bias=True), "llama", "Q5_0"),
    "mistral": (MistralForCausalLM, MistralConfig(**WIDE, sliding_window=None), "llama", "Q5_1"),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**WIDE, tie_word_embeddings=True), "qwen2", "Q4_0"),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**WIDE, head_dim=32), "qwen3", "F16"),
    "extra": (Qwen2ForCausalLM, Qwen2Config(**WIDE), "qwen2", "Q8_0"),
}
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}


def permuted(weights, heads):
    """The row order of llama.cpp's own way of rotating."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def llama3_divisors(config):
    plain = 1.0 / (500000.0 ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim))
    factors = []
    for frequency in plain.tolist():
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(LLAMA3["factor"])
        else:
            smooth = (8192 / wavelength - 1.0) / 3.0
            factors.append(1.0 / ((1.0 - smooth) / LLAMA3["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def main(folder: Path) -> None:
    for seed, (name, (kind, config, architecture, quantisation)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        config._attn_implementation = "eager"
        model = kind(config).eval()
        writer = gguf.GGUFWriter(folder / f"{name}.gguf", architecture)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        if name == "qwen3":
            writer.add_key_length(config.head_dim)
            writer.add_value_length(config.head_dim)
        if name == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(LINEAR["factor"])
        if name == "extra":
            writer.add_tensor("blk.0.strange.weight", np.zeros(32, dtype=np.float32))
        if name == "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_divisors(config))
        names = gguf.get_tensor_name_map(ARCHITECTURES[architecture], config.num_hidden_layers)
        tied = config.tie_word_embeddings
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
                if tied and parameter_name == "lm_head.weight":
                    continue
                values = parameter.numpy().copy()
                stored = names.get_name(parameter_name, try_suffixes=(".weight", ".bias"))
                if architecture == "llama" and (".q_proj." in parameter_name or ".k_proj." in parameter_name):
                    heads = config.num_attention_heads if ".q_proj." in parameter_name else config.num_key_value_heads
                    values = permuted(values, heads)
                if values.ndim == 1:
                    writer.add_tensor(stored, values)
                    continue
                quantised = gguf.GGMLQuantizationType[quantisation]
                raw = quantize(values, quantised)
                writer.add_tensor(stored, raw, raw_dtype=quantised)
                again = dequantize(raw, quantised).astype(np.float32).reshape(values.shape)
                if architecture == "llama" and (".q_proj." in parameter_name or ".k_proj." in parameter_name):
                    # Undone as the checkpoint has it: interleaved pairs back into two halves.
                    again = again.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
                parameter.copy_(torch.from_numpy(again.copy()))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        tokens = torch.randint(3, VOCABULARY, (40,))
        logits = model(tokens[None]).logits[0].detach().contiguous()
        save_file({"tokens": tokens, "logits": logits}, folder / f"{name}.safetensors")
        print(f"{name}: {quantisation}, logits up to {logits.abs().max():.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
