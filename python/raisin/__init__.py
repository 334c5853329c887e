"""raisin learns which instructions a language model should be fine-tuned on.

This package calls the executable `raisin` of the same installation::

    import raisin

    raisin.build("pipelines/quickstart.toml", set={"stage.clusters.clusters": 8})
    raisin.sql("select * from report.comparison order by metric, mean").to_pandas()
    raisin.artifact("quickstart", "tuned", variant="method=raise")

In a notebook, `%load_ext raisin` adds the magic `%%raisin`. The package itself needs no other package; `sql` needs
pyarrow, pandas or polars for its result.
"""

from ._build import Build, Stage, artifact, build
from ._executable import RaisinError, executable
from ._query import sql

__all__ = ["Build", "RaisinError", "Stage", "artifact", "build", "executable", "sql"]


def load_ipython_extension(shell):
    """Adds the magics `%raisin` and `%%raisin` to IPython: `%load_ext raisin`."""
    from ._magic import register

    register(shell)
