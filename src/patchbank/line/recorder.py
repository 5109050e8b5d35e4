"""From an answered part to its record in the journal: what takes time and nobody waits for is done here, in threads.

Images of cameras are encoded without loss (PNG), so that an image inspected again
has the same score. If more parts wait than `MOST_WAITING`, the next ones are recorded without their image, with an
alarm: records are never left out.
"""

from __future__ import annotations

import base64
import logging
import queue
import threading
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from patchbank import PatchCore, Result
from patchbank.imaging.formats import HEAD, format_of
from patchbank.line.cameras.base import Frame
from patchbank.line.frames import for_model
from patchbank.line.journal import Journal
from patchbank.line.parts import Answered
from patchbank.line.record import Record, writable
from patchbank.util.uuid7 import uuid7
from patchbank.util.wording import finite
from patchbank.version import __version__

logger = logging.getLogger("patchbank.line")
MOST_WAITING = 16
MOST_REGIONS = 100
_Made: TypeAlias = tuple[Record, bytes | None, str]  # a record, its image's file and the file's kind
_LARGEST = float(np.finfo(np.float16).max)


class Recorder:
    """Writes the records of all stations of a line. `close` it before the journal."""

    def __init__(self, journal: Journal, site: str, line: str, alarm: Callable[[str, str | None], None]) -> None:
        """alarm: is told if there is no time for images."""
        self._journal, self._site, self._line, self._alarm = journal, site, line, alarm
        self._days = journal.policy.days
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="patchbank-recorder")
        self._order: queue.SimpleQueue[tuple[str, Answered, Future[_Made]] | None] = queue.SimpleQueue()
        self._waiting, self._closed, self._lock = 0, False, threading.Lock()
        self._adding = threading.Thread(target=self._add, name="patchbank-records", daemon=True)
        self._adding.start()

    def record(self, station: str, batch: str, answered: Answered) -> None:
        """Records a part, soon, after those before."""
        with self._lock:
            if self._closed:
                what = f"trigger {answered.part.seq} came after the end, and is not recorded"
                logger.error("station %s: %s", station, what)
                return
            self._waiting += 1
            images = self._waiting <= MOST_WAITING
            made = self._threads.submit(self._made, station, batch, answered, images)
            self._order.put((station, answered, made))
        if not images:
            self._alarm("images", f"{MOST_WAITING} parts wait for their record: images are not kept")

    def record_now(self, station: str, batch: str, answered: Answered) -> Future[None]:
        """Records a part; the future of the journal."""
        return self._journal.add(*self._made(station, batch, answered, True))

    @property
    def waiting(self) -> int:
        """Returns how many parts wait for their record."""
        return self._waiting

    def close(self) -> None:
        """Records what waits, and ends. May be called twice."""
        with self._lock:
            already, self._closed = self._closed, True
        if not already:
            self._order.put(None)
        self._adding.join()
        self._threads.shutdown()

    def _add(self) -> None:
        """Gives the records to the journal, in the order in which parts were answered."""
        while item := self._order.get():
            station, answered, made = item
            try:
                future = self._journal.add(*made.result())
            except Exception:
                logger.exception("station %s: trigger %d could not be recorded", station, answered.part.seq)
                if answered.written:
                    answered.written(False)
            else:
                if answered.written:
                    future.add_done_callback(partial(_tell, answered.written))
            del item, answered, made  # nothing of it is held until the next one comes
            with self._lock:
                self._waiting -= 1

    def _made(self, station: str, batch: str, answered: Answered, images: bool) -> _Made:
        part, decided, result, frame = answered.part, answered.decided, answered.result, answered.frame
        kept = images and self._days.get(str(decided.verdict), 0) > 0
        model = answered.loaded.model if answered.loaded else None
        image, format = self._image(frame, model) if kept and frame else (None, "")
        about: Mapping[str, Any] = answered.loaded.about if answered.loaded else {"software": __version__}
        record = Record(
            id=str(uuid7(answered.at)),
            at=answered.at,
            site=self._site,
            line=self._line,
            station=station,
            source=writable(frame.source) if frame else "",
            source_key=frame.key if frame else None,
            verdict=str(decided.verdict),
            output="ng" if answered.late else decided.output,
            code=decided.reason.name,
            reason=decided.text,
            trigger=part.seq,
            recipe=part.recipe,
            part_id=writable(part.part_id),
            batch=batch,
            triggered_at=part.triggered_at,
            frame_at=frame.at if frame else None,
            answered_at=answered.at,
            latency_ms=round(1000 * answered.latency, 3),
            late=answered.late,
            frame=frame.number if frame else None,
            **about,
            **(facts_of(result) if result else {}),
        )
        return record, image, format

    def _image(self, frame: Frame, model: PatchCore | None) -> tuple[bytes | None, str]:
        """A record is kept without its image rather than not at all."""
        try:
            return image_of(frame, model)
        except Exception as error:  # noqa: BLE001
            logger.warning("frame %d of %s cannot be kept: %s", frame.number, frame.source, error)
            return None, ""


def _tell(written: Callable[[bool], None], done: Future[None]) -> None:
    written(done.exception() is None)


def facts_of(result: Result) -> dict[str, Any]:
    """What a record has of a result."""
    told = result.to_dict()
    return {
        "score": told["score"],
        "threshold": result.threshold,
        "p_value": result.p_value,
        "in_scene": result.in_distribution,
        "scene": told["scene"],
        "width": result.image_size[1],
        "height": result.image_size[0],
        "heat": encoded(result),
        "regions": told["regions"][:MOST_REGIONS],
    }


def encoded(result: Result) -> dict[str, Any]:
    """A result's patch grid for JSON. grid: base64 of zlib of (h, w) float16, little-endian: `Result.distances`.
    counted: base64 of zlib of bits, the patches in the region of interest; None = all. `heat_picture` draws it."""
    grid = np.clip(np.nan_to_num(result.distances, nan=_LARGEST), 0, _LARGEST).astype("<f2")  # (h, w)
    counted = None if result.counted is None else np.packbits(result.counted)
    return {
        "h": grid.shape[0],
        "w": grid.shape[1],
        "input_h": result.input_size[0],
        "input_w": result.input_size[1],
        "sigma": finite(result.smoothing_sigma),
        "grid": base64.b64encode(zlib.compress(grid.tobytes())).decode(),
        "counted": None if counted is None else base64.b64encode(zlib.compress(counted.tobytes())).decode(),
    }


def image_of(frame: Frame, model: PatchCore | None) -> tuple[bytes | None, str]:
    """The file of a frame and its kind in small letters: as it came, or without loss. model: what inspected it; the
    file is read by it as the frame was."""
    if frame.content is not None:
        return frame.content, (format_of(frame.content[:HEAD]) or "").lower()
    if frame.image is None:
        return None, ""
    image = np.asarray(frame.image)
    if model is not None:
        image = np.asarray(for_model(frame, model))
        if model.config.channel_order == "bgr" and image.ndim == 3:
            image = image[:, :, ::-1]
    return _png(image), "png"


def _png(image: Any) -> bytes:
    """(H, W) or (H, W, 3) RGB, uint8 or uint16, as a PNG file."""
    import cv2

    done, data = cv2.imencode(".png", image[:, :, ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded")
    return data.tobytes()
