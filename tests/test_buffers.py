"""A frame grabber hands out the same buffer for every frame: each image is the one that was handed out, in fit,
predict, update and whatever a result shows later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parts import striped
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import ImageError
from patchbank.features.extract import own, taken
from patchbank.imaging.images import Skipped

SMALL = Config(image_size=64, coreset_size=60, thumbnail_size=16)
Frames = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def frames() -> Frames:
    rng = np.random.default_rng(0)
    return [striped(rng, defect=number % 3 == 2) for number in range(12)]


def fitted(images: Any) -> PatchCore:
    return PatchCore.fit(images, SMALL, backbone=FakeBackbone())


@pytest.fixture(scope="module")
def model() -> PatchCore:
    rng = np.random.default_rng(1)
    return fitted([striped(rng) for _ in range(12)])


class Tensor:
    """What only NumPy's protocol makes an array, without a copy."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.array.copy() if copy else self.array


def as_view(buffer: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = buffer.view()
    view.flags.writeable = False  # and yet the camera writes to what is under it
    return view


def as_pil(buffer: npt.NDArray[Any]) -> Any:
    image = pytest.importorskip("PIL.Image")
    height, width = buffer.shape[:2]
    return image.frombuffer("RGB", (width, height), buffer, "raw", "RGB", 0, 1)


KINDS: dict[str, Callable[[npt.NDArray[Any]], Any]] = {
    "array": lambda buffer: buffer,
    "part of an array": lambda buffer: buffer[:],
    "read-only view": as_view,
    "memoryview": lambda buffer: buffer.data,
    "object": Tensor,
    "PIL": as_pil,
}


def grabbed(frames: Frames, kind: str = "array") -> Iterator[Any]:
    buffer = np.empty_like(frames[0])
    for frame in frames:
        buffer[:] = frame
        yield KINDS[kind](buffer)
    buffer[:] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_a_reused_buffer(model: PatchCore, frames: Frames, kind: str) -> None:
    wanted = [model.predict(frame).score for frame in frames]
    assert len(set(wanted)) == len(frames)
    assert [result.score for result in model.predict(grabbed(frames, kind))] == wanted
    each = [result for result in model.predict_each(grabbed(frames, kind)) if not isinstance(result, Skipped)]
    assert [result.score for result in each] == wanted


@pytest.mark.parametrize("kind", ["array", "PIL"])
def test_a_fit_of_a_reused_buffer(frames: Frames, kind: str) -> None:
    wanted, got = fitted(iter(frames)), fitted(grabbed(frames, kind))
    np.testing.assert_array_equal(got.bank.vectors, wanted.bank.vectors)
    assert got.thumbnails == wanted.thumbnails


def test_an_update_of_a_reused_buffer(model: PatchCore, frames: Frames) -> None:
    wanted, got = (model.update(add, time="2026-01-01T00:00:00+00:00") for add in (frames[:6], grabbed(frames[:6])))
    np.testing.assert_array_equal(got.bank.vectors, wanted.bank.vectors)
    assert got.thumbnails == wanted.thumbnails


def test_what_a_result_shows_later_is_what_was_inspected(model: PatchCore, frames: Frames) -> None:
    """Also of a single image: the loop that predicts the buffer, keeps the results and draws them at the end."""
    buffer = np.empty_like(frames[0])
    kept = []
    for frame in frames[:3]:
        buffer[:] = frame
        kept.append(model.predict(buffer))
    kept += list(model.predict(grabbed(frames[:3])))
    for result, frame in zip(kept, frames[:3] * 2, strict=True):
        np.testing.assert_array_equal(result.read_again(), frame)


def test_a_list_is_what_it_is(model: PatchCore, frames: Frames) -> None:
    """Its images are all there when they are handed over: nothing is copied, and one that is in it twice is one."""
    images = [frames[0], frames[1], frames[0]]
    assert taken(images) is images
    results = model.predict(images)
    assert results[0].score == results[2].score
    assert results[0].source is frames[0]


def test_what_needs_no_copy_is_not_copied(frames: Frames) -> None:
    sealed = frames[0].copy()
    sealed.flags.writeable = False
    for image in ("a.png", Path("a.png"), sealed):
        assert own(image) is image
    assert own(frames[0]) is not frames[0]


def test_a_picture_of_other_modes_keeps_them(model: PatchCore, frames: Frames) -> None:
    """A copy of a palette's numbers would be another picture."""
    image = pytest.importorskip("PIL.Image").fromarray(frames[0])
    for mode in ("P", "L", "CMYK", "RGBA"):
        converted = image.convert(mode)
        assert next(model.predict(iter([converted]))).score == model.predict(converted).score


class Forgetful:
    """A picture of some library, whose array is always the same memory, whatever NumPy asks for."""

    def __init__(self, frame: npt.NDArray[np.uint8]) -> None:
        self.frame = frame

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        return self.frame


def test_a_copy_is_one_whatever_the_object_does(model: PatchCore, frames: Frames) -> None:
    picture = Forgetful(np.empty_like(frames[0]))

    def shots() -> Iterator[Forgetful]:
        for frame in frames[:4]:
            picture.frame[:] = frame
            yield picture

    assert [r.score for r in model.predict(shots())] == [model.predict(frame).score for frame in frames[:4]]


class Broken:
    """No image, and an error for who asks."""

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        raise RuntimeError("no frame")


def test_what_is_no_image_is_refused_in_its_turn(model: PatchCore, frames: Frames) -> None:
    results = list(model.predict_each(iter([frames[0], None, frames[1]])))
    assert [isinstance(result, Skipped) for result in results] == [False, True, False]
    with pytest.raises(ImageError):
        model.predict(None)
    broken = Broken()
    assert own(broken) is broken
