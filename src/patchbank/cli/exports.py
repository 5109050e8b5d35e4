"""What `predict --coco` and `--labelme` write, for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from patchbank.errors import OutputError

if TYPE_CHECKING:
    from patchbank.imaging.images import Skipped
    from patchbank.results.result import Result


class Exports:
    """Files for other tools. What cannot be written is named, and the rest goes on."""

    def __init__(self, coco: str | None, labelme: str | None) -> None:
        from patchbank.export.coco import CocoFile
        from patchbank.export.labelme import LabelMeFolder
        from patchbank.util.files import check_writable, make_folder

        if coco:
            make_folder(Path(coco).parent)
            check_writable(coco)
        self._path, self._coco = coco, CocoFile()
        self._labelme = LabelMeFolder(labelme) if labelme else None

    def add(self, result: Result) -> list[str]:
        """Takes a result. Returns what could not be written, and why."""
        if self._path:
            self._coco.add(result)
        try:
            if self._labelme:
                self._labelme.add(result)
        except OutputError as error:
            return [str(error)]
        return []

    def finish(self, refused: Sequence[Skipped]) -> list[str]:
        """Writes what is written at the end. Returns what could not be written, and why."""
        if not self._path:
            return []
        for each in refused:
            self._coco.add(each)
        try:
            self._coco.write(self._path)
        except OutputError as error:
            return [str(error)]
        return []
