"""Loads what raisin exported with transformers and peft, and compares logits.

Usage: check_export.py FOLDER. FOLDER has base/ and merged/ (Hugging Face layout), adapter/ (PEFT layout) and
probe.safetensors with `tokens` and raisin's own logits `base`, `merged`, `adapter`. Prints the largest differences.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def main(folder: Path) -> None:
    for name in ["base/model", "merged/model", "adapter/adapter_model"]:
        with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt"}, f"{name}: {file.metadata()}"
    probe = load_file(folder / "probe.safetensors")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    models = {
        "base": base,
        "merged": AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32),
    }
    differences = {}
    with torch.no_grad():
        for name, model in models.items():
            differences[name] = (model(probe["tokens"][None]).logits[0] - probe[name]).abs().max().item()
        adapted = PeftModel.from_pretrained(base, folder / "adapter")
        differences["adapter"] = (adapted(probe["tokens"][None]).logits[0] - probe["adapter"]).abs().max().item()
    changed = (probe["adapter"] - probe["base"]).abs().max().item()
    assert changed > 0.01, "the adapter changes nothing: the comparison would prove nothing"
    for name, difference in differences.items():
        print(f"{name}: largest difference {difference:.2e}")
        assert difference < TOLERANCE, name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
