"""The folder that `predict --out` names: an overlay and a mask for each image, and one report."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from patchbank.cli.options import debugging
from patchbank.cli.terminal import note, note_trace
from patchbank.errors import ConfigError, DatasetError, OutputError
from patchbank.fit.fit import relative_names
from patchbank.imaging.images import SUFFIXES, reason_of
from patchbank.util.files import make_folder
from patchbank.util.wording import counted, printable

if TYPE_CHECKING:
    from patchbank.arrays import BoolArray, ByteArray
    from patchbank.calibration.thresholds import Calibration
    from patchbank.imaging.images import Skipped
    from patchbank.results.explanation import ExplanationFacts
    from patchbank.results.result import Result

OVERLAY, MASK, REPORT = ".overlay.png", ".mask.png", "report.html"
PICTURES = ("flagged", "all")
MOST_EXPLAINED = 20  # images whose explanation the report holds: the first that are flagged
_LONGEST = 255  # bytes of a file's name, on nearly all file systems
_ROOM = 40  # of them for what `atomic_write` adds to a name while it writes


def without_outputs(images: Sequence[Path], paths: Iterable[str | Path], out: str | Path | None = None) -> list[Path]:
    """The images that are not outputs of an earlier run: what inspects a folder again and again must not inspect its
    own pictures.

    What was found in a folder and is called as the two pictures of an image are, side by side, is left out. Where `out`
    lies inside one of the folders among `paths`, so is all that was found in it. Where it is that folder, or lies above
    it, so is what is called as one of the pictures, also if it was named. Says so in a note. Raises DatasetError if
    nothing is left.
    """
    folder = Path(os.path.realpath(out)) if out else None
    given = [Path(path) for path in paths]
    named = {os.path.abspath(path) for path in given if not path.is_dir()}  # noqa: PTH100
    searched = [Path(os.path.realpath(path)) for path in given if path.is_dir()]
    inside = folder is not None and folder not in searched and any(each in folder.parents for each in searched)

    def is_output(image: Path) -> bool:
        found = os.path.abspath(image) not in named  # noqa: PTH100
        if folder is not None and folder in Path(os.path.realpath(image)).parents:
            return (found and inside) or _is_called_like_one(image)
        return found and _is_one_of_two(image)

    kept = [image for image in images if not is_output(image)]
    if not kept:
        raise DatasetError("expected images; found only pictures that 'patchbank predict --out' wrote")
    if len(kept) < len(images):
        left = counted(len(images) - len(kept), "file")
        note(f"left out {left} of earlier runs" + (f", and what else lies in {out}" if inside else ""))
    return kept


def _is_called_like_one(image: Path) -> bool:
    name, _ = _image_and_other(image)
    return bool(name) and (Path(name).suffix.lower() in SUFFIXES or _is_one_of_two(image))


def _is_one_of_two(image: Path) -> bool:
    name, other = _image_and_other(image)
    return bool(name) and image.with_name(other).is_file()


def _image_and_other(image: Path) -> tuple[str, str]:
    """For a file that is called as an image's picture is: the image's name, and what its other picture is called."""
    for ending, other in ((OVERLAY, MASK), (MASK, OVERLAY)):
        if image.name.endswith(ending):
            name = image.name.removesuffix(ending)
            return name, name + other
    return "", ""


def output_names(images: Sequence[Path], longest: int = _LONGEST) -> list[str]:
    """A name for each image's pictures, relative to the folder, without OVERLAY and MASK at its end.

    It is the image's path below the folder that all images share, and never leads out of the folder. A part that is too
    long for the file system is cut; where two pictures would have one name, on a file system that ignores case too, a
    name gets a hash of the image's path.
    """
    names: list[str] = []
    files, folders = {_key(REPORT)}, set[str]()
    for image, name in zip(images, relative_names([str(image) for image in images]), strict=True):
        *above, last = PurePosixPath(name).parts
        parts = [*(_cut(part, longest - _ROOM) for part in above), _cut(last, longest - _ROOM - len(OVERLAY))]
        marked = [*parts[:-1], f"{_cut(parts[-1], longest - _ROOM - len(OVERLAY) - 9)}~{_hash(str(image))}"]
        for candidate in (parts, marked, [f"{_hash(str(image))}~{_hash(str(image)[::-1])}"]):
            stem = PurePosixPath(*candidate)
            pictures = {_key(f"{stem}{OVERLAY}"), _key(f"{stem}{MASK}")}
            around = {_key(str(parent)) for parent in stem.parents}
            if not (pictures & (files | folders) or around & files):
                break
        names.append(str(stem))
        files |= pictures
        folders |= around
    return names


def _key(name: str) -> str:
    """Alike for names that are one file on a system that ignores case, or how a letter is composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _cut(part: str, longest: int) -> str:
    """The part of a path in at most so many bytes; what was cut is hashed into it."""
    data = os.fsencode(part)
    if len(data) <= longest:
        return part
    return data[: longest - 9].decode(errors="ignore") + f"~{_hash(part)}"


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


