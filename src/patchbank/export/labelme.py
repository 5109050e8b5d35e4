"""Results as LabelMe's JSON files, one an image: to look at regions, to correct them, and to label with them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from patchbank.errors import OutputError
from patchbank.export.outline import outline
from patchbank.imaging.images import Skipped, encode_png, shown
from patchbank.imaging.sources import is_path
from patchbank.results.result import Result
from patchbank.util.files import atomic_write, make_folder

LABEL = "anomaly"
_FORMAT = "5.5.0"  # of LabelMe whose files these are; later ones read them
_LONGEST = 120  # characters of a file's name


def export_labelme(results: Iterable[Result | Skipped], folder: str | Path, *, label: str = LABEL) -> list[Path]:
    """Writes a JSON file for each result into a folder, and returns their paths; `labelme FOLDER` opens them.

    A region is a polygon around its pixels (holes are filled), its peak in the description. Images are referred to by
    their path, seen from the folder; those that came without a file are put into the JSON file. A file is called as its
    image is, without its folders and ending, and with a part of a hash where that would be the name of two. Images that
    could not be inspected have no file. A file that is there already is not written over: somebody may have corrected
    it. Raises OutputError, and ImageError for an image that is needed and gone.
    """
    writer = LabelMeFolder(folder, label)
    return [writer.add(result) for result in results if not isinstance(result, Skipped)]


class LabelMeFolder:
    """A folder of LabelMe's files that results are added to as they come. It is made with the first of them."""

    def __init__(self, folder: str | Path, label: str = LABEL) -> None:
        self._folder, self._label = Path(folder), label
        self._names: set[str] = set()

    def add(self, result: Result) -> Path:
        """Writes a result's file. Raises OutputError, and ImageError as `Result.read_again` does."""
        path = make_folder(self._folder) / f"{self._name_for(result.path)}.json"
        if os.path.lexists(path):
            raise OutputError(
                f"cannot write {path}: it is there already, and may have been corrected by hand; choose another folder"
            )
        with atomic_write(path) as file:
            file.write(json.dumps(self._about(result), indent=1, allow_nan=False).encode())
        return path

    def _about(self, result: Result) -> dict[str, Any]:
        height, width = result.image_size
        if is_path(result.source):
            where, data = _seen_from(self._folder, os.fspath(result.source)), None
        else:
            picture = encode_png(shown(result.read_again()))
            where, data = f"{_plain(result.path)}.png", base64.b64encode(picture).decode()
        return {
            "version": _FORMAT,
            "flags": {},
            "shapes": [
                {
                    "label": self._label,
                    "points": [[float(x), float(y)] for x, y in outline(region)],
                    "group_id": None,
                    "description": f"peak {region.peak_score:.6g}, {region.area} pixels",
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
                for region in result.regions
            ],
            "imagePath": where,
            "imageData": data,
            "imageHeight": height,
            "imageWidth": width,
        }

    def _name_for(self, path: str) -> str:
        """A file's name without its ending, which no other image of this export has, on any file system."""
        name = _plain(path)
        if name.casefold() in self._names or len(name) > _LONGEST:
            name = f"{name[:_LONGEST]}~{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        number, stem = 2, name
        while name.casefold() in self._names:  # one image, inspected several times
            name, number = f"{stem}~{number}", number + 1
        self._names.add(name.casefold())
        return name


def _plain(path: str) -> str:
    """The last part of a path, without its ending and whatever a file system may not take."""
    last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", last)
    return re.sub(r"[^\w .()+-]|^[. ]+|[. ]+$", "_", stem)[:1000] or "image"


def _seen_from(folder: Path, path: str) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return Path(path).absolute().as_posix()
