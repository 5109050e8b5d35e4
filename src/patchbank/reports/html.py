"""What the HTML pages share: one self-contained file each, for screens light and dark and for paper.

A page loads nothing from anywhere, its pictures are small JPEGs inside it, and a content security policy forbids the
rest. The templates are in `reports/templates/`. They escape every value by themselves; no value is exempt, and what
cannot be seen in a text from outside (control characters, marks that turn the direction of writing, halves of surrogate
pairs) is replaced by a sign that can.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchbank.arrays import ByteArray
from patchbank.util.files import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment


_JOINERS = "\u200c\u200d"  # without width, and part of words in many languages and of emoji


@dataclass(frozen=True)
class Picture:
    """A JPEG for a page. data: in base64. width, height: pixels, so that the page does not jump while it loads. alt:
    what it shows, in words."""

    data: str
    width: int
    height: int
    alt: str


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates: every value is escaped, and one that is missing or None is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from patchbank import reports
    from patchbank.version import __version__

    found = Environment(
        loader=PackageLoader(reports.__name__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_told,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"pieces": pieces, "sha256": _sha256, "heat_scale": heat_scale}
    found.globals |= {"version": __version__}
    return found


def render(template: str, **values: Any) -> Iterator[str]:
    """The page, piece by piece: an iterator among the values is read while the page is written, and not kept."""
    return environment().get_template(template).generate(**values)


def write_page(path: str | Path, template: str, title: str, created: datetime | None, **values: Any) -> None:
    """Writes the page. created: now, for None. Raises OutputError; whatever is raised, an older file is kept."""
    with atomic_write(path) as file:
        for part in render(template, title=title, created=when(created), **values):
            file.write(part.encode("utf-8", "replace"))


def when(created: datetime | None) -> str:
    """A moment for people; now, for None."""
    return (created or datetime.now(UTC).astimezone()).strftime("%Y-%m-%d %H:%M %Z").strip()


def visible(text: str) -> str:
    """The text with a sign for everything that does not show: "␛" for ESC, "␊" for a line end, "?" for a byte that is
    no UTF-8, "�" for the others."""
    return text if text.isprintable() else "".join(map(_sign, text))


def pieces(name: str) -> list[str]:
    """A file name, in the parts between which it may break: after a separator."""
    return re.split(r"(?<=[/\\_-])(?=.)", name, flags=re.DOTALL)


def small_jpeg(image: ByteArray, side: int, most_bytes: int) -> bytes:
    """(H, W, 3) uint8 RGB -> a JPEG of at most `side` pixels along its longer side, and `most_bytes` bytes."""
    from patchbank.imaging.images import thumbnail

    data = thumbnail(image, side)
    while len(data) > most_bytes and side > 32:  # noise needs bytes; a smaller picture loses less than a blocky one
        side = min(side - 8, int(side * math.sqrt(most_bytes / len(data))))
        data = thumbnail(image, side)
    return data


def picture(jpeg: bytes, alt: str) -> Picture:
    """A JPEG of our own, for a page."""
    import cv2

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None  # it is our own
    return Picture(base64.b64encode(jpeg).decode(), image.shape[1], image.shape[0], alt)


def verdict_of(is_anomalous: bool | None) -> str:
    """The verdict's word, which is its CSS class too."""
    return {True: "anomalous", False: "normal", None: "unjudged"}[is_anomalous]


def _told(value: Any) -> Any:
    """Returns what a template may show: texts whose every sign shows (markup is made of such already), and never None,
    which is a mistake of the template."""
    if value is None:
        raise TypeError("a page was about to show None")
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _sign(letter: str) -> str:
    code, category = ord(letter), unicodedata.category(letter)
    if letter.isprintable() or category == "Zs" or letter in _JOINERS:
        return letter
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    return "?" if category == "Cs" else "�"


def _sha256(text: str) -> str:
    """Returns what a content security policy knows a script by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def heat_scale(colours: str) -> str:
    """The heat map's colours from 0.8 to 2 pixel thresholds, as stops of a CSS gradient."""
    from patchbank.imaging.overlay import heatmap

    stops = heatmap(np.linspace(0.8, 2.0, 9, dtype=np.float32)[None], 1.0, colours=colours)[0]  # (9, 3)
    return ",".join("#" + bytes(colour).hex() for colour in stops)
