"""Sinks that are files: rows and files appear whole, whatever ends the program and whatever a record holds."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.line.made import record

from patchbank import OutputError
from patchbank.line.images import Images
from patchbank.line.sinks.base import Unreachable
from patchbank.line.sinks.csv import COLUMNS, CsvSink
from patchbank.line.sinks.folder import FolderSink

DAY = datetime(2026, 3, 4, 23, 59, 59, tzinfo=UTC)
NEXT = datetime(2026, 3, 5, tzinfo=UTC)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


@pytest.fixture
def table(tmp_path: Path) -> CsvSink:
    return CsvSink(name="table", path=str(tmp_path / "out"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_go_into_a_file_a_day(table, images, tmp_path):
    made = [record(at=DAY, part_id="A1"), record(at=NEXT), record(at=DAY, score=None)]
    assert set(table.deliver(made, images).delivered) == {each.id for each in made}
    first, second = sorted((tmp_path / "out").iterdir())
    assert (first.name, second.name) == ("results-2026-03-04.csv", "results-2026-03-05.csv")
    found = rows(first)
    assert list(found[0]) == list(COLUMNS)
    assert [each["id"] for each in found] == [made[0].id, made[2].id]
    assert (found[0]["part_id"], found[0]["score"], found[1]["score"]) == ("A1", "1.5", "")
    assert "writes into" in table.check()


def test_what_came_already_is_not_written_twice(table, images, tmp_path):
    made = [record(at=DAY) for _ in range(5)]
    table.deliver(made[:3], images)
    table.deliver(made[:4], images)
    again = CsvSink(name="table", path=str(tmp_path / "out"))
    again.deliver(made, images)
    (path,) = (tmp_path / "out").iterdir()
    assert [each["id"] for each in rows(path)] == [each.id for each in made]


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_half_a_row_of_a_killed_program_goes(table, images, tmp_path, cut):
    made = [record(at=DAY) for _ in range(3)]
    table.deliver(made[:2], images)
    (path,) = (tmp_path / "out").iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    CsvSink(name="table", path=str(tmp_path / "out")).deliver(made[1:], images)
    assert [each["id"] for each in rows(path)] == [each.id for each in made]


def test_half_a_header_goes_too(table, images, tmp_path):
    path = tmp_path / "out" / "results-2026-03-04.csv"
    path.parent.mkdir()
    path.write_bytes(b"id,at,si")
    table.deliver([record(at=DAY)], images)
    assert len(rows(path)) == 1


def test_a_full_disk_in_the_middle_of_a_row_loses_and_doubles_nothing(table, images, tmp_path, monkeypatch):
    made = [record(at=DAY) for _ in range(3)]
    table.deliver(made[:1], images)
    (path,) = (tmp_path / "out").iterdir()

    def full(descriptor: int) -> None:
        path.write_bytes(path.read_bytes()[:-7])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("patchbank.line.sinks.csv.os.fsync", full)
        with pytest.raises(Unreachable, match="No space left"):
            table.deliver(made[1:], images)
    table.deliver(made[1:], images)
    assert [each["id"] for each in rows(path)] == [each.id for each in made]


def test_texts_from_outside_are_no_formulas_and_no_lines(table, images, tmp_path):
    """A part's id comes from a barcode: a spreadsheet must not run it, and it must not become a row."""
    table.deliver([record(at=DAY, part_id='=HYPERLINK("x")', source="a\nb,\r\x1b", batch="@sum")], images)
    (path,) = (tmp_path / "out").iterdir()
    assert len(path.read_bytes().splitlines()) == 2
    (row,) = rows(path)
    assert (row["part_id"], row["batch"], row["source"]) == ('\'=HYPERLINK("x")', "'@sum", "a\\nb,\\r\\x1b")


def test_a_file_with_other_columns_stays_as_it_is(table, images, tmp_path):
    path = tmp_path / "out" / "results-2026-03-04.csv"
    path.parent.mkdir()
    path.write_text("of,yesterday\n1,2\n")
    table.deliver([record(at=DAY)], images)
    assert path.read_text() == "of,yesterday\n1,2\n"
    assert len(rows(path.with_name("results-2026-03-04-2.csv"))) == 1


@pytest.mark.parametrize("kind", [CsvSink, FolderSink])
def test_a_folder_that_cannot_be_is_tried_again(kind, images, tmp_path):
    (tmp_path / "file").touch()
    sink = kind(name="x", path=str(tmp_path / "file" / "out"))
    with pytest.raises(Unreachable):
        sink.deliver([record()], images)
    with pytest.raises(OutputError):
        sink.check()


def test_files_by_day_and_station_with_the_images_that_are_wanted(images, tmp_path):
    digest = images.put(b"an image")
    good = record(at=DAY, image_sha256=digest, image_format="png", heat={"h": 1})
    bad = record(at=DAY, image_sha256=digest, image_format="png", verdict="ng", output="ng")
    gone = record(at=DAY, image_sha256="0" * 64, image_format="png", output="ng")
    for wanted, names in (("none", [None, None]), ("rejected", [None, f"{bad.id}.png"]), ("all", [f"{good.id}.png"])):
        root = tmp_path / wanted
        sink = FolderSink(name="files", path=str(root), with_images=wanted)
        assert len(sink.deliver([good, bad, gone], images).delivered) == 3
        folder = root / "2026-03-04" / "cap"
        for made, name in zip((good, bad), names, strict=False):
            values = json.loads((folder / f"{made.id}.json").read_text(encoding="utf-8"))
            assert (values["id"], values["image"], "heat" in values) == (made.id, name, False)
            assert name is None or (folder / name).read_bytes() == b"an image"
        assert json.loads((folder / f"{gone.id}.json").read_text())["image"] is None


def test_names_from_outside_stay_in_the_folder(images, tmp_path):
    sink = FolderSink(name="files", path=str(tmp_path / "out"))
    sink.deliver([record(at=DAY, station="../../etc", id="/abs/../x")], images)
    (path,) = (tmp_path / "out").rglob("*.json")
    assert path.relative_to(tmp_path / "out").parts[:2] == ("2026-03-04", "__.._etc")
