"""Checks pipelines/bench/make.py on small files that this program makes: determinism, disjoint parts, counts, decoys.

Usage: bench_pools.py OUT. OUT/data gets the files, and OUT/data/bench/POOL/SEED the pools.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

MAKE = Path(__file__).resolve().parent.parent.parent / "pipelines" / "bench" / "make.py"
sys.dont_write_bytecode = True
sys.path.insert(0, str(MAKE.parent))
from make import wrong_digits  # noqa: E402

POOLS = ["mixed-gsm8k", "mixed-gsm8k-noisy", "mixed-gsm8k-formats", "mixed-csqa", "mixed-csqa-noisy",
         "mixed-csqa-formats", "mixed-code", "alpaca-gsm8k"]


def gsm8k(name, number):
    total = 1000 + 17 * (number % 3)  # many rows have the same final number
    answer = f"{name} has 1,{number:03} + 2.5 = <<1{number:03}+2.5={total}>>{total} apples.\n#### {total:,}"
    return {"question": f"{name} buys {number} apples. How many apples?", "answer": answer}


def csqa(name, number):
    choices = [{"label": label, "text": f"{name} thing {number} {label.lower()}"} for label in "ABCDE"]
    question = {"question_concept": "thing", "choices": choices, "stem": f"{name}: which thing is number {number}?"}
    return {"answerKey": "ABCDE"[number % 5], "id": f"{name}{number}", "question": question}


def alpaca(name, number):
    return {"instruction": f"{name} task {number}.", "input": f"Input {number}" if number % 2 else "",
            "output": f"Output {name} {number}"}


def write_files(folder):
    folder.mkdir(parents=True)

    def write(name, rows):
        text = "".join(json.dumps(row) + "\n" for row in rows) if name.endswith("l") else json.dumps(rows)
        (folder / name).write_text(text)

    train = [gsm8k("Ann", number) for number in range(100)]
    long = {**gsm8k("Long", 1), "answer": "1 " * 600 + "#### 1"}
    # A copy of a test question, a copy of a training question with other capitals, and a long row.
    write("gsm8k_train.jsonl", [*train, gsm8k("Test", 3), {**train[5], "question": train[5]["question"].upper()}, long])
    write("gsm8k_test.jsonl", [gsm8k("Test", number) for number in range(20)])
    write("csqa_train_rand_split.jsonl", [csqa("Train", number) for number in range(100)])
    write("csqa_dev_rand_split.jsonl", [csqa("Dev", number) for number in range(20)])
    write("llmadapters_arc_challenge_train.json", [{**alpaca("Arc", number), "input": ""} for number in range(50)])
    write("svamp.json", [{"Body": f"There are {number} birds. ", "Question": f"How many are {number} birds?",
                          "Answer": float(number)} for number in range(50)])
    write("code_alpaca_2k.json", [alpaca("Code", number) for number in range(100)])
    empty = {"instruction": "Empty.", "input": "", "output": " "}
    write("alpaca_data.json", [*(alpaca("Alpaca", number) for number in range(300)), empty])


def make(folder, out, *more):
    arguments = [*POOLS, "--seed", "7", "8", "--data", folder, "--out", out, "--rows", "200", *more]
    done = subprocess.run([sys.executable, MAKE, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def final(answer):
    return answer.rsplit("####", 1)[1].strip()


def check_pool(folder, sources):
    """The promises that hold for every pool."""
    pool, validation, test = (read(folder / f"{part}.jsonl") for part in ("pool", "validation", "test"))
    assert len(pool) == 200 and validation and test
    assert [row["row"] for row in pool] == list(range(200))
    origins = Counter(row["origin"] for part in (pool, validation, test) for row in part)
    assert set(origins.values()) == {1}, "a record is used twice"
    assert not any(origin in origins for origin in sources["left out"]), "a copy or a long row is used"
    summary = json.loads((folder / "summary.json").read_text())
    kinds = Counter(row["kind"] for row in pool)
    assert {kind: found["rows"] for kind, found in summary["kinds"].items()} == kinds
    relevant = [kind for kind, found in summary["kinds"].items() if found["relevant"]]
    labels = (folder / "labels.csv").read_text().splitlines()
    assert labels[0] == "row,score"
    assert labels[1:] == [f"{row['row']},{int(row['kind'] in relevant)}" for row in pool]
    assert sum(kinds[kind] for kind in relevant) == (0 if folder.parent.name == "alpaca-gsm8k" else 10)
    return pool, kinds


def check_decoys(pool, sources):
    """Each kind of GSM8K rows against the training row that it comes from."""
    seen = Counter()
    for row in pool:
        if not row["kind"].startswith("gsm8k"):
            continue
        seen[row["kind"]] += 1
        source = sources["gsm8k"][int(row["origin"].split(":")[1])]
        assert row["instruction"] == source["question"]
        right, given = source["answer"], row["output"]
        if row["kind"] == "gsm8k":
            assert given == right
        elif row["kind"] == "gsm8k-answer-only":
            assert given == final(right)
        elif row["kind"] == "gsm8k-plain":
            assert "<<" in right and "<<" not in given and final(given) == final(right)
            assert given.split() == re.sub(r"<<.*?>>", "", right).split()
        elif row["kind"] == "gsm8k-answer-first":
            first, rest = given.split("\n", 1)
            assert first == f"#### {final(right)}" and rest == right.split("\n####")[0]
        elif row["kind"] == "gsm8k-mismatched":
            other = sources["gsm8k"][int(row["answer_origin"].split(":")[1])]
            assert given == other["answer"] and final(given) != final(right)
        else:
            assert row["kind"] == "gsm8k-wrong-digits"
            assert re.sub(r"\d", "0", given) == re.sub(r"\d", "0", right), "another shape"
            check_digits(right, given)
    return seen


def check_choices(pool, sources):
    """Each kind of CommonsenseQA rows against the training question that it comes from."""
    seen = Counter()
    for row in pool:
        if not row["kind"].startswith("csqa"):
            continue
        seen[row["kind"]] += 1
        source = sources["csqa"][int(row["origin"].split(":")[1])]
        question, given = source["question"], row["output"]
        choices = {choice["label"]: choice["text"] for choice in question["choices"]}
        right = choices[source["answerKey"]]
        without_choices = row["kind"] in ("csqa", "csqa-mismatched", "csqa-wrong")
        listed = "".join(f"\n{label}. {text}" for label, text in choices.items())
        assert row["instruction"] == question["stem"] + ("" if without_choices else listed)
        if row["kind"] == "csqa":
            assert given == right
        elif row["kind"] == "csqa-wrong":
            assert given != right and given in choices.values()
        elif row["kind"] == "csqa-mismatched":
            other = sources["csqa"][int(row["answer_origin"].split(":")[1])]
            texts = {choice["label"]: choice["text"] for choice in other["question"]["choices"]}
            assert given == texts[other["answerKey"]] and given not in choices.values()
        elif row["kind"] == "csqa-letters":
            assert given == source["answerKey"]
        elif row["kind"] == "csqa-text":
            assert given == right
        elif row["kind"] == "csqa-sentence":
            assert given == f"The answer is {source['answerKey']}."
        else:
            assert row["kind"] == "csqa-listed" and given == f"{source['answerKey']}. {right}"
    return seen


def check_digits(right, given):
    pairs = {(a, b) for a, b in zip(right, given) if a.isdigit()}
    assert all(a != b for a, b in pairs) and len({a for a, _ in pairs}) == len(pairs), pairs
    assert not re.search(r"(?<![\d.,])0,?\d", given), given


def check_wrong_digits():
    answer = "12 + 3,400 = 5.06"
    for seed in range(200):
        given = wrong_digits(answer, seed)
        assert re.sub(r"\d", "0", given) == re.sub(r"\d", "0", answer), given
        check_digits(answer, given)
    # Every digit begins a number, so that one of them would have to become 0.
    assert wrong_digits("10 21 32 43 54 65 76 87 98", 1) is None


def check_figure():
    program = MAKE.parent / "figure.py"
    done = subprocess.run([sys.executable, program, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, program, "--draw"], capture_output=True, text=True)
    assert done.returncode == 1 and "no other argument" in done.stderr, done.stderr


def main(out):
    check_figure()
    check_wrong_digits()
    folder = out / "data"
    write_files(folder)
    sources = {"gsm8k": read(folder / "gsm8k_train.jsonl"), "csqa": read(folder / "csqa_train_rand_split.jsonl"),
               "left out": {f"gsm8k_train.jsonl:{place}" for place in (100, 101, 102)} | {"alpaca_data.json:300"}}
    bench = folder / "bench"
    first_words = make(folder, bench)
    first = files(bench)
    assert make(folder, bench) == first_words
    assert files(bench) == first, "the second run gives other bytes"
    pools = {}
    for name in POOLS:
        for seed in ("7", "8"):
            pools[name, seed], kinds = check_pool(bench / name / seed, sources)
            if name == "mixed-gsm8k":
                assert kinds == {"gsm8k": 10, "alpaca": 94, "code": 32, "csqa-listed": 23, "arc": 16, "svamp": 14,
                                 "gsm8k-answer-only": 11}, kinds
            found = check_decoys(pools[name, seed], sources)
            if name == "mixed-gsm8k-noisy":
                decoys = ("gsm8k-answer-only", "gsm8k-mismatched", "gsm8k-wrong-digits")
                assert found == {"gsm8k": 10, **{kind: 10 for kind in decoys}}, found
            if name == "mixed-gsm8k-formats":
                decoys = ("gsm8k-answer-only", "gsm8k-plain", "gsm8k-answer-first")
                assert found == {"gsm8k": 10, **{kind: 10 for kind in decoys}}, found
            found = check_choices(pools[name, seed], sources)
            if name == "mixed-csqa-noisy":
                assert found == {kind: 10 for kind in ("csqa", "csqa-letters", "csqa-mismatched", "csqa-wrong")}, found
            if name == "mixed-csqa-formats":
                forms = ("csqa-listed", "csqa-letters", "csqa-text", "csqa-sentence")
                assert found == {kind: 10 for kind in forms}, found
        one, other = ({row["origin"] for row in pools[name, seed]} for seed in ("7", "8"))
        assert one != other, f"{name}: both seeds have the same rows"
    # The validation part is fixed: what one seed validates with, no seed has in its pool.
    for name in POOLS:
        validation = {row["origin"] for seed in ("7", "8") for row in read(bench / name / seed / "validation.jsonl")}
        assert not validation & {row["origin"] for seed in ("7", "8") for row in pools[name, seed]}, name
    # The examples of mixed-csqa-formats have the form of its relevant rows.
    for part, file in (("validation", "train"), ("test", "dev")):
        records = read(folder / f"csqa_{file}_rand_split.jsonl")
        for example in read(bench / "mixed-csqa-formats" / "7" / f"{part}.jsonl"):
            question = records[int(example["origin"].split(":")[1])]["question"]
            choices = [f"{choice['label']}. {choice['text']}" for choice in question["choices"]]
            assert example["question"] == "\n".join([question["stem"], *choices])
            right = records[int(example["origin"].split(":")[1])]["answerKey"]
            assert example["answer"] in choices and example["answer"].startswith(f"{right}. ")
    for decoys in ("mixed-gsm8k-noisy", "mixed-gsm8k-formats", "mixed-csqa-noisy"):
        plain = decoys.rsplit("-", 1)[0]
        one, other = ({row["origin"] for row in pools[name, "7"] if row["kind"] == plain.split("-")[1]}
                      for name in (plain, decoys))
        assert one and one == other, f"{decoys} has other relevant rows"
    make(folder, out / "more", "--relevant", "0.1", "--decoys", "0.02")
    kinds = Counter(row["kind"] for row in read(out / "more" / "mixed-gsm8k-noisy" / "7" / "pool.jsonl"))
    assert kinds["gsm8k"] == 20 and kinds["gsm8k-mismatched"] == 4, kinds
    few = subprocess.run([sys.executable, MAKE, "mixed-gsm8k", "--seed", "7", "--data", folder, "--out", out / "few"],
                         capture_output=True, text=True)
    assert few.returncode == 1 and "mixed-gsm8k needs 100 rows of the kind gsm8k, and" in few.stderr, few.stderr


main(Path(sys.argv[1]))
