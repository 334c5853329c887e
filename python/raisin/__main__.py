"""`python -m raisin ...` is the command `raisin ...`."""

import os
import sys

from ._executable import executable

os.execv(executable(), ["raisin", *sys.argv[1:]])
