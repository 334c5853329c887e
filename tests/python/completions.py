"""Presses the Tab key in a real bash: `completions.py FOLDER_OF_EXECUTABLES`, in a folder with a built p.toml."""

import os
import pty
import select
import sys
import time

LIMIT = 120  # seconds; for a machine under load


def bash(folder):
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": os.getcwd(), "TERM": "dumb", "PS1": "$ ", "COLUMNS": "200",
                       "INPUTRC": "/dev/null"}
        environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], environment)
    return pid, terminal


def wait_for(terminal, text):
    """Reads until the terminal shows the text."""
    shown, until = "", time.monotonic() + LIMIT
    while text not in shown:
        left = until - time.monotonic()
        assert left > 0, f"the terminal does not show {text!r}, but: {shown!r}"
        if select.select([terminal], [], [], left)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


pid, terminal = bash(sys.argv[1])
wait_for(terminal, "$ ")
os.write(terminal, b"bind 'set enable-bracketed-paste off'; source <(raisin completions bash); echo re''ady\n")
wait_for(terminal, "ready\r\n")
for typed, shown in [
    ("raisin bui", "raisin build "),
    ("raisin build p.t", "raisin build p.toml"),
    ("raisin build p.toml --only po", "--only pool"),
    ("raisin why p.toml po", "p.toml pool"),
    ("raisin build p.toml --set stage.pool.si", "stage.pool.size="),
    ("raisin kinds eva", "kinds evaluate"),
    ("raisin sql --pipeline ", "--pipeline p"),
    ('raisin sql "select id from pool.instr', "pool.instructions"),
    ('raisin sql "select id from pool.instructions where resp', "where response"),
]:
    os.write(terminal, typed.encode() + b"\t")
    wait_for(terminal, shown)
    print(f"{typed}<Tab> -> {shown}")
    # Ctrl-U discards the line. Ctrl-C could arrive while bash still runs the completion, and would then be lost.
    os.write(terminal, b"\x15echo ne''xt\n")
    wait_for(terminal, "next\r\n")
os.write(terminal, b"exit\n")
os.waitpid(pid, 0)
