"""Is a frame what the camera saw when the part was there? What is not proven to be is not judged."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank import ImageError, PatchCore
from patchbank.line.cameras.base import Frame
from patchbank.line.plc.protocol import Reason

_LEAST_RANGE = 0.02  # of full brightness, between the darkest and the brightest: below, a frame shows nothing
_LEAST_ROWS = 0.05  # of the height: so many rows of one value at the end are a frame that was cut off


@dataclass(frozen=True)
class Fault:
    """Why a frame cannot be judged."""

    reason: Reason
    text: str


class FrameCheck:
    """Looks at the frames of one camera, in order."""

    def __init__(self, max_age: float, contents: bool) -> None:
        """max_age: seconds, of a camera that makes frames by itself. contents: look at the pictures, too."""
        self._max_age, self._contents = max_age, contents
        self._last_number: int | None = None
        self._last_sum: int | None = None

    def fault(self, frame: Frame, triggered: float | None, now: float) -> Fault | None:
        """What is wrong with a frame; None: nothing that can be seen. triggered: monotonic time of the trigger, before
        which no frame counts; None for a camera that makes them by itself."""
        last, self._last_number = self._last_number, frame.number  # a camera that was opened anew may begin at 1
        if last is not None and frame.number <= last:
            return Fault(Reason.stale_frame, f"frame {frame.number} came after frame {last}: it is an old one")
        if triggered is not None and frame.taken < triggered:
            return Fault(Reason.stale_frame, f"the frame is {_ms(triggered - frame.taken)} older than the trigger")
        if triggered is None and now - frame.taken > self._max_age:
            return Fault(
                Reason.stale_frame,
                f"the frame is {_ms(now - frame.taken)} old; expected at most {_ms(self._max_age)} (max_frame_age_ms)",
            )
        if not frame.complete:
            return Fault(Reason.bad_frame, "the camera says that a part of the frame is missing")
        return self._seen(frame) if self._contents and frame.image is not None else None

    def _seen(self, frame: Frame) -> Fault | None:
        image = np.asarray(frame.image)
        sparse = np.ascontiguousarray(image[:: max(1, image.shape[0] // 256)])
        before, self._last_sum = self._last_sum, zlib.crc32(sparse.data)
        if before == self._last_sum:
            return Fault(Reason.bad_frame, "the frame is the one before once more: the camera is frozen")
        white = float(frame.white or np.iinfo(image.dtype).max)
        if float(sparse.max()) - float(sparse.min()) < _LEAST_RANGE * white:
            return Fault(Reason.bad_frame, "the frame shows nothing: it is black, white or of one grey")
        rows = max(2, int(_LEAST_ROWS * image.shape[0]))
        end = image[-rows:]
        if bool((end == end[0, 0]).all()) and not bool((end >= white).all()):
            return Fault(Reason.bad_frame, f"the frame is cut off: its last {rows} rows are of one value")
        return None


def for_model(frame: Frame, model: PatchCore) -> Any:
    """A frame as the model takes images: a file's bytes as they are; an array in the model's order of channels, its
    values stretched so that full brightness is where the model has it. Raises ImageError where that cannot be."""
    if frame.image is None:
        return frame.content
    config = model.config
    if config.channels:
        raise ImageError(f"the model is of images of {config.channels} channels; the camera gives colour or grey")
    image = np.asarray(frame.image)
    if config.channel_order == "bgr" and image.ndim == 3:
        image = image[:, :, ::-1]
    return stretched(image, frame.white, config.white)


def stretched(image: npt.NDArray[Any], white: int | None, wanted: float | None) -> npt.NDArray[Any]:
    """An image whose full brightness is `white` (None: the type's own) as one whose full brightness is `wanted`. Raises
    ImageError if a model expects another depth than the camera has."""
    own = np.iinfo(image.dtype).max
    white = white or own
    if wanted is None and white == own:
        return image
    if wanted is not None:
        if wanted != white:
            raise ImageError(f"the model expects full brightness at {wanted:g}; the camera has it at {white}")
        return image
    return ((image.astype(np.uint32) * own + white // 2) // white).astype(image.dtype)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
