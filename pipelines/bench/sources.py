"""The public files of the benchmark suite: where they come from, and how their records are read. make.py draws from
them."""

import json
import sys
from collections import Counter
from hashlib import sha256
from typing import Callable, NamedTuple


def refuse(message, hint):
    sys.exit(f"error: {message}\nhint: {hint}")


def normalised(text):
    """Texts that differ only in capitals and white space count as the same."""
    return " ".join(text.casefold().split())


# ---- records -> items: {"prompt", "response"}, with "input", "choices" and "label" where the file has them


def alpaca(record):
    prompt, context = record["instruction"].strip(), (record.get("input") or "").strip()
    return {"prompt": prompt, "input": context, "response": record["output"].strip()}


def gsm8k(record):
    return {"prompt": record["question"].strip(), "response": record["answer"].strip()}


def csqa(record):
    question = record["question"]
    (right,) = [choice["text"] for choice in question["choices"] if choice["label"] == record["answerKey"]]
    choices = [{"label": choice["label"], "text": choice["text"]} for choice in question["choices"]]
    return {"prompt": question["stem"].strip(), "response": right, "label": record["answerKey"], "choices": choices}


def svamp(record):
    body = record["Body"].strip().rstrip(".")
    return {"prompt": f"{body}. {record['Question'].strip()}", "response": f"{record['Answer']:g}"}


class Source(NamedTuple):
    # The name of the file; other names that are also found.
    file: str
    other_names: tuple
    read: Callable


# A file whose name ends with -test has the test examples of a target. An item counts as a copy if an item of an earlier
# source has the same prompt, so the test files come first.
SOURCES = {
    "gsm8k-test": Source("gsm8k_test.jsonl", (), gsm8k),
    "csqa-test": Source("csqa_dev_rand_split.jsonl", ("dev_rand_split.jsonl",), csqa),
    "gsm8k": Source("gsm8k_train.jsonl", (), gsm8k),
    "csqa": Source("csqa_train_rand_split.jsonl", ("train_rand_split.jsonl",), csqa),
    "arc": Source("llmadapters_arc_challenge_train.json", (), alpaca),
    "svamp": Source("svamp.json", ("SVAMP.json",), svamp),
    "code": Source("code_alpaca_2k.json", (), alpaca),
    "alpaca": Source("alpaca_25k.json", ("alpaca_data.json",), alpaca),
}


def find(folder, source):
    """The one file below the folder that has a name of the source."""
    names = (source.file, *source.other_names)
    found = sorted(path for path in folder.rglob("*") if path.name in names and path.is_file())
    if not found:
        refuse(f"{folder} has no file {' or '.join(names)}", "pipelines/bench/README.md says where to get the file")
    if len(found) > 1:
        refuse(f"{folder} has several files for one source: {', '.join(map(str, found))}", "keep one of them")
    return found[0]


def records(path, content):
    text = content.decode()
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        return json.loads(text)
    except json.JSONDecodeError as problem:
        refuse(f"{path} is no {path.suffix[1:].upper()}: {problem}", "download the file again")


def read_sources(folder, max_characters):
    """The items of each source without copies, and the counts of what was read and left out.

    A copy is an item whose prompt, with its input, equals that of an earlier item of any source. Copies, items without
    a prompt or a response, and items of more than `max_characters` characters are left out and counted. A test item is
    left out only if it is a copy or empty."""
    if not folder.is_dir():
        refuse(f"--data {folder} is no folder", "pipelines/bench/README.md lists the files that the folder needs")
    items, counts, seen = {}, {}, set()
    for key, source in SOURCES.items():
        path = find(folder, source)
        content = path.read_bytes()
        items[key], left_out = [], Counter()
        everything = records(path, content)
        for place, record in enumerate(everything):
            try:
                item = source.read(record)
            except (KeyError, TypeError, ValueError, AttributeError) as problem:
                refuse(f"{path}, record {place}: {problem!r}", f"the layout must be that of {source.file} as published")
            prompt = normalised(item["prompt"] + "\n" + item.get("input", ""))
            choices = "".join(choice["text"] for choice in item.get("choices", []))
            characters = len(item["prompt"]) + len(item.get("input", "")) + len(item["response"]) + len(choices)
            if not item["prompt"] or not item["response"]:
                left_out["empty"] += 1
            elif prompt in seen:
                left_out["copies"] += 1
            elif characters > max_characters and not key.endswith("-test"):
                left_out["long"] += 1
            else:
                seen.add(prompt)
                items[key].append({**item, "origin": f"{path.name}:{place}"})
        counts[key] = {"file": path.name, "sha256": sha256(content).hexdigest(), "records": len(everything),
                       "usable": len(items[key]),
                       "left_out": {word: left_out[word] for word in ("empty", "copies", "long")}}
    return items, counts
