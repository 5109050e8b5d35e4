"""Training images by name: finding the one that is meant, and names for new ones."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath

from patchbank.errors import DatasetError
from patchbank.fit.fit import relative_names
from patchbank.imaging.sources import ImageSource, is_path, name_of


def numbers_of(wanted: Iterable[str], names: Sequence[str], among: Collection[int]) -> list[int]:
    """The numbers of the images that are meant: indices into `names`, of those in `among`.

    A name may be shorter or longer than the model's by leading folders ('003.png', 'good/003.png'). Raises DatasetError
    where none or several are meant; the message lists what is close.
    """
    found: list[int] = []
    for given in wanted:
        name = PurePath(given).as_posix()
        numbers = [n for n in sorted(among) if names[n] == name]
        numbers = numbers or [n for n in sorted(among) if _ends_with(names[n], name) or _ends_with(name, names[n])]
        if not numbers:
            close = difflib.get_close_matches(name, [names[n] for n in sorted(among)], 3)
            hint = f"did you mean {', '.join(close)}?" if close else "patchbank info --json lists them"
            raise DatasetError(f"no training image of this model is named {given!r}; {hint}")
        if len(numbers) > 1:
            several = ", ".join(names[n] for n in numbers[:4])
            raise DatasetError(f"{given!r} could be {len(numbers)} training images ({several}); name its folder too")
        found += [n for n in numbers if n not in found]
    return found


def new_names(sources: Sequence[ImageSource], taken: Collection[str], first: int) -> list[str]:
    """Names for further images: their paths below the folder that they share, with as many folders above it as it takes
    to be unlike the names that are taken. 'image N', for what has no path, is counted on from `first`.

    Raises DatasetError for a path or name that is given twice, or in full a taken name.
    """
    if not sources:
        return []
    used, result, seen = set(taken), [], set()
    given = [name_of(source, first + place) for place, source in enumerate(sources)]
    unnamed = [place for place, source in enumerate(sources) if not is_path(source)]
    for source, path, name in zip(sources, given, relative_names(given, unnamed), strict=True):
        if is_path(source):
            absolute = Path(os.path.abspath(path))  # noqa: PTH100
            if absolute in seen:
                raise DatasetError(f"{path}: is given twice; give it once")
            seen.add(absolute)
            folders = list(absolute.parts[1 : -len(PurePath(name).parts)])
            while name in used and folders:
                name = f"{folders.pop()}/{name}"
        if name in used:
            whole = ", by its whole path" if is_path(source) else ""
            raise DatasetError(f"{path}: is a training image already{whole}; leave it out, or give it another name")
        used.add(name)
        result.append(name)
    return result


def files_by_name(names: Iterable[str], files: Sequence[Path], folders: Collection[Path]) -> dict[str, Path]:
    """Returns which of the files each training image is: the one of that name in one of the folders, or the only one
    anywhere whose path ends with it. Names without a file are left out. Raises DatasetError where several files could
    be meant."""
    there = set(files)
    by_end: dict[str, list[Path]] = {}
    for file in files:
        by_end.setdefault(file.name, []).append(file)
    found: dict[str, Path] = {}
    for name in names:
        direct = [folder / name for folder in folders if folder / name in there]
        ends = direct or [file for file in by_end.get(PurePath(name).name, []) if _ends_with(file.as_posix(), name)]
        if len(ends) > 1:
            raise DatasetError(f"{name} could be {ends[0]} or {ends[1]}; give the folder that the model was fitted on")
        if ends:
            found[name] = ends[0]
    return found


def folders_of(given: Iterable[str], names: Iterable[str]) -> list[str]:
    """The folders that training images lie in, as far as they are named by paths of files: 'good/a.png', which is the
    model's 'a.png', lies in 'good'."""
    known, folders = set(names), []
    for path in map(PurePath, given):
        inside = [folder for folder in path.parents if path.relative_to(folder).as_posix() in known]
        folders += [folder.as_posix() for folder in inside if Path(path).is_file()]
    return list(dict.fromkeys(folders))


def _ends_with(path: str, end: str) -> bool:
    return f"/{path}".endswith(f"/{end}")
