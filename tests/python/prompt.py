"""`prompt.py RAISIN FOLDER STEPS HOME [PAGER]`: runs `raisin sql` on a pseudo-terminal. STEPS is a JSON list of pairs: what
is typed, and a regular expression for what the terminal then shows; END stands for the end of the process. With PAGER, the
terminal has 12 lines of 60 columns; without it, the terminal does not know its size."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time

raisin, folder, steps, home, *pager = sys.argv[1:]
process, terminal = pty.fork()
if process == 0:
    os.chdir(folder)
    environment = dict(os.environ, HOME=home, TERM="xterm", NO_COLOR="1")
    for name in ("XDG_DATA_HOME", "RAISIN_CACHE", "RAISIN_OUT"):
        environment.pop(name, None)
    if pager:
        environment["PAGER"] = pager[0]
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
    os.execve(raisin, [raisin, "sql"], environment)


def shown(typed, until):
    """The text until the expression matches, and whether the process has ended."""
    text = ""
    limit = time.monotonic() + 240
    while time.monotonic() < limit:
        if not select.select([terminal], [], [], 2)[0]:
            if typed == "\x03":
                # The query had not begun when the key was sent.
                os.write(terminal, b"\x03")
            continue
        try:
            read = os.read(terminal, 65536)
        except OSError:
            read = b""
        if not read:
            return text, True
        text += read.decode(errors="replace")
        # What the editor draws while keys come in hides nothing of what is printed.
        plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
        if until != "END" and re.search(until, plain):
            return text, False
    sys.exit(f"nothing matches {until!r} behind {typed!r}: {text!r}")


for typed, expected in json.load(open(steps)):
    os.write(terminal, typed.encode())
    text, ended = shown(typed, expected)
    if ended != (expected == "END"):
        sys.exit(f"after {typed!r}, the process ended: {text!r}")
os.close(terminal)
_, status = os.waitpid(process, 0)
if os.waitstatus_to_exitcode(status) != 0:
    sys.exit(f"raisin ended with {status}")
