"""A region's outline as a polygon around its pixels, not through them: what other tools fill is what was marked."""

from __future__ import annotations

import numpy as np

from patchbank.arrays import BoolArray
from patchbank.scoring.regions import Region

# Where the next corner lies, going with the region at the right hand: right, down, left, up.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outline(region: Region) -> list[tuple[int, int]]:
    """The corners (x, y) of the pixels' outer edge, clockwise as on a screen, from the top left one; pixel (x, y)
    covers x..x+1, y..y+1. Holes are filled. One loop: where two pixels touch at a corner only, it passes there twice.
    """
    import cv2

    x, y, width, height = region.box
    filled = np.zeros((height + 2, width + 2), np.uint8)  # a border all around
    cv2.drawContours(filled, [region.contour - (x - 1, y - 1)], -1, 1, cv2.FILLED)
    inside = filled.view(np.bool_)
    column = int(inside[1].argmax())  # of the first pixel in the top row, whose left upper corner is a corner
    start = here = (column, 1)
    heading, corners = 0, list[tuple[int, int]]()
    while True:
        # The pixels ahead, at the left and at the right hand. 8 neighbours connect: a pixel at the left hand is a part
        # of the region even if the one at the right hand is none.
        left, right = _ahead(inside, here, heading)
        turn = -1 if left else 0 if right else 1
        if turn or not corners:
            if here == start and corners and heading == 3:
                break
            corners.append(here)
        heading = (heading + turn) % 4
        here = (here[0] + _STEPS[heading][0], here[1] + _STEPS[heading][1])
    return [(cx + x - 1, cy + y - 1) for cx, cy in corners]


def _ahead(inside: BoolArray, corner: tuple[int, int], heading: int) -> tuple[bool, bool]:
    """Says whether the pixels ahead of a corner, at the left and at the right hand, are of the region."""
    x, y = corner
    pixels = {
        0: ((y - 1, x), (y, x)),
        1: ((y, x), (y, x - 1)),
        2: ((y, x - 1), (y - 1, x - 1)),
        3: ((y - 1, x - 1), (y - 1, x)),
    }[heading]
    left, right = (bool(inside[pixel]) for pixel in pixels)
    return left, right