class OutputFolder:
    """Writes what `--out` asks for. What cannot be written is named, and the rest goes on.

    pictures: of which images. "all": overlay and mask as files, and pictures in the report. "flagged": both of what is
    not OK only. None: files of all images, which other programs may wait for, but pictures of flagged ones in the
    report, which would not open any more (300 kB an image). colours: the overlays' scale.
    """

    def __init__(
        self, folder: str, images: Sequence[Path], pictures: str | None = None, colours: str = "orange"
    ) -> None:
        from patchbank.imaging.overlay import check_colours
        from patchbank.reports.inspection import InspectionReport

        if pictures not in (None, *PICTURES):
            raise ConfigError(f"pictures: expected one of {', '.join(PICTURES)}; got {pictures!r}")
        check_colours(colours)
        self._pictures, self._colours = pictures, colours
        self._explained = 0
        self._folder = make_folder(folder)
        self.report = self._folder / REPORT
        self.is_written = False  # whether the report is there
        self._real = Path(os.path.realpath(self._folder))
        names = relative_names([str(path) for path in images])
        files = output_names(images, _longest_name(self._folder))
        self._names = {str(image): pair for image, *pair in zip(images, names, files, strict=True)}
        self._rows = InspectionReport(self.report)
        if renamed := sum(name != file for name, file in zip(names, files, strict=True)):
            them = counted(renamed, "image", "images")
            note(f"the pictures of {them} get other names, because theirs are too long or alike; {REPORT} says which")

    def add(self, result: Result) -> list[str]:
        """Writes an image's pictures and its row of the report. Returns what could not be written, and why. Raises what
        drawing raises (ImageError if the image's file has gone, or changed, since it was inspected); its row is without
        pictures then."""
        from patchbank.imaging.images import write_png
        from patchbank.reports.inspection import ReportRow
        from patchbank.results.verdict import Verdict

        name, file = self._names[result.path]
        flagged = result.verdict is not Verdict.OK
        as_files, in_report = flagged or self._pictures != "flagged", flagged or self._pictures == "all"
        shown = printable(name if file == name or not as_files else f"{name} (pictures: {file}{OVERLAY})")
        row, failed = ReportRow.without_pictures(result, name=shown, because="OK: no picture (--pictures all)"), []
        try:
            if as_files or in_report:
                picture = result.overlay(self._colours)
            if as_files:
                failed += self._write(write_png, file, picture, result.mask)
            if in_report:
                row = ReportRow.of(result, name=shown, overlay=picture, why=self._explanation(result, flagged))
        except Exception:
            self._rows.add(ReportRow.without_pictures(result, name=shown))
            raise
        try:
            self._rows.add(row)
        except OutputError as error:
            failed.append(f"{result.path}: is missing in {REPORT} ({error})")
        return failed

    def _write(self, write: Callable[..., None], file: str, overlay: ByteArray, mask: BoolArray) -> list[str]:
        failed = []
        for ending, drawn in ((OVERLAY, overlay), (MASK, mask)):
            try:
                write(self._inside(file + ending), drawn)
            except OutputError as error:
                failed.append(str(error))
        return failed

    def _explanation(self, result: Result, flagged: bool) -> ExplanationFacts | None:
        """Says why the image was flagged, for the first ones."""
        if not flagged or self._explained == MOST_EXPLAINED:
            return None
        self._explained += 1
        return result.explain(regions=1)

    def finish(self, model: str, calibration: Calibration | None, refused: Sequence[Skipped]) -> list[str]:
        """Writes the report. Returns what could not be written, and why."""
        reasons = [printable(each.reason) for each in refused]
        title = f"Inspection with {model}"
        try:
            self._inside(REPORT)
            with self._rows as report:
                report.write(title=title, calibration=calibration, skipped=reasons, colours=self._colours)
        except OutputError as error:
            return [str(error)]
        except Exception as error:  # noqa: BLE001  (the temporary folder is full, say: the verdicts stand)
            if debugging():
                note_trace()
            return [f"cannot write {self.report}: {reason_of(error)}"]
        self.is_written = True
        return []

    def _inside(self, name: str) -> Path:
        """The path of a file in the folder. OutputError where a link in it leads out of the folder."""
        path = self._folder / name
        if self._real not in Path(os.path.realpath(path)).parents:
            raise OutputError(f"cannot write {path}: a link leads out of the output folder there; remove the link")
        return path


def _longest_name(folder: Path) -> int:
    """Bytes that a file's name may have in this folder."""
    try:
        return min(_LONGEST, max(100, os.pathconf(folder, "PC_NAME_MAX")))
    except (AttributeError, OSError, ValueError):  # Windows, or a file system that does not say
        return _LONGEST
