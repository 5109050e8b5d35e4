"""Data sets: the images, which of them are good, and where their masks lie. Four layouts give one Dataset.

- a flat folder: every image in it is good and is for training;
- MVTec AD: train/good/*, test/KIND/*, ground_truth/KIND/STEM_mask.png (or STEM.png), KIND "good" being free of defects;
  BTAD's ok and ko, and VisA converted to this layout, are read by the same rules;
- VisA as it is published: CATEGORY/Data/Images, and a list of all categories' images in split_csv/1cls.csv;
- a CSV file with a header and the columns path, label, mask, split.

`docs/operate/datasets.md` is the specification.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TextIO

from patchbank.errors import DatasetError
from patchbank.imaging.formats import HEAD, format_of
from patchbank.imaging.images import SUFFIXES
from patchbank.util.log import logger
from patchbank.util.wording import brief, counted, plural, printable

Split = Literal["train", "test"]
GOOD = "good"
DEFECTIVE = "defective"
MAX_CSV_BYTES = 32 * 2**20  # 300 000 images
MAX_CSV_ROW = 100_000  # characters
COLUMNS = ("path", "label", "mask", "split")
OBJECT = "object"  # VisA's column of categories
# What the columns are called too, by those who write such lists.
_ALIASES = {
    **dict.fromkeys(("filename", "file", "file_name", "filepath", "file_path"), "path"),
    **dict.fromkeys(("image", "image_path", "img", "img_path"), "path"),
    **dict.fromkeys(("class", "class_name", "label_name"), "label"),
    **dict.fromkeys(("mask_path", "mask_file", "ground_truth"), "mask"),
    "subset": "split",
}
_VISA_LIST = "split_csv/1cls.csv"  # beside the categories' folders: good images train
# What inspectors call parts without a defect, in any case.
GOOD_WORDS = frozenset({GOOD, "ok", "okay", "normal", "defect_free", "defect-free", "no_defect", "no_defects"})
# Words that one reader takes for "good" and another for the name of a defect: guessing would spoil every figure.
AMBIGUOUS = frozenset({"pass", "none", "true", "false", "yes", "no"})
# Images that are not read, by suffix: they are refused by name rather than passed over.
UNREAD = frozenset(
    {".gif", ".jp2", ".j2k", ".jxl", ".jxr", ".avif", ".heic", ".heif", ".exr", ".hdr", ".pam", ".pfm", ".psd", ".dds"}
    | {".tga", ".pcx", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw"}
)
# Files that lie beside images everywhere: nobody takes them for one.
PLAIN = frozenset(
    {
        ".txt",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".md",
        ".rst",
        ".html",
        ".log",
    }
    | {".pdf", ".zip", ".db", ".py", ".patchbank", ".partial"}
)
# What may stand behind the image's name in its mask's, in any case; nothing as well.
MASK_ENDINGS = ("", "_mask", "-mask", "_gt", "-gt", "_label", "_seg")
TRUTH_NAMES = frozenset({"groundtruth", "ground-truth", "gt", "mask", "masks", "label", "labels", "annotations"})
_DO = (
    "give a folder that holds the good images themselves, a folder in MVTec AD layout (train/good, test/KIND, "
    "ground_truth/KIND), or a CSV file with the columns path,label,mask,split"
)


@dataclass(frozen=True)
class Sample:
    """One image of a data set. `kind` is "good" or the defect's name; `mask` is the file that marks its pixels."""

    path: Path
    defective: bool
    kind: str
    mask: Path | None
    split: Split


