"""Checks the contents of a wheel of raisin: `check_wheel.py WHEEL`."""

import base64
import csv
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

wheel = Path(sys.argv[1])
name, version, *tag = wheel.stem.split("-")
assert (name, tag[:2]) == ("raisin", ["py3", "none"]) and tag[2].startswith("manylinux_2_"), wheel.name
info = f"raisin-{version}.dist-info"
with zipfile.ZipFile(wheel) as archive:
    assert archive.testzip() is None
    names = archive.namelist()
    assert len(names) == len(set(names)), "a file is in the wheel twice"
    records = {row[0]: row[1:] for row in csv.reader(archive.read(f"{info}/RECORD").decode().splitlines())}
    assert set(records) == set(names), set(records) ^ set(names)
    for file, (digest, size) in records.items():
        if file == f"{info}/RECORD":
            assert (digest, size) == ("", ""), "RECORD has no digest of itself"
            continue
        data = archive.read(file)
        expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == (f"sha256={expected}", len(data)), file
    scripts = sorted(file for file in names if "/scripts/" in file)
    # The wheel of a test is made without raisin-flight.
    executables = [Path(file).name for file in scripts if Path(file).name != "raisin-flight"]
    assert executables == ["raisin", "raisin-data", "raisin-remote", "raisin-sql", "raisin-worker"]
    for file in scripts:
        assert archive.getinfo(file).external_attr >> 16 & 0o111 == 0o111, f"{file} is not executable"
    assert {"raisin/__init__.py", "raisin/py.typed", f"{info}/licenses/LICENSE-MIT"} <= set(names)
    shares = {file.removeprefix(f"raisin-{version}.data/data/share/") for file in names if "/data/share/" in file}
    assert {"man/man1/raisin.1", "man/man1/raisin-build.1", "bash-completion/completions/raisin",
            "zsh/site-functions/_raisin", "fish/vendor_completions.d/raisin.fish"} <= shares, shares
    message = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert (message["Name"], message["Version"]) == ("raisin", version)
    assert "torch==2.11.*" in message.get_all("Requires-Dist")
    assert message.get_payload().startswith("# raisin"), "the description is README.md"
    assert f"Tag: {'-'.join(tag)}" in archive.read(f"{info}/WHEEL").decode().splitlines()
    # The worker must not look for libtorch in a folder of the machine that made the wheel.
    with tempfile.TemporaryDirectory() as folder:
        worker = archive.extract(scripts[-1], folder)
        dynamic = subprocess.run(["readelf", "--dynamic", worker], check=True, capture_output=True, text=True).stdout
        assert "libtorch_cpu.so" in dynamic and "PATH" not in dynamic, dynamic
print(f"{len(names)} files, each as RECORD says")
