"""Trains an adapter that raisin has initialised and saved, with peft: what raisin's own training must come to.

Usage: train_adapter.py MODEL ADAPTER ROWS OUT. MODEL is a Hugging Face folder, ADAPTER a PEFT folder, ROWS a safetensors
file with `tokens.N` and `supervised.N`. Ten steps of AdamW as in golden.py; writes OUT with `steps.loss` and the trained
tensors under PEFT's own names.
"""

import sys
from pathlib import Path

import torch
from golden import CLIP, LEARNING_RATE, STEPS, WEIGHT_DECAY, summed_loss
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup


def main(model: Path, adapter: Path, rows: Path, out: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()
    golden = load_file(rows)
    count = sum(name.startswith("tokens.") for name in golden)
    rows = [(golden[f"tokens.{row}"], golden[f"supervised.{row}"].bool()) for row in range(count)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=False)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, STEPS)
    losses = []
    for step in range(STEPS):
        chosen = [rows[(2 * step + place) % len(rows)] for place in range(3)]
        optimizer.zero_grad()
        loss = summed_loss(model, chosen) / sum(int(supervised.sum()) for _, supervised in chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {name.replace(".default.", "."): parameter.detach().contiguous() for name, parameter in names.items()}
    expected["steps.loss"] = torch.stack(losses)
    save_file(expected, out)
    print(f"{len(names)} adapter tensors, loss {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
