"""Times twelve queries over tables of raisin's layout with `raisin sql` and with a named peer in the same run: the command
line of DuckDB.

`just bench sql [ROWS ...]` makes tables of ROWS rows (1,000,000 and 10,000,000), which raisin itself writes, and asks
both for the same answers as CSV. A time is that of a whole process, from its start to its end; both use all cores, and
the files are in the memory of the system. The two take turns for each query; RAISIN_BENCH_RUNS is the number of turns
(5), of which the median counts. Before that, the answers are compared: numbers may differ in the ninth digit.
RAISIN_BENCH_QUERIES, such as `like,limit`, takes some of the queries. RAISIN_BENCH_TABLES names a folder in which the
tables stay.
"""

import csv
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

RAISIN = os.path.abspath(sys.argv[1])
SIZES = [int(size.replace(",", "")) for size in sys.argv[2:]] or [1_000_000, 10_000_000]
RUNS = int(os.environ.get("RAISIN_BENCH_RUNS", "5"))
# The executable itself: the script `duckdb` of the package would start Python first.
DUCKDB = str(Path(find_spec("duckdb_cli").origin).with_name("duckdb"))

# The columns of the tables `instructions`, `features`, `clusters`, `selection` and `columns` of stages. The texts have
# about 60 and 250 bytes. `mix` spreads the rows without an order.
TABLES = {
    "pool": """
        select id::uinteger as id, 'source' || mix % 12 as source,
            'Question ' || id || ': what are ' || mix % 1000 || ' ' || words[1 + mix % 8] || ' worth?' as prompt,
            'Answer ' || mix % 90000 || '. ' || repeat(words[1 + mix % 8] || ' and ' || words[1 + mix // 8 % 8] || ', ',
                (5 + mix % 12)::int) || case when mix % 40 = 0 then 'therefore ' else 'so ' end || mix % 7 as response
        from rows, (select ['apples', 'pears', 'plums', 'quinces', 'cherries', 'figs', 'dates', 'raisins'] as words)""",
    "features": """
        select id::uinteger as id, (8 + mix % 90)::uinteger as prompt_tokens, (2 + mix // 90 % 250)::uinteger as
            response_tokens, (-(mix % 100003) / 400.0)::float as logp_conditional, (-(mix % 70001) / 250.0)::float as
            logp_unconditional from rows""",
    "clusters": "select id::uinteger as id, (mix % 64)::uinteger as cluster, ((mix // 64) % 9973 / 9973.0)::float as distance from rows",
    "selection": """
        select (id // 8)::uinteger as step, (mix % (select count(*) // 4 from rows))::uinteger as id,
            (mix % 1000003) / 1000003.0 as score, case mix % 3 when 0 then 'raise' when 1 then 'random' else 'ifd' end as
            method from rows""",
    "wide": "select id::uinteger as id, "
    + ", ".join(f"((mix // {place + 1}) % 8191 / 8191.0)::float as c{place}" for place in range(40))
    + " from rows",
}

QUERIES = {
    "filter": "select count(*) as n, min(prompt_tokens) as least, max(prompt_tokens) as most from 'features.parquet' "
    "where response_tokens > 100 and logp_conditional < -50",
    "few groups": "select source, count(*) as n, avg(length(prompt)) as mean from 'pool.parquet' group by source order by source",
    "many groups": "select id, count(*) as n, max(score) as best from 'selection.parquet' group by id order by n desc, id limit 20",
    "top": "select id, logp_conditional from 'features.parquet' order by logp_conditional desc, id limit 20",
    "join": "select p.source, count(*) as n, avg(s.score) as mean from 'selection.parquet' s join 'pool.parquet' p on s.id = p.id "
    "where s.score > 0.5 group by p.source order by p.source",
    "window": "select id, cluster, place from (select id, cluster, row_number() over (partition by cluster order by distance, id) "
    "as place from 'clusters.parquet') as t where place <= 3 order by cluster, place",
    "distinct": "select count(distinct response) as n from 'pool.parquet'",
    "like": "select count(*) as n from 'pool.parquet' where response like '%therefore%' and upper(prompt) like '%FIGS%'",
    "quantiles": "select cluster, median(distance) as middle, quantile_cont(distance, 0.9) as high from 'clusters.parquet' "
    "group by cluster order by cluster",
    "features": "select c.cluster, avg(f.logp_conditional - f.logp_unconditional) as mean, max(f.response_tokens) as most "
    "from 'features.parquet' f join 'clusters.parquet' c on f.id = c.id group by c.cluster order by c.cluster",
    "wide": "select sum(c3) as a, avg(c17) as b, max(c39) as c from 'wide.parquet' where c20 > 0.25",
    "limit": "select * from 'pool.parquet' limit 10",
}


def make_tables(folder, rows):
    """Makes the rows with DuckDB, and writes them with raisin."""
    for name, query in TABLES.items():
        if (folder / f"{name}.parquet").exists():
            continue
        source = f"create temp table rows as select i as id, (i * 2654435761) % 4294967291 as mix from range({rows}) t(i);"
        copy = f"{source} copy ({query}) to 'raw.parquet' (format parquet)"
        subprocess.run([DUCKDB, "-c", copy], cwd=folder, check=True)
        command = [RAISIN, "sql", "select * from 'raw.parquet'", "-o", f"{name}.parquet"]
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        (folder / "raw.parquet").unlink()


def commands(query):
    return {"raisin": [RAISIN, "sql", query, "--format", "csv"], "duckdb": [DUCKDB, "-csv", "-c", query]}


def answer(command, folder):
    text = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    return list(csv.reader(text.splitlines()))


def same(one, other):
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-8, abs_tol=1e-8)
    except ValueError:
        return False


def compare(name, query, folder):
    ours, theirs = (answer(command, folder) for command in commands(query).values())
    if len(ours) != len(theirs) or not all(len(a) == len(b) and all(map(same, a, b)) for a, b in zip(ours, theirs)):
        raise SystemExit(f"{name}: the answers differ\nraisin {ours[:4]}\nDuckDB {theirs[:4]}")


def seconds(command, folder):
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def bench(folder, rows):
    print(f"{rows:,} rows, medians of {RUNS}; DuckDB {version('duckdb-cli')}; {os.cpu_count()} cores", flush=True)
    print("                raisin     DuckDB   DuckDB's time / raisin's", flush=True)
    wanted = os.environ.get("RAISIN_BENCH_QUERIES", ",".join(QUERIES)).split(",")
    ratios = []
    for name in wanted:
        query = QUERIES[name]
        # Reading the files for the first time does not count.
        compare(name, query, folder)
        times = {who: [] for who in commands(query)}
        for _ in range(RUNS):
            for who, command in commands(query).items():
                times[who].append(seconds(command, folder))
        ours, theirs = (statistics.median(times[who]) for who in ("raisin", "duckdb"))
        ratios.append(theirs / ours)
        print(f"  {name:12} {ours * 1e3:7.0f} ms {theirs * 1e3:7.0f} ms {ratios[-1]:7.2f}", flush=True)
    print(f"  geometric mean {statistics.geometric_mean(ratios):32.2f}", flush=True)


def main():
    for rows in SIZES:
        kept = os.environ.get("RAISIN_BENCH_TABLES")
        if kept:
            folder = Path(kept) / str(rows)
            folder.mkdir(parents=True, exist_ok=True)
            make_tables(folder, rows)
            bench(folder, rows)
        else:
            with tempfile.TemporaryDirectory() as folder:
                make_tables(Path(folder), rows)
                bench(Path(folder), rows)


if __name__ == "__main__":
    main()
