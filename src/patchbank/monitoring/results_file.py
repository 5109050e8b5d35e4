"""Predictions read back: the lines that `patchbank predict --json` printed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from patchbank.errors import DatasetError

MAX_LINE_BYTES = 16_000_000


@dataclass(frozen=True)
class Reading:
    """One line. line: its number, from 1. path: the image's. threshold, in_scene: None where it has none. outside: the
    names of the measures of the scene that lie outside of their ranges. sha256: the digest of the model that made it;
    None in lines of versions that did not say it."""

    line: int
    path: str
    score: float
    threshold: float | None
    in_scene: bool | None
    outside: tuple[str, ...]
    sha256: str | None = None


def read_results(lines: Iterable[str], name: str, threshold: float | None, sha256: str | None = None) -> list[Reading]:
    """The readings of all lines that are not blank. threshold, sha256: those of the model which the lines must come
    from. Lines say the digest of their model's file; those of older versions are told by their threshold.

    Raises DatasetError, with the line's number, for a line that is not one of `predict --json`, has no finite score, or
    is another model's; and if there is no line at all.
    """
    readings = [_reading(text, number, name) for number, text in enumerate(lines, start=1) if text.strip()]
    for reading in readings:
        if sha256 and reading.sha256:
            if reading.sha256 != sha256:
                raise DatasetError(
                    f"{name}, line {reading.line}: expected results of this model, whose file has the SHA-256 "
                    f"{sha256[:12]}...; got those of {reading.sha256[:12]}...: name the model that they come from, or "
                    "predict these images again"
                )
        elif not _same(reading.threshold, threshold):
            raise DatasetError(
                f"{name}, line {reading.line}: expected results of this model, whose threshold is {threshold}; "
                f"got {reading.threshold}: name the model that they come from, or predict these images again"
            )
    if not readings:
        raise DatasetError(f"{name}: expected the lines that 'patchbank predict --json' prints; got none")
    return readings


def text_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """The lines of a file of UTF-8 text, with or without a byte order mark, one at a time: only a line feed ends one.

    Raises DatasetError, with the line's number, for other bytes, and for a line of more than MAX_LINE_BYTES.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DatasetError(
                f"{name}, line {number}: is longer than {MAX_LINE_BYTES:,} bytes; expected the lines that "
                "'patchbank predict --json' prints"
            )
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{name}, line {number}: is not UTF-8 text ({error.reason}); PowerShell's '>' writes UTF-16: there, "
                "use '| Out-File -Encoding utf8'"
            ) from error


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-6)


def _reading(text: str, number: int, name: str) -> Reading:
    def wrong(what: str) -> DatasetError:
        return DatasetError(f"{name}, line {number}: {what}; expected the lines that 'patchbank predict --json' prints")

    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(f"is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise wrong(f"is no JSON object, but {type(row).__name__}")
    score, threshold, known = row.get("score"), row.get("threshold"), row.get("in_scene")
    if score is None or not _is_number(score):
        shown = json.dumps(score) if isinstance(score, (int, float, str, type(None))) else type(score).__name__
        raise wrong(f"has no score that is a finite number (score: {shown[:40]})")
    if threshold is not None and not _is_number(threshold):
        raise wrong("has a threshold that is no finite number")
    if known is not None and not isinstance(known, bool):
        raise wrong("has an in_scene that is neither true, false nor null")
    measures = row.get("scene")
    measures = measures if isinstance(measures, dict) else {}
    outside = tuple(key for key, about in measures.items() if isinstance(about, dict) and about.get("reason"))
    maker = row.get("model")
    digest = maker.get("sha256") if isinstance(maker, dict) else None
    if digest is not None and not isinstance(digest, str):
        raise wrong("names a model whose sha256 is no text")
    return Reading(number, str(row.get("path", f"line {number}")), float(score), threshold, known, outside, digest)


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
