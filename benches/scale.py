"""Counts what raisin does for 1 to 10,000 stages and 1 to 1,000,000 rows, beside the numbers that docs/scale.md computes.

`just bench scale` runs all parts; `just bench scale stages rows` runs the parts stages and rows. Parts: stages (a first
build, a build with nothing to do, a plan: system calls, files, bytes, memory, time), remote (requests and bytes to a
shared cache), jobs (calls of the commands of a scheduler), rows (memory of stages by rows). RAISIN_BENCH_MOST is the
largest number of stages (10000), RAISIN_BENCH_ROWS the largest number of rows (1000000).

Counts do not depend on what else the machine does. Times do: they are upper bounds. System calls are counted by strace,
if it is there, in a run of its own.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RAISIN = os.path.abspath(sys.argv[1])
PARTS = sys.argv[2:] or ["stages", "remote", "jobs", "rows"]
TOP = Path(__file__).resolve().parent.parent
MOST = int(os.environ.get("RAISIN_BENCH_MOST", "10000"))
ROWS = int(os.environ.get("RAISIN_BENCH_ROWS", "1000000"))
# A store on loopback that is written in Python is slow; the counts for each stage do not change after 100.
MOST_SHARED, MOST_JOBS = 1000, 100
WORDS = "river stone window garden yellow seven under winter paper music green table ocean light bread".split()


def pipeline(stages, more=""):
    """Stages without inputs, each with another artifact of one small table."""
    lines = ['[pipeline]\nname = "scale"\n']
    lines += [f'[stage.s{n}]\nkind = "generate"\nsize = 20\nvalidation = 4\ntest = 4\npretraining_size = 0\nseed = {n}\n' for n in range(stages)]
    return "".join(lines) + more


def run(folder, *words, variables=None):
    """Runs raisin. Returns the seconds, the peak memory in MB of raisin or its largest worker, and what it said."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([RAISIN, *words], cwd=folder, stdout=said, stderr=said,
                                   stdin=subprocess.DEVNULL, env={**os.environ, **(variables or {})})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - began
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode:
        sys.exit(f"error: raisin {' '.join(words)} ended with {process.returncode}:\n{text[-2000:]}")
    return took, usage.ru_maxrss / 1e3, text


def calls(folder, *words):
    """The system calls of raisin itself, without those of its workers; None without strace."""
    if not shutil.which("strace"):
        return None
    out = folder / "calls"
    # Threads are followed, and so are workers: a line begins with the id of its thread, and workers are left out.
    subprocess.run(["strace", "-f", "-qq", "-o", out, RAISIN, *words], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    others, count = set(), 0
    for line in out.read_text(errors="replace").splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        # A new process, in contrast to a thread, has no CLONE_THREAD.
        made = re.search(r"(?:clone3?|v?fork)\(.*= (\d+)$|resumed>.*= (\d+)$", call)
        if made and "CLONE_THREAD" not in call and ("clone" in call or "fork" in call):
            others.add(made.group(1) or made.group(2))
        if thread not in others and "resumed>" not in call and not call.startswith(("+++", "---")):
            count += 1
    out.unlink()
    return count


def below(folder):
    """Files, folders, links and bytes below a folder."""
    files = folders = links = size = 0
    for place, names, leaves in os.walk(folder):
        for name in names:
            path = Path(place, name)
            links, folders = links + path.is_symlink(), folders + (not path.is_symlink())
        for name in leaves:
            path = Path(place, name)
            if path.is_symlink():
                links += 1
            else:
                files, size = files + 1, size + path.stat().st_size
    return files, folders, links, size


def project(folder, text):
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "p.toml").write_text(text)
    return place


def sizes(most):
    return [size for size in (1, 10, 100, 1_000, 10_000) if size <= most]


def table(title, head, rows):
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(cell if isinstance(cell, str) else f'{cell:,}' for cell in row)} |")
    sys.stdout.flush()


