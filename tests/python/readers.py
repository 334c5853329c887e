"""Reads every Parquet file below a folder with DuckDB, Polars and Hugging Face datasets, and compares all values with those
that pyarrow reads. Prints the number of files and of rows.

Arguments: the folder."""

import math
import sys
import tempfile
from pathlib import Path

import duckdb
import polars
import pyarrow.parquet
from datasets import load_dataset
from datasets.utils.logging import disable_progress_bar


def plain(value):
    """A value without the differences of the libraries: tuples are lists, and NaN equals NaN."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def columns(table):
    return {name: plain(table.column(name).to_pylist()) for name in table.column_names}


def main():
    disable_progress_bar()
    files = sorted(Path(sys.argv[1]).rglob("*.parquet"))
    rows = 0
    with tempfile.TemporaryDirectory() as cache:
        for file in files:
            expected = columns(pyarrow.parquet.read_table(file))
            count = pyarrow.parquet.read_metadata(file).num_rows
            found = {
                "DuckDB": columns(duckdb.read_parquet(str(file)).to_arrow_table()),
                "Polars": columns(polars.read_parquet(file).to_arrow()),
            }
            # datasets makes no data set of an empty file.
            if count:
                data = load_dataset("parquet", data_files=str(file), split="train", cache_dir=cache)
                found["datasets"] = {name: plain(list(data[name])) for name in data.column_names}
            for reader, values in found.items():
                for name in expected.keys() | values.keys():
                    if expected.get(name) != values.get(name):
                        sys.exit(f"{reader} reads other values of the column {name} of {file}")
            rows += count
    print(len(files), rows)


main()
