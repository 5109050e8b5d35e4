"""An explanation's pictures with marks on them: the same for the page and for the sheet.

Close-ups of an inspected patch and of normal ones show equally much of their surroundings, so that they compare at a
glance.
"""

from __future__ import annotations

import numpy as np

from patchbank.arrays import ByteArray, DoubleArray
from patchbank.errors import ImageError
from patchbank.imaging.boxes import Box, fitted, pixels_of
from patchbank.imaging.drawing import DARK, MARK, badge, rectangle
from patchbank.results.explanation import ExplanationFacts, Finding, NormalPatch

CROP = 400  # pixels, the longer side of a crop
WHOLE = 220  # of a whole picture that shows where the crop is
_LEAST_MARK = 7


def overview(explanation: ExplanationFacts, heat: bool, side: int) -> ByteArray:
    """The whole inspected image, with or without its heat map, its findings numbered; the longer side is `side`."""
    picture = enlarged(explanation.overlay if heat else explanation.picture, side)
    height, width = picture.shape[:2]
    for number, finding in enumerate(explanation.findings, start=1):
        size = max(13, round(side / 40))
        if finding.region:
            contour = finding.region.contour * (width / explanation.image_size[1], height / explanation.image_size[0])
            x, y = contour[contour.sum(axis=1).argmin()]  # its upper left end
        else:
            (x, y), (right, bottom) = np.array(_corners(finding.mark)) * (width, height)
            rectangle(picture, _grown((x, y, right, bottom), 12), MARK)
        badge(picture, str(number), (x - 0.8 * size, y - 0.8 * size), size)
    return picture


def region_crop(explanation: ExplanationFacts, finding: Finding) -> ByteArray | None:
    """The region with its outline and the patch marked; None where a close-up of the patch shows as much."""
    wider = finding.around[2] > 1.25 * finding.close[2] or finding.around[3] > 1.25 * finding.close[3]
    return _crop(explanation, finding, finding.around_picture, finding.around) if wider else None


def inspected_crop(explanation: ExplanationFacts, finding: Finding) -> ByteArray:
    """The surroundings of the patch in the inspected image, with its region's outline and the patch marked."""
    return _crop(explanation, finding, finding.close_picture, finding.close)


def normal_crop(patch: NormalPatch) -> ByteArray | None:
    """The surroundings of a normal patch in its training image, the patch marked; None without a thumbnail."""
    thumbnail = decoded(patch.thumbnail)
    if thumbnail is None:
        return None
    height, width = thumbnail.shape[:2]
    x0, y0, x1, y1 = pixels_of(thumbnail.shape, patch.close)
    picture = enlarged(thumbnail[y0:y1, x0:x1], CROP)
    mark = np.array(_corners(patch.mark)) * (width, height) - (x0, y0)
    _marked(picture, mark * (picture.shape[1] / (x1 - x0), picture.shape[0] / (y1 - y0)))
    return picture


def inspected_whole(explanation: ExplanationFacts, finding: Finding) -> ByteArray:
    """The whole inspected image, small, with the crop framed and the patch marked."""
    return _located(explanation.picture, finding.close, finding.mark)


def normal_whole(patch: NormalPatch) -> ByteArray | None:
    """The whole training image, small, with the crop framed and the patch marked; None without a thumbnail."""
    thumbnail = decoded(patch.thumbnail)
    return None if thumbnail is None else _located(thumbnail, patch.close, patch.mark)


def decoded(jpeg: bytes | None) -> ByteArray | None:
    """A training image's thumbnail, (h, w, 3) uint8 RGB; None where there is none that can be read."""
    from patchbank.imaging.decoding import decode
    from patchbank.imaging.images import to_8bit

    try:
        return fitted(to_8bit(decode(jpeg)), 1024) if jpeg else None
    except ImageError:
        return None


def enlarged(image: ByteArray, side: int) -> ByteArray:
    """A copy of an image whose longer side is `side` pixels."""
    import cv2

    scale = side / max(image.shape[:2])
    if scale <= 1:
        return fitted(image, side)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    larger: ByteArray = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    return larger


def _crop(explanation: ExplanationFacts, finding: Finding, shown: ByteArray, box: Box) -> ByteArray:
    import cv2

    height, width = explanation.image_size
    picture = enlarged(shown, CROP)
    x0, y0, x1, y1 = pixels_of(explanation.image_size, box)
    scale = np.array([picture.shape[1] / (x1 - x0), picture.shape[0] / (y1 - y0)])
    if finding.region:
        outline = np.rint((finding.region.contour + 0.5 - (x0, y0)) * scale - 0.5).astype(np.int32)
        for colour, line in ((DARK, 4), ((255, 255, 255), 2)):
            cv2.drawContours(picture, [outline], -1, colour, line, cv2.LINE_AA)
    mark = np.array(_corners(finding.mark)) * (width, height) - (x0, y0)  # (2, 2) corners (x, y)
    _marked(picture, mark * scale)
    return picture


def _located(image: ByteArray, crop: Box, mark: Box) -> ByteArray:
    picture = enlarged(image, WHOLE)
    size = (picture.shape[1], picture.shape[0])
    (x0, y0), (x1, y1) = np.array(_corners(crop)) * size
    rectangle(picture, (x0, y0, x1, y1), DARK, 1)
    _marked(picture, np.array(_corners(mark)) * size, line=1)
    return picture


def _marked(picture: ByteArray, corners: DoubleArray, line: int = 2) -> None:
    (x0, y0), (x1, y1) = corners
    rectangle(picture, _grown((x0, y0, x1, y1), _LEAST_MARK), MARK, line)


def _corners(box: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    return (box[0], box[1]), (box[0] + box[2], box[1] + box[3])


def _grown(corners: tuple[float, float, float, float], least: float) -> tuple[float, float, float, float]:
    """The rectangle (left, top, right, bottom), grown around its middle to sides of at least so many pixels."""
    x0, y0, x1, y1 = corners
    dx, dy = max(0.0, least - (x1 - x0)) / 2, max(0.0, least - (y1 - y0)) / 2
    return x0 - dx, y0 - dy, x1 + dx, y1 + dy
