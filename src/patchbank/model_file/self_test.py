"""The self-test's images in the model file: their pictures, and the scores that they had."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchbank.config import Config
from patchbank.errors import ImageError
from patchbank.fitted.self_test import SelfTestImage, fits
from patchbank.fitted.versions import VersionHistory, images_of
from patchbank.imaging import lossless
from patchbank.imaging.formats import HEAD, format_of
from patchbank.model_file import archive

_DISTANCES = "self_test.safetensors"


def put_self_test(images: tuple[SelfTestImage, ...], manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
    """Adds the images to what will be written."""
    manifest["self_test"] = [{"image": each.image, "score": each.score, "length": each.length} for each in images]
    if images:
        entries[_DISTANCES] = archive.tensor_bytes({_tensor(each.image): each.distances for each in images})
    for each in images:
        entries[_picture(each.image, format_of(each.picture[:HEAD]) == "PNG")] = each.picture


def get_self_test(file: archive.ModelFile, config: Config, history: VersionHistory) -> tuple[SelfTestImage, ...]:
    """The images that the file holds; none in files of older patchbanks. Raises ValueError or ImageError for what
    cannot be; the manifest has passed `schema.check`."""
    about: list[dict[str, Any]] = file.manifest.get("self_test") or []
    numbers = [each["image"] for each in about]
    if len(set(numbers)) < len(numbers) or not set(numbers) <= images_of(history.versions)[-1]:
        raise ValueError("self_test: expected training images of the present version, each once")
    there = {name for name in file.names() if name.startswith("self_test")}
    entries = {number: _entry(there, number) for number in numbers}
    if there != {*entries.values(), *([_DISTANCES] if about else [])}:
        raise ValueError("self_test: expected one picture of each image, and their distances")
    tensors = file.tensors(_DISTANCES, {_tensor(number): ("F32", 2) for number in numbers}) if about else {}
    images = []
    for number, each in zip(numbers, about, strict=True):
        picture, distances = bytes(file.entry(entries[number])), tensors[_tensor(number)]
        if not fits(config, _size(picture, config.groups)):
            raise ValueError(f"self_test: the picture of image {number} is larger than images that are inspected")
        if distances.size == 0 or not (np.isfinite(distances).all() and distances.min() >= 0):
            raise ValueError("self_test: expected finite distances of at least 0")
        images.append(SelfTestImage(number, picture, float(each["score"]), float(each["length"]), distances))
    return tuple(images)


def _size(picture: bytes, groups: int) -> tuple[int, int]:
    try:
        return lossless.check(picture, groups)
    except ImageError as error:
        raise ValueError(f"self_test: {error}") from error


def _entry(there: set[str], number: int) -> str:
    names = [name for name in (_picture(number, True), _picture(number, False)) if name in there]
    if len(names) != 1:
        raise ValueError(f"self_test: expected one picture of image {number}; got {len(names)}")
    return names[0]


def _picture(number: int, png: bool) -> str:
    return f"self_test/{number:06d}.{'png' if png else 'npy'}"


def _tensor(number: int) -> str:
    return f"distances.{number:06d}"
