"""Fit: the training images, one pass, are read, embedded, thinned to a memory bank under a memory budget, and the bank
is calibrated. Each line of `fit` is a step of the paper."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from patchbank.arrays import Array
from patchbank.backbones import Backbone, BackboneInfo, load_backbone, precision_of
from patchbank.bank.memory_bank import ArchivedVectors, MemoryBank
from patchbank.calibration.held_out import calibrate
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError, DatasetError, ImageError
from patchbank.features.embedding import CalibrationPatches, Patches
from patchbank.features.extract import Described, described, patches_of, resized, taken, usable
from patchbank.fit.checkpoint import Checkpoint, State, checkpoint_of, json_array, json_value, pack_blobs, unpack_blobs
from patchbank.fit.quantise import at_precision
from patchbank.fit.self_test import ImageSample, Kept, first_images
from patchbank.fit.stream import PICTURE_SHARE, PatchStream
from patchbank.fit.without_outliers import Known, without_outliers
from patchbank.fitted.model import FittedModel
from patchbank.fitted.versions import initial_history
from patchbank.imaging.images import Skipped
from patchbank.imaging.roi import Roi
from patchbank.imaging.sources import ImageSource, Named, held, is_one_image, is_path, name_of
from patchbank.scoring.expected_distance import Sample, expected_distance
from patchbank.search.searcher import Searcher, build_searcher
from patchbank.util.progress import Progress
from patchbank.validation import memory_budget


def fit(
    images: Iterable[ImageSource],
    config: Config,
    runtime: Runtime,
    *,
    backbone: Backbone | None,
    skip_unreadable: bool,
    checkpoint: str | Path | None,
    progress: Progress,
) -> FittedModel:
    """The fitted model; `PatchCore.fit` says what the arguments mean."""
    network = backbone or load_backbone(config.backbone, config.layers, runtime)
    config = _resolved(config, network, passed=backbone is not None)
    roi, budget = Roi.from_config(config), memory_budget(runtime.memory)
    images = listed(images)
    if config.drop_outliers and not isinstance(images, (list, tuple)):
        raise ConfigError("drop_outliers reads the images again: expected a list of them; got an iterator")
    network, images = at_precision(network, images, config, roi, budget, skip_unreadable, progress)
    job = Job(
        config,
        lambda image: patches_of(image, network, config, roi),
        lambda image: resized(image, network, config, roi),
        budget,
        skip_unreadable,
        progress,
    )
    state = checkpoint_of(checkpoint, images, config, runtime, budget, network, roi) if checkpoint else None

    sampled: dict[int, Array] = {}

    def once(
        images: Iterable[ImageSource], known: Known = None, state: Checkpoint | None = None
    ) -> tuple[FittedModel, Known]:
        nonlocal sampled
        training = collect(images, job, state, known)  # (N, D) of all images, thinned to (M, D)
        searcher = build_searcher(training.bank.vectors, config)
        bank = with_expected(training.bank, searcher, training.sample, config.distance_scaling)
        calibration, normal, scene = calibrate(training.calibration, bank, searcher, config, progress)
        history = initial_history(bank, training.spares, calibration)
        pictures = training.thumbnails
        model = FittedModel(
            config, network, bank, searcher, calibration, history, roi, pictures, training.skipped, normal, scene
        )
        sampled = training.sampled
        return model, training.known

    model, known = once(images, state=state)
    if config.drop_outliers:
        model = without_outliers(model, list(images), known, once, job.embed, progress)
    model = replace(model, self_test_images=first_images(model, sampled))
    if state:
        state.remove()
    return model


@dataclass(frozen=True, eq=False)
class Training:
    """Holds what `fit` makes of the training images: the bank, its spares, a sample of the patches, the patches to
    calibrate with, thumbnails, a sample of the images as the network gets them, and what was left out. known: the
    usable images as `described` yielded them, in order, for a further fit of some of them; None where the memory budget
    has no room for both."""

    bank: MemoryBank
    spares: ArchivedVectors
    sample: Sample | None
    calibration: list[CalibrationPatches]
    thumbnails: dict[int, bytes]
    sampled: dict[int, Array]
    skipped: tuple[Skipped, ...]
    known: Known


@dataclass(frozen=True, eq=False)
class Job:
    """Holds what a fit does with each image, and within which limits. embed: turns an image into its patches.
    resize: turns it into what the network gets. budget: bytes for all that grows with the number of images."""

    config: Config
    embed: Callable[[Array], Patches]
    resize: Callable[[Array], Array]
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
    run = _begun(images, job, checkpoint)
    left = islice(taken(images), run.done, None)
    keep = run.sample.keeping(job.resize)
    remaining = known or described(checkpoint.watch(left) if checkpoint else left, job.embed, config, keep)
    with _stored_after(BaseException, run, checkpoint):
        for source, patches, picture, kept in remaining:
            progress("embed", run.done, total)
            name = name_of(source, run.done)
            run.meet(name, isinstance(source, Named))
            if not isinstance(patches, ImageError):
                if not is_path(source):
                    run.unnamed.add(len(run.names))
                if run.add(patches, name, picture, kept) and checkpoint:
                    checkpoint.save(run.state(), run.done)
            elif job.skip_unreadable:
                run.skip(name, patches)
            else:
                raise patches
    progress("embed", total, total)
    _check_count(len(run.names), run.skipped, config)
    with _stored_after(KeyboardInterrupt, run, checkpoint):
        return run.finish(images)


@contextmanager
def _stored_after(kind: type[BaseException], run: _Run, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Saves the state when the block raises such an exception."""
    try:
        yield
    except kind:
        if checkpoint and run.whole:
            checkpoint.save(run.state(), run.done)
        raise


