"""Takes a pool of millions of rows through every stage, from files to a selection. Prints the time and memory of each.

`just bench chain [ROWS]` makes two files of short rows, together ROWS (1,000,000), and builds each stage by itself:
ingest, mix, dedup, filter, sql, random embeddings from a program, clusters, a selector of 20 steps, a fine-tuning of 20
steps on its choices. A time is that of `raisin build` of one stage; memory is the peak of raisin or of its worker. The
number of rows after each stage is known from how the files are made, and is checked. So is the line of the file of each
selected row.

RAISIN_BENCH_FOLDER is the folder for the files and the cache: about 1.1 kB a row. Without it, a temporary folder is used.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RAISIN = os.path.abspath(sys.argv[1])
ROWS = int(sys.argv[2].replace(",", "")) if len(sys.argv) > 2 else 1_000_000
TOP = Path(__file__).resolve().parent.parent
STEPS, BATCH = 20, 8
SYLLABLES = "ba be bi bo da de di do fa fe fi fo ga ge gi go ka ke ki ko la le li lo ma me mi mo na ne".split()
WORDS = [one + two for one in SYLLABLES for two in SYLLABLES]

PIPELINE = """
[pipeline]
name = "chain"
seed = 17

[stage.main]
kind = "ingest"
sources = [{{ path = "main.jsonl" }}]

[stage.crawl]
kind = "ingest"
sources = [{{ path = "crawl.jsonl" }}]

[stage.task]
kind = "task"
source = {{ path = "task.jsonl", format = "qa" }}
validation = 32
test = 8

[stage.raw]
kind = "mix"

[stage.raw.pools]
main = {{ instructions = "main" }}
crawl = {{ instructions = "crawl" }}

[stage.single]
kind = "dedup"
instructions = "raw"
of = "prompt"
threshold = 0.8
prefer = ["main"]

[stage.kept]
kind = "filter"
instructions = "single"
query = "select id from single.instructions where line % 10 <> 0"

[stage.counts]
kind = "sql"
of = ["kept"]
query = "select pool, count(*) as rows, avg(length(response)) as characters from kept.instructions group by pool"

[stage.embeddings]
kind = "command"
run = ["{python}", "embed.py", "{{kept.instructions}}", "{{out}}"]
files = ["embed.py"]
provides = ["features"]

[stage.clusters]
kind = "clusters"
features = "embeddings"
clusters = 8

[stage.base]
kind = "model"
source = {{ huggingface = "{base}" }}

[stage.selector]
kind = "selector"
instructions = "kept"
features = "clusters"
model = "base"
task = "task"
adaptation = {{ method = "full" }}
max_tokens = 128
rounds = 1
steps = {steps}
batch_size = {batch}
resources = {{ memory = "{memory}GB" }}

[stage.tuned]
kind = "finetune"
instructions = "kept"
features = "clusters"
model = "base"
task = "task"
select = {{ method = "raise", policy = "selector" }}
adaptation = {{ method = "full" }}
max_tokens = 128
steps = {steps}
batch_size = {batch}
resources = {{ memory = "{memory}GB" }}
"""

EMBED = """
import sys
import numpy
import pyarrow
import pyarrow.parquet as parquet

pool, out = sys.argv[1:]
rows = parquet.ParquetFile(pool).metadata.num_rows
drawn = numpy.random.default_rng(17)
schema = pyarrow.schema([("id", pyarrow.uint32()), ("embedding", pyarrow.list_(pyarrow.float32(), 32))])
with parquet.ParquetWriter(out + "/features.parquet", schema) as writer:
    for first in range(0, rows, 100_000):
        ids = numpy.arange(first, min(first + 100_000, rows), dtype=numpy.uint32)
        numbers = drawn.standard_normal(len(ids) * 32, dtype=numpy.float32)
        lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(numbers), 32)
        writer.write_table(pyarrow.table([pyarrow.array(ids), lists], schema=schema))
