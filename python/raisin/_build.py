"""`raisin.build` and `raisin.artifact`: builds a pipeline, and finds the results of a build."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ._executable import folders, run


@dataclass(frozen=True)
class Stage:
    """A stage of a built pipeline, in one variant."""

    stage: str
    kind: str
    #: The name of the variant; empty without a sweep.
    variant: str
    #: The swept parameters, with their values in this variant.
    values: dict
    #: The folder of the artifact.
    path: Path


@dataclass(frozen=True)
class Build:
    """The results of the last build of a pipeline."""

    pipeline: str
    #: The folder with the links to all artifacts: out/<pipeline>.
    folder: Path
    stages: list = field(repr=False)

    def artifact(self, stage, variant=None):
        """The folder of the artifact of a stage; see `raisin.artifact`."""
        named = [built for built in self.stages if built.stage == stage]
        if not named:
            names = ", ".join(sorted({built.stage for built in self.stages}))
            raise KeyError(f"the last build of {self.pipeline} has no stage {stage!r}; its stages are: {names}")
        wanted = [built for built in named if _is(built, variant)]
        if len(wanted) == 1:
            return wanted[0].path
        problem = "has several variants" if variant is None else f"has {len(wanted)} variants {variant!r}"
        names = ", ".join(built.variant or "(none)" for built in named)
        raise KeyError(f"the stage {stage!r} of {self.pipeline} {problem}; name one with variant=...: {names}")

    def report(self):
        """The path of the HTML report, if the pipeline has one stage of the kind `report`."""
        named = [built for built in self.stages if built.kind == "report"]
        if len(named) != 1:
            raise KeyError(f"{self.pipeline} has {len(named)} stages of the kind report")
        return named[0].path / "report.html"


def build(pipeline, *, set=None, sweep=None, only=(), force=(), cache=None, out=None, device=None, jobs=None, threads=None,
          keep_going=False, check=False, quiet=False):
    """Builds a pipeline file: runs the stages whose results are not in the cache. Returns a `Build`.

    `set` maps dotted keys to values (`{"stage.clusters.clusters": 8}`), and `sweep` maps dotted keys to lists of values.
    `only` and `force` are names of stages; `force=True` runs every stage again. The other parameters are the flags of
    `raisin build`. Progress goes to `sys.stderr`, unless `quiet` is set.

    Raises `RaisinError` with the message of `raisin build` if the pipeline is wrong or a stage fails.
    """
    arguments = ["build", os.fspath(pipeline)]
    for key, value in (set or {}).items():
        arguments += ["--set", f"{key}={toml(value)}"]
    for key, values in (sweep or {}).items():
        arguments += ["--sweep", f"{key}={toml(list(values))}"]
    arguments += [word for name in _names(only) for word in ("--only", name)]
    arguments += ["--force"] if force is True else [f"--force={name}" for name in _names(force or ())]
    for flag, value in (("--device", device), ("--jobs", jobs), ("--threads", threads)):
        arguments += [] if value is None else [flag, value]
    for flag, given in (("--keep-going", keep_going), ("--check", check), ("--quiet", quiet)):
        arguments += [flag] if given else []
    run([*arguments, *folders(cache, out)], show=not quiet)
    file = os.path.realpath(pipeline)
    for description in _out(out).glob("*/build.json"):
        found = json.loads(description.read_text())
        # A plan file has another path than the pipeline that was planned; see `_planned`.
        if found.get("file") in (file, _planned(file)):
            return _read(description.parent)
    raise FileNotFoundError(f"{_out(out)} has no build of {pipeline}")


def artifact(pipeline, stage, variant=None, *, out=None):
    """The folder of the artifact that the last build of a pipeline has for a stage.

    `pipeline` is the name of the pipeline. In a pipeline with a sweep, `variant` is the name of a variant, or a dict of
    swept keys and values. Raises `KeyError` if there is no such stage, or more than one variant of the stage fits.
    """
    folder = _out(out) / pipeline
    if not (folder / "build.json").is_file():
        raise FileNotFoundError(f"{folder} has no build: build the pipeline first, or set out=... to its folder")
    return _read(folder).artifact(stage, variant)


def toml(value):
    """A value of Python as a value of TOML, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # The escapes of JSON are escapes of TOML, too; TOML also wants one for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml(str(key))} = {toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, os.PathLike):
        return toml(os.fspath(value))
    raise TypeError(f"{value!r} has no form in TOML, which has texts, numbers, booleans, lists and dicts")


def _names(names):
    return [names] if isinstance(names, str) else list(names)


def _is(built, variant):
    if variant is None:
        return True
    if isinstance(variant, dict):
        return all(built.values.get(key) == value for key, value in variant.items())
    return built.variant == variant


def _out(out):
    return Path(out or os.environ.get("RAISIN_OUT") or "out")


def _planned(file):
    """The path of the pipeline file from which a plan file was made; `None` if `file` is not a plan file."""
    try:
        plan = json.loads(Path(file).read_text())
        return os.path.realpath(plan["pipeline"]["file"])
    except (ValueError, KeyError, TypeError):
        return None


def _read(folder):
    description = json.loads((folder / "build.json").read_text())
    stages = [
        Stage(stage=built["stage"], kind=built["kind"], variant=built["variant"], values=built["values"],
              path=(folder / built["variant"] / built["stage"]).resolve())
        for built in description["stages"]
    ]
    return Build(pipeline=description["pipeline"], folder=folder, stages=stages)