def listed(images: Iterable[ImageSource]) -> Iterable[ImageSource]:
    """The images, which are several: DatasetError for a single one. Of a list, open files are read now: a fit may need
    them twice."""
    if is_one_image(images):
        kind = type(images).__name__
        raise DatasetError(f"expected a sequence of images; got one {kind} (for a folder: patchbank.find_images)")
    return list(map(held, images)) if isinstance(images, (list, tuple)) else images


@dataclass(eq=False)
class _Run:
    """Says how far a fit has come. picture_bytes: what thumbnails may take. unnamed: the places in `names` of images
    that have no path; a fit with a checkpoint has none. met: the images' names, and whether they were given
    (`Named`)."""

    stream: PatchStream
    sample: ImageSample
    picture_bytes: int
    names: list[str] = field(default_factory=list)
    unnamed: set[int] = field(default_factory=set)
    met: dict[str, bool] = field(default_factory=dict)
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    pictured: int = 0  # bytes of the thumbnails
    whole: bool = True  # False while an image is half-way in: an interruption then leaves nothing to store

    @property
    def done(self) -> int:
        """Images of the sequence that have been taken, usable or not."""
        return len(self.names) + len(self.skipped)

    def meet(self, name: str, given: bool) -> None:
        """Takes note of an image's name. DatasetError for a given one that another image has."""
        if name in self.met and (given or self.met[name]):
            raise DatasetError(f"{name}: is the name of two images; give each a name of its own")
        self.met[name] = given

    def skip(self, name: str, error: ImageError) -> None:
        """Takes an unusable image."""
        self.skipped.append(Skipped(name, str(error)))

    def add(self, patches: Patches, name: str, picture: bytes, kept: Kept | None) -> bool:
        """Takes an image; True if that has reduced a chunk."""
        chunks, self.whole = self.stream.chunks, False
        self.sample.offer(len(self.names), kept)
        self.stream.add(patches)
        if picture and self.pictured + len(picture) <= self.picture_bytes:
            self.thumbnails[len(self.names)] = picture
            self.pictured += len(picture)
        self.names.append(name)
        reduced = self.stream.chunks > chunks
        if reduced:  # memory: a picture for each image that the bank may still need, no others
            self._keep({n: self.thumbnails[n] for n in self.stream.images_in_use() if n in self.thumbnails})
        self.whole = True
        return reduced

    def finish(self, images: Iterable[ImageSource]) -> Training:
        """Returns what has been made of all images. The run must not be used afterwards."""
        stream, config = self.stream, self.stream.config
        known = self._known(list(images)) if config.drop_outliers else None
        sample = stream.sample()
        self.whole = config.sampler != "random"  # which thins the buffer once more
        bank, spares, calibration = stream.finish(relative_names(self.names, self.unnamed))
        used = {*bank.image.tolist(), *spares.image.tolist()}
        thumbnails = {image: data for image, data in self.thumbnails.items() if image in used}
        sampled = self.sample.pictures()
        return Training(bank, spares, sample, calibration, thumbnails, sampled, tuple(self.skipped), known)

    def _known(self, images: Sequence[ImageSource]) -> Known:
        """All usable images as they were described; None where the stream cannot hold them twice, or a thumbnail did
        not fit."""
        held = self.stream.held_twice()
        bare = self.stream.config.thumbnail_size and len(self.thumbnails) < len(self.names)
        if held is None or bare:
            return None
        sources = usable(images, self.skipped)
        return [
            Described(sources[n], each.patches, self.thumbnails.get(n, b""), self.sample.kept(n))
            for each in held
            for n in [each.image]
        ]

    def state(self) -> State:
        """All that `restore` needs."""
        run = json_array([self.names, [[each.name, each.reason] for each in self.skipped]])
        return {**self.stream.state(), **self.sample.state(), **pack_blobs(self.thumbnails), "run": run}

    def restore(self, state: State) -> None:
        """Goes on from a state; the run must be new. Raises what a state that cannot be one makes its parts raise."""
        names, skipped = json_value(state["run"])
        self.names, self.skipped = [str(name) for name in names], [Skipped(str(a), str(b)) for a, b in skipped]
        self._keep(unpack_blobs(state))
        self.stream.restore(state)
        self.sample.restore(state, len(self.names))
        if len(self.stream.facts) != len(self.names) or len(state["digests"]) != self.done:
            raise ValueError("its images do not belong together")

    def _keep(self, thumbnails: dict[int, bytes]) -> None:
        self.thumbnails, self.pictured = thumbnails, sum(map(len, thumbnails.values()))


