"""`raisin.sql`: a query, and its rows as a table of pyarrow, pandas or polars."""

import io

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
    flags = ["--format", "arrow"]
    flags += [] if pipeline is None else ["--pipeline", pipeline]
    printed, _ = run(["sql", *flags, *folders(cache, out), "--", query], show=False)
    return reader(printed)


def _reader(form):
    """The function that reads an Arrow IPC stream. Called before the query, so that a missing package is reported at once."""
    if form == "polars":
        import polars

        return lambda stream: polars.read_ipc_stream(io.BytesIO(stream))
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("raisin.sql needs pyarrow: pip install 'raisin[pyarrow]'") from error
    if form == "pandas":
        return lambda stream: pyarrow.ipc.open_stream(stream).read_all().to_pandas()
    return lambda stream: pyarrow.ipc.open_stream(stream).read_all()
