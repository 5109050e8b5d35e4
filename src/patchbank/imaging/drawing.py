"""Marks and text on pictures, (H, W, 3) uint8 RGB. Everything draws into the picture that it is given."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from patchbank.arrays import ByteArray

Colour = tuple[int, int, int]

DARK: Colour = (25, 25, 25)
WHITE: Colour = (255, 255, 255)
MARK: Colour = (0, 110, 255)  # of a patch: a colour that heat maps do not have
REGULAR, BOLD = 400, 650
_LONGEST = 200  # letters of a name that are looked at
_HERSHEY_HEIGHT = 21.0  # pixels of a capital at scale 1


def rectangle(picture: ByteArray, corners: tuple[float, float, float, float], colour: Colour, line: int = 2) -> None:
    """A frame around (left, top, right, bottom), white outside, which shows on any picture."""
    import cv2

    x0, y0, x1, y1 = (round(value) for value in corners)
    for grow, width, ink in ((line, line, WHITE), (0, line, colour)):
        cv2.rectangle(picture, (x0 - grow, y0 - grow), (x1 - 1 + grow, y1 - 1 + grow), ink, width)


def badge(picture: ByteArray, word: str, centre: tuple[float, float], size: int) -> None:
    """A dark disc with a word in it, kept inside of the picture."""
    import cv2

    height, width = picture.shape[:2]
    radius = max(round(0.75 * size), round(0.5 * text_width(word, size, BOLD) + 0.3 * size))
    x = round(min(max(centre[0], radius + 2), max(width - radius - 3, radius + 2)))
    y = round(min(max(centre[1], radius + 2), max(height - radius - 3, radius + 2)))
    cv2.circle(picture, (x, y), radius + 2, WHITE, cv2.FILLED, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius, DARK, cv2.FILLED, cv2.LINE_AA)
    text(picture, word, (x - text_width(word, size, BOLD) / 2, y + 0.36 * size), size, WHITE, BOLD)


def text(
    picture: ByteArray, words: str, at: tuple[float, float], size: int, colour: Colour = DARK, weight: int = REGULAR
) -> None:
    """One line of text that starts at (x, y), y being its base line. size: pixels."""
    import cv2

    where = (round(at[0]), round(at[1]))
    if font := _font():
        cv2.putText(picture, _printable(words), where, colour, font, size, weight)
    else:
        scale, width = _hershey(size, weight)
        cv2.putText(picture, _plain(words), where, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, width, cv2.LINE_AA)


def text_width(words: str, size: int, weight: int = REGULAR) -> int:
    """Pixels that a line of text takes."""
    import cv2

    if font := _font():
        left, _, width, _ = cv2.getTextSize((0, 0), _printable(words), (0, 0), font, size, weight)
        return int(left + width)
    scale, line = _hershey(size, weight)
    return int(cv2.getTextSize(_plain(words), cv2.FONT_HERSHEY_SIMPLEX, scale, line)[0][0])


def wrapped(words: str, width: float, size: int, weight: int = REGULAR) -> list[str]:
    """Lines of at most `width` pixels; a word that is longer is broken."""
    lines: list[str] = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size, weight) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size, weight) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def shortened(words: str, width: float, size: int, weight: int = REGULAR) -> str:
    """The text, with its beginning left out where it is wider than `width` pixels: file names tell most at their
    end."""
    if text_width(words, size, weight) <= width:
        return words
    words = words[-_LONGEST:]
    while words and text_width("..." + words, size, weight) > width:
        words = words[1:]
    return "..." + words


@lru_cache(maxsize=1)
def _font() -> Any:
    """OpenCV 5's own outline font; None for OpenCV 4, which has stroke fonts only."""
    import cv2

    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _printable(words: str) -> str:
    """Returns what may be handed to OpenCV, which crashes on half a surrogate pair: a file name that is no UTF-8 has
    some."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _hershey(size: int, weight: int) -> tuple[float, int]:
    return 0.72 * size / _HERSHEY_HEIGHT, 2 if weight > REGULAR else 1


def _plain(words: str) -> str:
    """Returns what a stroke font can draw."""
    return words.replace("×", "x").replace("·", "-").replace("≥", ">=").encode("ascii", "replace").decode()
