"""The language model: raisin beside transformers + peft with padding and beside packed PyTorch, in the same run.

    just bench lm GGUF=models/SmolLM2-135M-Instruct.Q4_1.gguf POOL=alpaca.json [dtype=f32,bf16] [tasks=...] [rounds=3]

Every measurement is a process of its own (so its peak memory is its own), and the contenders take turns, so that a slow
moment of the machine hits all of them. All of them see the same rows in the same batches.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH = os.path.abspath(sys.argv[1])
TASKS = ["features", "full", "lora", "reward"]


def ask(command, request, folder):
    path = Path(folder) / "request.json"
    path.write_text(json.dumps(request))
    done = subprocess.run([*command, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-600:])
    return json.loads(done.stdout.splitlines()[-1])


def contenders(padded=True):
    peer = [sys.executable, str(HERE / "lm_peer.py")]
    found = {"raisin": [BENCH, "run"], "packed": [*peer, "packed"]}
    if padded:
        found["padded"] = [*peer, "padded"]
    return found


def compare(request, rounds, folder, commands):
    """Units and peak memory by contender; a contender that cannot take part says why once."""
    measured = {name: {"units": [], "peak": 0} for name in commands}
    missing = {}
    for _ in range(rounds):
        for name, command in commands.items():
            if name in missing:
                continue
            try:
                answer = ask(command, request, folder)
            except RuntimeError as error:
                missing[name] = str(error)
                continue
            measured[name]["units"] += answer["units"][1:]
            measured[name]["peak"] = max(measured[name]["peak"], answer["peak_bytes"])
    for name, why in missing.items():
        print(f"  {name} takes no part: {why.splitlines()[-1] if why else 'no reason given'}")
    return {name: found for name, found in measured.items() if found["units"]}


def rate(found, of="supervised"):
    return statistics.median(unit[of] / unit["seconds"] for unit in found["units"])


def show(title, measured):
    print(title)
    own = rate(measured["raisin"])
    values = [statistics.mean(unit["value"] for unit in found["units"]) for found in measured.values()]
    for name, found in measured.items():
        ratio = "" if name == "raisin" else f"   raisin / {name} = {own / rate(found):.2f}"
        peak = found["peak"] / 1e9
        print(f"  {name:8} {rate(found):9.1f} supervised tokens/s   peak {peak:5.2f} GB{ratio}", flush=True)
    if max(values) - min(values) > 0.02 * abs(values[0]):
        print(f"  the contenders do not compute the same: losses {values}")


def options(arguments, **defaults):
    given = dict(argument.split("=", 1) for argument in arguments)
    unknown = given.keys() - defaults.keys()
    if unknown:
        sys.exit(f"error: no option {', '.join(sorted(unknown))}; there are {', '.join(defaults)}")
    return {**defaults, **given}


def main():
    given = options(sys.argv[2:], GGUF="models/SmolLM2-135M-Instruct.Q4_1.gguf", POOL="", dtype="f32,bf16",
                    tasks=",".join(TASKS), rounds="3", units="2", rows="8", threads=str(os.cpu_count()), seed="1")
    if not Path(given["POOL"]).is_file():
        sys.exit("error: POOL=FILE names a file of Alpaca rows (a JSON list with instruction, input, output)")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([BENCH, "prepare", given["GGUF"], given["POOL"], folder, "2000"], check=True)
        print(f"{given['threads']} threads, batches of {given['rows']} rows, {given['rounds']} rounds in turns", flush=True)
        for dtype in given["dtype"].split(","):
            draw = random.Random(int(given["seed"]))
            batch = int(given["rows"]) if dtype == "f32" else max(2, int(given["rows"]) // 4)
            for task in given["tasks"].split(","):
                units = 1 + (int(given["units"]) if dtype == "f32" else 1)
                rows = 2 * batch if task == "features" else batch
                request = {
                    "task": task, "model": f"{folder}/model", "rows": f"{folder}/rows.json", "device": "cpu",
                    "dtype": dtype, "threads": int(given["threads"]), "batch_tokens": 4096,
                    "batches": [draw.sample(range(2000), rows) for _ in range(units)],
                    "validation": draw.sample(range(2000), 4 * batch),
                }
                show(f"{task}, {dtype}:", compare(request, int(given["rounds"]), folder, contenders()))


if __name__ == "__main__":
    main()
