"""Reference images, what the library says of them, and whether a graph says the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from patchbank.arrays import Array, ByteArray, FloatArray
from patchbank.backbones.session import OnnxBackbone, make_session
from patchbank.calibration.image_check import MEASURES
from patchbank.config import Runtime
from patchbank.errors import BackboneError, ConfigError
from patchbank.export.verdict import NUMBERS
from patchbank.imaging.images import read_image, shown
from patchbank.imaging.lossless import decoded
from patchbank.imaging.resize import resize
from patchbank.imaging.sources import ImageSource, is_path, name_of
from patchbank.model import PatchCore
from patchbank.results.result import Result

WORDS = {number: str(verdict).upper() for verdict, number in NUMBERS.items()}
TOLERANCE = 1e-4  # of scores, relative
MAP_TOLERANCE = 1e-3  # of the anomaly map, relative to its largest value
_SMALLEST = 0.05  # of the threshold: differences of smaller scores count as of this one
MOST_CHECKED = 24  # images that a graph is held against
MOST_KEPT = 5  # of them, written beside the graph
_PICTURES = 3  # of training images, if no images are given
_RUNS = 5  # that are timed


@dataclass(frozen=True, eq=False)
class Inspected:
    """What is said of an image, by the library or by a graph. verdict: as a number. image_check: (6,), or none."""

    score: float
    p_value: float
    verdict: int
    anomaly_map: FloatArray = field(repr=False)
    image_check: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """A reference image, (H, W, 3) uint8 RGB, and what the library says of it."""

    name: str
    image: ByteArray = field(repr=False)
    expected: Inspected


def training_size(model: PatchCore) -> tuple[int, int]:
    """(height, width) of the training images, as the image check knows them. Raises ConfigError if they had several
    sizes, or the model does not know."""
    names = [measure.name for measure in MEASURES]
    known = model.scene.measures.astype(np.float64) if model.scene else np.empty((0, len(names)))
    aspects, pixels = (known[:, names.index(name)] for name in ("aspect_ratio", "pixels"))
    sizes = {_sides(aspect, count) for aspect, count in zip(aspects.tolist(), pixels.tolist(), strict=True)}
    if len(sizes) == 1:
        return sizes.pop()
    what = "the model does not know the size of its training images"
    if sizes:
        examples = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        what = f"the training images have {len(sizes)} sizes ({examples}{', ...' if len(sizes) > 3 else ''})"
    raise ConfigError(f"input_size: {what}; name the size of the images to inspect: --input-size HEIGHTxWIDTH")


def _sides(aspect: float, pixels: float) -> tuple[int, int]:
    width = round((aspect * pixels) ** 0.5)
    return round(pixels / width), width


def cases(model: PatchCore, size: tuple[int, int], images: Iterable[ImageSource]) -> list[Case]:
    """Reference images of `size`, at most MOST_CHECKED: of these images, or without any, of what the model keeps of its
    training images. Raises ConfigError for images that none of is of this size and has 8 bits."""
    return inspected(model, list(_given(model, size, list(images))) or _pictured(model, size))


def inspected(model: PatchCore, images: Iterable[tuple[str, ByteArray]]) -> list[Case]:
    """Images with names, and what this model says of them."""
    return [Case(name, image, said(model.predict(image))) for name, image in images]


def _given(model: PatchCore, size: tuple[int, int], images: Sequence[ImageSource]) -> Iterable[tuple[str, ByteArray]]:
    kept, last = 0, ""
    step = max(1, len(images) // MOST_CHECKED)
    for number, source in [*enumerate(images)][::step][:MOST_CHECKED]:
        image = read_image(source, model.config.image_format)
        if image.shape[:2] == size and image.dtype == np.uint8:
            kept += 1
            name = name_of(source, number)
            yield (Path(name).name if is_path(source) else name), image  # the folder is handed on: no paths of here
        last = f"{image.shape[0]}x{image.shape[1]} pixels of {image.dtype}"
    if images and not kept:
        raise ConfigError(
            f"export: expected reference images of {size[0]}x{size[1]} pixels of 8 bits; got {last}: name others, or "
            "another --input-size"
        )


def _pictured(model: PatchCore, size: tuple[int, int]) -> list[tuple[str, ByteArray]]:
    """Pictures of training images at this size, and one of them with a mark on it: those of the self-test, else
    thumbnails; without any, made-up ones."""
    kept = {each.image: shown(decoded(each.picture, model.config.groups)) for each in model.self_test_images}
    pictures = kept or {number: read_image(data) for number, data in sorted(model.thumbnails.items())}
    numbers = list(pictures)
    places = sorted({round(place) for place in np.linspace(0, len(numbers) - 1, _PICTURES)}) if numbers else []
    found = [(model.bank.images[numbers[n]], resize(pictures[numbers[n]], size)) for n in places]
    if not found:
        rng = np.random.default_rng(0)
        noise = (rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (8, 32))
        found = [(f"made up {number}", resize(each, size)) for number, each in enumerate(noise, 1)]
    name, marked = found[0][0], found[0][1].copy()
    rows, columns = (slice(side // 2, side // 2 + max(side // 6, 1)) for side in size)
    marked[rows, columns] = 255 - marked[rows, columns]
    return [*found, (f"{name}, marked", marked)]


def said(result: Result) -> Inspected:
    """What a result says, as a graph says it."""
    p_value = np.nan if result.p_value is None else result.p_value
    scene = None if result.scene is None else np.array([each.value for each in result.scene], np.float32)
    return Inspected(result.score, p_value, NUMBERS[result.verdict], result.anomaly_map, scene)


class GraphRunner:
    """Runs an exported graph in ONNX Runtime."""

    def __init__(self, onnx: bytes, model: PatchCore) -> None:
        threads = model.backbone.runtime.threads if isinstance(model.backbone, OnnxBackbone) else 0
        self._session = make_session(onnx, Runtime(threads=threads))

    def __call__(self, image: Array) -> Inspected:
        """(H, W, 3) uint8 -> what the graph says of it."""
        names = [each.name for each in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(names, {"image": image}), strict=True))
        numbers = (float(found["score"]), float(found["p_value"]), int(found["verdict"]))
        return Inspected(*numbers, found["anomaly_map"], found.get("image_check"))

    def milliseconds(self, image: Array) -> float:
        """How long it takes for an image: the median of some runs."""
        return _median_ms(lambda: self(image))


def library_milliseconds(model: PatchCore, image: ByteArray) -> float:
    """How long the library takes for an image and its anomaly map: the median of some runs."""
    return _median_ms(lambda: model.predict(image).anomaly_map)


def _median_ms(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_RUNS + 1):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.median(taken[1:]))


def largest_difference(model: PatchCore, found: Sequence[tuple[Case, Inspected]]) -> float:
    """The largest relative difference of the scores. Raises BackboneError where it is over TOLERANCE, a verdict is
    another one, or a map differs: such a graph must not be used."""
    worst, least = 0.0, _SMALLEST * (model.threshold or 0.0)
    for case, got in found:
        expected = case.expected
        difference = abs(got.score - expected.score) / max(abs(expected.score), least, 1e-12)
        highest = max(float(expected.anomaly_map.max()), least, 1e-12)
        apart = float(np.abs(got.anomaly_map - expected.anomaly_map).max()) / highest
        if not (difference <= TOLERANCE and apart <= MAP_TOLERANCE and got.verdict == expected.verdict):
            raise BackboneError(
                f"export: the graph disagrees with the model about {case.name!r}: score {got.score:.7g} instead of "
                f"{expected.score:.7g}, verdict {WORDS.get(got.verdict)} instead of {WORDS[expected.verdict]}, anomaly "
                f"map off by {apart:.2g} of its peak; nothing was written. Please report this, with the network "
                f"({model.backbone.info.name}) and the versions of onnxruntime and OpenCV"
            )
        worst = max(worst, difference)
    return worst


def kept(found: Sequence[Case]) -> list[Case]:
    """At most MOST_KEPT of the cases: the first of each verdict, then others, in their order."""
    verdicts = [case.expected.verdict for case in found]
    order = sorted(range(len(found)), key=lambda i: (verdicts.index(verdicts[i]) != i, i))
    return [found[i] for i in sorted(order[:MOST_KEPT])]
