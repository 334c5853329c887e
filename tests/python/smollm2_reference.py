"""What transformers makes of SmolLM2-135M: logits after prompts, and their greedy continuations.

Usage: smollm2_reference.py GGUF RAISIN_FOLDER OUT. The weights are transformers' own dequantisation of the GGUF file;
the tokenizer is built here from the file's vocabulary, with the digit split that transformers' conversion leaves out,
and must agree with the one in RAISIN_FOLDER. Writes OUT with `tokens.N`, `logits.N` (last position: all of them) and
`continuation.N`.
"""

import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "The capital of France is",
    "What is 12 + 345?",
    "Write a haiku about the sea.",
    "def fibonacci(n):\n",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.",
    "Once upon a time",
    "List three primary colours:\n1.",
    "Translate to German: Good morning, how are you?",
    "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "1 2 3 4 5 6 7",
    "naïve café Ünïcode 漢字 🙂",
    "    indented\n\n\ttabs  and   spaces",
    "A",
    "The quick brown fox jumps over the lazy dog. " * 8,
    "Q: If a train travels 60 miles in 1.5 hours, what is its speed?\nA:",
    "import numpy as np\n",
    "Dear Sir or Madam,",
    "In 1969, humans first",
    "E = mc^2 means that",
]


def tokenizer(path: str) -> Tokenizer:
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    built = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    built.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"].contents()
    built.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    return built


def main(path: str, folder: str, out: str) -> None:
    reference = tokenizer(path)
    exported = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(Path(path).parent, gguf_file=Path(path).name, dtype=torch.float32)
    model.eval()
    torch.set_num_threads(2)
    expected = {}
    for number, prompt in enumerate(PROMPTS):
        ids = reference.encode(prompt, add_special_tokens=False).ids
        assert exported(prompt, add_special_tokens=False).input_ids == ids, prompt
        tokens = torch.tensor([ids])
        with torch.no_grad():
            logits = model(tokens).logits[0]
            continued = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=32, do_sample=False, eos_token_id=2
            )
        expected[f"tokens.{number}"] = tokens[0]
        expected[f"logits.{number}"] = logits.contiguous()
        expected[f"continuation.{number}"] = continued[0, tokens.shape[1] :].contiguous()
    save_file(expected, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
