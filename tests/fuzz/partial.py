"""`.partial` files: the state of an interrupted fit. A damaged one is left out; the fit's model stays the same."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from tests.fuzz import hostile
from tests.fuzz.model_files import images
from tests.parts import Counting

from patchbank import Config, PatchCore

_OPTIONS = {"image_size": 64, "coreset_size": 40, "calibration": "none", "thumbnail_size": 16}


class Target:
    """Changed states, which a fit finds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.paths = folder, []
        for number, image in enumerate(images(3, 6)):
            self.paths.append(folder / f"{number}.png")
            cv2.imwrite(str(self.paths[-1]), image)
        self.state = folder / "case.partial"
        with suppress(KeyboardInterrupt):
            PatchCore.fit(self.paths, Config(**_OPTIONS), backbone=Counting(4), checkpoint=self.state)
        self.base = self.state.read_bytes() if self.state.exists() else b""
        self.expected = PatchCore.fit(self.paths, Config(**_OPTIONS), backbone=Counting()).bank.vectors

    def case(self, rng: np.random.Generator) -> Path:
        data = self.base
        if data and rng.integers(2):
            data = _changed(data, rng)
        self.state.write_bytes(hostile.bytes_changed(data, rng) if rng.integers(2) else data)
        return self.state

    def run(self, path: Path) -> None:
        model = PatchCore.fit(self.paths, Config(**_OPTIONS), backbone=Counting(), checkpoint=path)
        assert len(model.bank) == len(self.expected)


def _changed(data: bytes, rng: np.random.Generator) -> bytes:
    """One array of the state with other bytes in its header; the zip around it is sound."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        arrays = {name: file.read(name) for name in file.namelist()}
    name = sorted(arrays)[rng.integers(len(arrays))]
    head = arrays[name][:128]
    arrays[name] = hostile.bytes_changed(head, rng) + arrays[name][128:]
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as file:
        for each, array in arrays.items():
            file.writestr(each, array)
    return found.getvalue()
