"""How long do the service's queries take when millions of inspections are kept, in SQLite and in PostgreSQL?

    python benchmarks/store.py [--rows N] [--databases sqlite postgresql] [--keep DIR] [--quick] [--out DIR]

A year of inspections on ten streams and a rare one is made by SQL: 95 % OK, the rest REVIEW, NG and ERROR, some with
labels, most images removed already. Then every query of the store that lists, counts or looks around is asked as the
service asks it, with its plan: does the database read a whole large table? PostgreSQL is that of PATCHBANK_POSTGRES, by
default at 127.0.0.1:5432; where there is none, only SQLite is measured."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics as numbers
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.pool import StaticPool

from _common import RESULTS, save
from patchbank.store import audit_log, inspections, listing, models, retention, reviews, statistics, streams
from patchbank.store.engine import Store, open_store
from patchbank.store.inspections import NewInspection
from patchbank.store.listing import Filter
from patchbank.store.schema import metadata
from patchbank.util.uuid7 import uuid7

SERVER = os.environ.get("PATCHBANK_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
ROWS, QUICK_ROWS, LIMIT_MS = 2_000_000, 20_000, 100
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
YEAR_MS = 365 * 86_400_000
STREAMS, RARE = 10, 11
BIG = ("inspections", "heats", "regions", "reviews", "shadow_results")

# Words that the databases have in common, in each one's own way. n: the number of the row. {step}: ms between two rows.
WORDS = {
    "sqlite": {
        "numbers": "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}) ",
        "from": "numbers",
        "ms": "({begin} + n * {step})",
        "at": "strftime('%Y-%m-%dT%H:%M:%S', {ms} / 1000, 'unixepoch') || '.000000Z'",
        "id": "printf('%08x-%04x-7000-8000-%012x', {ms} >> 16, {ms} & 65535, n)",
        "hex": "printf('%064x', {0})",
        "digits": "printf('%08d', {0})",
        "hour": "strftime('%Y-%m-%dT%H:00:00.000000Z', at)",
        "true": "1",
    },
    "postgresql": {
        "numbers": "",
        "from": "generate_series(0::bigint, {last}) AS series(n)",
        "ms": "({begin} + n::bigint * {step})",
        "at": "to_timestamp({ms} / 1000)",
        "id": "(lpad(to_hex({ms} >> 16), 8, '0') || lpad(to_hex({ms} & 65535), 4, '0') || '70008000' || "
        "lpad(to_hex(n), 12, '0'))::uuid",
        "hex": "lpad(to_hex({0}), 64, '0')",
        "digits": "lpad(({0})::text, 8, '0')",
        "hour": "date_trunc('hour', at)",
        "true": "true",
    },
}
DICE = "((n * 7919 + n / 1000 * 104729) % 1000)"  # 0 to 999, as if by chance
OLD = "(n < {rows} * 51 / 52)"  # before the last week


def main() -> None:
    options = arguments()
    rows = QUICK_ROWS if options.quick else options.rows
    results: dict[str, Any] = {"limit_ms": LIMIT_MS, "databases": {}}
    earlier = options.out / "store.json"
    if earlier.is_file():  # the other database's, of another run
        results["databases"] = json.loads(earlier.read_text())["databases"]
    for name in options.databases:
        with database(name, options.keep, rows) as store:
            if store is not None:
                results["databases"][name] = {"rows": rows, **measured(store, rows)}
    if options.quick:  # PostgreSQL reads small tables as a whole, and is right
        queries = results["databases"].get("sqlite", {"queries": []})["queries"]
        slow = [row["query"] for row in queries if row["reads_all"] or row["ms"] > 5 * LIMIT_MS]
        assert not slow, f"these are slow, or read a whole table: {slow}"
    save(options.out, "store", results)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="inspections")
    parser.add_argument("--databases", nargs="+", default=list(WORDS), choices=list(WORDS))
    parser.add_argument("--keep", type=Path, help="folder of SQLite's rows: kept there, and used again")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: few rows, and no plan may read a whole table"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


@contextmanager
def database(name: str, keep: Path | None, rows: int) -> Iterator[Store | None]:
    """A store with so many rows; None where there is no server."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="patchbank-store-") as folder:
        if name == "sqlite":
            data = keep or Path(folder) / "data"
            if not data.exists():
                with open_store(data) as store:
                    path = store.folder.database
                fill_sqlite(path, rows)
            with open_store(data) as store:
                print(f"{rows} rows, and the store is open, after {time.perf_counter() - started:.0f} s", flush=True)
                yield store
            return
        import psycopg

        made = f"patchbank_bench_{uuid.uuid4().hex[:8]}"
        try:
            with psycopg.connect(SERVER, autocommit=True, connect_timeout=3) as connection:
                connection.execute(f"CREATE DATABASE {made} TEMPLATE template0")
        except psycopg.OperationalError as error:
            print(f"no PostgreSQL: {error}")
            yield None
            return
        try:
            with open_store(Path(folder) / "data", SERVER.rpartition("/")[0] + f"/{made}") as store:
                store.write(fill, rows)
                print(f"{rows} rows after {time.perf_counter() - started:.0f} s", flush=True)
                yield store
        finally:
            with psycopg.connect(SERVER, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {made} WITH (FORCE)")


def measured(store: Store, rows: int) -> dict[str, Any]:
    found: dict[str, Any] = {"size_gb": round(size(store) / 1e9, 2), "queries": []}
    for name, ask in queries(store, rows).items():
        times, own = [], []
        with statements(store) as asked:
            ask()  # once, so that what it reads is in memory
        for _ in range(7):
            begin, begin_own = time.perf_counter(), time.thread_time()
            ask()
            times.append(1000 * (time.perf_counter() - begin))
            own.append(1000 * (time.thread_time() - begin_own))
        row = {"query": name, "ms": round(min(times), 2), "median_ms": round(numbers.median(times), 2)}
        if store.is_embedded:  # the database works in this thread: what others do on the machine does not count
            row["processor_ms"] = round(min(own), 2)
        row["reads_all"] = sorted({each for one in asked for each in store.read(read_whole, *one)})
        found["queries"].append(row)
        print(row, flush=True)
    found["write_ms"] = writes(store)
    if store.is_embedded:
        found["open_s"] = round(opening(store), 2)
    return found


def fill_sqlite(path: Path, rows: int) -> None:
    """All rows, without the log that a service needs: this database is thrown away if something goes wrong."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    with engine.begin() as one:
        one.exec_driver_sql("BEGIN")
        fill(one, rows)
    engine.dispose()


def fill(connection: Connection, rows: int) -> None:
    """All rows, in one transaction. Indexes are made afterwards, which is quicker."""
    kind = connection.dialect.name
    step = max(1, YEAR_MS // rows)
    about = {"last": rows - 1, "rows": rows, "begin": int(BEGIN.timestamp() * 1000), "step": step}

    def run(statement: str) -> None:
        words = dict(WORDS[kind])
        for _ in range(3):  # words in words
            for name, word in words.items():
                if "{0}" not in word:
                    statement = statement.replace("{" + name + "}", word)
            for name in ("hex", "digits"):
                while (at := statement.find("{" + name + ":")) >= 0:
                    end = statement.index("}", at)
                    argument = statement[at + len(name) + 2 : end]
                    statement = statement[:at] + words[name].replace("{0}", argument) + statement[end + 1 :]
        for name, value in about.items():
            statement = statement.replace("{" + name + "}", str(value))
        connection.execute(text(statement.replace(":00", "\\:00").replace("::", "\\:\\:")))

    if kind == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))
    indexes = [index for name in BIG for index in metadata.tables[name].indexes]
    for index in indexes:
        index.drop(connection)
    for statement in statements_to_fill():
        run(statement)
    for index in indexes:
        index.create(connection)
    if kind == "postgresql":  # which does so by itself after a while; SQLite has no statistics in the service, either
        connection.execute(text("ANALYZE"))


def statements_to_fill() -> Iterator[str]:
    """Few words for what differs between the databases are in braces: WORDS."""
    streams_and = f"SELECT n + 1, 'stream ' || n, '', 'ready', {{at}}, 'b' FROM {{from}} WHERE n < {RARE}"
    yield f"INSERT INTO streams (id, name, site, state, created_at, created_by) {{numbers}}{streams_and}"
    model = f"SELECT n + 1, 'model ' || n, {{at}}, 'b' FROM {{from}} WHERE n < {STREAMS}"
    yield f"INSERT INTO models (id, name, created_at, created_by) {{numbers}}{model}"
    yield (
        "INSERT INTO model_versions (id, model_id, number, file_sha256, file_size, bank_version, action, calibrated, "
        "images, size, author, note, time, status, status_at, status_by) {numbers}"
        f"SELECT n + 1, n % {STREAMS} + 1, n / {STREAMS} + 1, {{hex:n}}, 1, 1, 'fit', 'exact', 100, 1000, 'b', '', "
        f"{{at}}, 'approved', {{at}}, 'b' FROM {{from}} WHERE n < {STREAMS * 4}"
    )
    columns = {
        "id": "{id}",
        "at": "{at}",
        "received_at": "{at}",
        "stream_id": f"CASE WHEN n % 20000 = 7 THEN {RARE} ELSE n % {STREAMS} + 1 END",
        "model_version_id": f"n % {STREAMS} + 1 + {STREAMS} * (4 * n / {{rows}})",
        "serial": "'SN' || {digits:n}",
        "batch": "'B' || {digits:n / 500}",
        "source": "'api'",
        "verdict": f"CASE WHEN {DICE} < 950 THEN 'ok' WHEN {DICE} < 975 THEN 'review' WHEN {DICE} < 999 THEN 'ng' "
        "ELSE 'error' END",
        "reason": "'as it is'",
        "score": f"{DICE} / 500.0",
        "threshold": "1.9",
        "p_value": "0.5",
        "in_scene": f"{DICE} <> 997",
        "latency_ms": "31.5",
        "late": f"{DICE} = 998",
        "image_sha256": "{hex:n * 3}",
        "image_format": "'png'",
        "image_size": "1000000",
        "width": "1000",
        "height": "1000",
        "image_gone_at": f"CASE WHEN {OLD} AND {DICE} BETWEEN 5 AND 949 THEN {{at}} END",
        "sample": f"{DICE} < 10",
        "needs_review": f"({DICE} BETWEEN 950 AND 974 OR {DICE} < 10) AND NOT ({OLD} AND ({DICE} < 5 OR {DICE} BETWEEN "
        "950 AND 964))",
        "label": f"CASE WHEN {OLD} AND ({DICE} < 5 OR {DICE} BETWEEN 950 AND 964) THEN 'good' "
        f"WHEN {OLD} AND {DICE} BETWEEN 980 AND 995 THEN 'defect' END",
        "request_sha256": "{hex:n * 5}",
        "idempotency_sha256": "{hex:n * 7}",
    }
    yield (
        f"INSERT INTO inspections ({', '.join(columns)}) {{numbers}}SELECT {', '.join(columns.values())} FROM {{from}}"
    )
    yield (
        "INSERT INTO hours (stream_id, hour, verdict, model_version_id, writer, n) "
        "SELECT stream_id, {hour}, verdict, model_version_id, '', count(*) FROM inspections "
        "GROUP BY stream_id, {hour}, verdict, model_version_id"
    )
    yield (
        'INSERT INTO reviews (inspection_id, label, kind, comment, "by", at) '
        "SELECT id, label, '', '', 'anna', at FROM inspections WHERE label IS NOT NULL"
    )
    yield (
        "INSERT INTO shadow_results (inspection_id, model_version_id, verdict, score, changed) "
        "SELECT id, 2, CASE WHEN score < 1.94 THEN 'ok' ELSE 'ng' END, score, (score >= 1.94) <> (verdict <> 'ok') "
        "FROM inspections WHERE stream_id = 1"
    )
    yield (
        "INSERT INTO audit_log (n, at, actor, action, object, reason, prev_hash, hash) {numbers}"
        "SELECT n + 1, {at}, 'user ' || (n % 20), CASE WHEN n % 5000 = 7 THEN 'user.add' ELSE 'setting.put' END, "
        "'setting/' || (n % 50), 'why', {hex:n}, {hex:n + 1} FROM {from} WHERE n < 100000"
    )


def queries(store: Store, rows: int) -> dict[str, Callable[[], Any]]:
    """What the service asks, by a name for people."""
    now = BEGIN + timedelta(milliseconds=YEAR_MS)
    middle, hour, day = BEGIN + timedelta(days=180), timedelta(hours=1), timedelta(days=1)
    one = store.read(listing.page, Filter(until=middle), limit=1).items[0]
    last = store.read(listing.page, Filter(), limit=1).items[0]

    def page(**filter: Any) -> Callable[[], Any]:
        return lambda: store.read(listing.page, Filter(**filter), limit=50)

    def count(**filter: Any) -> Callable[[], Any]:
        return lambda: store.read(listing.count, Filter(**filter))

    def read(function: Callable[..., Any], *args: Any, **named: Any) -> Callable[[], Any]:
        return lambda: store.read(function, *args, **named)

    filters: dict[str, dict[str, Any]] = {
        "the newest": {},
        "of a stream": {"stream_id": 3},
        "of a rare stream": {"stream_id": RARE},
        "of a version": {"model_version_id": 5},
        "NG": {"verdicts": ("ng",)},
        "NG of a stream": {"verdicts": ("ng",), "stream_id": 3},
        "NG of a rare stream": {"verdicts": ("ng",), "stream_id": RARE},
        "REVIEW and NG": {"verdicts": ("review", "ng")},
        "OK of a rare stream": {"verdicts": ("ok",), "stream_id": RARE},
        "ERROR": {"verdicts": ("error",)},
        "a serial": {"serial": f"SN{rows // 2:08d}"},
        "serials by their beginning": {"serial": "SN0"},
        "a serial that nothing has": {"serial": "X"},
        "a batch": {"batch": f"B{rows // 1000:08d}"},
        "waiting for review": {"needs_review": True},
        "waiting for review, of a rare stream": {"needs_review": True, "stream_id": RARE},
        "labelled": {"labelled": True},
        "labelled as defect": {"label": "defect"},
        "labelled as unsure (none)": {"label": "unsure"},
        "not labelled": {"labelled": False},
        "late": {"late": True},
        "out of distribution": {"in_scene": False},
        "samples": {"sample": True},
    }
    times = {
        "": {},
        ", an hour half a year ago": {"since": middle, "until": middle + hour},
        ", before the first day's end": {"until": BEGIN + day},
        ", the last day": {"since": now - day},
        ", after the last one": {"since": now + day},
    }
    found: dict[str, Callable[[], Any]] = {}
    for name, filter in filters.items():
        for when, bounds in times.items():
            found[f"list: {name}{when}"] = page(**filter, **bounds)
        found[f"count: {name}"] = count(**filter)
        found[f"count: {name}, an hour half a year ago"] = count(**filter, since=middle, until=middle + hour)
    deep = store.read(listing.page, Filter(stream_id=3, until=middle), limit=50).next
    return found | {
        "list: a deep page of a stream": read(listing.page, Filter(stream_id=3, until=middle), cursor=deep, limit=50),
        "the oldest of a stream": read(listing.page, Filter(stream_id=3), limit=50, oldest_first=True),
        "the review queue": read(listing.queue),
        "the review queue of a rare stream": read(listing.queue, stream_id=RARE),
        "neighbours": read(listing.neighbours, one),
        "neighbours of the last one": read(listing.neighbours, last),
        "an inspection": read(inspections.get, one.id),
        "its regions": read(inspections.regions_of, one.id),
        "200 inspections by identifier": read(inspections.get_many, [one.id] * 200),
        "a key that was used": read(inspections.replayed, f"{7 * (rows // 2):064x}", f"{5 * (rows // 2):064x}"),
        "counts by the hour, a day": read(statistics.by_hour, now - day),
        "counts by the hour, a day of a stream": read(statistics.by_hour, now - day, stream_id=3),
        "counts by the hour, a week half a year ago": read(statistics.by_hour, middle, middle + 7 * day),
        "2 000 scores of a stream": read(statistics.scores, 3),
        "2 000 scores of a stream and a version": read(statistics.scores, 3, model_version_id=33),
        "scores of a stream, a day half a year ago": read(statistics.scores, 3, since=middle, until=middle + day),
        "changes of a watching version": read(statistics.shadow_changes, 2),
        "what a watching version would change": read(statistics.shadow_summary, 2),
        "the basket": read(reviews.basket, 3),
        "the regression set": read(reviews.regression_set, 3),
        "the regression set, later": read(reviews.regression_set, 3, after=one.id),
        "labels of a model": read(reviews.label_counts, 3),
        "samples of a stream": read(reviews.sampled, 3),
        "samples of a stream, the last day": read(reviews.sampled, 3, now - day),
        "what decides now": read(streams.all_current),
        "the streams": read(streams.listed),
        "the models": read(models.listed),
        "the audit log": read(audit_log.page),
        "the audit log, an action": read(audit_log.page, action="user.add"),
        "the audit log, a person": read(audit_log.page, actor="user 7"),
        "the audit log, a person that it does not have": read(audit_log.page, actor="nobody"),
        "which of 500 images are named": read(retention.images_named, [f"{3000 * n:064x}" for n in range(500)]),
        "which images may go: OK": read(may_go, "ok", now - 7 * day),
        "which images may go: REVIEW": read(may_go, "review", now),
        "which images may go: NG": read(may_go, "ng", BEGIN),
    }


def may_go(connection: Connection, verdict: str, until: datetime) -> list[Any]:
    """The question of `retention.let_go`, without its answer's consequences."""
    return connection.execute(retention.may_go(verdict, until)).all()


@contextmanager
def statements(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """What is asked of the database in the block, with its parameters."""
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            asked.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(store.engine, "before_cursor_execute", note)


def read_whole(connection: Connection, statement: str, parameters: Any) -> list[str]:
    """The large tables that the database would read from the first row to the last one, by its plan."""
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        lines = [str(row[-1]) for row in plan]
        whole = [line.split()[1] for line in lines if line.startswith("SCAN") and "INDEX" not in line]
    else:
        lines = [str(row[0]) for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)]
        whole = [line.partition(" on ")[2].split()[0] for line in lines if "Seq Scan on" in line]
    return [name for name in whole if name in BIG or name == "hours"]


def writes(store: Store) -> float:
    """Milliseconds until an inspection is on the disk, the median of 50."""
    times = []
    for _ in range(50):
        at = datetime.now(UTC)
        identifier = uuid7(at)
        new = NewInspection(id=identifier, at=at, stream_id=3, verdict="ok", reason="", request_sha256="0" * 64)
        begin = time.perf_counter()
        store.write(inspections.insert_one, new)
        times.append(1000 * (time.perf_counter() - begin))
    return round(numbers.median(times), 2)


def opening(store: Store) -> float:
    """Seconds until a closed store is open again."""
    store.close()
    begin = time.perf_counter()
    open_store(store.folder.path).close()
    return time.perf_counter() - begin


def size(store: Store) -> int:
    """Bytes of the database."""
    if store.is_embedded:
        return sum(path.stat().st_size for path in store.folder.path.glob("patchbank.sqlite*"))
    return int(store.read(lambda c: c.execute(text("SELECT pg_database_size(current_database())")).scalar_one()))


if __name__ == "__main__":
    main()
