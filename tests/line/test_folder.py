"""A folder as a camera: whole files only, each once, whatever ends the line, and names that results are found by."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.line.conftest import folder_line, write

from parts import striped
from patchbank import CameraError, PatchCore
from patchbank.line.cameras.folder import FolderCamera
from patchbank.line.journal_reader import JournalReader
from patchbank.line.runner import Runner


def records(root: Path) -> list:
    reader = JournalReader(root / "data")
    try:
        return list(reader.records())
    finally:
        reader.close()


def run_once(config) -> None:
    runner = Runner(config, once=True)
    try:
        runner.open()
        runner.start()
        assert runner.wait(threading.Event(), 60)
    finally:
        runner.stop()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_what_is_there_is_answered_as_predict_does_and_moves(tmp_path, model_file, pictures):
    rng = np.random.default_rng(3)
    for number, each in enumerate([*pictures, striped(rng, defect=True)]):
        write(tmp_path / "inbox" / f"part {number}.png", each)
    (tmp_path / "inbox" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "inbox" / "notes.txt").write_text("no image")
    run_once(folder_line(tmp_path, model_file))
    found = {each.source: each for each in records(tmp_path)}
    assert sorted(found) == ["broken.png", *(f"part {number}.png" for number in range(5))]
    model = PatchCore.load(model_file)
    for number in range(5):
        kept = found[f"part {number}.png"]
        result = model.predict(tmp_path / "inbox/done" / kept.source)
        assert (kept.score, kept.verdict) == (result.score, str(result.verdict))
        assert (kept.part_id, kept.model_sha256) == (f"part {number}", model.made_by.sha256)
    assert found["part 4.png"].verdict == "ng"
    assert (found["broken.png"].verdict, found["broken.png"].code) == ("error", "bad_frame")
    assert names(tmp_path / "inbox/bad") == ["broken.png"]
    assert names(tmp_path / "inbox") == ["notes.txt"]


def test_a_second_start_inspects_nothing_twice(tmp_path, model_file, pictures):
    """Killed between the record and the move: the file moves on, without a second record."""
    path = write(tmp_path / "inbox" / "a.png", pictures[0])
    config = folder_line(tmp_path, model_file)
    runner = Runner(config, once=True)
    runner.stations[0].grabber.done = lambda *_: None  # killed before it could move
    runner.open()
    runner.start()
    end = time.monotonic() + 60
    while not runner.journal.last_number() and time.monotonic() < end:
        time.sleep(0.01)
    runner.stop()
    assert path.is_file()
    run_once(config)
    assert len(records(tmp_path)) == 1
    assert names(tmp_path / "inbox/done") == ["a.png"]


def test_names_that_come_again_are_new_parts_and_nothing_is_overwritten(tmp_path, model_file, pictures):
    config = folder_line(tmp_path, model_file)
    for each in pictures[:2]:
        write(tmp_path / "inbox" / "a.png", each)
        run_once(config)
    assert len(records(tmp_path)) == 2
    assert names(tmp_path / "inbox/done") == ["a-2.png", "a.png"]


@pytest.fixture
def camera(tmp_path):
    (tmp_path / "inbox").mkdir()
    made = FolderCamera(str(tmp_path / "inbox"), settle_ms=200)
    made.open()
    yield made
    made.close()


def test_a_file_that_is_being_written_is_not_taken(camera):
    """Its writer pauses for longer than settle_ms; where the system tells who writes, it is waited for."""
    data = cv2.imencode(".png", np.zeros((40, 40), np.uint8))[1].tobytes()
    with (camera.folder / "a.png").open("wb") as file:
        for part in (data[:20], data[20:30]):
            file.write(part)
            file.flush()
            assert camera.grab(0.15) is None
        if os.uname().sysname == "Linux":
            assert camera.grab(0.5) is None
        file.write(data[30:])
    frame = camera.grab(10)
    assert frame.content == data


def test_a_file_that_grows_in_pieces_is_taken_when_it_stands_still(camera):
    path = camera.folder / "a.png"
    for length in range(1, 5):
        path.write_bytes(b"x" * length)
        assert camera.grab(0.1) is None
    assert camera.grab(10).content == b"xxxx"


def test_a_file_that_is_renamed_in_is_taken_at_once_and_the_oldest_first(tmp_path):
    (tmp_path / "inbox").mkdir()
    camera = FolderCamera(str(tmp_path / "inbox"), settle_ms=60_000)
    camera.open()
    for number, name in enumerate(("b.png", "a.png")):
        (tmp_path / name).write_bytes(name.encode())
        os.utime(tmp_path / name, (time.time() + number, time.time() + number))
        (tmp_path / name).rename(camera.folder / name)
    assert [camera.grab(10).source for _ in range(2)] == ["b.png", "a.png"]
    assert camera.grab(0.1) is None
    camera.close()


def test_what_is_no_file_is_left_alone(camera, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    (camera.folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(camera.folder / "pipe.png")
    (camera.folder / "folder.png").mkdir()
    (camera.folder / ".hidden.png").write_bytes(b"x")
    assert camera.grab(0.6) is None


def test_the_end_does_not_wait_for_ever_for_a_writer(camera, monkeypatch):
    monkeypatch.setattr("patchbank.line.cameras.folder._PATIENCE", 0.1)
    camera._settle = 0.05
    with (camera.folder / "a.png").open("wb") as file:
        file.write(b"x")
        file.flush()
        assert not camera.is_empty
        end = time.monotonic() + 20
        while not camera.is_empty and time.monotonic() < end:
            assert camera.grab(0.05) is None
    assert camera.is_empty


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(CameraError, match="expected a folder"):
        FolderCamera(str(tmp_path / "none")).open()


def test_a_file_stays_when_its_record_cannot_be_kept(tmp_path, model_file, pictures, monkeypatch):
    path = write(tmp_path / "inbox" / "a.png", pictures[0])
    monkeypatch.setattr("patchbank.line.journal.MOST_WAITING", 0)
    runner = Runner(folder_line(tmp_path, model_file))
    with runner:
        end = time.monotonic() + 20
        while not runner.journal.lost and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        assert runner.journal.lost == 1, "it is inspected once"
    assert path.is_file()
