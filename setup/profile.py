"""Checks that src/cluster, a cargo workspace of its own, compiles the packages of raisin's Cargo.lock with the profile of
raisin's Cargo.toml: what is equal in both workspaces then compiles once. With `--write`, copies the profile; blocks for
packages that only src/cluster has stay."""

import re
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CLUSTER = TOP / "src/cluster"


def blocks(text):
    """The blocks of the profile with their comments, by their headings."""
    parts = re.split(r"\n(?=(?:#[^\n]*\n)*\[)", text)
    headings = (re.search(r"^\[(profile\..*)\]$", part, re.M) for part in parts)
    return {heading[1]: part.strip("\n") for heading, part in zip(headings, parts) if heading}


def package(name):
    """The package of a heading; `*` for a block that is not for one package."""
    return name.split("package.")[1].strip('"') if "package." in name else "*"


def settings(block):
    return [line for line in block.splitlines() if line and not line.startswith("#")]


def locked(folder):
    return {"*", *re.findall(r'^name = "(.*)"$', (folder / "Cargo.lock").read_text(), re.M)}


file = CLUSTER / "Cargo.toml"
text = file.read_text()
found = blocks(text)
here, there = locked(CLUSTER), locked(TOP)
wanted = {name: block for name, block in blocks((TOP / "Cargo.toml").read_text()).items() if package(name) in here}
wanted.update({name: block for name, block in found.items() if package(name) not in there})
if sys.argv[1:] == ["--write"]:
    first = min(text.index(block) for block in found.values())
    file.write_text(text[:first] + "\n\n".join(wanted.values()) + "\n")
    found = wanted
differ = [name for name in {**found, **wanted} if settings(found.get(name, "")) != settings(wanted.get(name, ""))]
if differ:
    sys.exit(f"error: {file.relative_to(TOP)} differs from Cargo.toml in {', '.join(differ)}\n"
             "hint: python3 setup/profile.py --write")
print(f"{len(wanted)} blocks of the profile, those of raisin's Cargo.toml or of packages that only src/cluster has")
