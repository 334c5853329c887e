"""Checks formatting and the names of types, runs clippy, and runs the tests of the packages whose files changed since a
commit.

The tests that start the executables (tests/cli.rs and others) are not run; `just test` runs them."""

import json
import subprocess
import sys
from pathlib import Path

base = sys.argv[1]
top = Path(__file__).resolve().parent.parent


def lines(*command):
    return subprocess.run(command, cwd=top, check=True, capture_output=True, text=True).stdout.splitlines()


changed = set(lines("git", "diff", "--name-only", base) + lines("git", "ls-files", "--others", "--exclude-standard"))
metadata = json.loads(lines("cargo", "metadata", "--no-deps", "--format-version", "1")[0])
names = []
for package in metadata["packages"]:
    folder = Path(package["manifest_path"]).parent
    if any((top / file).is_relative_to(folder) for file in changed):
        names.append(package["name"])
# Tests in the folder tests/ that belong to another package.
for package in metadata["packages"]:
    for target in package["targets"]:
        source = Path(target["src_path"])
        folder = source.parent if source.name == "main.rs" and target["kind"] == ["test"] else source
        if "test" in target["kind"] and any((top / file).is_relative_to(folder) for file in changed):
            names.append(package["name"])
names = sorted(set(names) - {"raisin-tests"})
subprocess.run(["cargo", "fmt", "--check"], cwd=top, check=True)
subprocess.run([sys.executable, "setup/names.py"], cwd=top, check=True)
subprocess.run(
    ["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], cwd=top, check=True
)
print("packages that changed:", ", ".join(names) or "none")
if names:
    # The whole workspace is compiled, because a part of the workspace would have other features. Only the tests of the
    # changed packages are run.
    ids = {package["id"] for package in metadata["packages"] if package["name"] in names}
    for line in lines("cargo", "test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"):
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["package_id"] in ids and message["profile"]["test"]:
            folder = Path(message["manifest_path"]).parent
            subprocess.run([message["executable"], "--quiet"], cwd=folder, check=True)
