"""Finds and starts the executable `raisin`, and turns its errors into exceptions."""

import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path


class RaisinError(Exception):
    """The executable ended with an error. The text is what the executable said.

    `code` is the exit code: 1 if a stage or the machine failed, 2 if the command, the pipeline or the query is wrong,
    130 after an interrupt.
    """

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def executable():
    """The path of the executable `raisin`: `RAISIN_EXECUTABLE`, else the one of this installation, else the one on PATH."""
    own = os.environ.get("RAISIN_EXECUTABLE")
    if own:
        if not Path(own).is_file():
            raise FileNotFoundError(f"RAISIN_EXECUTABLE names {own}, where there is no file")
        return own
    # The folder of scripts of this environment, of `pip install --user`, and of `pip install --target`.
    schemes = [None, sysconfig.get_preferred_scheme("user")]
    folders = [sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts") for scheme in schemes]
    folders.append(Path(__file__).resolve().parent.parent / "bin")
    found = next((path for path in (Path(folder) / "raisin" for folder in folders) if path.is_file()), None)
    found = found or shutil.which("raisin")
    if found is None:
        raise FileNotFoundError(
            "there is no executable `raisin`: install raisin's wheel, or set RAISIN_EXECUTABLE to the executable"
        )
    return str(found)


def run(arguments, *, show=True, stdout=None):
    """Runs `raisin` with these arguments. Returns standard output as bytes, and standard error as text.

    With `show`, what the executable says on standard error also goes to `sys.stderr`, line by line, as in a terminal.
    Standard output goes to the file `stdout`, if one is given.
    """
    command = [executable(), *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE)
    said = []

    def read():
        for line in process.stderr:
            text = line.decode(errors="replace")
            said.append(text)
            if show:
                sys.stderr.write(text)
                sys.stderr.flush()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        printed = process.stdout.read() if process.stdout else b""
        process.wait()
    except BaseException:
        # For example KeyboardInterrupt. raisin ends its workers in order and keeps what is finished.
        process.terminate()
        process.wait()
        raise
    finally:
        reader.join()
        process.stderr.close()
        if process.stdout:
            process.stdout.close()
    text = "".join(said)
    if process.returncode:
        # The progress of a build comes before its errors.
        start = 0 if text.startswith("error: ") else text.find("\nerror: ") + 1
        message = text[start:]
        raise RaisinError(message.strip() or f"raisin ended with the exit code {process.returncode}", process.returncode)
    return printed, text


def folders(cache, out):
    """The flags for the folders of a cache and of the links."""
    flags = []
    for flag, folder in (("--cache", cache), ("--out", out)):
        flags += [] if folder is None else [flag, os.fspath(folder)]
    return flags
