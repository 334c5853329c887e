"""Loads adapters that a build has made with peft's AutoPeftModelForCausalLM, by nothing but their folders.

Usage: auto_peft.py PROJECT PAIR... PROJECT is the folder in which raisin was started. A pair is ADAPTER:MERGED, two paths
below it: a folder with an adapter, and one with the same model as a whole. The logits of both must agree.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(project: str, pairs: list[str]) -> None:
    os.chdir(project)
    for pair in pairs:
        adapter, merged = pair.split(":")
        tokens = torch.tensor([AutoTokenizer.from_pretrained(adapter)("3 + 4 = 7?")["input_ids"]])
        adapted = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
        assert adapted.generation_config.eos_token_id == 256, adapted.generation_config
        whole = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = adapted(tokens).logits
            difference = (logits - whole(tokens).logits).abs().max().item()
            with adapted.disable_adapter():
                changed = (logits - adapted(tokens).logits).abs().max().item()
        print(f"{adapter}: {difference:.1e} from {merged}, and {changed:.1e} from its base")
        assert difference < 1e-5 < 1e-4 < changed, pair


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
