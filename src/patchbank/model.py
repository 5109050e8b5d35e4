"""PatchCore: fit, predict, save, load. Read this first; each line of `fit` in fit/fit.py, and of `inspect` in
inspection/inspect.py, is a step of the paper and a module here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast, overload

import numpy as np

from patchbank.arrays import Array
from patchbank.backbones import Backbone
from patchbank.backbones.session import OnnxBackbone
from patchbank.config import Config, ImageFormat, Runtime
from patchbank.errors import BackboneError, ConfigError, SelfTestError
from patchbank.features.embedding import Patches
from patchbank.features.extract import patches_of, taken
from patchbank.fit import fit as fitting
from patchbank.fit.remarks import remarks
from patchbank.fitted.model import FittedModel
from patchbank.imaging.images import Skipped, read_image, shown
from patchbank.imaging.overlay import check_colours
from patchbank.imaging.sources import ImageSource, held, is_one_image, name_of, own
from patchbank.inspection.explain import Explanation, check_numbers, explain
from patchbank.inspection.inspect import inspect
from patchbank.inspection.inspector import Inspector
from patchbank.inspection.self_test import run_self_test
from patchbank.model_file import contents
from patchbank.reports.notebook import model_view, result_view
from patchbank.results.result import MadeBy, Result
from patchbank.results.self_test import SelfTest
from patchbank.search.searcher import measured_recall
from patchbank.update.compare import Diff, difference
from patchbank.update.update import updated
from patchbank.update.versions import Reason, as_it_was, rolled_back, with_guarantee
from patchbank.util.log import logger
from patchbank.util.parallel import in_order
from patchbank.util.progress import Progress, silent
from patchbank.version import __version__


@dataclass(frozen=True, eq=False, repr=False)
class PatchCore(FittedModel):
    """A fitted model (Roth et al., CVPR 2022) with all that it can do. There is no unfitted one: it comes from `fit` or
    `load`, and does not change. Its fields are those of `FittedModel`.
    """

    @classmethod
    def fit(
        cls,
        images: Iterable[ImageSource],
        config: Config | None = None,
        *,
        runtime: Runtime | None = None,
        backbone: Backbone | None = None,
        skip_unreadable: bool = False,
        checkpoint: str | Path | None = None,
        progress: Progress = silent,
    ) -> PatchCore:
        """Learns what good parts look like from images of good parts, of any sizes and kinds (see `predict`).

        `backbone` takes the place of the one that the config names. Unreadable images raise ImageError, or are left out
        and listed in `skipped`. What is missing for a guarantee, and which images look wrong, is logged (`logging`,
        "patchbank"). checkpoint: a file for the state of a fit that is interrupted; the same fit goes on
        from it, if neither its images (a list of paths) nor its options have changed, and says so (`logging`,
        "patchbank"). What an iterator hands out is copied at once (see `predict_each`). Raises ConfigError,
        BackboneError, ImageError or DatasetError.
        """
        model = fitting.fit(
            images,
            config or Config(),
            runtime or Runtime(),
            backbone=backbone,
            skip_unreadable=skip_unreadable,
            checkpoint=checkpoint,
            progress=progress,
        )
        for remark in remarks(model):
            logger.warning("%s", remark, extra={"remark": True})  # the command line says it after the summary
        return cls(**vars(model))

    @overload  # for mypy, a text is a sequence too
    def predict(self, images: ImageSource) -> Result: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, images: Sequence[ImageSource]) -> list[Result]: ...
    @overload
    def predict(self, images: Iterator[ImageSource]) -> Iterator[Result]: ...

    def predict(
        self, images: ImageSource | Sequence[ImageSource] | Iterator[ImageSource]
    ) -> Result | list[Result] | Iterator[Result]:
        """Inspects one image (-> Result), a list or tuple (-> list of Results) or an iterator (-> iterator of Results,
        as they come).

        An image is a path, a file's bytes, a file open for reading bytes, an array (H, W[, C]) of NumPy, PyTorch, JAX
        or CuPy, a PIL image, or one of these with a name (`Named`). An image alone gives the same numbers as among
        others. What an iterator hands out is copied at once, so a camera's buffer may be used again (see
        `predict_each`). Raises ImageError for an unusable image.
        """
        if not is_one_image(images):
            if isinstance(images, Sequence):
                return list(self._stream(cast(Sequence[ImageSource], images)))
            if isinstance(images, Iterator):
                return self._stream(images)
        image = own(cast(ImageSource, images))  # what the result shows later is what was inspected
        return self._inspect(image, name_of(image, 0))

    def predict_each(self, images: Iterable[ImageSource]) -> Iterator[Result | Skipped]:
        """Inspects images as they come, two at a time, in order; an image that raises any exception yields a Skipped
        that says why, and the others go on.

        Up to two more images than results are taken from the iterable. An array or PIL image is copied as it is taken,
        so that the iterable may hand out the same buffer again; those of a list or tuple are not copied, and must not
        change before their results are there.
        """
        return in_order(self._attempt, enumerate(taken(images)))

    def inspector(self, *, workers: int = 2, queue: int = 8) -> Inspector:
        """An object to hand images over to as they come, each for a future of its result: `submit(image)`. For services
        and live lines, where no result should wait for the next image.

        workers: images that are inspected at the same time. queue: images that may wait beyond those; `submit` raises
        Busy for more. The results are those of `predict`, to the bit. Raises ConfigError for an impossible number.
        """
        return Inspector(self._inspect, workers, queue)

    def _attempt(self, numbered: tuple[int, ImageSource]) -> Result | Skipped:
        try:
            return self._numbered(numbered)
        except Exception as error:  # noqa: BLE001  (one image's fault, even one in our code, is not the others')
            return Skipped.of(name_of(numbered[1], numbered[0]), error)

    def _stream(self, images: Iterable[ImageSource]) -> Iterator[Result]:
        return in_order(self._numbered, enumerate(taken(images)))

    def _numbered(self, numbered: tuple[int, ImageSource]) -> Result:
        number, source = numbered
        return self._inspect(source, name_of(source, number))

    def _inspect(self, source: ImageSource, name: str) -> Result:
        return inspect(self, self, source, name, *_read(source, self.config.image_format))

    @cached_property
    def made_by(self) -> MadeBy:
        """Returns what results say of the model that made them: its file's digest, its version, the software's. The
        digest is that of the file that was loaded, or of the file that `save` writes."""
        return self._made_by(contents.sha256(self))

    def _made_by(self, digest: str) -> MadeBy:
        return MadeBy(digest, self.versions[-1].number, __version__)

    def explain(self, result: Result, *, regions: int = 5, neighbours: int = 3, colours: str = "orange") -> Explanation:
        """Says why one of this model's results is as it is: for each of the regions with the highest peaks (or the most
        anomalous patch, if there are none) the nearest normal patches, and how far normal patches are from the bank.
        colours: the heat map's scale, 'orange' or 'blue'.

        Raises ImageError if the image is gone or no longer the one that was inspected, ConfigError for anything but a
        result.
        """
        _check_result(result)
        check_numbers(regions, neighbours)
        check_colours(colours)
        image = result.read_again()
        patches = self._describe(image)
        return explain(self, result, shown(image), patches, regions=regions, neighbours=neighbours, colours=colours)

    def with_threshold(
        self,
        *,
        max_false_alarms: float | None = None,
        confidence: float | None = None,
        review_rate: float | None = None,
        calibrate_on_suspects: bool | None = None,
        note: str = "",
        author: str = "",
        time: str | None = None,
    ) -> PatchCore:
        """The model's next version, with thresholds for another promise from the same held-out scores; None keeps what
        it is. The arguments are the options of `Config`.

        `calibration.support` says whether the images are enough for it. Raises ConfigError for an impossible value, or
        if the model was fitted without calibration.
        """
        changes = {
            "max_false_alarms": max_false_alarms,
            "confidence": confidence,
            "review_rate": review_rate,
            "calibrate_on_suspects": calibrate_on_suspects,
        }
        return with_guarantee(self, changes, Reason(time or _now(), author, note))

    def update(
        self,
        add: Iterable[ImageSource] = (),
        remove: Iterable[str] = (),
        *,
        images: Mapping[str, ImageSource] | None = None,
        random_sample: bool = False,
        recalibrate: bool = True,
        note: str = "",
        author: str = "",
        time: str | None = None,
        skip_unreadable: bool = False,
        progress: Progress = silent,
        representative: bool | None = None,
        certify: bool | None = None,
    ) -> PatchCore:
        """The model's next version, with images of good parts added and training images removed.

        add: images that were flagged although they are good. remove: names of training images (of `bank.images`).
        images: the training images by name, to measure the calibration scores again; needed to remove an image, unless
        `recalibrate` is False. random_sample: the added images are a random sample of good parts, which was not chosen
        by its scores, so they join the calibration. time: ISO 8601, default now. What has changed is in `versions[-1]`
        and `diff()`. `representative` and `certify` are the former names of `random_sample` and `recalibrate`. Raises
        ConfigError, DatasetError or ImageError.
        """
        return updated(
            self,
            self._describe,
            list(taken(fitting.listed(add))),
            list(remove),
            images=None if images is None else {name: held(image) for name, image in images.items()},
            random_sample=random_sample if representative is None else representative,
            recalibrate=recalibrate if certify is None else certify,
            skip_unreadable=skip_unreadable,
            reason=Reason(time or _now(), author, note),
            progress=progress,
        )

    def rollback(
        self, to: int | None = None, *, note: str = "", author: str = "", time: str | None = None
    ) -> PatchCore:
        """The model's next version, with the bank, scores and threshold of version `to`; None: the one before the
        present. Raises ConfigError for a version that there is not."""
        return rolled_back(self, to, Reason(time or _now(), author, note))

    def at(self, version: int) -> PatchCore:
        """A view of the model as it was at a version, to inspect and explain with: its scores and thresholds are that
        version's, to the bit. (`rollback` makes a new version, which is wrong for explaining an old inspection.)

        It cannot be updated or saved. Its results name this model's file, and that version. `at(the present one)` is
        the model itself. Raises ConfigError for a version that there is not.
        """
        if type(version) is int and version == len(self.versions):
            return self
        view = _View(**vars(as_it_was(self, version)))
        vars(view)["made_by"] = replace(self.made_by, version=version)
        return view

    def diff(self, before: int | None = None, after: int | None = None) -> Diff:
        """Returns what differs between two versions; None: the present one, and the one before. Raises ConfigError for
        a version that there is not."""
        last = len(self.versions) if after is None else after
        return difference(self, last - 1 if before is None else before, last)

    def _describe(self, image: Array) -> Patches:
        return patches_of(image, self.backbone, self.config, self.roi)

    def search_recall(self, images: Iterable[ImageSource]) -> float:
        """Share (0..1) of the true nearest bank vectors that the model's search finds for these images; 1 for exact
        search."""
        found = (read_image(image, self.config.image_format) for image in images)
        queries = np.concatenate([self._describe(image).features for image in found])  # (Q, D)
        return measured_recall(self.searcher, self.bank.vectors, queries, self.config.num_neighbours)

    def save(self, path: str | Path) -> None:
        """Writes the model file (docs/reference/model-file.md): beside its name first, then renamed.
        Raises OutputError."""
        contents.save(self, path)

    @classmethod
    def load(
        cls, path: str | Path, *, runtime: Runtime | None = None, trusted: bool = False, self_test: bool = False
    ) -> PatchCore:
        """Reads a model file; its scores are those of the model that was saved. All of it is read into memory: what
        happens to the file later does not matter.

        trusted: as `Runtime.trusted`, which says so too: you know where the file comes from, so its network may have
        any operators, and it may cost what it wants (docs/reference/model-file.md says what it may otherwise).
        self_test: runs the model's self-test (`run_self_test`) before it is handed out. Raises ModelFileError,
        BackboneError or SelfTestError.
        """
        runtime = runtime or Runtime()
        fields, digest = contents.load(path, replace(runtime, trusted=trusted or runtime.trusted))
        model = cls(**fields)
        model.__dict__["made_by"] = model._made_by(digest)
        if self_test:
            try:
                model.run_self_test()
            except SelfTestError as error:
                raise SelfTestError(f"{path}: {error}") from error
        return model

    def run_self_test(self) -> SelfTest:
        """Scores the training images that the model keeps for it (`self_test_images`) once more, and returns how close
        they come to the scores that they had when the model was made.

        For whoever inspects on another machine than the fit's: call it once, before the first part. Raises
        SelfTestError where they differ by more than rounding, or if the model has no such images.
        """
        return run_self_test(self)

    def _view_of(self, result: Result) -> str:
        return result_view(result)

    def _repr_html_(self) -> str:
        return model_view(self)

    def __copy__(self) -> PatchCore:
        return self  # it does not change

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made of the file's bytes: the other process, or the later version, starts its own
        session. They hold what the file does not, too: device and threads, `skipped`, whose file they came from."""
        if not isinstance(self.backbone, OnnxBackbone):
            raise BackboneError(
                f"expected a network that patchbank runs in ONNX Runtime; got {type(self.backbone).__name__}, which "
                "cannot be copied or pickled with its model: save the model, and load its file"
            )
        known = vars(self).get("made_by")
        return _copied, (type(self), contents.file_bytes(self), self.backbone.runtime, self.skipped, known)


