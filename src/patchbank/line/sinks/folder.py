"""Records as JSON files, for programs that watch a folder: each file appears whole, its image before it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from patchbank import ImageError, OutputError
from patchbank.line.images import Images
from patchbank.line.record import Record
from patchbank.line.sinks.base import Outcome, Unreachable
from patchbank.util.files import atomic_write, make_folder

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]|^\.+")


class FolderSink:
    """Implements `Sink`. path: the folder. with_images: 'none', 'rejected' or 'all'.

    A record is `DAY/STATION/ID.json`, without its patch grid; its image is `ID.png` or whatever it is.
    """

    batch = 20

    def __init__(self, *, name: str, path: str, with_images: str = "rejected") -> None:
        self.name, self._folder, self._with_images = name, Path(path), with_images

    def check(self) -> str:
        """Says whether the folder can be written. Raises OutputError."""
        make_folder(self._folder)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write into {self._folder}: permission denied")
        return f"writes into {self._folder}"

    def deliver(self, records: Sequence[Record], images: Images) -> Outcome:
        """Writes the files; they are on the disk when this returns. What was there under their names is replaced."""
        delivered: list[str] = []
        try:
            for record in records:
                self._write(record, images)
                delivered.append(record.id)
        except OutputError as error:
            if not delivered:
                raise Unreachable(str(error)) from error
        return Outcome(delivered)

    def state(self, station: str, state: Mapping[str, Any]) -> None:
        """Files have no state."""

    def close(self) -> None:
        """Nothing stays open."""

    def _write(self, record: Record, images: Images) -> None:
        folder = make_folder(self._folder / f"{record.at:%Y-%m-%d}" / _safe(record.station))
        values = record.to_dict()
        del values["heat"]
        values["image"] = self._image(record, images, folder)
        with atomic_write(folder / f"{_safe(record.id)}.json") as file:
            file.write(json.dumps(values, ensure_ascii=False, indent=1).encode() + b"\n")

    def _image(self, record: Record, images: Images, folder: Path) -> str | None:
        """The image file's name; None if it is not wanted, was not kept, or is gone by now."""
        wanted = self._with_images == "all" or (self._with_images == "rejected" and record.output != "ok")
        if not wanted or not record.image_sha256:
            return None
        try:
            content = images.get(record.image_sha256)
        except ImageError:
            return None
        name = f"{_safe(record.id)}.{_safe(record.image_format or 'image')}"
        with atomic_write(folder / name) as file:
            file.write(content)
        return name


def _safe(text: str) -> str:
    """A name of a file from a text from outside."""
    return _NOT_IN_NAMES.sub("_", text)[:100] or "_"
