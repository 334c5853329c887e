"""Adapters that peft trains and saves, and what peft computes with them: golden values for raisin.

Usage: adapters.py FOLDER. Makes FOLDER/base, and for each adapter FOLDER/<name> with the adapter as peft saves it and
expected.safetensors with `tokens` and `logits`. The names of adapters that raisin refuses begin with `no-`.
"""

import sys
from pathlib import Path

import torch
from golden import SHAPE, VOCABULARY
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ADAPTERS = {
    "plain": dict(target_modules=["q_proj", "v_proj"]),
    "all-linear": dict(target_modules="all-linear"),
    "full-names": dict(target_modules=["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"]),
    "pattern": dict(target_modules=r"model\.layers\.(?!1\.)\d+\.(self_attn\.[qk]_proj|mlp\.up_proj)"),
    "layers": dict(target_modules=["k_proj", "gate_proj"], layers_to_transform=[0, 2]),
    "one-layer": dict(target_modules=["o_proj"], layers_to_transform=1, layers_pattern="layers"),
    "excluded": dict(target_modules=["q_proj", "up_proj", "down_proj"], exclude_modules=["layers.1.mlp.up_proj", "q_proj"]),
    "excluded-pattern": dict(target_modules="all-linear", exclude_modules=r".*\.2\..*|.*mlp.*"),
    "ranks": dict(
        target_modules="all-linear",
        rank_pattern={"q_proj": 2, r"model.layers.1.mlp.\w+_proj": 6},
        alpha_pattern={"down_proj": 3, "layers.0.self_attn.v_proj": 20},
    ),
    "rslora": dict(target_modules=["q_proj", "o_proj"], use_rslora=True, rank_pattern={"o_proj": 3}),
    "gaussian": dict(target_modules=["v_proj"], init_lora_weights="gaussian", lora_dropout=0.2),
    "no-dora": dict(target_modules=["q_proj"], use_dora=True),
    "no-bias": dict(target_modules=["q_proj"], bias="lora_only"),
    "no-lora-bias": dict(target_modules=["q_proj"], lora_bias=True),
    "no-saved-modules": dict(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "no-head": dict(target_modules=["q_proj", "lm_head"]),
    "no-embedding": dict(target_modules=["q_proj", "embed_tokens"]),
    "no-pissa": dict(target_modules=["q_proj"], init_lora_weights="pissa"),
    "no-replication": dict(target_modules=["q_proj"], layer_replication=[[0, 2], [1, 3]]),
    "no-new-tokens": dict(target_modules=["q_proj"], trainable_token_indices=[3, 4]),
}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder / "base")
    tokens = torch.randint(3, VOCABULARY, (20,))
    for name, settings in ADAPTERS.items():
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32, attn_implementation="eager")
        without = base(tokens[None]).logits[0].detach()
        settings = dict(r=4, lora_alpha=8, task_type="CAUSAL_LM") | settings
        model = get_peft_model(base, LoraConfig(**settings)).eval()
        with torch.no_grad():
            # B starts as zeros, and then an adapter changes nothing.
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder / name)
        logits = model(tokens[None]).logits[0].detach().contiguous()
        save_file({"tokens": tokens, "logits": logits}, folder / name / "expected.safetensors")
        changed = (logits - without).abs().max().item()
        assert changed > 0.01, f"{name} changes nothing: the comparison would prove nothing"
        print(f"{name}: changes the logits by up to {changed:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
