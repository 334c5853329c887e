"""Scores each instruction by the words that it shares with the validation examples, with Python's standard library alone.

Usage: scorer.py INSTRUCTIONS.jsonl VALIDATION.jsonl COLUMNS.jsonl
"""

import json
import math
import re
import sys
from collections import Counter


def words(row):
    return Counter(re.findall(r"[a-z]+", (row["prompt"] + " " + row["response"]).lower()))


def main(instructions, validation, columns):
    with open(instructions) as file:
        pool = [json.loads(line) for line in file]
    with open(validation) as file:
        examples = [json.loads(line) for line in file]
    counts = [words(row) for row in pool]
    frequency = Counter(word for row in counts for word in row)
    weight = {word: math.log(len(pool) / count) for word, count in frequency.items()}

    def vector(row):
        values = {word: count * weight.get(word, 0.0) for word, count in row.items()}
        length = math.sqrt(sum(value * value for value in values.values())) or 1.0
        return {word: value / length for word, value in values.items()}

    centre = Counter()
    for example in examples:
        centre.update(vector(words(example)))
    length = math.sqrt(sum(value * value for value in centre.values())) or 1.0
    with open(columns, "w") as file:
        for done, (row, count) in enumerate(zip(pool, counts), 1):
            similarity = sum(value * centre[word] for word, value in vector(count).items()) / length
            file.write(json.dumps({"id": row["id"], "similarity": similarity}) + "\n")
            if done % 500 == 0:
                print(json.dumps({"progress": done / len(pool)}))


main(*sys.argv[1:])
