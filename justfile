# Recipes of raisin. `./justw` runs them with the installed just, or installs just first.

target := env("CARGO_TARGET_DIR", "target")
raisin := quote(target / "debug" / "raisin")
# Paths may have spaces: each is quoted here once.
just := quote(just_executable())
own_libtorch := env("LIBTORCH", "")
venv := quote(env("RAISIN_VENV", ".venv"))
bench_venv := quote(env("RAISIN_BENCH_VENV", ".venv-bench"))
# All packages except the benchmarks.
all := "--workspace --exclude raisin-bench"
# What a first build needs; cargo's default members. With other features, cargo would compile dependencies again: `just
# lint` checks each selection of packages.
first := "--package raisin --package raisin-data --package raisin-worker --package raisin-unify"
# gRPC has features that nothing else may get, so that it is compiled by itself.
flight := "--package raisin-flight --features raisin-flight/server"
python := venv + "/bin/python"

# list the recipes
_default:
    @{{ just }} --list --unsorted

# build a pipeline: run the stages whose results are not in the cache
[positional-arguments]
build pipeline *arguments: _compiled
    @test -x {{ raisin }}-sql || ! grep -qsE '"?kind"? *[=:] *"(sql|filter)"' "$1" || {{ just }} _compiled-sql
    @test -x {{ raisin }}-remote || (test -z "${RAISIN_REMOTE:-}" && ! grep -qsE '^ *\[cache\]' "$1") \
        || {{ just }} _compiled-remote
    @test -x {{ raisin }}-remote || ! grep -qsE '^ *"?mlflow"? *[=:.]' "$1" || {{ just }} _compiled-remote
    @{{ raisin }} build "$@"

# show which stages a build would run, and why
[positional-arguments]
plan pipeline *arguments: _compiled
    @{{ raisin }} plan "$@"

# show builds while they run, in a browser: `just ui p.toml`
[positional-arguments]
ui *arguments: _compiled-sql
    @{{ raisin }} ui "$@"

# query stages, runs and history with SQL; without a query: a prompt; `--remote df://HOST:PORT`: on a cluster
[positional-arguments]
sql *arguments: _compiled-sql
    @case " $* " in *" --remote"*) {{ just }} _compiled-cluster ;; esac
    @{{ raisin }} sql "$@"

# serve the tables of `just sql` to clients of Flight SQL
[positional-arguments]
flight *arguments: _compiled-flight
    @{{ raisin }} flight "$@"

# send runs to an MLflow server: `just track push p.toml`
[positional-arguments]
track *arguments: _compiled-remote
    @{{ raisin }} track "$@"
# start the processes of a cluster for queries: `just cluster scheduler`, `just cluster executor`
[positional-arguments]
cluster *arguments: _compiled _compiled-cluster
    @{{ raisin }} cluster "$@"

# look at a shared cache, fill it, empty it: `just remote check p.toml`
[positional-arguments]
remote *arguments: _compiled-remote
    @{{ raisin }} remote "$@"

# run any command of raisin: `just raisin --help` lists the commands
[positional-arguments]
raisin *arguments: _compiled
    @{{ raisin }} "$@"

# build pipelines/NAME-results.toml (several seeds) and print the comparison with paired intervals
[positional-arguments]
results name *arguments: _compiled-sql
    @shift; {{ raisin }} build pipelines/{{ name }}-results.toml "$@"
    @{{ raisin }} sql --pipeline {{ name }}-results "select * from report.comparison order by metric, mean"

# download a base model into models/: `just model smollm2`
model name:
    @python3 setup/model.py {{ name }}

# make the pools of pipelines/bench from the files in FOLDER: `just pools FOLDER 201 202`
pools folder +seeds:
    @python3 pipelines/bench/make.py all --data {{ quote(folder) }} --seed {{ seeds }}

# install libtorch into .libtorch, unless LIBTORCH is set: cpu, or cuda
setup device="cpu":
    @test -n {{ quote(own_libtorch) }} || grep -qsw {{ device }} .libtorch/installed || python3 setup/libtorch.py {{ device }}

