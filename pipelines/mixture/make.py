"""Makes the five raw files of pipelines/mixture.toml: questions and answers from templates, with the faults of real files.

    python3 pipelines/mixture/make.py --out data/mixture

| file | format | rows | what |
|---|---|---|---|
| rules.jsonl | Alpaca | 12,000 | arithmetic and word problems, of good quality |
| chats.json | ShareGPT | 4,000 | conversations of one to three questions |
| faq.csv | CSV: question, answer | 2,000 | facts about made-up towns |
| code.jsonl.gz | chat messages, gzip | 4,000 | short functions in Python |
| crawl.jsonl | prompt, completion | 10,000 | near copies of rules.jsonl, refusals, cut answers, repetition, links, German |

The files are made, and free of rights of others (CC0). The program needs Python 3.8 and no packages. The same arguments
give the same bytes: nothing is drawn by a random generator; number n of a file depends on a hash of the file and n.
"""

import argparse
import csv
import gzip
import io
import json
from hashlib import blake2b
from pathlib import Path

NAMES = "Ada Ben Cleo Dan Eva Finn Gita Hal Ida Jon Kim Lea Max Nora Olaf Pia Quinn Rosa Sam Tess".split()
THINGS = "apples books coins cards eggs flowers kites lamps marbles nails pens plums ribbons shells stamps tickets".split()
TOWNS = ["North", "South", "East", "West", "Upper", "Lower", "Old", "New", "Great", "Little"]
ENDS = ["field", "ford", "haven", "hill", "mouth", "port", "stead", "ton", "wick", "wood"]
VERBS = ["finds", "buys", "wins", "borrows", "makes", "gets"]
LOSSES = ["gives away", "loses", "sells", "breaks", "lends", "throws out"]
FUNCTIONS = [
    ("the sum of", "total", "sum(values)"),
    ("the largest of", "largest", "max(values)"),
    ("the smallest of", "smallest", "min(values)"),
    ("the number of", "count", "len(values)"),
    ("the mean of", "mean", "sum(values) / len(values)"),
    ("the sorted list of", "ordered", "sorted(values)"),
]
GERMAN = "Die Stadt {town} liegt an einem breiten Fluss und hat einen alten Markt, den viele Leute im Sommer besuchen."


def draw(*words):
    """A whole number that depends on the words alone."""
    return int.from_bytes(blake2b("/".join(map(str, words)).encode(), digest_size=8).digest(), "big")


def pick(choices, *words):
    return choices[draw(*words) % len(choices)]


def problem(number):
    """A word problem and its answer."""
    name, thing = pick(NAMES, "name", number), pick(THINGS, "thing", number)
    first, more, less = (draw(part, number) % 90 + 10 for part in ("first", "more", "less"))
    less = less % (first + more)
    gains, loses = pick(VERBS, "gains", number), pick(LOSSES, "loses", number)
    question = f"{name} has {first} {thing}, {gains} {more} more and then {loses} {less}. How many {thing} are left?"
    answer = f"{name} has {first} + {more} = {first + more} {thing}. Without {less}, {first + more - less} are left."
    return question, answer


def town(number):
    name = pick(TOWNS, "town", number) + pick(ENDS, "end", number)
    return f"{name} {number % 97 + 1}"


def fact(number):
    place, people = town(number), draw("people", number) % 90_000 + 1_000
    if number % 2:
        return f"How many people live in {place}?", f"{people:,} people live in {place}."
    river = pick(ENDS, "river", number).capitalize()
    return f"At which river does {place} lie?", f"{place} lies at the river {river}, an hour from the sea."


def rules():
    for number in range(12_000):
        question, answer = problem(number)
        yield json.dumps({"instruction": question, "input": "", "output": answer})


def chats():
    def turns(number):
        for turn in range(draw("turns", number) % 3 + 1):
            question, answer = fact(50_000 + 3 * number + turn)
            yield {"from": "human", "value": question}
            yield {"from": "gpt", "value": answer}

    return [{"conversations": list(turns(number))} for number in range(4_000)]


def code():
    for number in range(4_000):
        what, name, body = pick(FUNCTIONS, "function", number)
        thing = pick(THINGS, "values", number)
        limit = draw("limit", number) % 900 + 100
        question = f"Write a Python function that returns {what} all {thing} below {limit}."
        answer = (
            f"```python\ndef {name}_{thing}(values):\n    values = [value for value in values if value < {limit}]\n"
            f"    return {body}\n```"
        )
        yield json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


def crawl():
    for number in range(10_000):
        question, answer = problem(draw("crawled", number) % 12_000)
        kind = number % 10
        if kind < 3:  # a near copy: another greeting, another word at the end
            question = f"{question} {pick(['Please explain.', 'Show the steps.', 'Answer.'], 'near', number)}"
        elif kind == 3:
            question = f"What does the mayor of {town(number)} earn in a year?"
            answer = "I'm sorry, but as an AI language model I cannot answer questions about private persons."
        elif kind == 4:
            cut = fact(number)
            question, answer = f"Describe {town(number)}.", f"{cut[1]} The market of {town(number)} is known for its"
        elif kind == 5:
            line = fact(number)[1]
            question, answer = f"Tell me more about {town(number)}.", "\n".join([line] * 5)
        elif kind == 6:
            question = f"Where can I read about {town(number)}?"
            answer = " ".join(f"https://example.org/{town(number).replace(' ', '-').lower()}/{page}" for page in range(4))
        elif kind == 7:
            question, answer = f"Wo liegt {town(number)}?", GERMAN.format(town=town(number))
        else:
            question, answer = fact(100_000 + number)
        yield json.dumps({"prompt": question, "completion": answer})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="data/mixture", type=Path, help="the folder of the files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    def write(name, lines):
        (out / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    write("rules.jsonl", rules())
    (out / "chats.json").write_text(json.dumps(chats()), encoding="utf-8")
    with open(out / "faq.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer"])
        rows.writerows(fact(number) for number in range(2_000))
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        file.write("".join(line + "\n" for line in code()).encode())
    (out / "code.jsonl.gz").write_bytes(packed.getvalue())
    write("crawl.jsonl", crawl())
    print(f"wrote rules.jsonl, chats.json, faq.csv, code.jsonl.gz and crawl.jsonl into {out}")


if __name__ == "__main__":
    main()
