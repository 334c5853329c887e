"""Checks that `cargo build`, `cargo build --workspace`, `cargo test --workspace` and `cargo test --package X` request
equal features of every dependency. If the features of a dependency differ, cargo compiles the dependency, and all
packages that use the dependency, more than once. Then add the missing features to src/unify/Cargo.toml."""

import subprocess
import sys


def features(*selection):
    command = ["cargo", "tree", "--locked", "-f", "{p}|{f}", "--prefix", "none", "-e", *selection]
    found = {}
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        package, _, names = line.removesuffix(" (*)").partition("|")
        found.setdefault(package.strip(), set()).add(frozenset(names.strip().split(",")))
    return found


tests = features("normal,build,dev", "--workspace")
selections = {
    "`cargo build`": features("normal,build"),
    "`cargo build --workspace`": features("normal,build", "--workspace"),
}
FIRST = ["raisin", "raisin-data", "raisin-worker", "raisin-unify"]
for more in [["raisin-query"], ["raisin-remote"], ["raisin-query", "raisin-remote"]]:
    packages = [word for package in FIRST + more for word in ("--package", package)]
    selections[f"the first build with {' and '.join(more)}"] = features("normal,build", *packages)
for package in ["raisin", "raisin-engine", "raisin-selector", "raisin-corpus", "raisin-data", "raisin-worker", "raisin-query", "raisin-remote"]:
    selections[f"`cargo test --package {package}`"] = features("normal,build,dev", "--package", package)
# A package may have two sets of features: one for build scripts and macros, one for the target. Then each set must be
# one of the two.
problems = [
    f"{package}: {sorted(map(sorted, few[package] - tests[package]))} for {name}, "
    f"{sorted(map(sorted, tests[package]))} for `cargo test --workspace`"
    for name, few in selections.items()
    for package in few
    if not few[package] <= tests[package]
]
print("\n".join(problems) or f"{len(tests)} packages, each with one set of features")
sys.exit(bool(problems))
