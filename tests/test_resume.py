"""Interrupted fits: one that is resumed ends as if it had never been interrupted, to the byte; what has changed since
is noticed; and no state, however damaged, does more than be refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from parts import Counting
from patchbank import Config, PatchCore, Runtime
from patchbank.bank import coreset
from patchbank.errors import ConfigError, OutputError
from patchbank.fit import buffer, checkpoint
from patchbank.fit import fit as training
from patchbank.fit.self_test import IMAGES  # which a fit runs through the network once more

SMALL = Config(image_size=64, coreset_size=40, thumbnail_size=16)
LARGE = dataclasses.replace(SMALL, image_size=128)  # in 1 MB: 12 images fill the buffer, so that it is reduced twice


def said(caplog: Any) -> list[str]:
    """What is said of the resumed fit; without the remarks on its model."""
    return [record.getMessage() for record in caplog.records if not hasattr(record, "remark")]


@pytest.fixture
def paths(tmp_path, rng):
    folder = tmp_path / "good"
    folder.mkdir()
    for number in range(30):
        cv2.imwrite(str(folder / f"{number:02d}.png"), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (folder / "05.png").write_bytes(b"broken")
    return sorted(folder.iterdir())


def fit(paths, config, checkpoint, backbone, memory="auto"):
    runtime = Runtime(memory=memory)
    return PatchCore.fit(paths, config, runtime=runtime, backbone=backbone, skip_unreadable=True, checkpoint=checkpoint)


def interrupted(paths, part, config=SMALL, memory="auto", after=9):
    with pytest.raises(KeyboardInterrupt):
        fit(paths, config, part, Counting(after), memory)
    assert part.exists()


def saved(model, path):
    model.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("memory", ["auto", "1MB"])
@pytest.mark.parametrize("options", [{}, {"sampler": "random"}, {"calibration": "holdout"}])
@pytest.mark.parametrize("stop", [[0], [3], [17], [5, 9]])
def test_resumed_equals_uninterrupted(paths, tmp_path, memory, options, stop):
    config = dataclasses.replace(SMALL if memory == "auto" else LARGE, **options)
    fit(paths, config, None, Counting(), memory).save(tmp_path / "whole")
    part, done = tmp_path / "m.partial", 0
    for after in stop:
        network = Counting(after)
        with pytest.raises(KeyboardInterrupt):
            fit(paths, config, part, network, memory)
        assert part.exists()
        done += network.seen
    network = Counting()
    model = fit(paths, config, part, network, memory)
    # Nothing is seen twice but the two images ahead of an interrupted one, and the broken file is remembered.
    assert 29 - done <= network.seen - IMAGES <= 29 - done + 2 * len(stop)
    assert [s.name for s in model.skipped] == [str(paths[5])]
    assert not part.exists()
    model.save(tmp_path / "resumed")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def raising(real, *, call, before):
    """The function, whose call number `call` is interrupted: before it does anything, or when all is done."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if before and calls == call:
            raise KeyboardInterrupt
        result = real(*args, **kwargs)
        if calls == call:
            raise KeyboardInterrupt
        return result

    return wrapped


