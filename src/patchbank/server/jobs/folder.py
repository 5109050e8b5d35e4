"""The folder of a job: what the service and the child hand each other by files. It goes when the job has ended."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from patchbank.store.types import json_text
from patchbank.util.files import atomic_write, make_folder, output_errors

_MOST_RESULT = 20_000_000  # bytes
_LONGEST_NAME = 150  # bytes


@dataclass(frozen=True)
class JobFolder:
    """A job's folder. path: absolute."""

    path: Path

    @property
    def state(self) -> Path:
        """Returns the file of an interrupted fit's state."""
        return self.path / "state"

    @property
    def model(self) -> Path:
        """Returns the file of the model that the job makes."""
        return self.path / "model.patchbank"

    @property
    def result(self) -> Path:
        """Returns the file of what the job has found."""
        return self.path / "result.json"

    def write_args(self, args: Mapping[str, Any]) -> None:
        """Makes the folder, and says in it what is to be done."""
        make_folder(self.path)
        with atomic_write(self.path / "args.json") as file:
            file.write(json_text(dict(args)).encode())

    def read_args(self) -> dict[str, Any]:
        """What is to be done."""
        return _object(self.path / "args.json")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Keeps what the job has found."""
        with atomic_write(self.result) as file:
            file.write(json_text(dict(result)).encode())

    def read_result(self) -> dict[str, Any]:
        """What the job has found. Raises ValueError for what is no result."""
        if self.result.stat().st_size > _MOST_RESULT:
            raise ValueError(f"{self.result} is larger than a result can be")
        return _object(self.result)

    def link(self, part: str, files: Mapping[str, Path]) -> list[str]:
        """Puts files by name into a part of the folder, without copying them where the disk can do so. Returns their
        paths, in order."""
        folder = make_folder(self.path / part)
        found = []
        for name, source in files.items():
            target = folder / name
            if not target.exists():
                with output_errors(target):
                    _link(source, target)
            found.append(str(target))
        return found

    def remove(self) -> None:
        """Removes it, as far as that is possible."""
        shutil.rmtree(self.path, ignore_errors=True)


def unique_names(images: Iterable[tuple[str, str]]) -> dict[str, str]:
    """(name, digest) of images in a fixed order -> digests by names that are unlike each other, and that every system
    takes for a file's name. The same images have the same names each time: a model knows its images by them."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name, digest in images:
        plain = _plain(name)
        if plain.casefold() in taken:
            path = PurePosixPath(plain)
            plain = f"{path.stem}-{digest[:12]}{path.suffix}"
        taken.add(plain.casefold())
        found[plain] = digest
    return found


def _plain(name: str) -> str:
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(" .") or "image"
    while len(name.encode()) > _LONGEST_NAME:
        name = name[1:]
    return name


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def _object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected an object")
    return value