@dataclass(frozen=True)
class Dataset:
    """The images of one category.

    `layout` is "folder", "mvtec", "visa" or "csv"; samples are in natural order (lists: as listed).
    """

    root: Path
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]

    __repr__ = brief

    @property
    def train_paths(self) -> tuple[Path, ...]:
        """The good images to fit on."""
        return tuple(sample.path for sample in self.train)

    @property
    def test_paths(self) -> tuple[Path, ...]:
        """The images to evaluate on."""
        return tuple(sample.path for sample in self.test)

    @cached_property
    def has_masks(self) -> bool:
        """True if the defective test images have masks (all or none do)."""
        return any(sample.mask is not None for sample in self.test)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the test images, "good" first."""
        return tuple(sorted({sample.kind for sample in self.test}, key=lambda kind: (kind != GOOD, natural_key(kind))))


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Reads a folder's or a CSV file's layout, not the images. Raises DatasetError, which names the file or line."""
    root = Path(path)
    if root.is_file():
        if root.suffix.lower() != ".csv":
            raise DatasetError(f"{root}: expected a folder or a .csv file; {_DO}")
        return _read_csv(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: expected a folder or a CSV file, but nothing is there; check the path")
    if _is_visa(root):
        return _read_visa(root)
    with _told() as left_out:
        if (root / "train").is_dir() or (root / "test").is_dir():
            return _read_mvtec(root, left_out)
        return _read_flat(root, left_out)


def read_categories(root: str | os.PathLike[str]) -> dict[str, Path]:
    """The categories of a benchmark: {name: folder} of each subfolder in the layout of MVTec AD or VisA, or of `root`
    if it is one.

    Raises DatasetError where there is none.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: expected a folder of categories, but no folder is there; check the path")
    if _is_category(folder):
        return {folder.resolve().name: folder}
    categories = {child.name: child for child in _subfolders(folder) if _is_category(child)}
    if not categories:
        raise DatasetError(
            f"{folder}: expected subfolders in the layout of MVTec AD (NAME/train/good, NAME/test/KIND) or VisA, found "
            "none; give the folder that holds the categories, or one category"
        )
    return categories


def training_files(folder: Path) -> list[Path]:
    """The files that a fit on this folder would use, or, in another layout, all of its images."""
    return list(read_dataset(folder).train_paths) if (folder / "train").is_dir() else find_images(folder)


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The images that files and folders name: files as given, folders searched through all levels in natural order.

    In folders a file is an image if it has an image's suffix (any case) or begins as an image does; so are those of
    formats that are not read, and links that lead nowhere: whoever reads them gets an error with their name. Hidden
    ones and `__MACOSX` are passed over; other files are named by a warning of the logger "patchbank". What is named
    twice is returned once. Raises DatasetError for a path that does not exist and where nothing is found at all.
    """
    given = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    found: dict[str, Path] = {}
    with _told() as left_out:
        for path in given:
            if path.is_dir():
                inside = _images_under(path, left_out)
            elif os.path.lexists(path):
                inside = [path]
            else:
                raise DatasetError(
                    f"{path}: expected an image or a folder of images, but nothing is there; check the path"
                )
            for image in inside:
                found.setdefault(os.path.abspath(image), image)  # noqa: PTH100  (resolve() would follow links)
    if not found:
        names = ", ".join(str(path) for path in given) or "an empty list"
        raise DatasetError(f"expected images ({_suffixes()}), found none in {names}; check the path")
    return list(found.values())


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts "2.png" before "10.png", the same on every system."""
    parts = re.split(r"([0-9]+)", text)
    digits = (p.lstrip("0") if p.isascii() and p.isdigit() else None for p in parts)  # int() refuses thousands of them
    numbers = tuple((1, 0, p.casefold()) if d is None else (0, len(d), d) for p, d in zip(parts, digits, strict=True))
    return (*numbers, (2, 0, text))  # the text itself decides between a.png and A.png, 1.png and 01.png


# --- flat folder ---


def _read_flat(root: Path, left_out: _LeftOut) -> Dataset:
    images = _images_in(root, left_out)
    nested = [folder.name for folder in _subfolders(root) if _images_under(folder, left_out)]
    if nested:
        # Taking good/ and defective/ alike for training would spoil the model without a word.
        raise DatasetError(
            f"{root}: expected only good images, got images in the subfolders {_list(nested)} as well; {_DO}"
        )
    if not images:
        raise DatasetError(f"{root}: expected images ({_suffixes()}), found none; {_DO}")
    return Dataset(root, "folder", tuple(Sample(path, False, GOOD, None, "train") for path in images), ())


# --- MVTec AD ---


def _read_mvtec(root: Path, left_out: _LeftOut) -> Dataset:
    train = []
    for folder in _kind_folders(root / "train", left_out):
        if not _is_good(folder):
            raise DatasetError(
                f"{folder}: expected only 'good' in {root / 'train'}, because a model is fitted on good images; "
                "move the folder to test/"
            )
        train += [Sample(path, False, GOOD, None, "train") for path in _images_under(folder, left_out)]
    truth = _truth(root)
    test = [
        sample for folder in _kind_folders(root / "test", left_out) for sample in _mvtec_kind(truth, folder, left_out)
    ]
    if not train and not test:
        raise DatasetError(f"{root}: expected images in train/good or test/KIND ({_suffixes()}), found none; {_DO}")
    _check_masks(root, test)
    _check_truth(truth, test)
    return Dataset(root, "mvtec", tuple(train), tuple(test))


def _truth(root: Path) -> Path:
    """The folder of masks. DatasetError for one that has another name, whose masks would be passed over."""
    truth = root / "ground_truth"
    if not truth.is_dir():
        others = [folder for folder in _subfolders(root) if folder.name.casefold() in {*TRUTH_NAMES, truth.name}]
        if named := [folder.name for folder in others if _images_under(folder, _LeftOut())]:
            raise DatasetError(f"{root}: expected masks in ground_truth, got the folder {_list(named)}; rename it")
    return truth


def _kind_folders(split: Path, left_out: _LeftOut) -> list[Path]:
    """The subfolders of train/ or test/; images lying beside them belong to no kind and are an error."""
    if not split.is_dir():
        return []
    stray = _images_in(split, left_out)
    if stray:
        raise DatasetError(
            f"{split}: expected images in a folder for each kind, got {_list([p.name for p in stray])} beside them; "
            f"move good images to {split / GOOD} and the others to {split / 'KIND'}"
        )
    return _subfolders(split)


def _mvtec_kind(truth: Path, folder: Path, left_out: _LeftOut) -> Iterator[Sample]:
    images = _images_under(folder, left_out)
    if _is_good(folder):
        yield from (Sample(path, False, GOOD, None, "test") for path in images)
        return
    masks: dict[str, list[Path]] = {}
    for path in _masks_of(truth / folder.name):
        masks.setdefault(_mask_key(truth / folder.name, path), []).append(path)
    owner: dict[Path, Path] = {}
    for path in images:
        key = _mask_key(folder, path)
        found = [mask for ending in MASK_ENDINGS for mask in masks.get(key + ending, [])]
        if len(found) > 1:
            raise DatasetError(
                f"{path}: expected one mask, got {_list([str(mask) for mask in found])}; remove the others"
            )
        mask = found[0] if found else None
        if mask is not None and owner.setdefault(mask, path) != path:
            raise DatasetError(f"{mask}: expected one image for this mask, got {owner[mask]} and {path}; rename one")
        yield Sample(path, True, folder.name, mask, "test")


def _masks_of(folder: Path) -> list[Path]:
    return _images_under(folder, _LeftOut()) if folder.is_dir() else []


def _mask_key(folder: Path, path: Path) -> str:
    """A file's place in its folder, without its suffix and in lower case: masks may have another of both."""
    return path.relative_to(folder).with_suffix("").as_posix().casefold()


def _check_truth(truth: Path, test: Iterable[Sample]) -> None:
    """Masks that belong to no image are those of images that would be taken to have none."""
    defective = [sample for sample in test if sample.defective]
    if not defective or any(sample.mask for sample in defective):
        return
    masks = [mask for mask in _masks_of(truth) if not _is_good_name(mask.relative_to(truth).parts[0])]
    if masks:
        image = defective[0].path
        raise DatasetError(
            f"{truth}: none of its {len(masks)} masks belongs to an image; got {_list(list(map(str, masks)), 3)}; "
            f"expected {truth / defective[0].kind / image.stem}_mask.png for {image}, or the image's own name"
        )


def _is_category(folder: Path) -> bool:
    if (folder / "Data" / "Images").is_dir():
        return True
    train = folder / "train"
    return (
        train.is_dir() and (folder / "test").is_dir() and any(_is_good_name(kind.name) for kind in _subfolders(train))
    )


def _is_good_name(kind: str) -> bool:
    return kind.casefold() in GOOD_WORDS


def _is_good(folder: Path) -> bool:
    """True if a folder holds good parts. DatasetError for a name that some take for good and others for a defect."""
    if folder.name.casefold() in AMBIGUOUS:
        raise DatasetError(f"{folder}: expected the name good, or that of a defect; got {folder.name!r}: rename it")
    return _is_good_name(folder.name)


# --- VisA ---


def _is_visa(folder: Path) -> bool:
    """Says whether a folder is a category of VisA, or holds them and is for a message that says so."""
    return (folder / "Data" / "Images").is_dir() or (folder / _VISA_LIST).is_file()


def _read_visa(folder: Path) -> Dataset:
    if (folder / _VISA_LIST).is_file():
        names = [child.name for child in _subfolders(folder) if (child / "Data" / "Images").is_dir()]
        raise DatasetError(f"{folder}: expected one category, got all of VisA; give one of its folders: {_list(names)}")
    file = folder.resolve().parent / _VISA_LIST
    if not file.is_file():
        raise DatasetError(
            f"{folder}: expected VisA's list {file}, which says what is for training; it is not there: copy it, or use "
            "another layout"
        )
    return replace(_read_csv(file, folder.resolve().name), root=folder, layout="visa")


# --- CSV ---


def _read_csv(file: Path, category: str | None = None) -> Dataset:
    """category: of a list with a column of categories, the one that is wanted."""
    samples: list[Sample] = []
    lines: dict[str, int] = {}
    categories: dict[str, None] = {}
    for number, row in _csv_rows(file):
        if OBJECT in row:
            categories[row[OBJECT]] = None
            if category is not None and row[OBJECT] != category:
                continue
        sample = _csv_sample(file, number, row)
        first = lines.setdefault(os.path.abspath(sample.path), number)  # noqa: PTH100
        if first != number:
            raise DatasetError(f"{file}, line {number}: {sample.path} is listed already in line {first}; remove one")
        samples.append(sample)
    if not samples:
        wanted = f" of {category}; it has {_list(list(categories))}" if categories else ""
        raise DatasetError(f"{file}: expected a line for each image below the header, found none{wanted}")
    if category is None and len(categories) > 1:
        raise DatasetError(
            f"{file}: expected images of one category, got the objects {_list(list(categories))}; give one's folder, "
            f"such as {file.parent.parent / next(iter(categories))}, or a list of its own"
        )
    test = tuple(sample for sample in samples if sample.split == "test")
    _check_masks(file, test)
    return Dataset(file, "csv", tuple(sample for sample in samples if sample.split == "train"), test)


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, {column: text}) of every line that is not blank."""
    number = 1
    try:
        if file.stat().st_size > MAX_CSV_BYTES:
            raise DatasetError(f"{file}: expected at most {MAX_CSV_BYTES:,} bytes; split the list into several files")
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = _Lines(file, text)
            header = next(lines, "")
            # Spreadsheets of half the world write semicolons.
            delimiter = max(",;\t", key=header.count)
            names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
            names = [_ALIASES.get(name, name) for name in names]
            _check_header(file, names)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            for fields in reader:
                number = lines.row_read()
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(names):
                    raise DatasetError(
                        f"{file}, line {number}: expected {len(names)} fields ({', '.join(names)}), got {len(fields)}; "
                        "put a field that holds a comma into quotes"
                    )
                yield number, {name: field.strip() for name, field in zip(names, fields, strict=True)}
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: expected text in UTF-8, got other bytes; save the list as CSV UTF-8") from error
    except csv.Error as error:
        raise DatasetError(f"{file}: is not valid CSV after line {number} ({error}); check its quotes") from error
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error


class _Lines:
    """A text's lines, as long as the row that they belong to is no longer than a row can be."""

    def __init__(self, file: Path, text: TextIO) -> None:
        self._file, self._text = file, text
        self._number, self._length = 0, 0  # lines so far; characters of the row so far

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_CSV_ROW + 1)
        self._number += 1
        self._length += len(line)
        if self._length > MAX_CSV_ROW:
            raise DatasetError(
                f"{self._file}, line {self._number}: expected at most {MAX_CSV_ROW:,} characters for an image; is it a "
                "list of images?"
            )
        if not line:
            raise StopIteration
        return line

    def row_read(self) -> int:
        """Begins a new row. Returns the number of the line that ended the one before."""
        self._length = 0
        return self._number


