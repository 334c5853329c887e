"""Asks a server of Flight SQL with ADBC's client: flight_client.py PART ADDRESS ARGUMENTS. Prints JSON lines."""

import json
import sys
import threading
import time

import adbc_driver_flightsql
import adbc_driver_manager
import pyarrow
from adbc_driver_flightsql import dbapi

part, address, *arguments = sys.argv[1:]
# Works for minutes and gives its first row at the end.
LONG = "select count(*) as n from generate_series(1, 1000) a, generate_series(1, 1000000000000) b where a.value < b.value"
SUM = "select sum(id + 1) as n from q.pool.instructions"


def connect(**options):
    return dbapi.connect(address, db_kwargs=options, autocommit=True)


def rows(cursor, query, values=None):
    cursor.execute(query, values)
    return cursor.fetch_arrow_table().to_pylist()


def error(cursor, query, values=None):
    try:
        rows(cursor, query, values)
    except (adbc_driver_manager.Error, pyarrow.ArrowException) as problem:
        return str(problem)
    raise AssertionError(f"{query} is answered")


def show(value):
    print(json.dumps(value))


def in_threads(*calls):
    results = [None] * len(calls)

    def run(place):
        results[place] = calls[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def sum_of_ids():
    with connect() as connection, connection.cursor() as cursor:
        return rows(cursor, SUM)[0]["n"]


if part == "token":
    [token] = arguments
    header = {adbc_driver_flightsql.DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"} if token else {}
    for options in [header, {"username": "somebody", "password": token}]:
        try:
            with connect(**options) as connection, connection.cursor() as cursor:
                show(rows(cursor, "select count(*) as n from q.pool.instructions")[0]["n"])
        except (adbc_driver_manager.Error, pyarrow.ArrowException) as problem:
            show(str(problem))
    sys.exit()

with connect() as connection, connection.cursor() as cursor:
    if part == "rows":
        for query in arguments:
            show(rows(cursor, query))
    elif part == "errors":
        for query in arguments:
            show(error(cursor, query))
    elif part == "objects":
        show(connection.adbc_get_objects(depth="all").read_all().to_pylist())
    elif part == "about":
        show({"vendor_name": connection.adbc_get_info()["vendor_name"], "table_types": connection.adbc_get_table_types()})
    elif part == "columns":
        catalog, schema, table = arguments
        found = connection.adbc_get_table_schema(table, catalog_filter=catalog, db_schema_filter=schema)
        show(found.names)
    elif part == "parameters":
        ids = "select id from q.pool.instructions where id >= {} and id < {} order by id"
        show(rows(cursor, ids.format("$1", "$2"), (5, 9)))
        show(rows(cursor, ids.format("?", "?"), (5, 9)))
        rows(cursor, ids.format("$1", "$2"), (7, 8))
        show(rows(cursor, ids.format("$1", "$2"), (5, 9)))
        values = ("it's 5", None, True, 1.5, -(2**63))
        show(rows(cursor, "select $1 as a, $2 as b, $3 as c, $4 as d, $5 as e", values))
        show(error(cursor, ids.format("$1", "$3"), (5, 9)))
        cursor.adbc_statement.set_sql_query(ids.format("$1", "$2"))
        try:
            cursor.adbc_statement.prepare()
            cursor.adbc_statement.bind(pyarrow.record_batch([[1, 2], [3, 4]], names=["a", "b"]))
            cursor.adbc_statement.execute_query()
            show("answered")
        except adbc_driver_manager.Error as problem:
            show(str(problem))
    elif part == "cancel":
        began = time.monotonic()

        def cancel():
            time.sleep(1)
            cursor.adbc_cancel()

        said, _, other = in_threads(lambda: error(cursor, LONG), cancel, sum_of_ids)
        [count] = rows(cursor, "select count(*) as n from q.pool.instructions")
        assert other == 45150
        show({"said": said, "seconds": time.monotonic() - began, "other": count["n"]})
    elif part == "together":
        show(in_threads(*[sum_of_ids] * 4))
        open_ones = []
        for _ in range(8):
            other = connection.cursor()
            other.execute(LONG)
            open_ones.append(other)
        said = error(cursor, "select 1")
        show("8 statements are open" if "8 statements are open" in said else said)
        for other in open_ones:
            other.adbc_cancel()
            other.close()
        until = time.monotonic() + 20
        while True:
            try:
                show(rows(cursor, "select count(*) as n from q.pool.instructions")[0]["n"])
                break
            except adbc_driver_manager.Error:
                assert time.monotonic() < until, "the statements do not end"
                time.sleep(0.1)
    elif part == "hold":
        rows(cursor, LONG)
