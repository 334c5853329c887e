"""Runs a command on a terminal of its own, presses Ctrl-C when a file has lines, and answers the question that follows.

python answer.py ANSWER FILE COMMAND...

ANSWER is what is typed after the question, or `ctrl-c`. Prints what the terminal showed, and ends with the exit code of
the command.
"""

import os
import pty
import select
import sys
import time

answer, file, command = sys.argv[1], sys.argv[2], sys.argv[3:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
shown = b""
pressed = answered = False
end = time.monotonic() + 60
while time.monotonic() < end:
    ready, _, _ = select.select([terminal], [], [], 0.05)
    if ready:
        try:
            got = os.read(terminal, 4096)
        except OSError:  # the other side has closed the terminal
            break
        if not got:
            break
        shown += got
    if not pressed and os.path.exists(file) and os.path.getsize(file) > 0:
        os.write(terminal, b"\x03")
        pressed = True
    if pressed and not answered and b"Cancel?" in shown:
        # Longer than an interrupted build may take otherwise.
        time.sleep(2.5)
        os.write(terminal, b"\x03" if answer == "ctrl-c" else answer.encode() + b"\n")
        answered = True
sys.stdout.buffer.write(shown)
sys.stdout.flush()
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