def per(value, stages):
    return "no strace" if value is None else f"{value / stages:,.1f}"


def of_stages(folder):
    found = []
    for stages in sizes(MOST):
        place = project(folder, pipeline(stages))
        plan_first = run(place, "plan", "p.toml")[0]
        first, first_memory, _ = run(place, "build", "p.toml", "--quiet")
        files, folders, _, size = below(place / "cache")
        links = below(place / "out")[2]
        again = [run(place, "build", "p.toml", "--quiet") for _ in range(5)]
        plan, plan_memory, _ = run(place, "plan", "p.toml")
        noop = calls(place, "build", "p.toml", "--quiet")
        planned = calls(place, "plan", "p.toml")
        found.append((stages, files, folders, links, size, noop, planned, first, first_memory,
                      min(again)[0], again[0][1], plan_first, plan, plan_memory))
        shutil.rmtree(place, ignore_errors=True)
    table("The cache after a first build",
          ["stages", "files", "of a stage", "folders", "of a stage", "links in out", "bytes", "of a stage"],
          [(n, files, per(files, n), folders, per(folders, n), links, size, per(size, n))
           for n, files, folders, links, size, *_ in found])
    table("System calls of raisin", ["stages", "build with nothing to do", "of a stage", "plan with nothing to do", "of a stage"],
          [(n, "no strace" if noop is None else noop, per(noop, n), "no strace" if plan is None else plan, per(plan, n))
           for n, _, _, _, _, noop, plan, *_ in found])
    table("Times (upper bounds) and memory",
          ["stages", "first build", "of a stage", "build with nothing to do", "plan of a first build", "plan, nothing to do", "memory of the largest process: first build, nothing to do, plan"],
          [(n, f"{first:.2f} s", f"{first / n * 1e3:.1f} ms", f"{again * 1e3:.1f} ms", f"{plan_first * 1e3:.1f} ms",
            f"{plan * 1e3:.1f} ms", f"{memory:.0f}, {again_memory:.0f}, {plan_memory:.0f} MB")
           for n, *_, first, memory, again, again_memory, plan_first, plan, plan_memory in found])


