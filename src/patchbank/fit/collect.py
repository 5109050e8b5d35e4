"""The training images, one pass: read, embedded, and handed to the stream that thins their patches."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchbank.bank.memory_bank import MemoryBank, Reserve
from patchbank.config import Config
from patchbank.errors import DatasetError, ImageError, PatchbankError
from patchbank.features.embedding import Patches
from patchbank.fit.checkpoint import Checkpoint, State, pack_blobs, unpack_blobs
from patchbank.fit.stream import PICTURE_SHARE, CalibrationPatches, PatchStream
from patchbank.imaging.images import Array, ImageSource, Skipped, is_path, name_of, read_image, reason_of, thumbnail
from patchbank.scoring.expected_distance import Sample, expected_distance
from patchbank.search.searcher import Searcher
from patchbank.util.parallel import in_order
from patchbank.util.progress import Progress

FloatArray = npt.NDArray[np.float32]
Described = tuple[ImageSource, Patches | ImageError, bytes]  # an image, its patches or why it has none, its thumbnail
Known = list[Described] | None  # what an earlier fit knows of all images


@dataclass(frozen=True, eq=False)
class Training:
    """What `fit` makes of the training images: the bank, its spares, a sample of the patches, the patches to calibrate
    with, thumbnails, and what was left out. known: the usable images as `described` yielded them, in order, for a
    further fit of some of them; None where the memory budget has no room for both."""

    bank: MemoryBank
    spares: Reserve
    sample: Sample | None
    calibration: list[CalibrationPatches]
    thumbnails: dict[int, bytes]
    skipped: tuple[Skipped, ...]
    known: Known


@dataclass(frozen=True, eq=False)
class Job:
    """What a fit does with each image, and within which limits. embed: turns an image into its patches. budget: bytes
    for all that grows with the number of images."""

    config: Config
    embed: Callable[[Array], Patches]
    budget: int
    skip_unreadable: bool
    progress: Progress


def collect(
    images: Iterable[ImageSource], job: Job, checkpoint: Checkpoint | None = None, known: Known = None
) -> Training:
    """Reads, embeds and thins all images in one pass. known: what an earlier fit knows of the same images, which are
    then not read.

    With a checkpoint, goes on where the same fit was interrupted, and saves its state when it is interrupted itself and
    whenever a chunk has been reduced. Raises ImageError for the first unusable image, unless the job skips them;
    DatasetError if there are too few usable ones.
    """
    config, progress = job.config, job.progress
    total = len(images) if isinstance(images, Sized) else 0
    stream = PatchStream(config, job.budget, total, held_out_images(total, config), progress)
    run = _Run(stream, int(PICTURE_SHARE * job.budget))
    if checkpoint and (state := checkpoint.load()):
        run.restore(state)
    try:
        remaining = iter(known[run.done :]) if known else described(islice(images, run.done, None), job.embed, config)
        for number, (source, patches, picture) in enumerate(remaining, start=run.done):
            progress("embed", number, total)
            if isinstance(patches, ImageError):
                if not job.skip_unreadable:
                    raise patches
                run.skipped.append(Skipped(name_of(source, number), str(patches)))
            else:
                if not is_path(source):
                    run.unnamed.add(len(run.names))
                if run.add(patches, name_of(source, number), picture) and checkpoint:
                    checkpoint.save(run.state())
            run.done = number + 1
    except BaseException:
        if checkpoint and run.intact:
            checkpoint.save(run.state())
        raise
    progress("embed", total, total)
    _check_count(len(run.names), run.skipped, config)
    known = run.known(list(images)) if config.drop_outliers else None
    sample = stream.sample()
    bank, spares, calibration = stream.finish(relative_names(run.names, run.unnamed))
    used = {*bank.image.tolist(), *spares.image.tolist()}
    thumbnails = {image: data for image, data in run.thumbnails.items() if image in used}
    return Training(bank, spares, sample, calibration, thumbnails, tuple(run.skipped), known)


def described(sources: Iterable[ImageSource], embed: Callable[[Array], Patches], config: Config) -> Iterator[Described]:
    """Reads and embeds images, two at a time, in order."""

    def describe(source: ImageSource) -> Described:
        try:
            image = read_image(source, config.image_format)
            return source, embed(image), thumbnail(image, config.thumbnail_size)
        except ImageError as error:
            return source, error, b""
        except (PatchbankError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (what one odd image raises must not end a fit of hours)
            unforeseen = ImageError(reason_of(error, os.fspath(source) if is_path(source) else ""))
            unforeseen.__cause__ = error
            return source, unforeseen, b""

    return in_order(describe, sources)


def listed(images: Iterable[ImageSource]) -> Iterable[ImageSource]:
    """The images, which are several: DatasetError for a single one."""
    if isinstance(images, (str, os.PathLike, np.ndarray)):
        kind = type(images).__name__
        raise DatasetError(f"expected a sequence of images; got one {kind} (for a folder: patchbank.find_images)")
    return images


def usable(images: Sequence[ImageSource], skipped: Sequence[Skipped]) -> list[ImageSource]:
    """The images that a fit could use, in the order of its bank's `images`."""
    unreadable = {each.name for each in skipped}
    return [image for number, image in enumerate(images) if name_of(image, number) not in unreadable]


