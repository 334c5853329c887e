"""Tokens by Hugging Face's tokenizers: of nasty strings, and where there is data of blns.json and 10,000 pool rows.

Usage: tokens.py OUT [DATA] [GGUF]; an argument may be empty. DATA has dirty/blns.json, pool/alpaca_25k.json and
tokenizers/gpt-neox-20B_tokenizer.json, GGUF is SmolLM2-135M. Writes OUT/strings.json, and for each tokenizer
OUT/NAME.safetensors: the ids of all strings one after another, where each string ends, and the same for the ids of
chats (OUT/chats.json). Tokenizers that raisin rebuilds from a GGUF file get one: OUT/NAME.gguf. The reference is built
here, from transformers' own definitions, not from anything that raisin wrote.
"""

import inspect
import json
import sys
from pathlib import Path

import gguf
import torch
from golden_codec import byte_tokenizer
from safetensors.torch import save_file
from smollm2_reference import tokenizer as smollm2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>"]


def split(pattern):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level])


def trained(name, texts):
    """A small tokenizer of a family: its steps before the merges, and merges learned from the strings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = split(PRETOKENIZE_REGEX)
    elif name == "llama-bpe":
        tokenizer.pre_tokenizer = split(inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default)
    elif name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if name == "llama-bpe":
        tokenizer.model.ignore_merges = True
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in USER_DEFINED])
    return tokenizer


def write_gguf(tokenizer, name, path):
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda pair: pair[1])
    tokens = [token for token, _ in vocabulary]
    kinds = [3 if token in SPECIAL else 4 if token in USER_DEFINED else 1 for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(out, data="", smollm=""):
    out = Path(out)
    texts = json.loads((Path(__file__).parent.parent / "golden" / "strings.json").read_text())
    chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}] for text in texts]
    names = ["gpt-2", "smollm", "llama-bpe", "qwen2"]
    tokenizers = {name: trained(name, texts * 3) for name in names}
    for name in names:
        write_gguf(tokenizers[name], name, out / f"{name}.gguf")
    bytes_alone = byte_tokenizer()
    tokenizers["bytes"] = bytes_alone._tokenizer
    templates = {}
    if data:
        data = Path(data)
        texts += [text for text in json.loads((data / "dirty" / "blns.json").read_text())]
        rows = json.loads((data / "pool" / "alpaca_25k.json").read_text())[:10_000]
        texts += ["\n".join(filter(None, [row["instruction"], row["input"], row["output"]])) for row in rows]
        chats += [
            [
                {"role": "user", "content": row["instruction"] + ("\n\n" + row["input"] if row["input"] else "")},
                {"role": "assistant", "content": row["output"]},
            ]
            for row in rows
        ]
        tokenizers["gpt-neox"] = Tokenizer.from_file(str(data / "tokenizers" / "gpt-neox-20B_tokenizer.json"))
    if smollm:
        tokenizers["smollm2"] = smollm2(smollm)
        templates["smollm2"] = gguf.GGUFReader(smollm).fields["tokenizer.chat_template"].contents()
    (out / "strings.json").write_text(json.dumps(texts))
    (out / "chats.json").write_text(json.dumps(chats))
    for name, tokenizer in tokenizers.items():
        encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        decoded = tokenizer.decode_batch(encoded, skip_special_tokens=True)
        (out / f"{name}.decoded.json").write_text(json.dumps(decoded))
        tensors = pack("strings", encoded)
        if name in templates:
            fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=templates[name])
            ids = fast.apply_chat_template(chats, tokenize=True, return_dict=False)
            tensors |= pack("chats", ids)
        save_file(tensors, out / f"{name}.safetensors")
        print(f"{name}: {len(texts)} strings, {sum(map(len, encoded))} tokens")


def pack(name, lists):
    ends = torch.tensor([len(ids) for ids in lists]).cumsum(0)
    return {f"{name}.ids": torch.tensor([token for ids in lists for token in ids]), f"{name}.ends": ends}


if __name__ == "__main__":
    main(*sys.argv[1:])
