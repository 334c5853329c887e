"""A build with nothing to do: raisin beside ninja and DVC, in the same run. `just bench engine` starts it.

Each tool gets a project of N small stages that all read one source, builds it once, and is then timed doing nothing:
whole processes, in turns, so that a slow moment of the machine hits all of them. DVC takes part with 8 stages only.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RAISIN = os.path.abspath(sys.argv[1])
RUNS = 15


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
    return [shutil.which("ninja", path=Path(sys.executable).parent) or "ninja", "--quiet"]


def dvc(folder, stages):
    (folder / "source").write_text("source\n")
    tool = Path(sys.executable).parent / "dvc"
    subprocess.run([tool, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    lines = ["stages:\n"]
    for number in range(stages):
        lines.append(f"  s{number}:\n    cmd: cp source out{number}\n    deps: [source]\n    outs: [out{number}]\n")
    (folder / "dvc.yaml").write_text("".join(lines))
    return [tool, "repro", "--quiet"]


def once(command, folder):
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1e3


def compare(stages, tools):
    with tempfile.TemporaryDirectory() as top:
        commands = {}
        for tool in tools:
            folder = Path(top) / tool.__name__
            folder.mkdir()
            commands[tool.__name__] = (tool(folder, stages), folder)
            print(f"  {tool.__name__}: first build of {stages} stages {once(*commands[tool.__name__]):.0f} ms", flush=True)
        times = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                times[name].append(once(*command))
    print(f"nothing to do, {stages} stages, {RUNS} runs in turns:   minimum   median")
    for name, measured in times.items():
        print(f"  {name:40} {min(measured):8.1f} ms {statistics.median(measured):8.1f} ms")
    for name, measured in times.items():
        if name != "raisin":
            ratio = statistics.median(measured) / statistics.median(times["raisin"])
            print(f"  {name} / raisin = {ratio:.2f}")


compare(8, [raisin, ninja, dvc])
compare(1000, [raisin, ninja])