# run all tests; with the tests of SmolLM2 if `just model smollm2` was run before
[positional-arguments]
test *arguments: (setup "cpu") _python
    @RAISIN_PYTHON="$(realpath -s {{ python }})" \
    RAISIN_GGUF="${RAISIN_GGUF:-$(realpath -e models/SmolLM2-135M-Instruct.Q4_1.gguf 2>/dev/null || true)}" \
        sh -c 'cargo build --workspace && cargo test --workspace "$@"' test "$@"

# run all tests, also those that need more: the example notebook, TRL, lm-evaluation-harness, LLaMA-Factory, Axolotl, MLflow, W&B, ADBC, Chromium, Slurm, raisin-cluster
[positional-arguments]
test-all *arguments: (setup "cpu") _python _compiled-cluster
    @{{ python }} -m pip install --quiet --disable-pip-version-check -r tests/python/notebook.txt -r tests/python/trainers.txt
    @{{ python }} tests/python/beside.py {{ venv }}-llama-factory tests/python/llama-factory.txt
    @{{ python }} tests/python/beside.py {{ venv }}-axolotl tests/python/axolotl.txt --no-deps
    @{{ python }} tests/python/beside.py {{ venv }}-browser tests/python/browser.txt
    @{{ python }} tests/python/beside.py {{ venv }}-servers tests/python/servers.txt
    @sh setup/browser.sh
    @sh setup/shells.sh
    @cargo build {{ flight }}
    @cargo test {{ flight }}
    @RAISIN_SLURM="$(sh tests/slurm/install.sh)" \
        RAISIN_NOTEBOOKS=1 RAISIN_SHELLS=1 RAISIN_TRAINERS=1 RAISIN_CLUSTER=1 \
        RAISIN_LLAMA_FACTORY="$(realpath -s {{ venv }}-llama-factory/bin/python)" \
        RAISIN_AXOLOTL="$(realpath -s {{ venv }}-axolotl/bin/python)" \
        RAISIN_BROWSER="$(realpath -s {{ venv }}-browser/bin/python)" \
        RAISIN_SERVERS="$(realpath -s {{ venv }}-servers/bin/python)" \
        {{ just }} test "$@"

# make raisin's wheel for this machine: dist/raisin-VERSION-py3-none-PLATFORM.whl; --cluster: with raisin-cluster
[positional-arguments]
wheel *arguments: (setup "cpu")
    @cargo build {{ all }}
    @cargo build {{ flight }}
    @case " $* " in *" --cluster "*) {{ just }} _compiled-cluster ;; esac
    @python3 setup/wheel.py --executables {{ quote(target / "debug") }} "$@"

# checks before a commit: formatting, names of types, clippy, tests of the packages that changed since BASE
check base="HEAD": (setup "cpu")
    @python3 setup/check.py {{ base }}

# check formatting, clippy, names of types, and that every dependency has one set of features
lint: (setup "cpu")
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy {{ flight }} --all-targets -- -D warnings
    python3 setup/names.py
    python3 setup/features.py
    python3 setup/profile.py
    cargo fmt --check --manifest-path src/cluster/Cargo.toml
    CARGO_TARGET_DIR="$(realpath -m {{ quote(target) }})" cargo clippy --locked --manifest-path src/cluster/Cargo.toml --all-targets -- -D warnings

# run the torture tests in full; one part: kills, checkpoints, many, model, memory, opens, machines, release, faults, journal, panics, wrong, repair, space, rights or random
[positional-arguments]
torture *arguments: (setup "cpu")
    @cargo build --workspace
    @RAISIN_TORTURE=full cargo test --workspace --test torture -- --nocapture --test-threads 1 "$@"
    @test $# -gt 0 -a "$*" != random \
        || RAISIN_TORTURE=full cargo test --workspace --test engine -- --nocapture random

