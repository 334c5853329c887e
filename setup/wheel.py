"""Makes raisin's wheel from compiled executables: `python3 setup/wheel.py [--executables FOLDER] [--dist FOLDER]
[--without NAME] [--cluster]`.

The wheel contains the executables, completions and man pages (as `*.data`), and the Python package in
python/raisin. The script uses only Python's standard library, and `strip`, `objdump` and `readelf` of binutils, which
also link the executables. elf.py reads and changes the executables."""

import argparse
import base64
import hashlib
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

import elf

TOP = Path(__file__).resolve().parent.parent
EXECUTABLES = ["raisin", "raisin-data", "raisin-flight", "raisin-remote", "raisin-sql", "raisin-worker"]
# Only with --cluster: few people need it, and it is as large as raisin-sql.
CLUSTER = "raisin-cluster"
# The libraries that every Linux system of a manylinux tag has, and those that come with torch.
SYSTEM = ("ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libgcc_s.so", "libstdc++.so")
TORCH = ("libtorch_cpu.so", "libtorch.so", "libc10.so", "libgomp.so")


def metadata(version):
    """The file METADATA (core metadata 2.4). The description is README.md."""
    head = [
        "Metadata-Version: 2.4",
        "Name: raisin",
        f"Version: {version}",
        "Summary: A build tool that learns which instructions to fine-tune a language model on",
        "License-Expression: MIT OR Apache-2.0",
        "License-File: LICENSE-APACHE",
        "License-File: LICENSE-MIT",
        "Requires-Python: >=3.10",
        "Requires-Dist: torch==2.11.*",
        "Provides-Extra: pyarrow",
        'Requires-Dist: pyarrow>=14; extra == "pyarrow"',
        "Classifier: Operating System :: POSIX :: Linux",
        "Classifier: Programming Language :: Python :: 3",
        "Classifier: Programming Language :: Rust",
        "Classifier: Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(head) + "\n\n" + (TOP / "README.md").read_text()


def stripped(source, folder):
    """A copy of an executable without symbols and without the run path, which names a folder of this machine."""
    copy = folder / source.name
    subprocess.run(["strip", "-o", str(copy), str(source)], check=True)
    copy.write_bytes(elf.without_run_path(copy.read_bytes()))
    left = elf.libraries(copy)
    unknown = [name for name in left if not name.startswith(SYSTEM + TORCH)]
    if unknown:
        sys.exit(f"error: {source} needs {', '.join(unknown)}, which neither Linux nor torch brings\n"
                 "hint: compile raisin without this library")
    return copy


def platform(executables):
    """The tag of the oldest Linux on which the executables start: PEP 600, by the versions of glibc and libstdc++."""
    glibc, reason = max(elf.oldest_glibc(path) for path in executables)
    print(f"needs glibc 2.{glibc} or newer, because of {reason}", file=sys.stderr)
    return f"manylinux_2_{glibc}_{elf.machine(executables[0])}"


def shares(raisin, folder):
    """Completions and man pages, which the executable writes itself: the contents by the path below share/."""
    places = {"bash": "bash-completion/completions/raisin", "zsh": "zsh/site-functions/_raisin",
              "fish": "fish/vendor_completions.d/raisin.fish"}
    found = {place: subprocess.run([raisin, "completions", shell], check=True, capture_output=True).stdout
             for shell, place in places.items()}
    pages = folder / "man"
    subprocess.run([raisin, "man", pages], check=True, capture_output=True)
    return found | {f"man/man1/{page.name}": page.read_bytes() for page in pages.iterdir()}


def add(archive, records, name, data, executable=False):
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # a fixed time: equal files give equal wheels
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    records.append(f"{name},sha256={digest},{len(data)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executables", type=Path, default=TOP / "target/debug", metavar="FOLDER")
    parser.add_argument("--dist", type=Path, default=TOP / "dist", metavar="FOLDER")
    parser.add_argument("--cluster", action="store_true", help="also put raisin-cluster into the wheel")
    parser.add_argument("--level", type=int, default=9, metavar="0..9", help="how much to compress")
    parser.add_argument("--without", choices=["raisin-flight"], action="append", default=[], metavar="NAME",
                        help="leave an executable out, for a test: raisin-flight")
    arguments = parser.parse_args()
    names = sorted([name for name in EXECUTABLES if name not in arguments.without] + [CLUSTER] * arguments.cluster)
    missing = [name for name in names if not (arguments.executables / name).is_file()]
    if missing:
        sys.exit(f"error: {arguments.executables} has no {', '.join(missing)}\nhint: `just wheel` compiles all executables")
    version = tomllib.loads((TOP / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        executables = [stripped(arguments.executables / name, folder) for name in names]
        tag = f"py3-none-{platform(executables)}"
        arguments.dist.mkdir(parents=True, exist_ok=True)
        wheel = arguments.dist / f"raisin-{version}-{tag}.whl"
        part = wheel.with_suffix(".part")
        records = []
        info, data = f"raisin-{version}.dist-info", f"raisin-{version}.data"
        with zipfile.ZipFile(part, "w", compresslevel=arguments.level) as archive:
            for path in sorted((TOP / "python/raisin").iterdir()):
                if path.suffix == ".py" or path.name == "py.typed":
                    add(archive, records, f"raisin/{path.name}", path.read_bytes())
            for path in executables:
                add(archive, records, f"{data}/scripts/{path.name}", path.read_bytes(), executable=True)
            for name, text in sorted(shares(arguments.executables / "raisin", folder).items()):
                add(archive, records, f"{data}/data/share/{name}", text)
            for name in ["LICENSE-APACHE", "LICENSE-MIT"]:
                add(archive, records, f"{info}/licenses/{name}", (TOP / name).read_bytes())
            add(archive, records, f"{info}/METADATA", metadata(version).encode())
            wheel_file = f"Wheel-Version: 1.0\nGenerator: raisin setup/wheel.py\nRoot-Is-Purelib: false\nTag: {tag}\n"
            add(archive, records, f"{info}/WHEEL", wheel_file.encode())
            # RECORD names itself without a digest.
            own = f"{info}/RECORD"
            add(archive, [], own, ("\n".join([*records, f"{own},,"]) + "\n").encode())
        part.replace(wheel)
        for path in executables:
            before = (arguments.executables / path.name).stat().st_size
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {before / 1e6:.1f} MB before `strip`", file=sys.stderr)
    print(f"{wheel} ({wheel.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
