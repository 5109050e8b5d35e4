"""What an ONNX file says of itself that its graph does not: `patchbank.*` in its metadata.

`docs/operate/backbones.md` has the keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patchbank.backbones.base import LARGEST_SIDE_MULTIPLE, LARGEST_STATISTIC, SMALLEST_STD
from patchbank.backbones.zoo import IMAGENET_MEAN, IMAGENET_STD, Triple
from patchbank.errors import BackboneError

PREFIX = "patchbank."
_LONGEST_LICENCE = 10_000  # characters


@dataclass(frozen=True)
class Stated:
    """Holds the metadata, checked. None: the file does not say it.

    `mean` and `std` are RGB on the 0..255 scale, ImageNet's where nothing is said; `layers` are used by default;
    `prefix_tokens` are no patches of the image; `normalise`: vectors are scaled to length 1.
    """

    mean: Triple
    std: Triple
    layers: tuple[str, ...]
    licence: str
    embedding: str | None
    patch_size: int | None
    side_multiple: int | None
    prefix_tokens: int | None
    normalise: bool | None


def read(model: Any) -> Stated:
    """The metadata of an ONNX model. Raises BackboneError for values that cannot be."""
    properties = {p.key: p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
    said = {key.removeprefix(PREFIX): value for key, value in properties.items()}
    std = _triple("std", said["std"]) if "std" in said else IMAGENET_STD
    if min(std) < SMALLEST_STD:
        raise BackboneError(f"metadata patchbank.std: expected three positive numbers, got {said['std']!r}")
    normalise = _one_of(said, "normalise", "l2", "none")
    return Stated(
        mean=_triple("mean", said["mean"]) if "mean" in said else IMAGENET_MEAN,
        std=std,
        layers=tuple(name.strip() for name in said.get("layers", "").split(",") if name.strip()),
        licence=said.get("licence", "unknown")[:_LONGEST_LICENCE],
        embedding=_one_of(said, "embedding", "mean", "reference"),
        patch_size=_whole(said, "patch_size", 1, 15),
        side_multiple=_whole(said, "side_multiple", 1, LARGEST_SIDE_MULTIPLE),
        prefix_tokens=_whole(said, "prefix_tokens", 0, 10_000),
        normalise=None if normalise is None else normalise == "l2",
    )


def _one_of(said: Mapping[str, str], key: str, *words: str) -> str | None:
    if key in said and said[key] not in words:
        raise BackboneError(f"metadata patchbank.{key}: expected {' or '.join(words)}, got {said[key]!r}")
    return said.get(key)


def _whole(said: Mapping[str, str], key: str, low: int, high: int) -> int | None:
    if key not in said:
        return None
    text = said[key].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise BackboneError(f"metadata patchbank.{key}: expected a whole number from {low} to {high}, got {text!r:.80}")
    return int(text)


def _triple(key: str, text: str) -> Triple:
    try:
        r, g, b = (float(part) for part in text.split(","))
    except ValueError:
        r = g = b = math.nan
    if not all(abs(value) <= LARGEST_STATISTIC for value in (r, g, b)):  # False for NaN
        raise BackboneError(f"metadata patchbank.{key}: expected three comma-separated numbers, got {text!r}")
    return r, g, b
