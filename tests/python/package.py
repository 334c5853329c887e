"""Tests of the Python package `raisin`: `package.py EXECUTABLE`, in an empty folder. Builds a small pipeline there."""

import contextlib
import io
import os
import subprocess
import sys
import unittest
from pathlib import Path

os.environ["RAISIN_EXECUTABLE"] = sys.argv.pop(1)
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

import raisin  # noqa: E402
from raisin._build import toml  # noqa: E402

PIPELINE = """
[stage.pool]
kind = "generate"
size = 60

[stage.q]
kind = "sql"
of = ["pool"]
query = "select count(*) as n, '{pipeline.seed}' as seed from pool.instructions"
"""


def said(function, *arguments, **options):
    """The result of a function, and what it wrote to sys.stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        result = function(*arguments, **options)
    return result, stream.getvalue()


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        Path("p.toml").write_text(PIPELINE)
        cls.build, cls.said = said(raisin.build, "p.toml")

    def test_importing_needs_no_other_package(self):
        # -S hides the installed packages, -I the variables and the folder.
        folder = str(Path(raisin.__file__).resolve().parent.parent)
        code = f"import sys; sys.path.insert(0, {folder!r}); import raisin; assert 'pyarrow' not in sys.modules"
        subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)

    def test_a_build_shows_its_progress_and_returns_its_artifacts(self):
        self.assertIn("built p", self.said)
        self.assertEqual(self.build.pipeline, "p")
        self.assertEqual([stage.stage for stage in self.build.stages], ["pool", "q"])
        self.assertTrue((raisin.artifact("p", "pool") / "instructions.parquet").is_file())
        self.assertEqual(raisin.artifact("p", "pool"), self.build.artifact("pool"))
        again, told = said(raisin.build, Path("p.toml"), quiet=True)
        self.assertEqual((again, told), (self.build, ""))

    def test_the_flags_of_a_build(self):
        swept, _ = said(raisin.build, "p.toml", set={"stage.pool.size": 61, "pipeline.name": "swept"},
                        sweep={"pipeline.seed": [1, 2]}, only="pool", out="other", device="cpu", jobs=1, threads=1)
        self.assertEqual({stage.variant for stage in swept.stages}, {"seed=1", "seed=2"})
        self.assertEqual(swept.artifact("pool", "seed=2"), swept.artifact("pool", {"pipeline.seed": 2}))
        with self.assertRaisesRegex(KeyError, "has several variants; name one with variant=...: seed=1, seed=2"):
            swept.artifact("pool")
        with self.assertRaisesRegex(KeyError, "has no stage 'tuned'; its stages are: pool"):
            raisin.artifact("swept", "tuned", out="other")
        _, told = said(raisin.build, "p.toml", force=True)
        self.assertIn("2 ran", told)
        _, told = said(raisin.build, "p.toml", force=["q"])
        self.assertIn("1 ran", told)

    def test_errors_have_the_message_and_the_exit_code_of_the_executable(self):
        with self.assertRaises(raisin.RaisinError) as caught:
            said(raisin.build, "p.toml", set={"stage.pool.sice": 3})
        self.assertEqual(caught.exception.code, 2)
        self.assertTrue(str(caught.exception).startswith("error: from --set stage.pool.sice=3"), caught.exception)
        self.assertIn("hint: did you mean `size`?", str(caught.exception))
        with self.assertRaises(raisin.RaisinError) as caught:
            said(raisin.sql, "select nothing from pool.instructions")
        self.assertEqual(caught.exception.code, 2)
        with self.assertRaisesRegex(FileNotFoundError, "has no build: build the pipeline first"):
            raisin.artifact("never", "pool")
        # The progress before the error of a stage is not part of the message.
        Path("bad.toml").write_text(PIPELINE.replace("count(*)", "1 / (count(*) - count(*))"))
        with self.assertRaises(raisin.RaisinError) as caught:
            said(raisin.build, "bad.toml")
        self.assertEqual(caught.exception.code, 1)
        self.assertIn("Divide by zero", str(caught.exception))

    def test_rows_are_tables_of_pyarrow_pandas_or_polars(self):
        query = "-- a comment first\nselect id, prompt from pool.instructions order by id limit 3"
        rows = raisin.sql(query, pipeline="p")
        self.assertEqual((rows.num_rows, rows.column_names), (3, ["id", "prompt"]))
        self.assertEqual(rows.to_pandas().equals(raisin.sql(query, pipeline="p", as_="pandas")), True)
        self.assertEqual(raisin.sql(query, pipeline="p", as_="polars")["id"].to_list(), [0, 1, 2])
        self.assertEqual(raisin.sql("select 1 as one where false").num_rows, 0)
        with self.assertRaisesRegex(ValueError, "as_ is 'csv', but must be one of arrow, pandas, polars"):
            raisin.sql(query, as_="csv")

    def test_values_are_written_as_toml(self):
        value = {"a b": [1, True, 'x"\n\x7f', 1e-3], "ü": Path("p")}
        self.assertEqual(toml(value), '{ "a b" = [1, true, "x\\"\\n\\u007F", 0.001], "ü" = "p" }')
        with self.assertRaisesRegex(TypeError, "None has no form in TOML"):
            toml(None)

    def test_the_magics(self):
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell.instance()
        shell.run_line_magic("load_ext", "raisin")
        rows = shell.run_cell_magic("raisin", "--pipeline p", "select count(*) as n from pool.instructions")
        self.assertEqual(rows["n"].tolist(), [60])
        shell.run_cell_magic("raisin", "--pipeline p --as arrow kept <<", "select n from q.rows")
        self.assertEqual(shell.user_ns["kept"].to_pydict(), {"n": [60]})
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            shell.run_line_magic("raisin", "plan p.toml")
        self.assertIn("p: 0 would run, 2 cached", printed.getvalue())


unittest.main(verbosity=2)