def _check_header(file: Path, names: list[str]) -> None:
    unknown = [name for name in names if name not in (*COLUMNS, OBJECT)]
    missing = [name for name in COLUMNS[:2] if name not in names]
    if unknown or missing or len(set(names)) != len(names):
        raise DatasetError(
            f"{file}, line 1: expected the columns path,label and, if wanted, mask,split; "
            f"got {','.join(names)[:200] or 'nothing'}; add a header, or rename or remove columns"
        )


def _csv_sample(file: Path, number: int, row: Mapping[str, str]) -> Sample:
    where = f"{file}, line {number}"
    base = file.parent.parent if OBJECT in row and file.parent.name == "split_csv" else file.parent
    path = _csv_file(where, base, row["path"], "an image")
    defective, kind = _csv_label(where, row["label"])
    split = _csv_split(where, row.get("split", ""), defective)
    mask = _csv_file(where, base, row["mask"], "a mask") if row.get("mask") else None
    if mask is not None and not defective:
        raise DatasetError(f"{where}: expected no mask, because the image is good; leave the mask empty")
    return Sample(path, defective, kind, mask, split)


def _csv_file(where: str, base: Path, text: str, what: str) -> Path:
    if not text or "\0" in text:
        raise DatasetError(f"{where}: expected the path of {what}, got {text!r}")
    path = base / text  # an absolute path stays as it is
    try:
        there = path.is_file()
    except OSError:  # a name that no file can have, for its length
        there = False
    if not there:
        raise DatasetError(
            f"{where}: expected {what} at {str(path)[:500]}, but no file is there; paths start from {base}"
        )
    return path


