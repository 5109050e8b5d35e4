"""Records as rows of CSV files, one file a day. A file is only ever added to, in whole rows.

A row is one line whatever a record holds. So a program that was killed while it wrote leaves at most one line without
its end, which is taken away before the next row; and a row that is there already is not written twice.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from patchbank import OutputError
from patchbank.line.images import Images
from patchbank.line.record import Record
from patchbank.line.sinks.base import Outcome, Unreachable
from patchbank.util.files import claimed, make_folder, output_errors
from patchbank.util.wording import spreadsheet_safe

COLUMNS = (
    *("id", "at", "site", "line", "station", "part_id", "batch", "source", "verdict", "output", "code", "reason"),
    *("score", "threshold", "p_value", "in_scene", "model_name", "model_version", "model_sha256", "software"),
    *("trigger", "recipe", "latency_ms", "late", "image_sha256"),
)
_TAIL = 1 << 20  # bytes at the end of a file in which rows that are there already are looked for
_MOST_LAYOUTS = 20  # files of a day, if their columns differ


class CsvSink:
    """Implements `Sink`. path: the folder."""

    batch = 100

    def __init__(self, *, name: str, path: str) -> None:
        self.name, self._folder = name, Path(path)
        self._known: dict[Path, set[str]] = {}  # ids in the files that were written last

    def check(self) -> str:
        """Says whether the folder can be written. Raises OutputError."""
        make_folder(self._folder)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write into {self._folder}: permission denied")
        return f"writes into {self._folder}"

    def deliver(self, records: Sequence[Record], images: Images) -> Outcome:  # noqa: ARG002  (not in a table)
        """Adds rows; they are on the disk when this returns."""
        by_day: dict[str, list[Record]] = {}
        for record in records:
            by_day.setdefault(f"{record.at:%Y-%m-%d}", []).append(record)
        delivered: list[str] = []
        try:
            make_folder(self._folder)
            for day, some in by_day.items():
                self._add(day, some)
                delivered += [record.id for record in some]
        except OutputError as error:
            if not delivered:
                raise Unreachable(str(error)) from error
        return Outcome(delivered)

    def state(self, station: str, state: Mapping[str, Any]) -> None:
        """Files have no state."""

    def close(self) -> None:
        """Nothing stays open."""

    def _add(self, day: str, records: Sequence[Record]) -> None:
        path = self._path(day)
        with output_errors(path):
            path.touch()
            with claimed(path), path.open("r+b") as file:
                try:
                    self._add_to(path, file, records)
                except OSError:
                    self._known.pop(path, None)  # some rows may be there: look again
                    raise

    def _add_to(self, path: Path, file: IO[bytes], records: Sequence[Record]) -> None:
        whole = _without_half_a_row(file)
        if whole == 0:
            file.write(_line(COLUMNS))
        if path not in self._known:
            self._known = {path: _ids(file)}
        known = self._known[path]
        new = [record for record in records if record.id not in known]
        file.seek(0, os.SEEK_END)
        file.write(b"".join(_line(_row(record)) for record in new))
        file.flush()
        os.fsync(file.fileno())
        known.update(record.id for record in new)

    def _path(self, day: str) -> Path:
        """The day's file with these columns: an update of patchbank may have begun another one."""
        header = _line(COLUMNS)
        for number in range(1, _MOST_LAYOUTS + 1):
            path = self._folder / (f"results-{day}.csv" if number == 1 else f"results-{day}-{number}.csv")
            try:
                with path.open("rb") as file:
                    start = file.read(len(header))
            except FileNotFoundError:
                return path
            except OSError as error:
                raise OutputError(f"cannot read {path}: {error.strerror}") from error
            if header.startswith(start):
                return path
        raise OutputError(f"{self._folder}: {_MOST_LAYOUTS} files of {day} have other columns; move some away")


def _line(values: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _row(record: Record) -> list[object]:
    values = record.to_dict()
    return [spreadsheet_safe(values[column], kept="") for column in COLUMNS]


def _without_half_a_row(file: IO[bytes]) -> int:
    """Cuts off what follows the last line end. Returns the size that is left."""
    size = file.seek(0, os.SEEK_END)
    end = size
    while end:
        start = max(0, end - _TAIL)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    return end


def _ids(file: IO[bytes]) -> set[str]:
    """The first cells of the rows at the end of the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    return {line.partition(b",")[0].decode(errors="replace") for line in file.read().splitlines()}
