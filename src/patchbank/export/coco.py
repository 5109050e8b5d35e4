"""Results as COCO's JSON: images, and regions as annotations with polygons, for pycocotools and programs for labels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from patchbank.export.outline import outline
from patchbank.imaging.images import Skipped
from patchbank.results.result import Result
from patchbank.util.files import atomic_write, make_folder
from patchbank.util.wording import finite
from patchbank.version import __version__

CATEGORY = "anomaly"
_OF_IMAGE = ("score", "threshold", "is_anomalous", "verdict", "reason", "p_value", "in_scene", "model", "time")


def export_coco(results: Iterable[Result | Skipped], path: str | Path, *, category: str = CATEGORY) -> None:
    """Writes a COCO file: an entry of `images` for each result, and one of `annotations` for each of its regions.

    An annotation has the region's outline as `segmentation` (a polygon around its pixels; holes are filled), its
    `bbox`, its `area` in pixels (without holes), and its peak as `score`, in units of the anomaly map. `file_name` is
    the result's path as it is. Images have the keys of `Result.to_dict` too: score, threshold, verdict, which model,
    when. Images that could not be inspected are listed under `skipped`, beside COCO's keys. Raises OutputError.
    """
    file = CocoFile(category)
    for result in results:
        file.add(result)
    file.write(path)


class CocoFile:
    """A COCO file that results are added to as they come. It holds outlines, no pictures."""

    def __init__(self, category: str = CATEGORY) -> None:
        self._category = category
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._skipped: list[dict[str, str]] = []

    def add(self, result: Result | Skipped) -> None:
        """Takes the result of one image."""
        if isinstance(result, Skipped):
            self._skipped.append({"file_name": result.name, "reason": result.reason})
            return
        about, number = result.to_dict(), len(self._images) + 1
        height, width = result.image_size
        image = {"id": number, "file_name": result.path, "width": width, "height": height}
        annotations = [
            {
                "id": len(self._annotations) + place,
                "image_id": number,
                "category_id": 1,
                "segmentation": [[value for corner in outline(region) for value in corner]],
                "bbox": list(region.box),
                "area": region.area,
                "iscrowd": 0,
                "score": finite(region.peak_score),
            }
            for place, region in enumerate(result.regions, 1)
        ]
        self._images.append(image | {name: about[name] for name in _OF_IMAGE if name in about})
        self._annotations += annotations

    def write(self, path: str | Path) -> None:
        """Writes the file: beside its name first, then renamed. Raises OutputError."""
        whole = {
            "info": {"description": "Regions that patchbank found", "version": __version__},
            "licenses": [],
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": 1, "name": self._category, "supercategory": "defect"}],
            "skipped": self._skipped,
        }
        make_folder(Path(path).parent)
        with atomic_write(path) as file:
            file.write(json.dumps(whole, allow_nan=False).encode())
