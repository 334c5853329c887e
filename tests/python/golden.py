"""Small random models made by transformers, and what transformers computes with them: golden values for raisin.

Usage: golden.py FOLDER. Makes FOLDER/<architecture>/ with the checkpoint and expected.safetensors: for packed
sequences the logits, the response loss, the gradient of every parameter; and greedy continuations.
"""

import sys
from pathlib import Path

import torch
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

LENGTHS = [7, 1, 12, 12, 3, 24, 11]
VOCABULARY = 61
SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
    initializer_range=0.3,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
    rope_theta=5000.0,
)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama3": (LlamaForCausalLM, LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE, attention_bias=True, mlp_bias=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=5)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=16)),
}


def main(folder: Path) -> None:
    for seed, (name, (kind, config)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        config._attn_implementation = "eager"
        model = kind(config).eval()
        with torch.no_grad():
            # Biases start as zeros and norms as ones, which would hide mistakes with them.
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        at = folder / name
        model.save_pretrained(at, max_shard_size="20KB" if name == "llama3" else "1GB")
        expected = {}
        losses, counts = [], 0
        for row, length in enumerate(LENGTHS):
            tokens = torch.randint(3, VOCABULARY, (length,))
            supervised = torch.rand(length) < 0.6
            supervised[0] = False
            logits = model(tokens[None]).logits[0]
            targets = supervised.nonzero()[:, 0]
            if len(targets) > 0:
                losses.append(
                    torch.nn.functional.cross_entropy(logits[targets - 1], tokens[targets], reduction="sum")
                )
            counts += len(targets)
            expected[f"tokens.{row}"] = tokens
            expected[f"supervised.{row}"] = supervised.to(torch.uint8)
            expected[f"logits.{row}"] = logits.detach().contiguous()
        loss = torch.stack(losses).sum()
        loss.backward()
        expected["loss"] = loss.detach()
        for parameter_name, parameter in model.named_parameters():
            expected[f"gradient.{parameter_name}"] = parameter.grad
        for row in range(len(LENGTHS)):
            prompt = expected[f"tokens.{row}"][None]
            continued = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False, eos_token_id=2
            )
            expected[f"continuation.{row}"] = continued[0, prompt.shape[1] :].contiguous()
        save_file(expected, at / "expected.safetensors")
        print(f"{name}: loss {loss.item() / counts:.4f} over {counts} tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
