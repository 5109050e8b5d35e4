"""Why an image was judged as it was: what its most anomalous patches are compared with. The facts are in
`results/explanation.py`; renderers make pictures with marks, a page or one large picture of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchbank.arrays import ByteArray, FloatArray, IntArray
from patchbank.errors import ConfigError, ImageError
from patchbank.features.embedding import Patches
from patchbank.fitted.model import FittedModel
from patchbank.imaging.boxes import Box, cut, fitted, in_shares, neighbourhood, square_inside
from patchbank.imaging.overlay import overlay
from patchbank.reports.explanation_page import write_page
from patchbank.reports.explanation_sheet import write_sheet
from patchbank.reports.notebook import explanation_view
from patchbank.results.explanation import ExplanationFacts, Finding, NormalPatch
from patchbank.results.result import Result
from patchbank.scoring.regions import Region
from patchbank.scoring.scores import mean_distances, patch_scores
from patchbank.util.files import check_writable
from patchbank.util.wording import counted

PICTURE_SIDE = 1200  # pixels, the longer side of the whole image, however large it was
CROP_SIDE = 480
_CLOSE = 12  # patches along the side of a patch's surroundings: enough to recognise the place
_MARGIN = 1.3  # the side of a region's surroundings, in multiples of the region's


class Explanation(ExplanationFacts):
    """Says why an image was judged as it was; made by `Result.explain` or `PatchCore.explain`. Its fields are those of
    `ExplanationFacts`."""

    def _repr_html_(self) -> str:
        return explanation_view(self)

    def save(self, path: str | Path, *, model: str | None = None) -> None:
        check_ending(path)
        check_writable(path)
        (write_sheet if Path(path).suffix.lower() == ".png" else write_page)(path, self, model)


def check_ending(path: str | Path) -> None:
    """Raises ConfigError for a name that `Explanation.save` would not know what to make of."""
    if Path(path).suffix.lower() not in (".html", ".htm", ".png"):
        raise ConfigError(f"expected a file name that ends in .html or .png; got {str(path)!r}")


def check_numbers(regions: int, neighbours: int) -> None:
    """Raises ConfigError for less than one of each."""
    for name, number in (("regions", regions), ("neighbours", neighbours)):
        if number < 1:
            raise ConfigError(f"{name}: expected at least 1; got {number}")


def explain(
    model: FittedModel,
    result: Result,
    image: ByteArray,
    patches: Patches,
    *,
    regions: int,
    neighbours: int,
    colours: str,
) -> Explanation:
    """Compares a result's regions with what the model knows. image: (H, W, 3) uint8 RGB, the inspected one; patches:
    its patches, embedded again. Raises ImageError if they are not those that were inspected."""
    shown = result.regions[:regions]
    places = [_worst_in(result, region) for region in shown] or [_worst(result)]
    findings = tuple(
        _finding(model, result, image, patches, region, place, neighbours)
        for region, place in zip(shown or (None,), places, strict=True)
    )
    picture, with_heat = _whole(result, image, colours)
    return Explanation(
        path=result.path,
        score=result.score,
        threshold=result.threshold,
        pixel_threshold=result.pixel_threshold,
        is_anomalous=result.is_anomalous,
        image_size=result.image_size,
        regions=result.regions,
        findings=findings,
        good_scores=model.calibration.counted_scores if model.calibration else None,
        notes=tuple(_notes(model, result, len(shown))),
        picture=picture,
        overlay=with_heat,
        verdict=result.verdict,
        unlike=result.distribution_reasons,
        colours=colours,
    )


def nearest_of_distinct_images(model: FittedModel, patch: FloatArray, count: int) -> list[tuple[int, float]]:
    """The bank vectors nearest to a patch, (D,), and their distances: the nearest of each of `count` training images.
    If fewer images have vectors, the nearest others fill up. Ascending by distance."""
    limit, asked = min(count, len(model.bank)), count
    while True:
        asked = min(4 * asked, len(model.bank))
        distances, indices = model.searcher.search(patch[None], asked)  # (1, k)
        seen: dict[int, int] = {}
        for rank, index in enumerate(indices[0]):
            seen.setdefault(int(model.bank.image[index]), rank)
        if len(seen) >= limit or asked == len(model.bank):
            break
    ranks = sorted(seen.values())[:limit]
    others = (rank for rank in range(asked) if rank not in set(ranks))
    ranks += [next(others) for _ in range(limit - len(ranks))]
    return [(int(indices[0, rank]), float(distances[0, rank])) for rank in sorted(ranks)]


def _finding(
    model: FittedModel,
    result: Result,
    image: ByteArray,
    patches: Patches,
    region: Region | None,
    place: tuple[int, int],
    neighbours: int,
) -> Finding:
    feature = _feature(model, result, patches, place)
    (row, column), (h, w) = place, patches.grid
    extent = model.config.patch_size / model.config.patch_stride
    mark = neighbourhood(place, (h, w), extent)
    close, around = _surroundings(mark, extent, (h, w)), _around(result, region, mark, extent)
    normal = model.normal
    found = nearest_of_distinct_images(model, feature, neighbours)
    far = np.array([distance for _, distance in found], np.float32)
    apart = patch_scores(far, np.broadcast_to(feature, (len(far), len(feature))), model.bank.expected)
    return Finding(
        region=region,
        row=row,
        column=column,
        grid=(h, w),
        score=float(result.patch_scores[place]),
        here=normal.at((column + 0.5) / w, (row + 0.5) / h) if normal else None,
        overall=normal.everywhere() if normal else None,
        neighbours=tuple(
            _neighbour(model, index, distance, extent)
            for (index, _), distance in zip(found, apart.tolist(), strict=True)
        ),
        mark=in_shares(mark, (h, w)),
        close=in_shares(close, (h, w)),
        around=in_shares(around, (h, w)),
        close_picture=cut(image, in_shares(close, (h, w)), CROP_SIDE),
        around_picture=cut(image, in_shares(around, (h, w)), CROP_SIDE),
    )


def _feature(model: FittedModel, result: Result, patches: Patches, place: tuple[int, int]) -> FloatArray:
    """(D,) the patch at a place (row, column), if it scores as it did when the image was inspected."""
    if patches.grid == result.patch_scores.shape:
        at = np.flatnonzero(patches.place == place[0] * patches.grid[1] + place[1])
        if len(at):
            feature = patches.features[at[0]]
            distances, _ = model.searcher.search(feature[None], model.config.num_neighbours)
            score = patch_scores(mean_distances(distances), feature[None], model.bank.expected)[0]
            if np.isclose(score, result.patch_scores[place], rtol=1e-2, atol=1e-3):
                return feature
    raise ImageError(
        f"{result.path}: does not score as it did when it was inspected; expected the same image and model: "
        "inspect it again"
    )


def _worst(result: Result) -> tuple[int, int]:
    scores = result.patch_scores if result.counted is None else np.where(result.counted, result.patch_scores, -1)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(row), int(column)


def _worst_in(result: Result, region: Region) -> tuple[int, int]:
    """The place of the highest score among the patches whose centres lie in the region, and the one under its peak."""
    import cv2

    (h, w), (height, width) = result.patch_scores.shape, result.image_size
    x, y, box_width, box_height = region.box
    inside = np.zeros((box_height, box_width), np.uint8)
    cv2.drawContours(inside, [region.contour - (x, y)], -1, 1, cv2.FILLED)
    rows = ((2 * np.arange(h) + 1) * height // (2 * h)) - y  # the patches' centres, in the box
    columns = ((2 * np.arange(w) + 1) * width // (2 * w)) - x
    r, c = np.flatnonzero((rows >= 0) & (rows < box_height)), np.flatnonzero((columns >= 0) & (columns < box_width))
    candidates = np.zeros((h, w), np.bool_)
    candidates[np.ix_(r, c)] = inside[np.ix_(rows[r], columns[c])]
    candidates[region.peak[1] * h // height, region.peak[0] * w // width] = True
    if result.counted is not None and (candidates & result.counted).any():
        candidates &= result.counted
    row, column = np.unravel_index(int(np.where(candidates, result.patch_scores, -1).argmax()), (h, w))
    return int(row), int(column)


def _around(result: Result, region: Region | None, mark: Box, extent: float) -> Box:
    """A square around a patch and its region, in patches of the grid; never smaller than the patch's surroundings."""
    (h, w), (height, width) = result.patch_scores.shape, result.image_size
    left, top, right, bottom = mark[0], mark[1], mark[0] + mark[2], mark[1] + mark[3]
    if region:
        x, y, box_width, box_height = region.box
        left, right = min(left, x * w / width), max(right, (x + box_width) * w / width)
        top, bottom = min(top, y * h / height), max(bottom, (y + box_height) * h / height)
    side = max(_CLOSE, 2 * extent, _MARGIN * (right - left), _MARGIN * (bottom - top))
    return square_inside((left + right - side) / 2, (top + bottom - side) / 2, side, (h, w))