MOMENTS = {
    "between images": (training, "name_of", 12, True),
    "half-way in": (training.PatchStream, "add", 12, False),
    "learned, and not yet counted": (training._Run, "add", 12, False),
    "while a chunk's first image is put away": (buffer.PatchBuffer, "append", 14, False),
    "before a reduction": (training.PatchStream, "_reduce", 2, True),
    "in a reduction": (buffer.PatchBuffer, "keep", 2, False),
    "before a reduction has dropped anything": (buffer.PatchBuffer, "keep", 4, True),  # the last, of random ones
    "in a selection of the net": (coreset, "greedy_kcenter", 2, True),
    "after a reduction": (training.PatchStream, "_reduce", 2, False),
    "before the state is written": (checkpoint.Checkpoint, "save", 1, True),
    "while the state is written": (checkpoint, "_bytes_of", 6, False),
    "after the state was written": (checkpoint.Checkpoint, "save", 1, False),
    "while the bank is sampled": (coreset, "sample", 1, True),
    "in the calibration": (training, "calibrate", 1, True),
    "at the end": (checkpoint.Checkpoint, "remove", 1, True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_fit_interrupted_at_any_moment_ends_as_the_uninterrupted_one(paths, tmp_path, monkeypatch, caplog, moment):
    """The image that was being learned is learned once, not twice and not half; and no state was stored in between,
    which would have to be refused."""
    for options in ({}, {"sampler": "random"}, {"drop_outliers": True}):
        config = dataclasses.replace(LARGE, **options)
        owner, name, call, before = MOMENTS[moment]
        if options and name in ("greedy_kcenter", "sample"):
            continue  # where nothing is selected
        whole = saved(fit(paths, config, None, Counting(), "1MB"), tmp_path / "whole")
        part = tmp_path / "m.partial"
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, raising(getattr(owner, name), call=call, before=before))
            with pytest.raises(KeyboardInterrupt):
                fit(paths, config, part, Counting(), "1MB")
        assert saved(fit(paths, config, part, Counting(), "1MB"), tmp_path / "again") == whole
        assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "good", "whole"]
        assert said(caplog) == []


@pytest.mark.parametrize("moment", ["between images", "while the bank is sampled"])
def test_ctrl_c_loses_no_image_that_was_embedded(paths, tmp_path, monkeypatch, moment):
    owner, name, call, before = MOMENTS[moment]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, raising(getattr(owner, name), call=call, before=before))
        interrupted(paths, tmp_path / "m.partial", after=10**9)
    network = Counting()
    fit(paths, SMALL, tmp_path / "m.partial", network)
    assert network.seen - IMAGES == (0 if name == "sample" else 30 - (call - 1))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_fit_killed_while_its_state_is_written_starts_anew_and_leaves_nothing(paths, tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from patchbank import Config, PatchCore, Runtime; from patchbank.backbones.fake import FakeBackbone\n"
        "from patchbank.fit import checkpoint\n"
        "def killed(array): os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint._bytes_of = killed\n"
        "PatchCore.fit([Path(p) for p in sys.argv[2:]], Config(image_size=128, coreset_size=40, thumbnail_size=16),\n"
        "    runtime=Runtime(memory='1MB'), backbone=FakeBackbone(), skip_unreadable=True, checkpoint=sys.argv[1])\n"
    )
    part = tmp_path / "m.partial"
    killed = subprocess.run([sys.executable, "-c", script, part, *paths], check=False, timeout=120)
    assert killed.returncode == -9
    assert [p.name for p in tmp_path.iterdir() if p.name != "good"] == [".m.partial.0000.part"]
    whole = saved(fit(paths, LARGE, None, Counting(), "1MB"), tmp_path / "whole")
    assert saved(fit(paths, LARGE, part, Counting(), "1MB"), tmp_path / "again") == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "good", "whole"]


def test_resuming_and_starting_anew_are_announced(paths, tmp_path, caplog):
    part = tmp_path / "m.partial"
    interrupted(paths, part)
    caplog.set_level(logging.INFO, "patchbank")
    fit(paths, SMALL, part, Counting())
    assert len(said(caplog)) == 1
    assert said(caplog)[0].startswith("resumed at image ")
    assert " of 30" in said(caplog)[0]
    interrupted(paths, part)
    caplog.clear()
    fit(paths, dataclasses.replace(SMALL, seed=7), part, Counting())
    assert [each.levelname for each in caplog.records if not hasattr(each, "remark")] == ["WARNING"]
    assert "other images, options, network, mask, memory or versions" in said(caplog)[0]