class SharedCache:
    """The S3 server of the tests on loopback, which counts requests and bytes."""

    def __init__(self):
        command = [sys.executable, TOP / "tests/python/remote_store.py"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.port = json.loads(self.process.stdout.readline())["port"]

    def ask(self, **command):
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def counted(self):
        counts = self.ask(counts=True)
        self.ask(manner="well")
        return counts

    def variables(self):
        return {"RAISIN_REMOTE": "s3://bucket/prefix", "RAISIN_REMOTE_MODE": "read-write", "NO_PROXY": "127.0.0.1",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
                "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

    def end(self):
        self.process.kill()
        self.process.wait()


def of_remote(folder):
    rows = []
    for stages in sizes(min(MOST, MOST_SHARED)):
        shared = SharedCache()
        one, two = project(folder, pipeline(stages)), project(folder, pipeline(stages))

        def counted(what, place, *words):
            took, _, _ = run(place, *words, "p.toml", variables=shared.variables())
            counts = shared.counted()
            requests, moved = counts["requests"], counts["bytes"]
            rows.append((stages, what, sum(requests.values()), per(sum(requests.values()), stages),
                         ", ".join(f"{name} {count:,}" for name, count in sorted(requests.items())) or "none",
                         moved["received"], moved["sent"], f"{took:.1f} s"))

        counted("a first build: every look-up a miss, every artifact uploaded", one, "build", "--quiet")
        counted("nothing to do", one, "build", "--quiet")
        counted("a plan on an empty machine", two, "plan")
        counted("a build on an empty machine: every artifact fetched", two, "build", "--quiet")
        shared.end()
        for place in (one, two):
            shutil.rmtree(place, ignore_errors=True)
    table("Requests and bytes to a shared cache",
          ["stages", "build", "requests", "of a stage", "by method", "bytes to the store", "bytes from the store", "time"], rows)


def of_jobs(folder):
    rows = []
    runner = TOP / "tests/jobs/runner.sh"
    for stages in sizes(min(MOST, MOST_JOBS)):
        place = project(folder, "")
        counter = place / "counted.sh"
        counter.write_text(f'#!/bin/sh\necho "$1" >> {place}/asked\nexec {runner} "$@"\n')
        counter.chmod(0o755)
        words = ", ".join(f'"{word}"' for word in ("{script}", "{output}"))
        stages_of = ", ".join(f'"s{n}"' for n in range(stages))
        executor = (f'[executor]\nrun = "template"\ninterval = "5s"\njobs = 8\nstages = [{stages_of}]\n'
                    f'submit = ["{counter}", "submit", "jobs", {words}]\n'
                    f'poll = ["{counter}", "poll", "jobs", "{{ids}}"]\ncancel = ["{counter}", "cancel", "jobs", "{{ids}}"]\n')
        (place / "p.toml").write_text(pipeline(stages, executor))
        took, _, _ = run(place, "build", "p.toml", "--quiet")
        asked = (place / "asked").read_text().split()
        again = run(place, "build", "p.toml", "--quiet")[0]
        more = len((place / "asked").read_text().split()) - len(asked)
        rows.append((stages, asked.count("submit"), asked.count("poll"), f"{took / 5:.1f}", more, f"{took:.1f} s", f"{again * 1e3:.0f} ms"))
        shutil.rmtree(place, ignore_errors=True)
    table("Calls of the commands of a scheduler (template, one question each 5 s, eight jobs at a time)",
          ["stages", "submit", "poll", "time / 5 s", "calls of a build with nothing to do", "first build", "nothing to do"], rows)


def of_rows(folder):
    rows = []
    size = 10_000
    while size <= ROWS:
        place = project(folder, """[pipeline]
name = "scale"
[stage.pool]
kind = "ingest"
sources = [{ path = "rows.jsonl", format = "qa" }]
[stage.mixed]
kind = "mix"
pools = { all = { instructions = "pool" } }
[stage.once]
kind = "dedup"
instructions = "mixed"
by = "exact"
[stage.near]
kind = "dedup"
instructions = "mixed"
by = "near"
[stage.counted]
kind = "sql"
of = ["mixed"]
query = "select length(response) as l, count(*) as n from mixed.instructions group by 1 order by 1"
""")
        chance = random.Random(1)
        with (place / "rows.jsonl").open("w") as rows_file:
            for number in range(size):
                # About 330 bytes for each row, and a tenth of them twice.
                words = " ".join(chance.choice(WORDS) for _ in range(45))
                print(json.dumps({"question": f"{number * 9 // 10} {words[:60]}", "answer": words}), file=rows_file)
        for stage in ["pool", "mixed", "once", "near", "counted"]:
            # One stage for each build: the peak is that of its worker.
            took, peak, _ = run(place, "build", "p.toml", "--only", stage, "--quiet")
            rows.append((size, stage, f"{peak:,.0f} MB", f"{peak * 1e6 / size:,.0f}", f"{took:.1f} s"))
        bytes_of = below(place / "cache/artifacts")[3]
        rows.append((size, "all artifacts", f"{bytes_of / 1e6:,.0f} MB on disk", f"{bytes_of / size:,.0f}", ""))
        shutil.rmtree(place, ignore_errors=True)
        size *= 10
    table("Memory of the largest process by rows", ["rows", "stage", "memory", "bytes for each row", "time"], rows)


def main():
    parts = {"stages": of_stages, "remote": of_remote, "jobs": of_jobs, "rows": of_rows}
    unknown = [part for part in PARTS if part not in parts]
    if unknown:
        sys.exit(f"error: there is no part {', '.join(unknown)}; parts: {', '.join(parts)}")
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            parts[part](Path(folder))


main()