@dataclass(frozen=True, eq=False, repr=False)
class _View(PatchCore):
    """A model as it was at an earlier version. Changing it would make a second history."""

    def with_threshold(self, **_: Any) -> PatchCore:
        """Raises ConfigError: it cannot be changed, as the others."""
        raise self._unchangeable()

    def update(self, *_: Any, **__: Any) -> PatchCore:
        raise self._unchangeable()

    def rollback(self, *_: Any, **__: Any) -> PatchCore:
        raise self._unchangeable()

    def save(self, path: str | Path) -> None:  # noqa: ARG002
        raise self._unchangeable()

    def _unchangeable(self) -> ConfigError:
        number = self.versions[-1].number
        return ConfigError(
            f"this is a view of version {number}, which cannot be changed or saved: expected the model itself; "
            f"rollback({number}) makes its next version like this one"
        )


def _copied(
    cls: type[PatchCore], data: bytes, runtime: Runtime, skipped: tuple[Skipped, ...], made_by: MadeBy | None
) -> PatchCore:
    model = cls(**contents.copied(data, runtime), skipped=skipped)
    if made_by is not None:
        vars(model)["made_by"] = made_by
    return model


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(source: ImageSource, format: ImageFormat) -> tuple[Array, float]:
    start = time.perf_counter()
    return read_image(source, format), time.perf_counter() - start


def _check_result(given: object) -> None:
    if not isinstance(given, Result):
        got = type(given).__name__
        raise ConfigError(f"expected a result of predict; got {got}: use model.explain(model.predict(image))")
