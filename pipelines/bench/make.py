"""Makes the pools of the benchmark suite from public files. README.md of this folder describes pools and files.

    python3 pipelines/bench/make.py mixed-gsm8k mixed-csqa --seed 201 202 --data FOLDER --out data/bench

writes for each pool and seed the folder OUT/POOL/SEED with pool.jsonl, validation.jsonl, test.jsonl, labels.csv and
summary.json. The program needs Python 3.8 and no packages. The same arguments and files give the same bytes with every
version of Python: nothing is drawn by a random generator. To draw n items, the program sorts the items by a hash of the
seed and of the place of the item in its file, and takes the first n. sources.py reads the files.
"""

import argparse
import json
import re
import sys
from collections import Counter
from hashlib import blake2b
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ beside the pipelines
from sources import SOURCES, normalised, read_sources, refuse  # noqa: E402

# The weights of the kinds that are not relevant. With 2,000 rows and 5 % relevant rows, 1 stands for 10 rows.
MIXED = {"alpaca": 94, "code": 32, "csqa-listed": 23, "arc": 16, "svamp": 14, "gsm8k-answer-only": 11}
POOLS = {
    "mixed-gsm8k": {"relevant": "gsm8k", "others": MIXED, "decoys": []},
    "mixed-gsm8k-noisy": {
        "relevant": "gsm8k",
        "others": {"alpaca": 75, "code": 32, "csqa-listed": 23, "arc": 16, "svamp": 14},
        "decoys": ["gsm8k-answer-only", "gsm8k-mismatched", "gsm8k-wrong-digits"],
    },
    "mixed-gsm8k-formats": {
        "relevant": "gsm8k",
        "others": {"alpaca": 75, "code": 32, "csqa-listed": 23, "arc": 16, "svamp": 14},
        "decoys": ["gsm8k-answer-only", "gsm8k-plain", "gsm8k-answer-first"],
    },
    "mixed-csqa": {
        "relevant": "csqa",
        "others": {"alpaca": 94, "code": 32, "gsm8k": 23, "arc": 16, "svamp": 14, "csqa-letters": 11},
        "decoys": [],
    },
    "mixed-csqa-noisy": {
        "relevant": "csqa",
        "others": {"alpaca": 75, "code": 32, "gsm8k": 23, "arc": 16, "svamp": 14},
        "decoys": ["csqa-letters", "csqa-mismatched", "csqa-wrong"],
    },
    "mixed-csqa-formats": {
        "relevant": "csqa-listed",
        "others": {"alpaca": 75, "code": 32, "gsm8k": 23, "arc": 16, "svamp": 14},
        "decoys": ["csqa-letters", "csqa-text", "csqa-sentence"],
    },
    "mixed-code": {
        "relevant": "code",
        "others": {"alpaca": 114, "csqa-listed": 23, "gsm8k": 23, "arc": 16, "svamp": 14},
        "decoys": [],
    },
    "alpaca-gsm8k": {"relevant": None, "others": {"alpaca": 1}, "decoys": [], "target": "gsm8k"},
}
# The most items of a training split that are kept for validation, and the most items of Code Alpaca, which has no test
# split, that are kept for the test. The split does not depend on the seed, so that no seed trains on what another seed
# validates with. A small file gives at most a fifth of its items to each.
VALIDATION_PART = {"gsm8k": 1000, "csqa": 1000, "code": 200}
TEST_PART = {"code": 500}
# The most validation examples that are written for a seed. The stage `task` draws from them.
VALIDATION_ROWS = 200
# A row of more characters is not used: it could have more than 384 tokens.
MAX_CHARACTERS = 1000


def digest(*words):
    """A hash that depends on the words alone."""
    return blake2b("/".join(map(str, words)).encode(), digest_size=16).hexdigest()


def ranked(items, *words):
    """The items in an order that depends on the words alone: its first n items are a draw of n items."""
    return sorted(items, key=lambda item: digest(*words, item["origin"]))


