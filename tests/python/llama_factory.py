"""Reads the files of a stage of kind `export` with LLaMA-Factory: python llama_factory.py FOLDER MODEL

For each entry of dataset_info.json, prints one JSON line: the name, and the text of each row that LLaMA-Factory would
train on, in its order, with what carries no loss left out.
"""

import json
import sys
import tempfile
from pathlib import Path

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

folder, model = sys.argv[1:]
for name in json.loads(Path(folder, "dataset_info.json").read_text()):
    with tempfile.TemporaryDirectory() as out:
        model_args, data_args, training_args, _, _ = get_train_args(
            {
                "model_name_or_path": model,
                "stage": "sft",
                "do_train": True,
                "finetuning_type": "lora",
                "template": "empty",
                "dataset": name,
                "dataset_dir": folder,
                "cutoff_len": 1024,
                "disable_shuffling": True,
                "output_dir": out,
                "use_cpu": True,
                "report_to": "none",
            }
        )
        loaded = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
        data = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)
        tokenizer = loaded["tokenizer"]
        targets = [
            tokenizer.decode([token for token in row["labels"] if token >= 0], skip_special_tokens=True)
            for row in data["train_dataset"]
        ]
        print(json.dumps({"name": name, "targets": targets}), flush=True)
