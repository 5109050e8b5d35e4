"""The training images, one pass: read, embedded, and handed to the stream that thins their patches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchbank.bank import MemoryBank
from patchbank.config import Config
from patchbank.errors import DatasetError, ImageError
from patchbank.images import Array, ImageSource, name_of, read_image, thumbnail
from patchbank.progress import Progress
from patchbank.streaming import CalibrationPatches, PatchStream

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Training:
    """What `fit` makes of the training images: the bank, the patches to calibrate with, thumbnails, and what was left
    out."""

    bank: MemoryBank
    calibration: list[CalibrationPatches]
    thumbnails: dict[int, bytes]
    skipped: tuple[Skipped, ...]


def collect(
    images: Iterable[ImageSource],
    embed: Callable[[Array], FloatArray],
    config: Config,
    *,
    budget: int,
    skip_unreadable: bool,
    progress: Progress,
) -> Training:
    """Reads, embeds and thins all images in one pass; `embed` turns (H, W, 3) RGB into (h, w, D). budget: bytes.

    Raises ImageError for the first unusable image, unless `skip_unreadable`; DatasetError if there are too few usable
    ones.
    """
    total = len(images) if isinstance(images, Sized) else 0
    stream = PatchStream(config, budget, total, held_out_images(total, config), progress)
    names: list[str] = []
    thumbnails: dict[int, bytes] = {}
    skipped: list[Skipped] = []
    for number, source in enumerate(images):
        progress("embed", number, total)
        try:
            image = read_image(source)
        except ImageError as error:
            if not skip_unreadable:
                raise
            skipped.append(Skipped(name_of(source, number), str(error)))
            continue
        chunks = stream.chunks
        stream.add(embed(image))
        if config.thumbnail_size:
            thumbnails[len(names)] = thumbnail(image, config.thumbnail_size)
        names.append(name_of(source, number))
        if stream.chunks > chunks:  # memory: a picture for each image that the bank may still need, no others
            thumbnails = {image: thumbnails[image] for image in stream.images_in_use() if image in thumbnails}
    progress("embed", total, total)
    _check_count(len(names), skipped, config)
    bank, calibration = stream.finish(relative_names(names))
    used = set(bank.image.tolist())
    return Training(bank, calibration, {n: data for n, data in thumbnails.items() if n in used}, tuple(skipped))


def held_out_images(total: int, config: Config) -> Callable[[int], bool]:
    """Which images, by number, are set aside for calibration: an exact share of `total`, or by chance where it is
    unknown."""
    if config.calibration != "holdout":
        return lambda _: False
    rng = np.random.default_rng(config.seed)
    if total > 1:
        count = min(max(1, round(config.holdout_fraction * total)), total - 1)
        chosen = frozenset(rng.choice(total, count, replace=False).tolist())
        return lambda image: image in chosen
    return lambda image: image > 0 and bool(rng.random() < config.holdout_fraction)


def _check_count(usable: int, skipped: list[Skipped], config: Config) -> None:
    if usable == 0:
        reasons = f"; all {len(skipped)} were unusable, the first because: {skipped[0].reason}" if skipped else ""
        raise DatasetError(f"expected at least one image of a good part; got none{reasons}")
    if usable < 2 and config.calibration != "none":
        raise DatasetError(
            f"calibration = {config.calibration!r} expects at least 2 images; got {usable} "
            "(add images, or use calibration = 'none')"
        )


def relative_names(names: list[str]) -> tuple[str, ...]:
    """Paths without the folder that all of them share: what remains says which image, and nothing about the machine."""
    paths = [name for name in names if not name.startswith("image ")]
    if len(paths) != len(names):
        return tuple(names)
    absolute = [Path(name).absolute() for name in paths]
    shared = os.path.commonpath([path.parent for path in absolute])
    return tuple(path.relative_to(shared).as_posix() for path in absolute)
