"""Times the engine and named peers in the same run: a build with nothing to do, the cost of a stage, hashing.

`just bench engine` runs all parts; `just bench engine noop hash` runs the parts noop and hash.

Whole processes are timed. The contenders take turns, so a slow period of the machine affects all of them. The first
build of each contender is not part of the timings.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RAISIN = os.path.abspath(sys.argv[1])
PARTS = sys.argv[2:] or ["noop", "quickstart", "stage", "hash"]
TOOLS = Path(sys.executable).parent
RUNS = int(os.environ.get("RAISIN_BENCH_RUNS", "15"))
HASHED = int(os.environ.get("RAISIN_BENCH_BYTES", str(4 * 10**9)))


def tool(name):
    return str(TOOLS / name)


def once(command, folder):
    """Runs a command. Returns the elapsed milliseconds, the peak memory in MB, and the milliseconds of CPU time."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = (time.perf_counter() - start) * 1e3
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} in {folder} ended with {process.returncode}")
    return took, usage.ru_maxrss / 1e3, (usage.ru_utime + usage.ru_stime) * 1e3


# Each function makes a project of N small stages that all read one source, and returns the command that builds the
# project.


def raisin(folder, stages):
    lines = ['[pipeline]\nname = "noop"\n[stage.source]\nkind = "generate"\nsize = 20\n']
    for number in range(1, stages):
        query = f"select count(*) + {number} as n from source.instructions"
        lines.append(f'[stage.s{number}]\nkind = "sql"\nof = ["source"]\nquery = "{query}"\n')
    (folder / "noop.toml").write_text("".join(lines))
    return [RAISIN, "build", "noop.toml", "--quiet"]


def ninja(folder, stages):
    (folder / "source").write_text("source\n")
    lines = ["rule copy\n  command = cp $in $out\n"]
    lines += [f"build out{number}: copy source\n" for number in range(stages)]
    (folder / "build.ninja").write_text("".join(lines))
    return [tool("ninja"), "--quiet"]


