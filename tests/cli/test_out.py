"""`predict --out`: a report that streams, and a verdict for every image whatever becomes of its file."""

from __future__ import annotations

import shutil
import weakref

import cv2
import numpy as np

from patchbank.reports.inspection import InspectionReport
from patchbank.results.result import Result

from .conftest import run


def test_no_row_stays_in_memory(fitted, category, tmp_path, monkeypatch):
    """31 kB an image stayed until the report was written."""
    rows, add = [], InspectionReport.add

    def watched(report, row):
        assert [ref for ref in rows if ref() is not None] == []
        add(report, row)
        rows.append(weakref.ref(row))

    monkeypatch.setattr(InspectionReport, "add", watched)
    run("predict", fitted, category / "test", "--out", tmp_path / "out")
    assert len(rows) == 8
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == ["report.html"]


def test_an_image_that_was_rewritten_keeps_its_verdict_and_shows_no_other(fitted, category, tmp_path, monkeypatch):
    """A camera writes the next part to the same file between the inspection and the overlay."""
    for name in ("a.png", "b.png"):
        shutil.copy(category / "test/scratch/000.png", tmp_path / name)
    overlay = Result.overlay

    def late(result, colours="orange"):
        if result.path.endswith("a.png"):
            cv2.imwrite(result.path, np.full((*result.image_size, 3), 77, np.uint8))
        return overlay(result, colours)

    monkeypatch.setattr(Result, "overlay", late)
    done = run("predict", fitted, tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "out", code=3)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["NG", "NG"]
    assert "a.png: is another picture now than the one that was inspected" in done.stderr
    report = (tmp_path / "out/report.html").read_text("utf-8")
    assert report.count('data-verdict="ng"') == 2
    rows, why = report.split("<h2>Why</h2>")
    assert rows.count("<img ") == 2
    assert "b.png" in why
    assert "a.png" not in why
    assert "Could not be read: 1" in report
    assert not (tmp_path / "out/a.png.overlay.png").exists()
    assert (tmp_path / "out/b.png.overlay.png").exists()
