"""Reads the file axolotl.yaml of a stage of kind `export` with Axolotl: python axolotl_rows.py FOLDER MODEL

Prints one JSON line: the text of each row that Axolotl would train on, in its order, with what carries no loss left out,
and the name of the sampler of its trainer. Axolotl checks the file as a part of a whole configuration.
"""

import json
import os
import sys
import tempfile

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"


def main():
    from axolotl.cli.config import load_cfg
    from axolotl.loaders import load_tokenizer
    from axolotl.utils.data.sft import prepare_datasets

    folder, model = sys.argv[1:]
    # The paths in the file are relative.
    os.chdir(folder)
    with tempfile.TemporaryDirectory() as out:
        configuration = load_cfg(
            "axolotl.yaml",
            base_model=model,
            tokenizer_config=model,
            chat_template="chatml",
            sequence_len=1024,
            micro_batch_size=4,
            gradient_accumulation_steps=1,
            num_epochs=1,
            learning_rate=1e-4,
            optimizer="adamw_torch",
            bf16=False,
            dataset_num_proc=1,
            output_dir=out,
            dataset_prepared_path=f"{out}/prepared",
        )
        tokenizer = load_tokenizer(configuration)
        data, _, _, _ = prepare_datasets(configuration, tokenizer)
        targets = [
            tokenizer.decode([token for token in row["labels"] if token >= 0], skip_special_tokens=True) for row in data
        ]
        print(json.dumps({"targets": targets, "in_order": bool(configuration.curriculum_sampling)}), flush=True)


# Axolotl starts processes that import this file.
if __name__ == "__main__":
    main()