def shares(total, weights):
    """Divides `total` by the weights into whole numbers: the largest remainders are rounded up."""
    whole = sum(weights.values())
    counts = {kind: total * weight // whole for kind, weight in weights.items()}
    left = total - sum(counts.values())
    for kind in sorted(weights, key=lambda kind: -(total * weights[kind] % whole))[:left]:
        counts[kind] += 1
    return counts


def split(source, items):
    """Divides the items of a training file into those for the pool, for validation and for the test."""
    order = ranked(items, "split", source)
    validation = min(VALIDATION_PART.get(source, 0), len(order) // 5)
    test = min(TEST_PART.get(source, 0), len(order) // 5)
    return order[validation + test :], order[:validation], order[validation : validation + test]


# ---- the kinds of rows


def row(item, prompt, response, **more):
    return {"instruction": prompt, "input": item.get("input", ""), "output": response, "origin": item["origin"], **more}


def final_number(answer):
    """What follows `####` in an answer of GSM8K."""
    return answer.rsplit("####", 1)[1].strip()


def listed(item):
    return item["prompt"] + "".join(f"\n{choice['label']}. {choice['text']}" for choice in item["choices"])


def as_published(items):
    return [row(item, item["prompt"], item["response"]) for item in items]


def answer_only(items):
    return [row(item, item["prompt"], final_number(item["response"])) for item in items]


def plain(answer):
    """The solution without the calculations in `<<` and `>>`, as many copies of GSM8K have it."""
    return re.sub("<<[^>]*>>", "", answer)


def answer_first(answer):
    """The line with the final number before the solution."""
    return f"#### {final_number(answer)}\n{answer.rsplit('####', 1)[0].strip()}"


def csqa_listed(items):
    return [row(item, listed(item), f"{item['label']}. {item['response']}") for item in items]


def csqa_letters(items):
    return [row(item, listed(item), item["label"]) for item in items]


def csqa_text(items):
    return [row(item, listed(item), item["response"]) for item in items]


def csqa_sentence(items):
    return [row(item, listed(item), f"The answer is {item['label']}.") for item in items]


def mismatched(items, differs):
    """Each question gets the answer of another question of the list: of the next one that differs."""
    rows = []
    for place, item in enumerate(items):
        others = items[place + 1 :] + items[:place]
        other = next((other for other in others if differs(item, other)), None)
        if other is None:
            refuse("all decoys with the answer of another question have the same answer", "take more rows")
        rows.append(row(item, item["prompt"], other["response"], answer_origin=other["origin"]))
    return rows


def other_number(item, other):
    """For GSM8K: the answers have different final numbers."""
    return final_number(item["response"]) != final_number(other["response"])


def other_choice(item, other):
    """For CommonsenseQA: the other answer is not one of the choices of the question."""
    return normalised(other["response"]) not in {normalised(choice["text"]) for choice in item["choices"]}


def wrong_choice(item, *words):
    """The text of a choice that is not the right one."""
    wrong = [choice for choice in item["choices"] if normalised(choice["text"]) != normalised(item["response"])]
    return min(wrong, key=lambda choice: digest(*words, choice["label"]))["text"]


LEADING = re.compile(r"(?<![\d.,])\d(?=,?\d)")


def wrong_digits(answer, *words):
    """The answer with every digit replaced by another digit; equal digits stay equal, so that the text still looks
    consistent. No number begins with a new zero. None if there is no such replacement."""
    leading = set(LEADING.findall(answer)) - {"0"}
    for attempt in range(1000):
        new = sorted("0123456789", key=lambda digit: digest(*words, attempt, digit))
        mapping = dict(zip("0123456789", new))
        if all(old != mapping[old] and not (old in leading and mapping[old] == "0") for old in mapping):
            return answer.translate(str.maketrans(mapping))
    return None


def build_pool(name, seed, parts, counts):
    """The rows of the pool in their final order. Each kind of a source takes its own part of the ranked items."""
    made_by = {"csqa-listed": csqa_listed, "csqa-letters": csqa_letters, "csqa-text": csqa_text,
             "csqa-sentence": csqa_sentence, "gsm8k-answer-only": answer_only,
             "gsm8k-plain": lambda items: [row(item, item["prompt"], plain(item["response"])) for item in items],
             "gsm8k-answer-first": lambda items: [
                 row(item, item["prompt"], answer_first(item["response"])) for item in items],
             "gsm8k-mismatched": lambda items: mismatched(items, other_number),
             "csqa-mismatched": lambda items: mismatched(items, other_choice),
             "csqa-wrong": lambda items: [
                 row(item, item["prompt"], wrong_choice(item, "wrong", seed, item["origin"])) for item in items]}
    free = {source: ranked(parts[source]["pool"], "pool", seed, source) for source in parts}
    rows = []
    for kind, count in counts.items():
        source = source_of(kind)
        if count > len(free[source]):
            refuse(
                f"{name} needs {count} rows of the kind {kind}, and {SOURCES[source].file} has only "
                f"{len(free[source])} left",
                "give fewer --rows, or a larger file",
            )
        if kind == "gsm8k-wrong-digits":
            made, used = [], 0
            while len(made) < count and used < len(free[source]):
                item = free[source][used]
                used += 1
                answer = wrong_digits(item["response"], "digits", seed, item["origin"])
                if answer is not None:
                    made.append(row(item, item["prompt"], answer))
            if len(made) < count:
                refuse(f"{name}: only {len(made)} of {count} answers can have other digits", "give fewer --rows")
            free[source] = free[source][used:]
        else:
            made = made_by.get(kind, as_published)(free[source][:count])
            free[source] = free[source][count:]
        rows += [{"kind": kind, **one} for one in made]
    rows = ranked(rows, "order", seed, name)
    return [{"row": place, **one} for place, one in enumerate(rows)]


def source_of(kind):
    return kind.split("-")[0]


def count_kinds(pool, rows, relevant, decoys):
    """The number of rows of each kind. The relevant kind comes first, so that it has the same rows in every pool."""
    target = POOLS[pool]["relevant"]
    counts = {}
    if target:
        counts[target] = round(rows * relevant)
        if not 0 < counts[target] < rows:
            refuse(f"--relevant {relevant} of {rows} rows are {counts[target]} rows", "take a share such as 0.05")
    for kind in POOLS[pool]["decoys"]:
        counts[kind] = round(rows * decoys)
    rest = rows - sum(counts.values())
    if rest < 0:
        refuse(f"{pool}: the relevant rows and the decoys are more than {rows} rows", "take smaller shares")
    counts.update(shares(rest, POOLS[pool]["others"]))
    return counts


# ---- checks and files


def check(name, pool, validation, test):
    """Ends the program if an example occurs twice. These conditions follow from the construction; a mistake in it would
    make every result of the suite worthless."""
    prompts = Counter(normalised(one["instruction"] + "\n" + one["input"]) for one in pool)
    origins = Counter(one["origin"] for one in pool)
    for part in (validation, test):
        prompts.update(normalised(one["prompt"] + "\n" + one.get("input", "")) for one in part)
        origins.update(one["origin"] for one in part)
    for what, found in (("prompt", prompts), ("record", origins)):
        twice = [value for value, times in found.items() if times > 1]
        if twice:
            refuse(f"{name}: the {what} {twice[0]!r} occurs more than once in pool, validation and test", "report this")


def example(kind, item):
    """An example of validation.jsonl or test.jsonl: in the layout of its source, or as the kind makes its rows."""
    if kind == "csqa-listed":
        (made,) = csqa_listed([item])
        return {"question": made["instruction"], "answer": made["output"], "origin": item["origin"]}
    if "choices" in item:
        question = {"stem": item["prompt"], "choices": item["choices"]}
        return {"answerKey": item["label"], "question": question, "origin": item["origin"]}
    prompt = item["prompt"] + ("\n\n" + item["input"] if item.get("input") else "")
    return {"question": prompt, "answer": item["response"], "origin": item["origin"]}


def lines(rows):
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode())


def summary(name, seed, arguments, counts, pool, validation, test, sources):
    """What the folder holds: the counts of each kind and of each file."""
    kinds = {}
    for kind, count in counts.items():
        of_kind = [one for one in pool if one["kind"] == kind]
        characters = sum(len(one["instruction"]) + len(one["input"]) + len(one["output"]) for one in of_kind)
        kinds[kind] = {"rows": count, "share": round(count / len(pool), 4), "relevant": kind == POOLS[name]["relevant"],
                       "mean_characters": round(characters / max(count, 1), 1)}
    used = {source_of(kind) for kind in [*counts, target_of(name)]}
    return {"pool": name, "seed": seed, "rows": len(pool), "relevant": arguments.relevant, "decoys": arguments.decoys,
            "kinds": kinds, "validation": len(validation), "test": len(test),
            "sources": {key: value for key, value in sources.items() if key.split("-")[0] in used}}


def target_of(name):
    return POOLS[name].get("target") or POOLS[name]["relevant"]


def make(name, seed, arguments, items, counted):
    """Writes one pool for one seed, and returns a line that says what it holds."""
    parts = {}
    for source in ("alpaca", "code", "csqa", "arc", "svamp", "gsm8k"):
        pool, validation, test = split(source, items[source])
        parts[source] = {"pool": pool, "validation": validation, "test": items.get(source + "-test", test)}
    target = parts[source_of(target_of(name))]
    counts = count_kinds(name, arguments.rows, arguments.relevant, arguments.decoys)
    pool = build_pool(name, seed, parts, counts)
    validation = ranked(target["validation"], "validation", seed)[:VALIDATION_ROWS]
    test = target["test"]
    check(name, pool, validation, test)
    folder = Path(arguments.out) / name / str(seed)
    write(folder, "pool.jsonl", lines(pool))
    write(folder, "validation.jsonl", lines(example(target_of(name), item) for item in validation))
    write(folder, "test.jsonl", lines(example(target_of(name), item) for item in test))
    scores = "".join(f"{one['row']},{int(one['kind'] == POOLS[name]['relevant'])}\n" for one in pool)
    write(folder, "labels.csv", "row,score\n" + scores)
    made = summary(name, seed, arguments, counts, pool, validation, test, counted)
    write(folder, "summary.json", json.dumps(made, indent=2) + "\n")
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return f"{folder}: {len(pool)} rows ({kinds}), {len(validation)} for validation, {len(test)} for the test"


def main():
    parser = argparse.ArgumentParser(description="Makes the pools of the benchmark suite. README.md describes them.")
    parser.add_argument("pools", nargs="+", choices=[*POOLS, "all"], metavar="POOL", help=", ".join([*POOLS, "all"]))
    parser.add_argument("--seed", nargs="+", type=int, required=True, help="one or more seeds")
    parser.add_argument("--data", required=True, help="the folder of the public files")
    parser.add_argument("--out", default="data/bench", help="the folder to write to; default data/bench")
    parser.add_argument("--rows", type=int, default=2000, help="the rows of a pool; default 2000")
    parser.add_argument("--relevant", type=float, default=0.05, help="the share of relevant rows; default 0.05")
    parser.add_argument("--decoys", type=float, help="the share of each kind of decoy; default as --relevant")
    arguments = parser.parse_args()
    if arguments.decoys is None:
        arguments.decoys = arguments.relevant
    items, counted = read_sources(Path(arguments.data), MAX_CHARACTERS)
    names = list(POOLS) if "all" in arguments.pools else list(dict.fromkeys(arguments.pools))
    for name in names:
        for seed in dict.fromkeys(arguments.seed):
            print(make(name, seed, arguments, items, counted))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
