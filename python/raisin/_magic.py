"""The magics of IPython: `%raisin` and `%%raisin`."""

import shlex

from ._executable import run
from ._query import sql

USAGE = """%%raisin [--pipeline NAME] [--cache FOLDER] [--out FOLDER] [--as arrow|pandas|polars] [NAME <<]
runs the cell as an SQL query, shows the rows, and with `NAME <<` keeps them in this variable instead.
%raisin COMMAND ... runs any other command of raisin, for example `%raisin plan pipelines/quickstart.toml`."""


def register(shell):
    """Adds the magics to a shell of IPython."""

    def magic(line, cell=None):
        words = shlex.split(line)
        if cell is None:
            if not words:
                print(USAGE)
                return None
            printed, _ = run(words)
            print(printed.decode(errors="replace"), end="")
            return None
        name = None
        if words[-1:] == ["<<"]:
            name, words = words[-2] if len(words) > 1 else "", words[:-2]
            if not name.isidentifier():
                raise ValueError(f"{name!r} is not the name of a variable\n{USAGE}")
        options = {}
        while words:
            option, *words = words
            if option not in ("--pipeline", "--cache", "--out", "--as") or not words:
                raise ValueError(f"{option!r} is not understood here\n{USAGE}")
            value, *words = words
            options["as_" if option == "--as" else option[2:]] = value
        rows = sql(cell, **{"as_": _form(), **options})
        if name is None:
            return rows
        shell.user_ns[name] = rows
        return None

    shell.register_magic_function(magic, magic_kind="line_cell", magic_name="raisin")


def _form():
    """pandas shows a table best in a notebook; without pandas, the rows are a table of pyarrow."""
    try:
        import pandas  # noqa: F401
    except ImportError:
        return "arrow"
    return "pandas"
