"""Random blocks of every GGUF tensor type, and their values by the gguf package.

Usage: gguf_blocks.py FOLDER. Makes FOLDER/blocks.gguf and FOLDER/expected.safetensors.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize
from safetensors.numpy import save_file

TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
# Where the half-precision scales lie in a block: random bytes there would often be NaN.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def main(folder: Path) -> None:
    random = np.random.default_rng(17)
    writer = GGUFWriter(folder / "blocks.gguf", "llama")
    expected = {}
    for name in TYPES:
        kind = GGMLQuantizationType[name]
        values, size = GGML_QUANT_SIZES[kind]
        if name == "F16":
            raw = random.normal(size=(3, 64)).astype(np.float16).view(np.uint8)
        elif name == "BF16":
            raw = (random.normal(size=(3, 64)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        else:
            raw = random.integers(0, 256, size=(3, 2 * size), dtype=np.uint8)
            for block in range(2):
                for place in SCALES[name]:
                    scale = random.normal(size=(3, 1)).astype(np.float16).view(np.uint8)
                    raw[:, block * size + place : block * size + place + 2] = scale
        writer.add_tensor(name, raw, raw_dtype=kind)
        expected[name] = dequantize(raw, kind).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, folder / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
