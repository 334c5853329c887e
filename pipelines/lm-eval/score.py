"""Scores a model with lm-evaluation-harness on the test examples of a stage: python3 score.py MODEL TEST.jsonl OUT"""

import json
import sys
from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM

model, test, out = sys.argv[1:]
task = {
    "task": "questions",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": test}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
results = lm_eval.simple_evaluate(
    model=HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=16),
    tasks=[task],
    apply_chat_template=True,
    log_samples=True,
    bootstrap_iters=0,
)
rows = []
for sample in results["samples"]["questions"]:
    losses = [-float(answer[0]) for answer in sample["filtered_resps"]]
    row = {"id": sample["doc"]["id"], "acc": bool(sample["acc"]), "acc_norm": bool(sample["acc_norm"])}
    row["chosen"] = sample["doc"]["choices"][losses.index(min(losses))]
    rows.append(row | {"loss_of_right": losses[sample["doc"]["answer"]]})
rows.sort(key=lambda row: row["id"])
Path(out, "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
metrics = results["results"]["questions"]
numbers = {name: metrics[f"{name},none"] for name in ["acc", "acc_norm"]}
Path(out, "metrics.json").write_text(json.dumps(numbers))
