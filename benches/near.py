"""Times the search for near-duplicates and a named peer in the same run: `dedup` with `by = "near"`, and datatrove.

`just bench near [ROWS]` makes a file of ROWS (300,000) rows of about 400 bytes. A tenth of them are near copies: one number
differs. Both tools compare the same words with n-grams of 5 words, 14 bands and 8 hashes, and use all cores. raisin has
the rows in its pool already, so that only the search and the writing of the table are timed. datatrove reads the JSON
lines itself, which is a small part of its time, and splits words at white space, which is its fastest way.

raisin also compares each pair that the bands give exactly, and checks its recall against brute force on a sample. datatrove
leaves out every row that shares a band with another, also if the rows are less alike than raisin's threshold of 0.8.
RAISIN_BENCH_RUNS is the number of runs (1).
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines" / "mixture"))
sys.path.insert(0, str(Path(__file__).parent))
from corpus import measured  # noqa: E402
from make import fact, problem  # noqa: E402

RAISIN = os.path.abspath(sys.argv[1])
ROWS = int(sys.argv[2].replace(",", "")) if len(sys.argv) > 2 else 300_000
RUNS = int(os.environ.get("RAISIN_BENCH_RUNS", "1"))

PIPELINE = """
[stage.pool]
kind = "ingest"
sources = [{ path = "rows.jsonl" }]

[stage.near]
kind = "dedup"
instructions = "pool"
by = "near"
ngram = 5
bands = 14
band_rows = 8
"""

PEER = Path(__file__).with_name("near_peer.py")


def make_rows(folder):
    """Writes the rows as one file for raisin, and as one file for each core for datatrove."""
    cores = os.cpu_count()
    (folder / "parts").mkdir()
    parts = [open(folder / "parts" / f"{core}.jsonl", "w", encoding="utf-8") for core in range(cores)]
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(ROWS):
            source = number - (number % 10 == 9)
            question, answer = problem(source)
            more = " ".join(fact(source * 7 + place)[1] for place in range(7))
            # The near copy ends with another number.
            prompt, response = f"{source}. {question}", f"{answer} {more} That makes {number}."
            file.write(json.dumps({"instruction": prompt, "input": "", "output": response}) + "\n")
            parts[number * cores // ROWS].write(json.dumps({"id": str(number), "text": f"{prompt} {response}"}) + "\n")
    for part in parts:
        part.close()


def raisin(folder):
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "bench.toml").write_text(PIPELINE)
    measured([RAISIN, "build", "bench.toml", "--quiet", "--only", "pool"], folder)
    took, _, _ = measured([RAISIN, "build", "bench.toml", "--quiet"], folder)
    import pyarrow.parquet as parquet

    summary = parquet.read_table(folder / "out/bench/near/dedup_summary.parquet").to_pylist()[0]
    return took, summary["left_out"]


def peer(folder):
    for name in ["signatures", "buckets", "remove", "kept"]:
        shutil.rmtree(folder / name, ignore_errors=True)
    took, _, _ = measured([sys.executable, str(PEER), str(os.cpu_count())], folder)
    kept = sum(1 for path in (folder / "kept").rglob("*.jsonl") for _ in open(path, "rb"))
    return took, ROWS - kept


def main():
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        make_rows(folder)
        print(f"{ROWS:,} rows, medians of {RUNS}; datatrove {version('datatrove')}", flush=True)
        print("                 time   left out", flush=True)
        middle = {}
        for who, run in {"raisin": raisin, "datatrove": peer}.items():
            runs = [run(folder) for _ in range(RUNS)]
            middle[who] = [statistics.median(column) for column in zip(*runs)]
            took, left_out = middle[who]
            print(f"  {who:10} {took:8.1f} s {left_out:10,.0f}", flush=True)
        print(f"datatrove's time / raisin's: {middle['datatrove'][0] / middle['raisin'][0]:.1f}")


if __name__ == "__main__":
    main()
