"""`raisin.sql`: a query, and its rows as a table of pyarrow, pandas or polars."""

import tempfile
from pathlib import Path

from ._executable import folders, run

FORMS = ("arrow", "pandas", "polars")


def sql(query, *, pipeline=None, cache=None, out=None, as_="arrow"):
    """Runs an SQL query over stages, runs and history, and returns its rows.

    `pipeline` names the pipeline whose stages the query reads; by default the one that was built last. `cache` and `out`
    are the folders of the cache and of the links; by default those of the command line. `as_` is the form of the
    result: `"arrow"` (pyarrow.Table), `"pandas"` (DataFrame) or `"polars"` (DataFrame).

    Raises `RaisinError` with the message of `raisin sql` if the query is wrong.
    """
    if as_ not in FORMS:
        raise ValueError(f"as_ is {as_!r}, but must be one of {', '.join(FORMS)}")
    reader = _reader(as_)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.parquet"
        flags = ["--format", "parquet", "--output", rows]
        flags += [] if pipeline is None else ["--pipeline", pipeline]
        run(["sql", *flags, *folders(cache, out), "--", query])
        return reader(rows)


def _reader(form):
    """The function that reads the rows. Called before the query, so that a missing package is reported at once."""
    if form == "polars":
        import polars

        return polars.read_parquet
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("raisin.sql needs pyarrow: pip install 'raisin[pyarrow]'") from error
    if form == "pandas":
        return lambda path: pyarrow.parquet.read_table(path).to_pandas()
    return pyarrow.parquet.read_table