@dataclass(eq=False)
class _Run:
    """How far a fit has come: `done` images of the sequence, usable or not. picture_bytes: what thumbnails may take.
    unnamed: the places in `names` of images that have no path; a fit with a checkpoint has none."""

    stream: PatchStream
    picture_bytes: int
    done: int = 0
    names: list[str] = field(default_factory=list)
    unnamed: set[int] = field(default_factory=set)
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    pictured: int = 0  # bytes of the thumbnails
    intact: bool = True  # False while an image is half-way into the stream

    def add(self, patches: Patches, name: str, picture: bytes) -> bool:
        """Takes an image; True if that has reduced a chunk."""
        chunks, self.intact = self.stream.chunks, False
        self.stream.add(patches)
        if picture and self.pictured + len(picture) <= self.picture_bytes:
            self.thumbnails[len(self.names)] = picture
            self.pictured += len(picture)
        self.names.append(name)
        reduced = self.stream.chunks > chunks
        if reduced:  # memory: a picture for each image that the bank may still need, no others
            self._keep({n: self.thumbnails[n] for n in self.stream.images_in_use() if n in self.thumbnails})
        self.intact = True
        return reduced

    def known(self, images: Sequence[ImageSource]) -> Known:
        """All usable images as they were described; None where the stream cannot hold them twice, or a thumbnail did
        not fit."""
        held = self.stream.held_twice()
        bare = self.stream.config.thumbnail_size and len(self.thumbnails) < len(self.names)
        if held is None or bare:
            return None
        sources = usable(images, self.skipped)
        return [(sources[each.image], each.patches, self.thumbnails.get(each.image, b"")) for each in held]

    def state(self) -> State:
        texts = {"names": self.names, "skipped": [[s.name, s.reason] for s in self.skipped], "done": self.done}
        return {**self.stream.state(), **pack_blobs(self.thumbnails), "run": np.array(json.dumps(texts))}

    def restore(self, state: State) -> None:
        texts = json.loads(str(state["run"]))
        self.names, self.done = texts["names"], texts["done"]
        self.skipped = [Skipped(*pair) for pair in texts["skipped"]]
        self._keep(unpack_blobs(state))
        if self.names:
            self.stream.restore(state)

    def _keep(self, thumbnails: dict[int, bytes]) -> None:
        self.thumbnails, self.pictured = thumbnails, sum(map(len, thumbnails.values()))


def with_expected(bank: MemoryBank, searcher: Searcher, sample: Sample | None, power: float) -> MemoryBank:
    """The bank, whose vectors the searcher holds, with how far normal patches are from it; as it is without a sample of
    them."""
    if sample is None:
        return bank
    return replace(bank, expected=expected_distance(bank.vectors, bank.image, searcher, sample, power))


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


def relative_names(names: Sequence[str], unnamed: Collection[int] = ()) -> tuple[str, ...]:
    """Paths without the folder that all of them share: what remains says which image, and nothing about the machine.
    No '..' is left in them. unnamed: the places of those that are no paths; then all stay as they are.
    """
    if unnamed or not names:
        return tuple(names)
    absolute = [Path(os.path.abspath(name)) for name in names]  # noqa: PTH100  (resolve() would follow links)
    if len({path.anchor for path in absolute}) > 1:  # drives of Windows: they share no folder
        return tuple("/".join([re.sub(r"[:\\/?]+", "_", path.anchor).strip("_"), *path.parts[1:]]) for path in absolute)
    shared = os.path.commonpath([path.parent for path in absolute])
    return tuple(path.relative_to(shared).as_posix() for path in absolute)
