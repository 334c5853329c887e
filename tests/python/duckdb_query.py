"""`duckdb_query.py FOLDER QUERY`: DuckDB's answer to a query, run in a folder, one JSON object a row."""

import json
import os
import sys

import duckdb

os.chdir(sys.argv[1])
answer = duckdb.sql(sys.argv[2])
for row in answer.fetchall():
    print(json.dumps(dict(zip(answer.columns, row, strict=True))))
