"""`sql_parity.py VIEWS FOLDER QUERIES ROWS`: compares DuckDB's answers to the queries with the rows that raisin gave: one
JSON array for each query. Prints the number of queries."""

import datetime
import decimal
import json
import math
import os
import sys

import duckdb

views, folder, queries, rows = sys.argv[1:]
answers = [json.loads(line) for line in open(rows)]
texts = [text.strip() for text in open(queries).read().split(";\n") if text.strip()]
os.chdir(folder)
base = duckdb.connect()
base.execute(open(views).read())


def plain(value):
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def same(one, other):
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    return one == other


wrong = []
for text, answer in zip(texts, answers):
    ours = [list(row.values()) for row in answer]
    try:
        theirs = [plain(list(row)) for row in base.execute(text).fetchall()]
    except duckdb.Error as error:
        wrong.append(f"{text}\n  DuckDB: {error}")
        continue
    if not same(ours, theirs):
        wrong.append(f"{text}\n  raisin {ours[:5]}\n  DuckDB {theirs[:5]}")
if len(texts) != len(answers):
    wrong.append(f"{len(texts)} queries, {len(answers)} answers")
if wrong:
    sys.exit("\n".join(wrong))
print(len(texts))
