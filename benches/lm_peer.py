"""Times what users run today, as benches/lm.rs times raisin: `python lm_peer.py padded|packed`.

padded: transformers and peft as in a loop like TRL's: right-padded batches, all logits, the fused AdamW.
packed: a loop without padding in plain PyTorch: one row of tokens, attention by row, logits only for response
        positions, the fused AdamW. This loop needs neither transformers nor peft.

Both contenders read requests in the format of bench-lm, one per line, and print one line of JSON per request. Each
request runs in a process of its own, which is forked before the device is used. So the measured memory belongs to the
request alone, and the imports run only once.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA, LEARNING_RATE = 16, 32.0, 1e-5
EVALUATION_ROWS = 8


def peak_memory(device):
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Padded:
    """The contender `padded`: the model of transformers, and the adapters of peft."""

    def __init__(self, request, device, dtype):
        from transformers import AutoModelForCausalLM

        # Training runs under autocast, as with the Trainer's `bf16=True`. Training of all weights keeps f32 weights.
        self.autocast = dtype == torch.bfloat16 and request["task"] in ("full", "lora")
        loaded = torch.float32 if request["task"] == "full" else dtype
        self.model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=loaded).to(device)
        self.device = device
        if request["task"] == "lora":
            from peft import LoraConfig, get_peft_model

            self.model = get_peft_model(self.model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def context(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()

    def pad(self, rows):
        longest = max(len(row["tokens"]) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full((len(rows), longest), -100)
        for place, row in enumerate(rows):
            length = len(row["tokens"])
            ids[place, :length] = torch.tensor(row["tokens"])
            mask[place, :length] = 1
            wanted = torch.tensor(row["supervised"], dtype=torch.bool)
            labels[place, :length][wanted] = ids[place, :length][wanted]
        return ids.to(self.device), mask.to(self.device), labels.to(self.device)

    def loss(self, rows):
        ids, mask, labels = self.pad(rows)
        with self.context():
            return self.model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss

    def features(self, rows):
        ids, mask, labels = self.pad(rows)
        output = self.model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        log_probs = output.logits[:, :-1].float().log_softmax(-1)
        wanted = labels[:, 1:] != -100
        chosen = log_probs.gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)[wanted]
        weight = mask.unsqueeze(2).to(output.logits.dtype)
        means = (output.hidden_states[-1] * weight).sum(1) / weight.sum(1)
        means.cpu()
        return -chosen.sum().item()

    def evaluation(self, rows):
        """Returns a function that computes the summed loss, in batches as the Trainer makes them."""
        parts = [rows[start:start + EVALUATION_ROWS] for start in range(0, len(rows), EVALUATION_ROWS)]

        def evaluate():
            total = 0.0
            for part in parts:
                total += self.loss(part).item() * sum(sum(row["supervised"]) for row in part)
            return total

        return evaluate


class Packed:
    """The contender `packed`: a Llama for packed rows, in plain PyTorch."""

    def __init__(self, request, device, dtype):
        folder = Path(request["model"])
        self.config = json.loads((folder / "config.json").read_text())
        self.device, self.dtype = device, dtype
        self.full, self.lora = request["task"] == "full", request["task"] == "lora"
        self.limit = request["batch_tokens"]
        self.weights = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    kept = torch.float32 if self.full else dtype
                    self.weights[name] = file.get_tensor(name).to(device, kept)
        self.parameters = []
        if self.full:
            self.parameters = [weight.requires_grad_(True) for weight in self.weights.values()]
        self.adapters = {}
        if self.lora:
            for name, weight in self.weights.items():
                if name.split(".")[-2] in TARGETS:
                    a = torch.empty(RANK, weight.shape[1], device=device)
                    torch.nn.init.kaiming_uniform_(a, a=5**0.5)
                    b = torch.zeros(weight.shape[0], RANK, device=device)
                    self.adapters[name] = (a.requires_grad_(True), b.requires_grad_(True))
                    self.parameters += self.adapters[name]
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        theta = self.config.get("rope_theta") or self.config["rope_parameters"]["rope_theta"]
        self.frequencies = 1.0 / theta ** (torch.arange(0, self.dim, 2, device=device).float() / self.dim)
        self.varlen = None
        if device.type == "cuda":
            try:
                from torch.nn.attention.varlen import varlen_attn

                self.varlen = varlen_attn
            except ImportError:
                pass

    def linear(self, x, name):
        y = F.linear(x, self.weights[name].to(self.dtype))
        if name in self.adapters:
            a, b = self.adapters[name]
            low = F.linear(x, a.to(self.dtype))
            y = torch.addmm(y, low, b.to(self.dtype).t(), alpha=ALPHA / RANK)
        return y

    def norm(self, x, name):
        eps = self.config["rms_norm_eps"]
        if self.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], self.weights[name], eps)
        wide = F.rms_norm(x.float(), x.shape[-1:], None, eps)
        return wide.to(self.dtype) * self.weights[name].to(self.dtype)

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, q, k, v, lengths, masks):
        if self.varlen is not None and self.dtype != torch.float32:
            return self.varlen(q, k, v, masks, masks, max(lengths), max(lengths), window_size=(-1, 0))
        parts = []
        shared = self.heads // self.kv_heads
        for q, k, v in zip(q.split(lengths), k.split(lengths), v.split(lengths)):
            n = q.shape[0]
            if self.device.type == "cuda":
                q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                parts.append(y.squeeze(0).transpose(0, 1))
                continue
            q = (q * self.dim**-0.5).transpose(0, 1).reshape(self.kv_heads, shared * n, self.dim)
            scores = q @ k.permute(1, 2, 0)
            scores = scores.view(self.heads, n, n) + masks[n]
            y = scores.softmax(-1).view(self.kv_heads, shared * n, n) @ v.transpose(0, 1)
            parts.append(y.view(self.heads, n, self.dim).transpose(0, 1))
        return torch.cat(parts)

    def layout(self, rows):
        lengths = [len(row["tokens"]) for row in rows]
        ids = torch.tensor([token for row in rows for token in row["tokens"]], device=self.device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        supervised = torch.tensor([mark for row in rows for mark in row["supervised"]], dtype=torch.bool)
        targets = supervised.nonzero().squeeze(1).to(self.device)
        if self.varlen is not None and self.dtype != torch.float32:
            masks = F.pad(torch.tensor(lengths), (1, 0)).cumsum(0).to(self.device, torch.int32)
        else:
            masks = {n: torch.full((n, n), -torch.inf, device=self.device, dtype=self.dtype).triu(1) for n in set(lengths)}
        return ids, positions, targets, lengths, masks

    def hidden(self, batch):
        ids, positions, _, lengths, masks = batch
        angles = positions.float().unsqueeze(1) * self.frequencies
        cos, sin = (f(angles).unsqueeze(1).to(self.dtype) for f in (torch.cos, torch.sin))
        x = F.embedding(ids, self.weights["model.embed_tokens.weight"]).to(self.dtype)
        for layer in range(self.config["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            y = self.norm(x, at + "input_layernorm.weight")
            q, k, v = (self.linear(y, at + f"self_attn.{name}_proj.weight").unflatten(1, (-1, self.dim)) for name in "qkv")
            y = self.attention(self.rotate(q, cos, sin), self.rotate(k, cos, sin), v, lengths, masks)
            x = x + self.linear(y.flatten(1), at + "self_attn.o_proj.weight")
            y = self.norm(x, at + "post_attention_layernorm.weight")
            y = F.silu(self.linear(y, at + "mlp.gate_proj.weight")) * self.linear(y, at + "mlp.up_proj.weight")
            x = x + self.linear(y, at + "mlp.down_proj.weight")
        return self.norm(x, "model.norm.weight")

    def logits(self, hidden, batch):
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return F.linear(hidden[batch[2] - 1], head.to(self.dtype)).float()

    def loss_sum(self, batch):
        return F.cross_entropy(self.logits(self.hidden(batch), batch), batch[0][batch[2]], reduction="sum")

    def loss(self, rows):
        batch = self.layout(rows)
        return self.loss_sum(batch) / len(batch[2])

    def features(self, rows):
        batch = self.layout(rows)
        hidden = self.hidden(batch)
        chosen = -F.cross_entropy(self.logits(hidden, batch), batch[0][batch[2]], reduction="none")
        torch.stack([part.mean(0) for part in hidden.split(batch[3])]).cpu()
        return -chosen.sum().item()

    def evaluation(self, rows):
        parts, tokens = [], self.limit
        for row in sorted(rows, key=lambda row: len(row["tokens"])):
            if tokens + len(row["tokens"]) > self.limit:
                parts.append([])
                tokens = 0
            parts[-1].append(row)
            tokens += len(row["tokens"])
        parts = [self.layout(part) for part in parts]
        return lambda: sum(self.loss_sum(part).item() for part in parts)


def measure(form, request):
    device = torch.device(request["device"])
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[request["dtype"]]
    torch.set_num_threads(request["threads"])
    rows = json.loads(Path(request["rows"]).read_text())
    peer = {"padded": Padded, "packed": Packed}[form](request, device, dtype)
    task = request["task"]
    if task in ("full", "lora"):
        optimizer = torch.optim.AdamW(peer.parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(batch):
        loss = peer.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item() * sum(sum(row["supervised"]) for row in batch)

    evaluate = peer.evaluation([rows[row] for row in request["validation"]]) if task == "reward" else None
    units = []
    for numbers in request["batches"]:
        batch = [rows[row] for row in (request["validation"] if task == "reward" else numbers)]
        start, cpu = time.perf_counter(), time.process_time()
        if task in ("full", "lora"):
            value = step(batch)
        else:
            with torch.no_grad():
                value = evaluate() if task == "reward" else peer.features(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        supervised = sum(sum(row["supervised"]) for row in batch)
        tokens = sum(len(row["tokens"]) for row in batch)
        units.append({"seconds": seconds, "cpu": cpu, "tokens": tokens, "supervised": supervised, "value": value / supervised})
    return {"units": units, "peak_bytes": peak_memory(device)}


def main():
    form = sys.argv[1]
    if form == "padded":
        import peft  # noqa: F401
        import transformers  # noqa: F401
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                answer = measure(form, json.loads(line))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            print(json.dumps({"error": f"the process of the request ended with status {status}"}), flush=True)


main()