# build pipelines/NAME.toml into two empty caches and compare the digests of all stages: `just reproduce quickstart`
[positional-arguments]
reproduce name *arguments: _compiled
    #!/usr/bin/env bash
    set -euo pipefail
    shift
    top=$(mktemp -d)
    trap 'chmod -R u+w "$top"; rm -r "$top"' EXIT
    for place in one two; do
        {{ raisin }} build pipelines/{{ name }}.toml --cache "$top/$place/cache" --out "$top/$place/out" "$@"
    done
    # build.json has the key and the artifact of each stage in each variant, and neither times nor paths.
    cmp "$top"/one/out/*/build.json "$top"/two/out/*/build.json
    echo "the same: $(grep -c '"artifact"' "$top"/one/out/*/build.json) stages, twice into an empty cache"

# compare the speed with other tools: `just bench engine`, `just bench corpus`, `just bench near`, `just bench chain`, `just bench selector`, `just bench scale`, `just bench sql`, `just bench lm POOL=FILE`, `just bench gpu --pool FILE`
[positional-arguments]
bench name *arguments: _compiled
    @test -x {{ bench_venv }}/bin/python || python3 -m venv {{ bench_venv }}
    @for peers in {{ if name =~ "^(chain|corpus|near|scale|selector|sql)$" { "benches/requirements-" + name + ".txt" } else if name == "engine" { "benches/requirements.txt" } else { "benches/requirements.txt benches/requirements-lm.txt" } }}; do \
        cmp -s $peers {{ bench_venv }}/$(basename $peers) \
        || ({{ bench_venv }}/bin/python -m pip install --quiet --disable-pip-version-check -r $peers \
            && cp $peers {{ bench_venv }}/) || exit 1; done
    @cargo build --quiet --workspace
    @shift; {{ bench_venv }}/bin/python benches/{{ name }}.py {{ raisin }} "$@"

# print the path of the HTML report of the last build of a pipeline; with -o FILE: write a copy that says how it was made
[positional-arguments]
report *arguments: _compiled
    @{{ raisin }} report "$@"

# Compiles the executables of a first build, and raisin-sql, raisin-remote and raisin-flight if they exist, because all executables
# must have the same version. Starts cargo only if a source file is newer than `raisin`, because starting cargo takes
# time.
_compiled: (setup "cpu")
    @test -x {{ raisin }} && test -z "$(find src Cargo.toml Cargo.lock -newer {{ raisin }} -print -quit)" \
        || (cargo build {{ first }} $(test ! -x {{ raisin }}-sql || echo "--package raisin-query") \
            $(test ! -x {{ raisin }}-remote || echo "--package raisin-remote") \
            && (test ! -x {{ raisin }}-flight || cargo build {{ flight }}) && touch {{ raisin }})

# Compiles raisin-sql too.
_compiled-sql: _compiled
    @test -x {{ raisin }}-sql || cargo build {{ first }} --package raisin-query

# Compiles raisin-cluster, which has a workspace and versions of dependencies of its own (docs/decisions/0035).
_compiled-cluster:
    @test -x {{ raisin }}-cluster && test -z "$(find src Cargo.toml src/cluster/Cargo.lock -newer {{ raisin }}-cluster -print -quit)" \
        || (CARGO_TARGET_DIR="$(realpath -m {{ quote(target) }})" cargo build --locked --manifest-path src/cluster/Cargo.toml \
            && touch {{ raisin }}-cluster)

# Compiles raisin-remote too.
_compiled-remote: _compiled
    @test -x {{ raisin }}-remote || cargo build {{ first }} --package raisin-remote

# Compiles raisin-flight too, which answers nothing without raisin-sql.
_compiled-flight: _compiled-sql
    @test -x {{ raisin }}-flight || cargo build {{ flight }}

_python:
    @test -x {{ python }} || python3 -m venv {{ venv }}
    @cat tests/python/requirements.txt tests/python/templates.txt | cmp -s - {{ venv }}/installed \
        || ({{ python }} -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt \
            && {{ python }} -m pip install --quiet --disable-pip-version-check --no-deps -r tests/python/templates.txt \
            && cat tests/python/requirements.txt tests/python/templates.txt > {{ venv }}/installed)
