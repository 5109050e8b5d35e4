"""Images of a folder of the server: found, decoded and kept by the child; the service notes them as they come.

Only what lies below one of the configured roots is read, and no link is followed out of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from patchbank import ConfigError, ImageError
from patchbank.config import ImageFormat
from patchbank.imaging.formats import HEAD, READ, format_of, max_file_bytes
from patchbank.imaging.images import read_image
from patchbank.server.jobs.tools import Tools
from patchbank.store.blobs import Blobs
from patchbank.store.datasets import MOST_IMAGES

_TOGETHER, _MOST_REFUSED = 50, 100


def take_folder(args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """Keeps the images of a folder and its folders. Returns how many, which could not be read, and how many files were
    no images."""
    blobs, folder = Blobs(Path(args["blobs"])), below(args["folder"], args["roots"])
    files = list(_files(folder))
    if len(files) > MOST_IMAGES:
        raise ConfigError(f"{folder}: expected at most {MOST_IMAGES:,} files; got {len(files):,}")
    batch: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    taken = others = 0
    for number, path in enumerate(files):
        tools.progress("read", number, len(files))
        try:
            data = _image(path, folder)
        except (ImageError, OSError) as error:
            refused.append({"name": path.name, "reason": str(error)})
            continue
        if data is None:
            others += 1
            continue
        batch.append({"sha256": blobs.put(data), "name": path.name, "size": len(data)})
        taken += 1
        if len(batch) == _TOGETHER:
            tools.say(images=batch)
            batch = []
    tools.say(images=batch)
    tools.progress("read", len(files), len(files))
    return {
        "images": taken,
        "others": others,
        "refused": {"number": len(refused), "first": refused[:_MOST_REFUSED]},
    }


def below(folder: str, roots: Sequence[str]) -> Path:
    """The folder, without links in its path, if it is one of the roots or lies below one. Raises ConfigError."""
    try:
        found = Path(folder).resolve(strict=True)
        if found.is_dir() and any(found.is_relative_to(Path(root).resolve()) for root in roots):
            return found
    except (OSError, ValueError, RuntimeError):
        pass
    if not roots:
        raise ConfigError("this service reads no folders: start it with --image-roots")
    raise ConfigError("expected a folder below one of the service's image_roots; got none")


def _files(folder: Path) -> Iterator[Path]:
    """Plain files of the folder and its folders, in order; links are passed over."""
    for where, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        yield from (path for name in sorted(files) if (path := Path(where) / name) and not path.is_symlink())


def _image(path: Path, folder: Path) -> bytes | None:
    """The content of an image file; None for a file that is none. Raises ImageError or OSError."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or not path.resolve().is_relative_to(folder):
            return None
        head = file.read(HEAD)
        if format_of(head) not in READ:
            return None
        if about.st_size > max_file_bytes():
            raise ImageError(f"is a file of more than {max_file_bytes():,} bytes")
        data = head + file.read(max_file_bytes())
    read_image(data, ImageFormat())
    return data
