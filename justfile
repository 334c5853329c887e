# raisin: learn which instructions to fine-tune on. `./justw` runs this where just is not installed.

target := env("CARGO_TARGET_DIR", "target")
raisin := target / "debug" / "raisin"
own_libtorch := env("LIBTORCH", "")
venv := env("RAISIN_VENV", ".venv")
bench_venv := env("RAISIN_BENCH_VENV", ".venv-bench")
# Always the whole workspace: a smaller selection would have other features, and compile dependencies again.
all := "--workspace --exclude raisin-bench"
python := venv / "bin" / "python"

# what there is
_default:
    @{{ just_executable() }} --list --unsorted

# build a pipeline: what is cached is reused, the rest runs
build pipeline *arguments: _compiled
    @test -x {{ raisin }}-sql || ! grep -qs 'kind *= *"sql"' {{ pipeline }} || {{ just_executable() }} _compiled-sql
    @{{ raisin }} build {{ pipeline }} {{ arguments }}

# what a build would run, and why
plan pipeline *arguments: _compiled
    @{{ raisin }} plan {{ pipeline }} {{ arguments }}

# SQL over stages, runs and history; more options after the query
[positional-arguments]
sql query *arguments: _compiled-sql
    @{{ raisin }} sql "$@"

# any other command of raisin (try `just raisin --help`)
[positional-arguments]
raisin *arguments: _compiled
    @{{ raisin }} "$@"

# repeat a pipeline over 5 seeds and print the comparison with paired intervals
results name *arguments: _compiled-sql
    @{{ raisin }} build pipelines/{{ name }}-results.toml {{ arguments }}
    @{{ raisin }} sql --pipeline {{ name }}-results "select * from report.comparison order by metric, mean"

# fetch a base model: `just model smollm2`
model name:
    @python3 setup/model.py {{ name }}

# install libtorch into the project: cpu, or cuda
setup device="cpu":
    @test -n "{{ own_libtorch }}" || grep -qsw {{ device }} .libtorch/installed || python3 setup/libtorch.py {{ device }}

# all tests, with the comparisons against transformers and peft; with SmolLM2 too if `just model smollm2` was run
test *arguments: (setup "cpu") _python
    @RAISIN_PYTHON="$(realpath -s {{ python }})" \
    RAISIN_GGUF="${RAISIN_GGUF:-$(realpath -e models/SmolLM2-135M-Instruct.Q4_1.gguf 2>/dev/null || true)}" \
        sh -c 'cargo build --workspace && cargo test --workspace {{ arguments }}'

# what a change needs before it is committed: formatting, names, clippy, the tests of packages that changed since BASE
check base="HEAD": (setup "cpu")
    @python3 setup/check.py {{ base }}

# formatting, clippy, one meaning for every name of a type, and one set of features for every dependency
lint: (setup "cpu")
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    python3 setup/names.py
    python3 setup/features.py

# what may happen to a cache, done to it on purpose, in full; `RAISIN_TORTURE_SEED=2 just torture` at other instants
torture *arguments: (setup "cpu")
    @cargo build --workspace
    @RAISIN_TORTURE=full cargo test --workspace --test torture -- --nocapture --test-threads 1 {{ arguments }}
    @test -n "{{ arguments }}" -a "{{ arguments }}" != random \
        || RAISIN_TORTURE=full cargo test --workspace --test engine -- --nocapture random

# build a pipeline twice into two empty caches and compare every stage's digest: `just reproduce quickstart`
reproduce name *arguments: _compiled
    #!/usr/bin/env bash
    set -euo pipefail
    top=$(mktemp -d)
    trap 'chmod -R u+w "$top"; rm -r "$top"' EXIT
    for place in one two; do
        {{ raisin }} build pipelines/{{ name }}.toml --cache "$top/$place/cache" --out "$top/$place/out" {{ arguments }}
    done
    # One line a stage: its key and its artifact. No time and no place is in it.
    cmp "$top"/one/out/*/build.json "$top"/two/out/*/build.json
    echo "the same: $(grep -c '"artifact"' "$top"/one/out/*/build.json) stages, twice into an empty cache"

# timings beside named peers, in the same run: `just bench engine`, `just bench lm POOL=alpaca.json`, `just bench gpu`
bench name *arguments: _compiled
    @test -x {{ bench_venv }}/bin/python || python3 -m venv {{ bench_venv }}
    @for peers in benches/requirements.txt {{ if name == "engine" { "" } else { "benches/requirements-lm.txt" } }}; do \
        cmp -s $peers {{ bench_venv }}/$(basename $peers) \
        || ({{ bench_venv }}/bin/python -m pip install --quiet --disable-pip-version-check -r $peers \
            && cp $peers {{ bench_venv }}/) || exit 1; done
    @cargo build --quiet --workspace
    @{{ bench_venv }}/bin/python benches/{{ name }}.py {{ raisin }} {{ arguments }}

# the HTML report of the last build of a pipeline
report name:
    @realpath out/{{ name }}/report/report.html

# The executables without DataFusion, unless `raisin-sql` is there already: executables of two versions must not meet. A
# pipeline build must not pay for cargo's start: cargo is asked only when a source is newer than the executable.
_compiled: (setup "cpu")
    @test -x {{ raisin }} && test -z "$(find src Cargo.toml Cargo.lock -newer {{ raisin }} -print -quit)" \
        || (cargo build $(test ! -x {{ raisin }}-sql || echo "{{ all }}") && touch {{ raisin }})

# All executables.
_compiled-sql: _compiled
    @test -x {{ raisin }}-sql || cargo build {{ all }}

_python:
    @test -x {{ python }} || python3 -m venv {{ venv }}
    @cat tests/python/requirements.txt tests/python/templates.txt | cmp -s - {{ venv }}/installed \
        || ({{ python }} -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt \
            && {{ python }} -m pip install --quiet --disable-pip-version-check --no-deps -r tests/python/templates.txt \
            && cat tests/python/requirements.txt tests/python/templates.txt > {{ venv }}/installed)
