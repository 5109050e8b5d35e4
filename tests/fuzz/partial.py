"""`.partial` files: the state of an interrupted fit. A damaged one is left out; the fit's model stays the same."""

from __future__ import annotations

import hashlib
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
        self.base = self.state.read_bytes()
        self.expected = PatchCore.fit(self.paths, Config(**_OPTIONS), backbone=Counting()).bank.vectors

    def case(self, rng: np.random.Generator) -> Path:
        data = self.base
        if rng.integers(2):  # as somebody would who can write the checksum at its end too
            head = int(rng.choice([400, len(data) - 32]))
            data = hostile.bytes_changed(data[:head], rng) + data[head:-32]
            data += hashlib.sha256(data).digest()
        else:
            data = hostile.bytes_changed(data, rng)
        self.state.write_bytes(data)
        return self.state

    def run(self, path: Path) -> None:
        sound = path.read_bytes()[-32:] != hashlib.sha256(path.read_bytes()[:-32]).digest()
        model = PatchCore.fit(self.paths, Config(**_OPTIONS), backbone=Counting(), checkpoint=path)
        if sound:  # the checksum is wrong, so the state was not used
            np.testing.assert_array_equal(model.bank.vectors, self.expected)
