"""Times the language model of raisin, transformers + peft with padding, and packed PyTorch, in the same run.

    just bench lm POOL=alpaca.json [dtype=f32,bf16] [tasks=features,full,lora,reward,episodes] [rounds=3]

Every measurement runs in a process of its own, so its peak memory contains nothing else. The contenders take turns, so
a slow period of the machine affects all of them. All contenders get the same rows in the same batches. The ratios are
those of supervised tokens per second. Other processes can disturb a measurement, so there are also ratios per second of
processor time. The part `episodes` measures raisin alone, because no peer can do this: eight episodes of a selector,
side by side and one after another. An episode consists of training steps, each followed by a reward evaluation.
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
TASKS = ["features", "full", "lora", "reward", "episodes"]
TINY = HERE.parent / "pipelines" / "quickstart-base"


def ask(contender, request, folder):
    if isinstance(contender, Peer):
        return contender.ask(request)
    path = Path(folder) / "request.json"
    path.write_text(json.dumps(request))
    done = subprocess.run([*contender, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-600:])
    return json.loads(done.stdout.splitlines()[-1])


class Peer:
    """A contender in Python: a process that has done its imports, and forks a child for each request."""

    def __init__(self, form):
        self.command = [sys.executable, str(HERE / "lm_peer.py"), form]
        self.process = None

    def ask(self, request):
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process ended: perhaps a Python package is missing"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def executable(raisin):
    """Returns the path of bench-lm: the given path, or bench-lm in the folder of the given raisin."""
    path = Path(raisin).resolve()
    return str(path if path.name != "raisin" else path.parent / "bench-lm")


def contenders(bench):
    return {"raisin": [bench, "run"], "packed": Peer("packed"), "padded": Peer("padded")}


def compare(request, rounds, folder, commands, warm=1):
    """Measures a request with every contender in turns. Returns the units after the first `warm` units, and the peak
    memory, by contender. If a contender fails, its error is printed once, and the contender is left out."""
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
            measured[name]["units"] += answer["units"][warm:]
            measured[name]["peak"] = max(measured[name]["peak"], answer["peak_bytes"])
    for name, why in missing.items():
        print(f"  {name} is left out: {why.splitlines()[-1] if why else 'there is no error message'}")
    return {name: found for name, found in measured.items() if found["units"]}


def rate(found, of="supervised", per="seconds"):
    return statistics.median(unit[of] / max(unit[per], 1e-9) for unit in found["units"])


def show(title, measured):
    print(title)
    own, own_cpu = rate(measured["raisin"]), rate(measured["raisin"], per="cpu")
    values = [statistics.mean(unit["value"] for unit in found["units"]) for found in measured.values()]
    for name, found in measured.items():
        ratio = "" if name == "raisin" else (
            f"   raisin / {name} = {own / rate(found):.2f}, by processor time {own_cpu / rate(found, per='cpu'):.2f}")
        peak = found["peak"] / 1e9
        print(f"  {name:8} {rate(found):9.1f} supervised tokens/s   peak {peak:5.2f} GB{ratio}", flush=True)
    if max(values) - min(values) > 0.02 * abs(values[0]):
        print(f"  the losses of the contenders differ by more than 2 %: {values}")


def compare_episodes(title, request, rounds, folder, bench):
    """Measures the supervised tokens per second of all episodes, side by side and one after another."""
    rates, work = {}, {}
    for _ in range(rounds):
        for side_by_side in (True, False):
            answer = ask([bench, "run"], {**request, "task": "episodes", "side_by_side": side_by_side}, folder)
            seconds = sum(unit["seconds"] for unit in answer["units"])
            tokens = sum(unit["supervised"] for unit in answer["units"])
            rates.setdefault(side_by_side, []).append((tokens / seconds, answer["peak_bytes"] / 1e9))
            work.setdefault(side_by_side, []).append(sum(unit["cpu"] for unit in answer["units"]))
    print(title)
    best = {way: statistics.median(rate for rate, _ in found) for way, found in rates.items()}
    for way, name in ((False, "one after the other"), (True, "side by side")):
        peak = max(peak for _, peak in rates[way])
        print(f"  {name:20} {best[way]:9.1f} supervised tokens/s   peak {peak:5.2f} GB")
    saved = statistics.median(work[False]) / statistics.median(work[True])
    ratio = best[True] / best[False]
    print(f"  side by side / one after the other = {ratio:.2f}, by processor time {saved:.2f}", flush=True)


def options(arguments, **defaults):
    given = dict(argument.split("=", 1) for argument in arguments)
    unknown = given.keys() - defaults.keys()
    if unknown:
        sys.exit(f"error: unknown option {', '.join(sorted(unknown))}\nhint: the options are {', '.join(defaults)}")
    return {**defaults, **given}


def main():
    bench = executable(sys.argv[1])
    given = options(sys.argv[2:], GGUF="models/SmolLM2-135M-Instruct.Q4_1.gguf", POOL="", dtype="f32,bf16",
                    tasks=",".join(TASKS), rounds="3", units="2", rows="8", episodes="8", threads=str(os.cpu_count()), seed="1")
    if not Path(given["POOL"]).is_file():
        sys.exit("error: POOL=FILE must name a file of Alpaca rows (a JSON list with instruction, input, output)")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([bench, "prepare", given["GGUF"], given["POOL"], folder, "2000"], check=True)
        print(f"{given['threads']} threads, batches of {given['rows']} rows, {given['rounds']} rounds in turns", flush=True)
        peers = contenders(bench)
        for dtype in given["dtype"].split(","):
            draw = random.Random(int(given["seed"]))
            batch = int(given["rows"]) if dtype == "f32" else max(2, int(given["rows"]) // 4)
            for task in given["tasks"].split(","):
                if task == "episodes":
                    continue
                units = 1 + (int(given["units"]) if dtype == "f32" else 1)
                rows = 2 * batch if task == "features" else batch
                request = {
                    "task": task, "model": f"{folder}/model", "rows": f"{folder}/rows.json", "device": "cpu",
                    "dtype": dtype, "threads": int(given["threads"]), "batch_tokens": 4096,
                    "batches": [draw.sample(range(2000), rows) for _ in range(units)],
                    "validation": draw.sample(range(2000), 4 * batch),
                }
                show(f"{task}, {dtype}:", compare(request, int(given["rounds"]), folder, peers))
        if "episodes" in given["tasks"].split(","):
            play(given, folder, bench)


def play(given, folder, bench):
    """Measures episodes of the quickstart's byte-level model, with LoRA and with all weights, and of SmolLM2 with a
    frozen prefix."""
    draw = random.Random(int(given["seed"]))
    synthetic = Path(folder) / "synthetic"
    synthetic.mkdir()
    subprocess.run([bench, "synthetic", TINY, synthetic, "3000"], check=True)
    episodes, rounds = int(given["episodes"]), int(given["rounds"])
    common = {"device": "cpu", "dtype": "f32", "threads": int(given["threads"]), "batch_tokens": 4096,
              "episodes": episodes}
    tiny = {**common, "model": str(TINY), "rows": str(synthetic / "rows.json"), "steps": 10,
            "batches": [draw.sample(range(2900), 16) for _ in range(10 * episodes)],
            "validation": draw.sample(range(2900), 64)}
    compare_episodes(f"{episodes} episodes, byte-level model, LoRA:", {**tiny, "threads": 1}, rounds, folder, bench)
    title = f"{episodes} episodes, byte-level model, all weights:"
    compare_episodes(title, {**tiny, "threads": 1, "full": True}, rounds, folder, bench)
    rows = json.loads((Path(folder) / "rows.json").read_text())[:64]
    few = Path(folder) / "few.json"
    few.write_text(json.dumps(rows))
    proxy = {**common, "model": f"{folder}/model", "rows": str(few), "steps": 2, "top_layers": 8,
             "batches": [draw.sample(range(48), 8) for _ in range(2 * episodes)], "validation": list(range(48, 64))}
    title = f"{episodes} episodes, SmolLM2 with a frozen prefix, LoRA in its top 8 layers:"
    compare_episodes(title, proxy, rounds, folder, bench)


if __name__ == "__main__":
    main()
