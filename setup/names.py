"""Checks that no two types of the workspace have the same name (docs/glossary.md, "Names in the code")."""

import re
import subprocess
import sys
from pathlib import Path

# The module says which type is meant: each kind has its parameters, and each command has its arguments.
SEVERAL = {"Parameters", "Arguments"}
# An indented `type` is associated with a trait, or local to a function.
DEFINITION = re.compile(r"(?:\s*(?:pub(?:\([^)]*\))? )?(?:struct|enum|union|trait)|(?:pub(?:\([^)]*\))? )?type) (\w+)")

top = Path(__file__).resolve().parent.parent
listed = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"],
    cwd=top,
    check=True,
    capture_output=True,
    text=True,
)
places = {}
for file in filter(Path.is_file, map(top.joinpath, sorted(listed.stdout.split()))):
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if found := DEFINITION.match(line):
            places.setdefault(found[1], []).append(f"{file.relative_to(top)}:{number}")
problems = [
    f"{name} is the name of several types: {', '.join(where)}"
    for name, where in sorted(places.items())
    if len(where) > 1 and name not in SEVERAL
]
print("\n".join(problems) or f"{len(places)} names of types, each with one meaning")
sys.exit(bool(problems))