def test_another_fit_s_state_is_not_used(paths, tmp_path, monkeypatch):
    part = tmp_path / "m.partial"
    for change in ("config", "images", "size", "memory", "network", "version"):
        with pytest.raises(KeyboardInterrupt):
            fit(paths, SMALL, part, Counting(9))
        network, config, images, memory = Counting(), SMALL, paths, "auto"
        if change == "config":
            config = dataclasses.replace(SMALL, seed=7)
        elif change == "images":
            images = paths[:-1]
        elif change == "size":
            paths[5].write_bytes(b"still broken")
        elif change == "network":
            network._kernels[0] = network._kernels[0] * 2
        elif change == "version":
            monkeypatch.setattr(cv2, "__version__", "0")
        else:
            memory = "50MB"
        fit(images, config, part, network, memory)
        assert network.seen - IMAGES == len(images) - 1, change


def test_an_image_that_was_taken_again_is_noticed(tmp_path, rng, caplog):
    """A BMP's size says nothing about its picture, and file times say little about anything."""
    paths = [tmp_path / f"{number:02d}.bmp" for number in range(20)]

    def shoot(number):
        cv2.imwrite(str(paths[number]), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))

    for number in range(20):
        shoot(number)
    part = tmp_path / "m.partial"
    interrupted(paths, part)
    about = paths[2].stat()
    shoot(2)
    os.utime(paths[2], ns=(about.st_atime_ns, about.st_mtime_ns))
    assert paths[2].stat().st_size == about.st_size
    network = Counting()
    model = fit(paths, SMALL, part, network)
    assert network.seen - IMAGES == 20
    assert "02.bmp has changed since" in caplog.text
    np.testing.assert_array_equal(model.bank.vectors, fit(paths, SMALL, None, Counting()).bank.vectors)

    interrupted(paths, part)
    shoot(19)  # which had not been learned: it is learned as it is now
    network = Counting()
    model = fit(paths, SMALL, part, network)
    assert network.seen - IMAGES < 20
    np.testing.assert_array_equal(model.bank.vectors, fit(paths, SMALL, None, Counting()).bank.vectors)


def test_a_mask_that_was_drawn_again_is_noticed(paths, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    cv2.imwrite(str(tmp_path / "mask.bmp"), mask)
    config = dataclasses.replace(SMALL, include=str(tmp_path / "mask.bmp"))
    interrupted(paths, tmp_path / "m.partial", config)
    cv2.imwrite(str(tmp_path / "mask.bmp"), 255 - mask)
    model = fit(paths, config, tmp_path / "m.partial", Counting())
    assert model.bank.row.min() >= 4


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + bytes(100), checkpoint._MAGIC + b"\xff" * 40])
def test_a_damaged_state_means_starting_again(paths, tmp_path, content):
    (tmp_path / "m.partial").write_bytes(content)
    network = Counting()
    fit(paths, SMALL, tmp_path / "m.partial", network)
    assert network.seen - IMAGES == 29


@pytest.fixture
def known(paths, tmp_path):
    """A state's bytes, and a function: what Checkpoint.load makes of others."""
    part = tmp_path / "m.partial"
    interrupted(paths, part, LARGE, memory="1MB", after=26)
    fingerprint = json.loads(part.read_bytes()[len(checkpoint._MAGIC) + 8 :].split(b"]}")[0] + b"]}")["fingerprint"]

    def load(data: bytes):
        part.write_bytes(data)
        return checkpoint.Checkpoint(part, fingerprint, paths, 10**6).load(lambda *_: None)

    return part.read_bytes(), load