def dvc(folder, stages):
    (folder / "source").write_text("source\n")
    subprocess.run([tool("dvc"), "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    lines = ["stages:\n"]
    for number in range(stages):
        lines.append(f"  s{number}:\n    cmd: cp source out{number}\n    deps: [source]\n    outs: [out{number}]\n")
    (folder / "dvc.yaml").write_text("".join(lines))
    return [tool("dvc"), "repro", "--quiet"]


def snakemake(folder, stages):
    (folder / "source").write_text("source\n")
    outs = ", ".join(f'"out{number}"' for number in range(stages))
    lines = [f"rule all:\n    input: {outs}\n"]
    for number in range(stages):
        lines.append(f'rule s{number}:\n    input: "source"\n    output: "out{number}"\n    shell: "cp {{input}} {{output}}"\n')
    (folder / "Snakefile").write_text("".join(lines))
    return [tool("snakemake"), "--cores", "1", "--quiet", "all"]


def in_turns(commands, runs):
    """Times the commands in turns, after one untimed run of each. Returns the measurements by name."""
    for name, (command, folder) in commands.items():
        took = once(command, folder)[0]
        print(f"  {name}: first build {took:.0f} ms", flush=True)
    measured = {name: [] for name in commands}
    for _ in range(runs):
        for name, (command, folder) in commands.items():
            measured[name].append(once(command, folder))
    return measured


def nothing_to_do(stages, tools):
    with tempfile.TemporaryDirectory() as top:
        commands = {}
        for make in tools:
            folder = Path(top) / make.__name__
            folder.mkdir()
            commands[make.__name__] = (make(folder, stages), folder)
        measured = in_turns(commands, RUNS)
    print(f"nothing to do, {stages} stages, {RUNS} runs in turns:")
    print("               minimum      median         CPU      memory   median / raisin's")
    own = statistics.median(run[0] for run in measured["raisin"])
    for name, runs in measured.items():
        times, memories, cpu = zip(*runs)
        middle = statistics.median(times)
        print(f"  {name:10} {min(times):8.1f} ms {middle:8.1f} ms {min(cpu):8.1f} ms {max(memories):8.1f} MB {middle / own:8.2f}", flush=True)


def quickstart():
    """Times the quickstart of this repository, with the cache and the out folder in RAISIN_CACHE and RAISIN_OUT."""
    command = [RAISIN, "build", "pipelines/quickstart.toml", "--quiet"]
    measured = in_turns({"raisin": (command, ".")}, 2 * RUNS)["raisin"]
    times, memories, cpu = zip(*measured)
    print(
        f"nothing to do, the quickstart, {len(times)} runs: minimum {min(times):.1f} ms, median "
        f"{statistics.median(times):.1f} ms, CPU {min(cpu):.1f} ms, peak memory {max(memories):.1f} MB"
    )


def price_of_a_stage(stages=40):
    """Times the cost of an executed stage without its work: a stage only reads or copies a file of one line. All
    contenders run on one core, so no contender runs two stages at a time."""

    def rows(folder, stages):
        lines = ['[pipeline]\nname = "empty"\n']
        for number in range(stages):
            # Each stage has a source of its own, so each stage writes a different artifact. Equal artifacts would save
            # work.
            (folder / f"source{number}.jsonl").write_text(f'{{"instruction": "say", "output": "{number}"}}\n')
            lines.append(
                f'[stage.s{number}]\nkind = "ingest"\n'
                f'sources = [{{ path = "source{number}.jsonl", format = "alpaca" }}]\n'
            )
        (folder / "empty.toml").write_text("".join(lines))
        return [RAISIN, "build", "empty.toml", "--quiet"]

    rows.__name__ = "raisin"
    pinned = ["taskset", "-c", "0"] if shutil.which("taskset") else []
    print(f"an executed empty stage, {stages} stages on one core: (first build - build with nothing to do) / stages")
    for make in [rows, snakemake, dvc, ninja]:
        differences = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as top:
                command = pinned + make(Path(top), stages)
                first = once(command, top)[0]
                differences.append((first - min(once(command, top)[0] for _ in range(3))) / stages)
        print(f"  {make.__name__:10} {min(differences):8.1f} ms {statistics.median(differences):8.1f} ms", flush=True)


B3SUM = """
import sys, time
from blake3 import blake3
hasher = blake3(max_threads=blake3.AUTO)
start = time.perf_counter()
hasher.update_mmap(sys.argv[1])
digest = hasher.hexdigest()
print(time.perf_counter() - start, digest)
"""


def hashing():
    """Times the hashing of a large input file whose pages are in memory. For raisin, the whole process `raisin plan`
    is timed; for the Python package blake3, only the hashing. blake3 uses the Rust library of b3sum, with a memory
    map, on all cores."""
    with tempfile.TemporaryDirectory() as top:
        top = Path(top)
        large = top / "large.jsonl"
        line = b'{"instruction": "' + b"x" * 4000 + b'", "output": "y"}\n'
        with large.open("wb") as file:
            for _ in range(HASHED // (len(line) * 1000)):
                file.write(line * 1000)
        size = large.stat().st_size
        (top / "p.toml").write_text(
            '[stage.s]\nkind = "ingest"\nsources = [{ path = "large.jsonl", format = "alpaca" }]\n'
        )
        # raisin remembers the digest of a file only if the file has been unchanged for two seconds.
        time.sleep(2.5)
        peers, own = [], []
        for _ in range(5):
            output = subprocess.run([sys.executable, "-c", B3SUM, large], check=True, capture_output=True, text=True).stdout
            seconds, digest = output.split()
            peers.append(float(seconds))
            shutil.rmtree(top / "cache", ignore_errors=True)
            faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
            own.append(once([RAISIN, "plan", "p.toml"], top)[0] / 1e3)
            first_faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - faults
        faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
        again = once([RAISIN, "plan", "p.toml"], top)[0]
        faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - faults
        opened = "strace is not installed"
        if shutil.which("strace"):
            command = ["strace", "-f", "-e", "trace=openat,open,mmap", "-o", "trace", RAISIN, "plan", "p.toml"]
            once(command, top)
            opened = f"opened {(top / 'trace').read_text().count('large.jsonl')} times"
    print(f"hashing {size / 1e9:.2f} GB, pages in memory, 5 runs in turns: minimum, median")
    for name, seconds in [("blake3 (PyPI, mmap, all cores)", peers), ("raisin plan, whole process", own)]:
        rate = size / 1e9 / min(seconds)
        print(f"  {name:32} {min(seconds):6.2f} s {statistics.median(seconds):6.2f} s {rate:6.2f} GB/s")
    print(f"  raisin's throughput / blake3's: {min(peers) / min(own):.2f} (minima), "
          f"{statistics.median(peers) / statistics.median(own):.2f} (medians)")
    print(f"  the second time: {again:.1f} ms, {faults} page faults where hashing had {first_faults}; the file was {opened}")


if "noop" in PARTS:
    nothing_to_do(8, [raisin, ninja, dvc, snakemake])
    nothing_to_do(1000, [raisin, ninja])
if "quickstart" in PARTS:
    quickstart()
if "stage" in PARTS:
    price_of_a_stage()
if "hash" in PARTS:
    hashing()