def _csv_label(where: str, text: str) -> tuple[bool, str]:
    word = text.casefold()
    if word in GOOD_WORDS or word == "0":
        return False, GOOD
    if word in (DEFECTIVE, "1"):
        return True, DEFECTIVE
    if not text or word in AMBIGUOUS or re.fullmatch(r"[-+0-9.]+", text):
        raise DatasetError(
            f"{where}: expected the label good (or 0), defective (or 1) or a defect's name; got {text!r}"
        )
    return True, text


def _csv_split(where: str, text: str, defective: bool) -> Split:
    word = text.casefold()
    if word not in ("", "train", "test"):
        raise DatasetError(f"{where}: expected the split train or test, or nothing; got {text!r}")
    if word == "train" and defective:
        raise DatasetError(f"{where}: expected only good images for training, got a defective one; write test")
    return "test" if word == "test" or defective else "train"


# --- shared ---


def _check_masks(root: Path, test: Iterable[Sample]) -> None:
    """Masks for some defective images but not for all would bias every pixel metric."""
    defective = [sample for sample in test if sample.defective]
    missing = [str(sample.path) for sample in defective if sample.mask is None]
    if missing and len(missing) < len(defective):
        raise DatasetError(
            f"{root}: expected a mask for every defective image or for none; {len(missing)} of {len(defective)} "
            f"have none: {_list(missing)}; add their masks (ground_truth/KIND/STEM_mask.png, or the column mask)"
        )