def test_every_bit_of_a_state_is_checked(known, rng):
    data, load = known
    assert load(data)
    start = len(checkpoint._MAGIC) + 8
    places = [*range(0, start + 40, 3), *rng.integers(start, len(data), 60).tolist(), len(data) - 1]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        assert load(bytes(damaged)) is None, place
    for size in (0, 1, start, start + 5, len(data) // 2, len(data) - 1):
        assert load(data[:size]) is None
    assert load(data + b"x") is None


def forged(data, change):
    """The state with another header, and the checksum that belongs to it."""
    start = len(checkpoint._MAGIC) + 8
    (length,) = struct.unpack("<Q", data[start - 8 : start])
    header = json.loads(data[start : start + length])
    change(header)
    text = json.dumps(header).encode()
    body = checkpoint._MAGIC + struct.pack("<Q", len(text)) + text + data[start + length : -32]
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "array",
    [["a", "<f4", [1 << 47, 0]], ["a", "|O", [1]], ["a", "<f4", [-1]], ["a", "<f4", [1 << 40]], ["a", [], 3], 7],
)
def test_a_header_is_not_believed(known, array):
    data, load = known
    assert load(forged(data, lambda header: None))
    assert load(forged(data, lambda header: header["arrays"].append(array))) is None
    assert load(forged(data, lambda header: header.update(arrays=[array]))) is None


def test_a_state_beyond_every_size_is_not_read(paths, tmp_path, caplog):
    interrupted(paths, tmp_path / "m.partial")
    with (tmp_path / "m.partial").open("r+b") as file:
        file.truncate(1 << 33)  # sparse
    network = Counting()
    fit(paths, SMALL, tmp_path / "m.partial", network, "1MB")
    assert network.seen - IMAGES == 29
    assert "larger than a state can be" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", 10**6), ("image", -1), ("place", 10**6), ("place", -1), ("net", 1e9), ("net", float("nan")),
        ("stream", -1), ("stream", 2**62), ("grids", 0), ("pool", 2**40), ("pool", -3), ("rng", 0), ("run", 0),
        ("blob_sizes", -5), ("looks", float("nan")), ("sampled", 10**6),
    ],
)  # fmt: skip
def test_a_whole_state_that_makes_no_sense_is_refused_or_harmless(paths, tmp_path, name, value):
    """It has the right checksum: nothing but a model, or an error of ours, may come of it."""
    part = tmp_path / "m.partial"
    interrupted(paths, part, LARGE, memory="1MB", after=26)
    fingerprint = json.loads(part.read_bytes()[len(checkpoint._MAGIC) + 8 :].split(b"]}")[0] + b"]}")["fingerprint"]
    state = checkpoint._read(part, fingerprint, 10**9)
    state[name] = np.full_like(state[name], value)
    with part.open("wb") as file:
        checkpoint._write(file, fingerprint, state)
    network = Counting()
    model = fit(paths, LARGE, part, network, "1MB")
    assert len(model.bank) == 40
    if name != "blob_sizes":
        assert network.seen - IMAGES == 29


def test_what_is_no_file_is_no_state(paths, tmp_path, caplog):
    (tmp_path / "folder").mkdir()
    for part in (tmp_path / "folder", tmp_path / "none" / "m.partial"):
        network = Counting()
        fit(paths, SMALL, part, network)
        assert network.seen - IMAGES == 29
    assert (tmp_path / "folder").is_dir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        fit(paths, SMALL, tmp_path / "pipe", Counting())


def test_a_full_disk_does_not_end_the_fit(paths, tmp_path, monkeypatch, caplog):
    """One warning, however often the state could not be kept; the same model."""
    whole = saved(fit(paths, LARGE, None, Counting(), "1MB"), tmp_path / "whole")
    tries = []

    def full(path):
        tries.append(path)
        raise OutputError("cannot write m.partial: No space left on device")

    monkeypatch.setattr(checkpoint, "atomic_write", full)
    model = fit(paths, LARGE, tmp_path / "m.partial", Counting(), "1MB")
    assert len(tries) == 1
    assert [each.levelname for each in caplog.records if not hasattr(each, "remark")] == ["WARNING"]
    assert "No space left" in caplog.text
    assert saved(model, tmp_path / "again") == whole
    with pytest.raises(KeyboardInterrupt):  # which is not hidden by another error
        fit(paths, LARGE, tmp_path / "m.partial", Counting(9), "1MB")


def test_needs_paths(rng):
    for images in ([rng.random((64, 64))], iter([Path("a.png")])):
        with pytest.raises(ConfigError, match="list of paths"):
            fit(images, SMALL, "x.partial", Counting())
