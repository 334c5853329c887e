"""Presses the Tab key in a real zsh or fish: `completions_elsewhere.py SHELL FOLDER_OF_EXECUTABLES`, in a folder with a
built p.toml.

These shells draw their line again and again, so that the text on the terminal says little. Ctrl-T writes the line as the
shell has it into a file."""

import os
import pty
import select
import sys
import time
from pathlib import Path

LIMIT = 120  # seconds; for a machine under load
shell, folder = sys.argv[1:]
line = Path("line")
START = {
    "zsh": (["zsh", "-f", "-i"], """
        unsetopt beep; autoload -Uz compinit; compinit -u -D; source <(raisin completions zsh)
        keep() { print -r -- "$BUFFER" > line }; zle -N keep; bindkey '^T' keep
        touch ready
        """),
    "fish": (["fish", "--no-config", "-i"], """
        raisin completions fish | source
        bind \\ct 'commandline > line'
        touch ready
        """),
}
arguments, start = START[shell]
pid, terminal = pty.fork()
if pid == 0:
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": os.getcwd(), "TERM": "xterm", "COLUMNS": "200", "LC_ALL": "C.UTF-8"}
    environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    os.execvpe(arguments[0], arguments, environment)


def wait_for(what, came):
    """Reads what the shell writes until something has come. A shell whose output nobody reads stands still."""
    shown, until = "", time.monotonic() + LIMIT
    while not came():
        assert time.monotonic() < until, f"it does not happen that {what}; the terminal shows {shown[-2000:]!r}"
        if select.select([terminal], [], [], 0.05)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")


def typed(text):
    """Types a text and the Tab key. Returns the line that the shell then has."""
    def has_line():
        # The Tab key may still be at work, and the shell reads the next key afterwards.
        return line.is_file() and line.read_text().endswith("\n") and line.read_text().strip()

    line.unlink(missing_ok=True)
    os.write(terminal, text.encode() + b"\t\x14")
    wait_for(f"the line after {text!r} is known", has_line)
    found = line.read_text().rstrip("\n")
    os.write(terminal, b"\x15")
    return found


os.write(terminal, "; ".join(part.strip() for part in start.strip().splitlines()).encode() + b"\n")
wait_for("the shell is ready", Path("ready").is_file)
for text, expected in [
    ("raisin bui", "raisin build "),
    ("raisin build p.t", "raisin build p.toml "),
    ("raisin build p.toml --only po", "raisin build p.toml --only pool "),
    ("raisin why p.toml po", "raisin why p.toml pool "),
    ("raisin build p.toml --set stage.pool.si", "raisin build p.toml --set stage.pool.size="),
    ("raisin kinds eva", "raisin kinds evaluate "),
    ("raisin sql --pipeline ", "raisin sql --pipeline p "),
]:
    found = typed(text)
    assert found.rstrip() == expected.rstrip(), f"{text}<Tab> gives {found!r}, not {expected!r}"
    print(f"{text}<Tab> -> {found}")
os.write(terminal, b"exit\n")
os.close(terminal)
os.waitpid(pid, 0)
