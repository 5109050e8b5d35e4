"""Inspections as a file, however many: CSV as it is read, Parquet by way of a temporary file (extra `parquet`)."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from patchbank.server.api.shown import Summary, summaries_of
from patchbank.server.problems import Problem
from patchbank.store import listing
from patchbank.store.listing import Filter
from patchbank.util.wording import spreadsheet_safe

if TYPE_CHECKING:
    from patchbank.server.service import Service

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
# The columns, and their types in Parquet.
COLUMNS = {
    "id": "UUID",
    "at": "TIMESTAMPTZ",
    "received_at": "TIMESTAMPTZ",
    "stream": "VARCHAR",
    "model": "VARCHAR",
    "version": "INTEGER",
    "serial": "VARCHAR",
    "batch": "VARCHAR",
    "source": "VARCHAR",
    "verdict": "VARCHAR",
    "reason": "VARCHAR",
    "score": "DOUBLE",
    "threshold": "DOUBLE",
    "p_value": "DOUBLE",
    "in_scene": "BOOLEAN",
    "latency_ms": "DOUBLE",
    "late": "BOOLEAN",
    "sample": "BOOLEAN",
    "label": "VARCHAR",
    "image_sha256": "VARCHAR",
    "width": "INTEGER",
    "height": "INTEGER",
}
_PAGE = 200
_CHUNK = 1 << 20


def check(format: str) -> None:
    """Raises Problem for a format that the service cannot write."""
    if format == "parquet" and importlib.util.find_spec("duckdb") is None:
        raise Problem(
            422,
            "missing-extra",
            "Parquet needs duckdb, which the service lacks; run: pip install 'patchbank[parquet]'",
        )


async def content(service: Service, chosen: Filter, format: str) -> AsyncIterator[bytes]:
    """The parts of the file. Parquet is made as a whole before the first of them."""
    return _csv(service, chosen) if format == "csv" else _parts(*await _parquet(service, chosen))


async def _csv(service: Service, chosen: Filter) -> AsyncIterator[bytes]:
    """RFC 4180, with a header. A text that a spreadsheet would take for a formula gets an apostrophe."""
    yield _lines([tuple(COLUMNS)])
    async for page in _pages(service, chosen):
        yield _lines([tuple(spreadsheet_safe(value) for value in _row(each).values()) for each in page])


async def _parquet(service: Service, chosen: Filter) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    folder = tempfile.TemporaryDirectory(prefix="patchbank-export-")
    rows, file = Path(folder.name) / "rows.ndjson", Path(folder.name) / "rows.parquet"
    with rows.open("w", encoding="utf-8") as written:
        async for page in _pages(service, chosen):
            lines = "".join(json.dumps(_row(each)) + "\n" for each in page)
            await run_in_threadpool(written.write, lines)
    await run_in_threadpool(_convert, rows, file)
    return folder, file


async def _parts(folder: tempfile.TemporaryDirectory[str], file: Path) -> AsyncIterator[bytes]:
    """A file's content; then its folder goes. That also goes if nobody asks for the content."""
    with folder, file.open("rb") as made:
        while part := await run_in_threadpool(made.read, _CHUNK):
            yield part


def _convert(rows: Path, file: Path) -> None:
    import duckdb

    columns = ", ".join(f"\"{name}\": '{kind}'" for name, kind in COLUMNS.items())
    read = f"read_json(?, format = 'newline_delimited', columns = {{{columns}}})"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"COPY (SELECT * FROM {read}) TO ? (FORMAT parquet, COMPRESSION zstd)",  # noqa: S608  (our own names)
            [str(rows), str(file)],
        )


async def _pages(service: Service, chosen: Filter) -> AsyncIterator[list[Summary]]:
    cursor = None
    while True:
        page = await service.read(listing.page, chosen, cursor=cursor, limit=_PAGE, oldest_first=True)
        if page.items:
            yield await summaries_of(service, page.items)
        if page.next is None:
            return
        cursor = page.next


def _row(summary: Summary) -> dict[str, Any]:
    told = summary.model_dump(mode="json")
    image, model = told["image"] or {}, told["model"] or {}
    flat = told | {
        "model": model.get("name"),
        "version": model.get("version"),
        "image_sha256": image.get("sha256"),
        "width": image.get("width"),
        "height": image.get("height"),
    }
    return {name: flat[name] for name in COLUMNS}


def _lines(rows: list[tuple[object, ...]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()
