"""`duckdb_views.py VIEWS FOLDER`: runs the exported views in DuckDB in a folder, and prints the rows of each as JSON."""

import json
import os
import sys

import duckdb

os.chdir(sys.argv[2])
base = duckdb.connect()
base.execute(open(sys.argv[1]).read())
views = base.execute("select schema_name, view_name from duckdb_views() where not internal order by 1, 2").fetchall()
names = [f"{schema}.{view}" for schema, view in views]
print(json.dumps({name: base.execute(f"select count(*) from {name}").fetchone()[0] for name in names}))