def _begun(images: Iterable[ImageSource], job: Job, checkpoint: Checkpoint | None) -> _Run:
    """A run at its beginning, or where the same fit was interrupted."""
    config, total = job.config, len(images) if isinstance(images, Sized) else 0

    def new() -> _Run:
        stream = PatchStream(config, job.budget, total, held_out_images(total, config), job.progress)
        return _Run(stream, ImageSample(config.seed, job.budget), int(PICTURE_SHARE * job.budget))

    run = new()
    if checkpoint and (state := checkpoint.load(job.progress)):
        try:
            run.restore(state)
        except Exception as error:  # noqa: BLE001  (whatever is wrong with the file: nothing of it is used)
            checkpoint.refuse(error)
            return new()
        checkpoint.resumed(run.done)
    return run


def with_expected(bank: MemoryBank, searcher: Searcher, sample: Sample | None, power: float) -> MemoryBank:
    """The bank, whose vectors the searcher holds, with how far normal patches are from it; as it is without a sample of
    them."""
    if sample is None:
        return bank
    return replace(bank, expected=expected_distance(bank.vectors, bank.image, searcher, sample, power))


def held_out_images(total: int, config: Config) -> Callable[[int], bool]:
    """Returns which images, by number, are set aside for calibration: an exact share of `total`, or by chance where it
    is unknown."""
    if config.calibration != "holdout":
        return lambda _: False
    rng = np.random.default_rng(config.seed)
    if total > 1:
        count = min(max(1, round(config.holdout_fraction * total)), total - 1)
        chosen = frozenset(rng.choice(total, count, replace=False).tolist())
        return lambda image: image in chosen
    return lambda image: image > 0 and bool(rng.random() < config.holdout_fraction)


def _resolved(config: Config, network: Backbone, *, passed: bool) -> Config:
    """The config with what it left to the backbone filled in. passed: the network is the caller's, and is taken as it
    is. Raises ConfigError where it is not as the config says."""
    info, own, precision = network.info, precision_of(network), config.precision
    fixed = passed or own == "int8"
    if precision == "auto":
        precision = own
    elif fixed and precision != own:
        raise ConfigError(
            f"precision: expected {own}, which this network has; got {precision} (a backbone that is passed, or "
            "quantised already, is taken as it is)"
        )
    _check_sides(config, info)
    return replace(
        config,
        backbone=info.name,
        layers=tuple(layer.name for layer in info.layers),
        embedding=info.embedding if config.embedding == "auto" else config.embedding,
        precision=precision,
        patch_size=config.patch_size or info.patch_size,
    )


def _check_sides(config: Config, info: BackboneInfo) -> None:
    """ConfigError for an exact size of which the network would not see the rest."""
    sides, multiple = config.image_size, info.side_multiple
    if len(sides) == 2 and max(sides) <= config.tile_size and any(side % multiple for side in sides):
        height, width = (max(1, round(side / multiple)) * multiple for side in sides)
        raise ConfigError(
            f"image_size: backbone {info.name} takes images whose sides are multiples of {multiple}, and would not see "
            f"the rest; got {sides[0]}x{sides[1]}: use {height}x{width}"
        )


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
