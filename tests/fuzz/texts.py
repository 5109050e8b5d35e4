"""Texts that users write: configurations in TOML, data sets in CSV, predictions in JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tests.fuzz import hostile

from patchbank import Config
from patchbank.config import options
from patchbank.errors import PatchbankError
from patchbank.evaluation.datasets import read_dataset
from patchbank.monitoring.results_file import read_results


def _text(rng: np.random.Generator) -> str:
    return [*hostile.TEXTS, *map(str, hostile.NUMBERS), "a" * 200_000][rng.integers(len(hostile.TEXTS) + 5)]


def _encoded(text: str, rng: np.random.Generator) -> bytes:
    kinds: tuple[Callable[[str], bytes], ...] = (
        lambda t: t.encode("utf-8", "surrogatepass"),
        lambda t: b"\xef\xbb\xbf" + t.encode("utf-8", "replace"),
        lambda t: t.encode("utf-16", "replace"),
        lambda t: t.encode("latin-1", "replace"),
    )
    return kinds[rng.integers(4) if rng.integers(4) == 0 else 0](text)


class Toml:
    """Every option with every value."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, [option.name for option in options(Config)]

    def case(self, rng: np.random.Generator) -> Path:
        lines = []
        for _ in range(int(rng.integers(1, 6))):
            name = self.names[rng.integers(len(self.names))] if rng.integers(9) else hostile.name(rng)
            lines.append(f"{name} = {_toml(hostile.value(rng, 5))}")
        path, data = self.folder / "case.toml", _encoded("\n".join(lines), rng)
        path.write_bytes(hostile.bytes_changed(data, rng) if rng.integers(4) == 0 else data)
        return path

    def run(self, path: Path) -> None:
        config = Config.from_toml(path)
        assert Config.from_dict(config.to_dict()) == config


def _toml(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "[" * 5000
    for word, raw in {**hostile.RAW, "<inf>": "inf", "<-inf>": "-inf", "<NaN>": "nan"}.items():
        text = text.replace(json.dumps(word), raw)
    return text


class Csv:
    """Data sets, with columns that are damaged in every way; and the lines of predictions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cv2.imwrite(str(folder / "a.png"), np.zeros((9, 9, 3), np.uint8))

    def case(self, rng: np.random.Generator) -> Path:
        path = self.folder / "case.csv"
        words = [
            "a.png",
            "good",
            "bad",
            "train",
            "test",
            "path",
            "label",
            "split",
            "mask",
            '"',
            ",",
            ";",
            "\r",
            "../a.png",
        ]
        columns = [["path", "label", "split", "mask"], ["path", "path"], ["\ufeffpath", "split"]][rng.integers(3)]
        rows = [columns]
        for _ in range(int(rng.integers(0, 30))):
            row = [words[rng.integers(len(words))] for _ in range(int(rng.integers(0, 6)))]
            rows.append([_text(rng) if rng.integers(9) == 0 else word for word in row])
        data = _encoded("\n".join(",".join(row) for row in rows), rng)
        path.write_bytes(hostile.bytes_changed(data, rng) if rng.integers(3) == 0 else data)
        return path

    def run(self, path: Path) -> None:
        with suppress(PatchbankError):
            read_dataset(path)
        read_results(path.read_text("utf-8", "replace").splitlines(), "case", None)