@dataclass
class _LeftOut:
    """Files found beside images. strange: files that may have been meant as images; plain: how many others."""

    strange: list[Path] = field(default_factory=list)
    plain: int = 0


@contextmanager
def _told() -> Iterator[_LeftOut]:
    """Says in one line what was left out, when all has been searched, or nothing was found."""
    left_out = _LeftOut()
    try:
        yield left_out
    finally:
        if left_out.strange:
            also = f", and {counted(left_out.plain, 'other file')} (text, lists)" if left_out.plain else ""
            names = printable(_list([str(path) for path in left_out.strange], 3))
            are = plural(len(left_out.strange), "is no image and was", "are no images and were")
            logger.warning(f"{counted(len(left_out.strange), 'file')} {are} left out: {names}{also}")


def _images_in(folder: Path, left_out: _LeftOut) -> list[Path]:
    """The images directly in a folder, in natural order."""
    images = []
    for path in _entries(folder):
        if os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises where it may not look)
            continue
        if path.suffix.lower() in SUFFIXES or path.suffix.lower() in UNREAD or _begins_as_image(path):
            images.append(path)
        elif path.suffix.lower() in PLAIN or path.name.casefold() in ("thumbs.db", "desktop.ini"):
            left_out.plain += 1
        else:
            left_out.strange.append(path)
    return sorted(images, key=lambda path: natural_key(path.name))


def _begins_as_image(path: Path) -> bool:
    """True if a regular file begins as one of the known formats does; files that cannot be opened do not."""
    try:
        if not path.is_file():  # a pipe would wait for someone who writes
            return False
        with path.open("rb") as file:
            return format_of(file.read(HEAD)) is not None
    except OSError:
        return False


_Place = tuple[tuple[tuple[int, int, str], ...], ...]  # in the natural order of folders within folders


def _images_under(folder: Path, left_out: _LeftOut) -> list[Path]:
    """The images in a folder and its subfolders, through links too. What several links lead to is searched once: under
    its own name, if it lies in the folder."""
    folders: list[tuple[Path, str, _Place]] = [(folder, os.path.realpath(folder), ())]
    links: list[tuple[Path, str, _Place]] = []
    searched: set[str] = set()
    found: list[tuple[_Place, list[Path]]] = []
    while folders or links:
        each, real, place = folders.pop() if folders else links.pop(0)
        if real in searched:
            continue
        searched.add(real)
        found.append((place, _images_in(each, left_out)))
        inner = [(child, (*place, natural_key(child.name))) for child in _subfolders(each)]
        links += [(child, os.path.realpath(child), below) for child, below in inner if child.is_symlink()]
        folders += [
            (child, f"{real}{os.sep}{child.name}", at) for child, at in reversed(inner) if not child.is_symlink()
        ]
    return [image for _, images in sorted(found, key=lambda each: each[0]) for image in images]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(filter(os.path.isdir, _entries(folder)), key=lambda path: natural_key(path.name))


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX"]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error


def _list(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))
