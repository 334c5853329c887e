"""Measures on a GPU all that `just bench lm` measures, in one run of less than ten minutes.

    just bench gpu --pool alpaca.json                          prepares the data and measures, on the build machine
    just bench gpu --pool alpaca.json --data DIR --prepare     only prepares the data, for another machine
    python gpu.py bench-lm --data DIR                          measures, on a machine without compiler and network

The script needs a Python with torch; the executable uses the libtorch of this torch. Peers that are not installed are
left out, and the output says so. `--device cpu --quick` tries the script with a very small model.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lm import compare, compare_episodes, contenders, executable, rate, show

# Speed of dense bf16 products by device name, in FLOP/s, as the manufacturers state it.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
LLAMA_1B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "intermediate_size": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
    "tie_word_embeddings": True, "hidden_act": "silu", "initializer_range": 0.02,
}
# A smaller model of the Llama shape, for a try on the CPU.
QUICK = {**LLAMA_1B, "vocab_size": 49152, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128}


def prepare(bench, given, folder):
    """Writes SmolLM2 and the rows into one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "rows.json").exists():
        subprocess.run([bench, "prepare", given.gguf, given.pool, folder, "2000"], check=True)


def random_model(shape, folder, device):
    """Writes a checkpoint of this shape with random weights. It is made on the machine that measures, not copied."""
    import torch
    from safetensors.torch import save_file

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    generator = torch.Generator(device).manual_seed(1)
    hidden, ff, dim = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    queries, keys = shape["num_attention_heads"] * dim, shape["num_key_value_heads"] * dim
    tensors = {}

    def add(name, *size):
        drawn = torch.randn(*size, generator=generator, device=device, dtype=dtype) * shape["initializer_range"]
        tensors[name] = (torch.ones_like(drawn) if len(size) == 1 else drawn).cpu()

    add("model.embed_tokens.weight", shape["vocab_size"], hidden)
    add("model.norm.weight", hidden)
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        add(at + "input_layernorm.weight", hidden)
        add(at + "post_attention_layernorm.weight", hidden)
        for name, outputs in (("q", queries), ("k", keys), ("v", keys)):
            add(f"{at}self_attn.{name}_proj.weight", outputs, hidden)
        add(at + "self_attn.o_proj.weight", hidden, queries)
        for name in ("gate", "up"):
            add(f"{at}mlp.{name}_proj.weight", ff, hidden)
        add(at + "mlp.down_proj.weight", hidden, ff)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape))


def device_of(given):
    """Returns the name of the device, its peak speed of products, and whether the speed is stated or measured."""
    import torch

    torch_library = Path(torch.__file__).parent / "lib"
    os.environ["LD_LIBRARY_PATH"] = f"{torch_library}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    cuda = given.device != "cpu"
    name = torch.cuda.get_device_name(given.device) if cuda else "CPU"
    for known, peak in PEAKS.items():
        if cuda and known in name:
            return name, peak, "stated"
    size = 8192 if cuda else 1024
    dtype = torch.bfloat16 if cuda else torch.float32
    one, two = (torch.randn(size, size, device=given.device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        one @ two
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return name, 2 * size**3 / best, "measured"


def measure(given, bench, folder, peak, deadline):
    quick = given.quick
    # The first batches load kernels, choose among kernels, and let the allocators grow.
    batch, warm, units, rounds = (2, 1, 1, 1) if quick else (32, 8, 12, given.rounds)
    dtype = "f32" if given.device == "cpu" else "bf16"
    threads = os.cpu_count()
    models = {"a small model": "quick"} if quick else {"SmolLM2-135M": "model", "Llama-3.2-1B's shape": "llama-1b"}
    with tempfile.TemporaryDirectory() as work:
        peers = contenders(bench)
        for title, model in models.items():
            if given.only and given.only not in title:
                continue
            if model != "model":
                # The weights are drawn in a process of its own, so that all its device memory is freed.
                shape = QUICK if quick else LLAMA_1B
                drawing = multiprocessing.get_context("spawn").Process(
                    target=random_model, args=(shape, Path(work) / model, given.device))
                drawing.start()
                drawing.join()
            seconds = {}
            draw = random.Random(1)
            place = folder if model == "model" else Path(work)
            common = {"model": str(place / model), "rows": str(folder / "rows.json"), "device": given.device,
                      "dtype": dtype, "threads": threads, "batch_tokens": 4096 if quick else 16384}
            for task in ["features", "full", "lora", "reward"]:
                if time.monotonic() > deadline:
                    print(f"{title}, {task}: not measured, because no time is left")
                    continue
                request = {**common, "task": task, "validation": draw.sample(range(2000), batch),
                           "batches": [draw.sample(range(2000), batch) for _ in range(warm + units)]}
                measured = compare(request, rounds, work, peers, warm)
                if "raisin" not in measured:
                    continue
                show(f"{title}, {task}, {dtype}, {batch} rows:", measured)
                own = measured["raisin"]
                print(f"  model FLOPs utilisation of raisin: {rate(own, 'flops') / peak:.1%}", flush=True)
                seconds[task] = statistics.median(unit["seconds"] for unit in own["units"])
            for step in ("full", "lora"):
                if step in seconds and "reward" in seconds:
                    share = seconds["reward"] / seconds[step]
                    print(f"  {title}: reward evaluation of {batch} rows / {step} step of {batch} rows = {share:.2f}")
            if time.monotonic() > deadline:
                continue
            played = {**common, "episodes": 2 if quick else 8, "steps": 1 if quick else 4,
                      "batches": [draw.sample(range(1900), batch) for _ in range(8)],
                      "validation": draw.sample(range(2000), batch)}
            compare_episodes(f"{title}, {played['episodes']} episodes, LoRA:", played, 1, work, bench)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executable", help="bench-lm, or the executable raisin in the folder of bench-lm")
    parser.add_argument("--data", help="a folder that --prepare made; by default, a temporary folder is prepared")
    parser.add_argument("--pool", help="a file of Alpaca rows, from which the data is prepared")
    parser.add_argument("--gguf", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--prepare", action="store_true", help="prepare the folder of --data and stop")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rounds", type=int, default=2, help="how often each contender is measured")
    parser.add_argument("--only", help="measure only models with this text in their name, for example SmolLM2")
    parser.add_argument("--quick", action="store_true", help="a small setting, to try the script")
    given = parser.parse_args()
    bench = executable(given.executable)
    deadline = time.monotonic() + 480
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.data or temporary).resolve()
        if given.pool:
            prepare(bench, given, folder)
        if not (folder / "rows.json").exists():
            sys.exit("error: there is no data to measure with\nhint: --pool FILE prepares the data, --data DIR names prepared data")
        if given.prepare:
            return
        name, peak, how = device_of(given)
        print(f"device: {name}; {peak / 1e12:.2f} TFLOP/s of products ({how})", flush=True)
        measure(given, bench, folder, peak, deadline)


if __name__ == "__main__":
    main()
