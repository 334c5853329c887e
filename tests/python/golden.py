"""Small random models made by transformers, and what transformers computes with them: golden values for raisin.

Usage: golden.py FOLDER. Makes FOLDER/<architecture>/ with the checkpoint and expected.safetensors: for each
of some sequences the logits and a greedy continuation; of all the response loss and the gradient of every parameter; and
after ten steps of AdamW the losses, the parameters and the optimizer's state.
"""

import json
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
    get_cosine_schedule_with_warmup,
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
YARN_ROPE = dict(
    rope_type="yarn",
    factor=4.0,
    original_max_position_embeddings=16,
    rope_theta=5000.0,
)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama-wide": (LlamaForCausalLM, LlamaConfig(**SHAPE | dict(num_key_value_heads=4), head_dim=12)),
    "llama3": (LlamaForCausalLM, LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE, attention_bias=True, mlp_bias=True)),
    "linear": (LlamaForCausalLM, LlamaConfig(**SHAPE, rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=5000.0))),
    "dynamic": (LlamaForCausalLM, LlamaConfig(**SHAPE, rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=5000.0))),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=5)),
    "mistral-full": (MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=None, head_dim=10)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen2-window": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=6, max_window_layers=0)),
    "qwen2-yarn": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, rope_parameters=YARN_ROPE)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True)),
}
# Their config.json is rewritten in the spelling of transformers 4.
OLD_SPELLING = ["linear", "qwen2-yarn"]
STEPS, LEARNING_RATE, WEIGHT_DECAY, CLIP = 10, 2e-3, 0.1, 1.0


def summed_loss(model, rows):
    losses = []
    for tokens, supervised in rows:
        targets = supervised.nonzero()[:, 0]
        if len(targets) > 0:
            logits = model(tokens[None]).logits[0]
            losses.append(torch.nn.functional.cross_entropy(logits[targets - 1], tokens[targets], reduction="sum"))
    return torch.stack(losses).sum()


def train(model, rows, expected):
    """Ten steps of AdamW, each on the mean loss over the supervised tokens of three rows, one row at a time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=False)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, STEPS)
    losses, norms = [], []
    for step in range(STEPS):
        chosen = [rows[(2 * step + place) % len(rows)] for place in range(3)]
        optimizer.zero_grad()
        loss = summed_loss(model, chosen) / sum(int(supervised.sum()) for _, supervised in chosen)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).detach())
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    expected["steps.loss"], expected["steps.norm"] = torch.stack(losses), torch.stack(norms)
    for name, parameter in model.named_parameters():
        expected[f"trained.{name}"] = parameter.detach().clone()
        expected[f"first.{name}"] = optimizer.state[parameter]["exp_avg"]
        expected[f"second.{name}"] = optimizer.state[parameter]["exp_avg_sq"]


def respell(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


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
        if name in OLD_SPELLING:
            respell(at)
        expected, rows = {}, []
        for row, length in enumerate(LENGTHS):
            tokens = torch.randint(3, VOCABULARY, (length,))
            supervised = torch.rand(length) < 0.6
            supervised[0] = False
            rows.append((tokens, supervised))
            expected[f"tokens.{row}"] = tokens
            expected[f"supervised.{row}"] = supervised.to(torch.uint8)
            expected[f"logits.{row}"] = model(tokens[None]).logits[0].detach().contiguous()
            continued = model.generate(
                tokens[None], attention_mask=torch.ones_like(tokens[None]), max_new_tokens=16, do_sample=False,
                eos_token_id=2,
            )
            expected[f"continuation.{row}"] = continued[0, length:].contiguous()
        loss = summed_loss(model, rows)
        loss.backward()
        expected["loss"] = loss.detach()
        for parameter_name, parameter in model.named_parameters():
            expected[f"gradient.{parameter_name}"] = parameter.grad.clone()
        train(model, rows, expected)
        save_file(expected, at / "expected.safetensors")
        counts = sum(int(supervised.sum()) for _, supervised in rows)
        print(f"{name}: loss {loss.item() / counts:.4f} over {counts} tokens, {expected['steps.loss'][-1]:.4f} after {STEPS} steps")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
