"""Installs libtorch into the project: `python3 setup/libtorch.py [cpu|cuda]`, or `raisin doctor --install-libtorch`,
whose executable contains this script.

The script downloads wheels of fixed versions with pip, unpacks libraries and headers into .libtorch/wheels, and makes
the folder .libtorch/link. The Rust build links against .libtorch/link. This folder does not contain libtorch_cuda.so,
because raisin-worker loads libtorch_cuda.so at run time. If libtorch is already installed, the script does nothing.
`cuda` adds the CUDA libraries that PyTorch's own wheel requires (2.6 GB).
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("RAISIN_LIBTORCH") or HERE.parent / ".libtorch")
MACHINES = ["x86_64", "aarch64"]
PLATFORMS = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_25", "manylinux_2_17", "manylinux2014"]
LINKED = ["libtorch_cpu.so", "libtorch.so", "libc10.so", "libgomp.so.1"]


def download(folder, *arguments):
    platforms = [word for platform in PLATFORMS for word in ("--platform", f"{platform}_{os.uname().machine}")]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet",
               "--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12", "--abi", "cp312",
               "--abi", "none", *platforms, "--dest", str(folder), *arguments]
    subprocess.run(command, check=True)


def wanted(name, device):
    if device == "cpu" and Path(name).name.startswith(("libtorch_cuda", "libtorch_nvshmem", "libc10_cuda")):
        return False
    if name.startswith("torch/include/") or name.startswith("nvidia/"):
        return True
    return name.startswith("torch/lib/lib") and "python" not in name and "/libshm" not in name


def unpack(folder, device, into):
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into, [name for name in archive.namelist() if wanted(name, device)])


def link(wheels, folder):
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(os.path.relpath(wheels / "torch" / "include", folder))
    for name in LINKED:
        (folder / "lib" / name).symlink_to(os.path.relpath(wheels / "torch" / "lib" / name, folder / "lib"))


def main():
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if device not in ("cpu", "cuda"):
        sys.exit(f"error: `{device}` is not a device\nhint: the devices are cpu and cuda")
    mark = ROOT / "installed"
    have = mark.read_text().split() if mark.exists() else []
    if device in have:
        return
    if sys.platform != "linux" or os.uname().machine not in MACHINES:
        sys.exit("error: this script installs libtorch only for Linux on x86-64 and arm64\n"
                 "hint: install libtorch 2.11.0 yourself, and set LIBTORCH to the folder of libtorch")
    if importlib.util.find_spec("pip") is None:
        sys.exit(f"error: {sys.executable} has no pip\n"
                 "hint: `python3 -m ensurepip` adds pip to an environment")
    ROOT.mkdir(parents=True, exist_ok=True)
    cpu_size = "545 MB" if os.uname().machine == "x86_64" else "432 MB"
    size = cpu_size if device == "cpu" else "2.6 GB"
    print(f"downloading libtorch 2.11.0 for {device} ({size}, once)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=ROOT) as temporary:
        if device == "cpu":
            download(temporary, "--no-deps", "--require-hashes", "-r", str(HERE / "libtorch-cpu.txt"))
        else:
            download(temporary, "torch==2.11.0")
        staging = Path(temporary) / "wheels"
        unpack(Path(temporary), device, staging)
        wheels = ROOT / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        staging.rename(wheels)
    link(wheels, ROOT / "link")
    mark.write_text("cpu\n" if device == "cpu" else "cpu cuda\n")


main()
