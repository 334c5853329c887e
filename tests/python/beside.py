"""Makes a virtual environment that sees the packages of this one, for a program that needs other versions of some.

Usage: beside.py FOLDER REQUIREMENTS [--no-deps]. Packages that fit, such as torch, are taken from this environment and are not
installed twice. With --no-deps, nothing else is installed. Does nothing if the folder has the packages already.
"""

import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

folder, requirements = (Path(argument) for argument in sys.argv[1:3])
done = folder / "installed"
wanted = requirements.read_text()
if not (done.is_file() and done.read_text() == wanted):
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", query], check=True, capture_output=True, text=True).stdout.strip())
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    constraint = folder / "constraint.txt"
    constraint.write_text(f"torch=={version('torch').split('+')[0]}\n")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *sys.argv[3:]]
    subprocess.run([*pip, "-c", constraint, "-r", requirements], check=True)
    done.write_text(wanted)
