"""Interrupted fits: one that is resumed ends as if it had never been interrupted, to the byte."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from parts import Counting
from patchbank import Config, PatchCore, Runtime
from patchbank.errors import ConfigError

SMALL = Config(image_size=64, coreset_size=40, thumbnail_size=16)


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


@pytest.mark.parametrize("memory", ["auto", "1MB"])
@pytest.mark.parametrize("options", [{}, {"sampler": "random"}, {"calibration": "holdout"}])
@pytest.mark.parametrize("stop", [[0], [3], [17], [5, 9]])
def test_resumed_equals_uninterrupted(paths, tmp_path, memory, options, stop):
    config = dataclasses.replace(SMALL, **options)
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
    assert 29 - done <= network.seen <= 29 - done + 2 * len(stop)
    assert [s.name for s in model.skipped] == [str(paths[5])]
    assert not part.exists()
    model.save(tmp_path / "resumed")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_another_fit_s_state_is_not_used(paths, tmp_path):
    part = tmp_path / "m.partial"
    for change in ("config", "images", "size", "memory"):
        with pytest.raises(KeyboardInterrupt):
            fit(paths, SMALL, part, Counting(9))
        network, config, images, memory = Counting(), SMALL, paths, "auto"
        if change == "config":
            config = dataclasses.replace(SMALL, seed=7)
        elif change == "images":
            images = paths[:-1]
        elif change == "size":
            paths[5].write_bytes(b"still broken")
        else:
            memory = "50MB"
        fit(images, config, part, network, memory)
        assert network.seen == len(images) - 1, change


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_state_means_starting_again(paths, tmp_path, content):
    (tmp_path / "m.partial").write_bytes(content)
    network = Counting()
    fit(paths, SMALL, tmp_path / "m.partial", network)
    assert network.seen == 29


def test_needs_paths(rng):
    with pytest.raises(ConfigError, match="list of paths"):
        fit([rng.random((64, 64))], SMALL, "x.partial", Counting())