"""


def words(drawn, count):
    """Different words, so that two texts hardly share a run of five."""
    bits = drawn.getrandbits(10 * count)
    return " ".join(WORDS[(bits >> 10 * place) % len(WORDS)] for place in range(count))


def make_files(folder):
    """Writes the files. Returns the rows that each stage has to have."""
    drawn = random.Random(17)
    main, crawl = ROWS * 9 // 10, ROWS - ROWS * 9 // 10
    copies = near = 0
    lines = main - main // 10
    # No row stays in memory: the peak memory of a process counts that of its parent at its start.
    with open(folder / "main.jsonl", "w") as file, open(folder / "crawl.jsonl", "w") as second:
        before = None
        for number in range(main):
            of_main = {"instruction": words(drawn, 16), "input": "", "output": words(drawn, 4)}
            file.write(json.dumps(of_main) + "\n")
            if number >= crawl:
                continue
            row = {"instruction": words(drawn, 16), "input": "", "output": words(drawn, 4)}
            if number % 10 == 1:  # an exact copy of the row before
                row, copies = before, copies + 1
            elif number % 10 in (2, 3):  # a near copy of a row of the other file
                row["instruction"], near = of_main["instruction"] + " indeed", near + 1
            else:
                lines += (number + 1) % 10 != 0
            before = row
            second.write(json.dumps(row) + "\n")
    with open(folder / "task.jsonl", "w") as file:
        for _ in range(100):
            file.write(json.dumps({"question": words(drawn, 8), "answer": words(drawn, 2)}) + "\n")
    return {"main": main, "crawl": crawl - copies, "raw": ROWS - copies, "single": ROWS - copies - near, "kept": lines}


def run(folder, *command):
    """Runs raisin. Returns the seconds, the peak memory in MB of raisin or its largest worker, and what it wrote."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        process = subprocess.Popen([RAISIN, *command], cwd=folder, stdout=out, stderr=said, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - began
        out.seek(0)
        said.seek(0)
        if process.returncode:
            text = said.read().decode()[-2000:]
            sys.exit(f"error: raisin {' '.join(command)} ended with {process.returncode}:\n{text}")
        return took, usage.ru_maxrss / 1e3, out.read().decode()


def ask(folder, query):
    return json.loads(run(folder, "sql", query, "--format", "json")[2])


def check(what, found, expected):
    if found != expected:
        sys.exit(f"error: {what}: {found}, and {expected} are expected")


def trace(folder):
    """Follows each selected row to the line of its file."""
    query = "select t.instruction, i.pool, i.line from tuned.selection t join kept.instructions i on i.id = t.id"
    rows = ask(folder, query)
    check("selected rows", len(rows), STEPS * BATCH)
    for name in ("main", "crawl"):
        wanted = {row["line"]: row["instruction"] for row in rows if row["pool"] == name}
        with open(folder / f"{name}.jsonl") as file:
            for number, line in enumerate(file, 1):
                if number in wanted:
                    prompt = json.loads(line)["instruction"]
                    check(f"line {number} of {name}.jsonl", prompt[:120], wanted.pop(number))
        check(f"lines that {name}.jsonl does not have", len(wanted), 0)


def main(folder):
    expected = make_files(folder)
    size = sum((folder / name).stat().st_size for name in ("main.jsonl", "crawl.jsonl"))
    print(f"{ROWS:,} rows, {size / 1e6:,.0f} MB; load {os.getloadavg()[0]:.1f}\n")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    text = PIPELINE.format(python=sys.executable, base=TOP / "pipelines/quickstart-base", steps=STEPS, batch=BATCH,
                           memory=int(memory * 0.9))
    (folder / "chain.toml").write_text(text)
    (folder / "embed.py").write_text(EMBED)
    print("| stage | time | peak memory | rows |\n|---|---|---|---|")
    total = 0
    stages = "task base main crawl raw single kept counts embeddings clusters selector tuned"
    for stage in stages.split():
        took, peak, _ = run(folder, "build", "chain.toml", "--only", stage)
        total += took
        rows = ""
        if stage in expected:
            rows = ask(folder, f"select count(*) as n from {stage}.instructions")[0]["n"]
            check(f"rows of {stage}", rows, expected[stage])
        elif stage in ("embeddings", "clusters"):
            table = "features" if stage == "embeddings" else "clusters"
            rows = ask(folder, f"select count(*) as n from {stage}.{table}")[0]["n"]
            check(f"rows of {stage}", rows, expected["kept"])
        elif stage == "selector":
            rows = ask(folder, "select count(*) as n from selector.expected where at_start is not null")[0]["n"]
            check("candidates", rows, expected["kept"])
        elif stage == "counts":
            check("rows of counts", ask(folder, "select sum(rows) as n from counts.rows")[0]["n"], expected["kept"])
        if stage not in ("task", "base"):
            print(f"| {stage} | {took:,.1f} s | {peak:,.0f} MB | {f'{rows:,}' if rows else ''} |", flush=True)
    trace(folder)
    print(f"\nAll stages: {total:,.0f} s; load {os.getloadavg()[0]:.1f}.")
    print(f"The {STEPS * BATCH} selected rows are on their lines.")


if "RAISIN_BENCH_FOLDER" in os.environ:
    main(Path(os.environ["RAISIN_BENCH_FOLDER"]))
else:
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
