"""Trains a model with TRL on messages.jsonl, in the order of the file: python train_trl.py MODEL [OUT]

As in raisin, only what the assistant writes is trained on. The length of the training, the learning rate and LoRA are
those of TRL: set them in SFTConfig.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer


class InOrder(SFTTrainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def has_one_answer(row):
    return [message["role"] for message in row["messages"]].index("assistant") == len(row["messages"]) - 1


model, *rest = sys.argv[1:]
lines = (Path(__file__).parent / "messages.jsonl").read_text(encoding="utf-8").splitlines()
rows = [json.loads(line) for line in lines]
# TRL trains on the completion alone. Of several answers in a conversation, it needs a chat template that marks them.
with_completions = all(has_one_answer(row) for row in rows)
if with_completions:
    columns = ["prompt", "completion", "tools"]
    rows = [{**row, "prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]
else:
    columns = ["messages", "tools"]
used = [name for name in columns if any(name in row for row in rows)]
dataset = Dataset.from_list([{name: row.get(name) for name in used} for row in rows])
settings = SFTConfig(
    output_dir=rest[0] if rest else "trained",
    num_train_epochs=1,
    assistant_only_loss=not with_completions,
    use_cpu=not torch.accelerator.is_available(),
)
InOrder(model=model, train_dataset=dataset, args=settings).train()
