"""Times the making of a pool and a named peer in the same run: a file with a million instructions to Parquet, each text once.

`just bench corpus [ROWS]` makes files of ROWS (1,000,000) rows of Alpaca form, a tenth of them copies, as JSON lines, as
JSON lines with gzip and with zstd, and as Parquet. For each file, raisin (`ingest`) and DuckDB (read, `group by all`,
write with zstd) take turns, in an empty cache each time; RAISIN_BENCH_RUNS is the number of runs (3).

The two do not do the same: raisin also finds the format, checks each record, normalises conversations, writes a blake3 of
each row and the line from which it came, hashes the file and keeps all of this in its store.
"""

import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines" / "mixture"))
from make import fact, problem  # noqa: E402

RAISIN = os.path.abspath(sys.argv[1])
ROWS = int(sys.argv[2].replace(",", "")) if len(sys.argv) > 2 else 1_000_000
RUNS = int(os.environ.get("RAISIN_BENCH_RUNS", "3"))


def measured(command, folder):
    """Runs a command. Returns seconds, seconds of CPU time, and the peak memory of a process in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} in {folder} ended with {process.returncode}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


def make_files(folder):
    """Writes the rows in three forms: about 400 bytes a row, as in Alpaca."""
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(ROWS):
            # Each tenth row is a copy of the row before.
            number -= number % 10 == 9
            question, answer = problem(number)
            more = " ".join(fact(number * 3 + place)[1] for place in range(3))
            row = {"instruction": f"{number}. {question}", "input": "", "output": f"{answer} {more}"}
            file.write(json.dumps(row) + "\n")
    with open(folder / "rows.jsonl", "rb") as plain, gzip.open(folder / "rows.jsonl.gz", "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed)
    rows = "from read_json('rows.jsonl', format = 'newline_delimited')"
    with_duckdb(rows, "rows.parquet", folder)
    with_duckdb(rows, "rows.jsonl.zst", folder, "json")


def with_duckdb(query, file, folder, form="parquet"):
    """Writes the rows of a query with DuckDB, in a process of its own: this process has to stay small, because the peak
    memory of a process counts that of its parent at its start."""
    text = f"import duckdb; duckdb.execute(\"\"\"copy ({query}) to '{file}' (format {form}, compression zstd)\"\"\")"
    return measured([sys.executable, "-c", text], folder)


def raisin(name, folder):
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "bench.toml").write_text(f'[stage.pool]\nkind = "ingest"\nsources = [{{ path = "{name}" }}]\n')
    figures = measured([RAISIN, "build", "bench.toml", "--quiet"], folder)
    return *figures, (folder / "out/bench/pool/instructions.parquet").stat().st_size / 1e6


def peer(name, folder):
    (folder / "peer.parquet").unlink(missing_ok=True)
    reader = f"read_parquet('{name}')" if name.endswith(".parquet") else f"read_json('{name}', format = 'newline_delimited')"
    query = f"select *, count(*) - 1 as duplicates from {reader} group by all"
    figures = with_duckdb(query, "peer.parquet", folder)
    return *figures, (folder / "peer.parquet").stat().st_size / 1e6


def main():
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        make_files(folder)
        print(f"{ROWS:,} rows, {RUNS} runs in turns after one that warms the files; DuckDB {version('duckdb')}")
        print("                          median      CPU    memory      file   raisin's time / DuckDB's   CPU / CPU")
        for name in ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"]:
            contenders = {"raisin": raisin, "DuckDB": peer}
            runs = {who: [] for who in contenders}
            for turn in range(RUNS + 1):
                for who, run in contenders.items():
                    figures = run(name, folder)
                    if turn:
                        runs[who].append(figures)
            middle = {who: [statistics.median(column) for column in zip(*figures)] for who, figures in runs.items()}
            for who, (took, cpu, memory, size) in middle.items():
                line = f"  {name:14} {who:7} {took:6.1f} s {cpu:6.1f} s {memory:6.0f} MB {size:6.0f} MB"
                if who == "raisin":
                    ratio, of_cpu = took / middle["DuckDB"][0], cpu / middle["DuckDB"][1]
                    line += f"   {ratio:24.2f}   {of_cpu:9.2f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