def _surroundings(mark: Box, extent: float, grid: tuple[int, int]) -> Box:
    """The square around a patch, in patches of the grid: as much of an inspected image as of a normal one."""
    side = max(_CLOSE, 2 * extent)
    return square_inside(mark[0] + (mark[2] - side) / 2, mark[1] + (mark[3] - side) / 2, side, grid)


def _neighbour(model: FittedModel, index: int, distance: float, extent: float) -> NormalPatch:
    bank, image = model.bank, int(model.bank.image[index])
    name, row, column = bank.origin(index)
    grid = (int(bank.grids[image][0]), int(bank.grids[image][1]))
    mark = neighbourhood((row, column), grid, extent)
    return NormalPatch(
        image=name,
        row=row,
        column=column,
        grid=grid,
        distance=distance,
        thumbnail=model.thumbnails.get(image),
        mark=in_shares(mark, grid),
        close=in_shares(_surroundings(mark, extent, grid), grid),
    )


def _whole(result: Result, image: ByteArray, colours: str) -> tuple[ByteArray, ByteArray]:
    """The whole image, small, without and with its heat map."""
    import cv2

    picture = fitted(image, PICTURE_SIDE)
    size = (picture.shape[1], picture.shape[0])
    heat = result.anomaly_map
    if heat.shape != picture.shape[:2]:
        heat = cv2.resize(heat, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    scale = np.array([size[0] / image.shape[1], size[1] / image.shape[0]])
    outlines = [_Outline(np.rint((region.contour + 0.5) * scale - 0.5).astype(np.int32)) for region in result.regions]
    return picture, overlay(picture, heat, result.pixel_threshold, outlines, colours=colours)


@dataclass(frozen=True, eq=False)
class _Outline:
    contour: IntArray


def _notes(model: FittedModel, result: Result, shown: int) -> list[str]:
    notes = []
    if reasons := "; ".join(result.distribution_reasons):
        notes.append(f"Out of distribution, so its score means little: {reasons}. Look at the picture first.")
    if not model.calibration:
        notes.append(
            "The model was fitted without calibration: it has no threshold, marks no regions, and knows no normal "
            "distances to compare with."
        )
    elif not model.normal:
        notes.append(
            "The model file is of an older format that kept no normal distances; fit again to compare with them."
        )
    if model.calibration and not result.regions:
        notes.append("No part of the image is over the threshold of regions; its most anomalous patch is shown.")
    if result.regions and result.is_anomalous is False:
        notes.append(
            "Regions and the verdict have thresholds of their own: this image has a region and is judged normal."
        )
    if 0 < shown < len(result.regions):
        highest = counted(shown, "region with the highest peak is", "regions with the highest peaks are")
        notes.append(f"The {highest} shown, of {len(result.regions)}.")
    if model.config.thumbnail_size == 0:
        notes.append(
            "Pictures of the training images were switched off when the model was fitted (thumbnail_size = 0)."
        )
    return notes
