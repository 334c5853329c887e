"""Trains a model with TRL on the conversations of a file, in their order.

    torchrun --nproc-per-node 2 train.py --model FOLDER --data messages.jsonl --out FOLDER --steps 60 --batch-size 16

Every process takes an equal part of each batch, so that step n trains on the rows that raisin selected for step n. The
loss is that of raisin: the mean over the tokens of the answers in the whole batch. The other settings are those of a
`finetune` stage with `adaptation = { method = "full" }`.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class InOrder(SFTTrainer):
    """An SFTTrainer that does not shuffle."""

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


class Progress(TrainerCallback):
    """Keeps the loss of each step, and prints the progress for raisin."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.losses = []

    def on_log(self, _, state, __, logs=None, **___):
        if "loss" in logs and state.is_world_process_zero:
            step = state.global_step
            self.losses.append({"step": step, "loss": logs["loss"], "learning_rate": logs["learning_rate"]})
            print(json.dumps({"progress": {"done": step, "total": self.steps, "unit": "steps"}}), flush=True)


def prompt_and_completion(line: str) -> dict:
    """TRL trains on the completion alone. A row of the pool has its answer in the last turn."""
    messages = json.loads(line)["messages"]
    if sum(message["role"] == "assistant" for message in messages) != 1 or messages[-1]["role"] != "assistant":
        raise SystemExit(f"this script trains on conversations with one answer, at their end: {line[:200]}")
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    arguments = parser.parse_args()

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.batch_size % processes:
        raise SystemExit(f"a batch of {arguments.batch_size} rows cannot be divided among {processes} processes")
    rows = [prompt_and_completion(line) for line in arguments.data.read_text().splitlines()]
    if len(rows) != arguments.steps * arguments.batch_size:
        raise SystemExit(f"{len(rows)} rows are not {arguments.steps} batches of {arguments.batch_size}")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    progress = Progress(arguments.steps)
    trainer = InOrder(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=[progress],
        args=SFTConfig(
            output_dir=str(arguments.work),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size // processes,
            learning_rate=arguments.learning_rate,
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=1024,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        ),
    )
    trainer.train()
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(arguments.out)
        tokenizer.save_pretrained(arguments.out)
        (arguments.out / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in progress.losses))


if __name__ == "__main__":
    main()
