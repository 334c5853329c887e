"""Checks that `cargo build`, `cargo build --workspace`, `cargo test --workspace` and `cargo test --package X` ask for the same
features of every dependency. Where they do not, that dependency and all that uses it would compile more than once:
src/unify/Cargo.toml names the missing features."""

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
for package in ["raisin", "raisin-engine", "raisin-selector", "raisin-corpus", "raisin-data", "raisin-worker", "raisin-query"]:
    selections[f"`cargo test --package {package}`"] = features("normal,build,dev", "--package", package)
# A package may stand there twice, once for the machine that compiles: then each of its sets must be one of the two.
problems = [
    f"{package}: {sorted(map(sorted, few[package] - tests[package]))} for {name}, "
    f"{sorted(map(sorted, tests[package]))} for `cargo test --workspace`"
    for name, few in selections.items()
    for package in few
    if not few[package] <= tests[package]
]
print("\n".join(problems) or f"{len(tests)} packages, each with one set of features")
sys.exit(bool(problems))
