"""The .patchbank file: a stored (uncompressed) zip. Its specification is `docs/model-file.md`.

This module knows bytes, names, checksums and tensors; what they mean is the business of `schema.py` and `contents.py`.
Files are untrusted input: every size, name and offset is checked before it is used, and nothing in a file can run code.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from patchbank.errors import ModelFileError, OutputError
from patchbank.util.files import atomic_write

FORMAT = "patchbank-model"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
ALIGNMENT = 64  # entries start at multiples of this, so that other readers can map the file and use tensors in place
MAX_FILE_BYTES = 4 << 30
MAX_MANIFEST_BYTES = 32 << 20
MAX_ENTRIES = 200_000
_MAX_CONTAINERS, _MAX_VALUES = 500_000, 4_000_000  # of a manifest; 100 000 training images need half of these
_MAX_DEPTH = 12
_MAX_HEADER = 100_000  # bytes, of a safetensors entry
_MAX_TEXT = 65_536  # characters
_MAX_WHOLE = 2**53  # what every reader of JSON can hold
_DIRECTORY_ROOM = 128  # bytes of the zip's directory for each entry: header, name and 64-bit sizes
_ENTRY_NAME = re.compile(
    r"(backbone\.onnx|(bank|calibration|expected|normal|reserve|scene)\.safetensors|roi\.png|thumbnails/[0-9]{6}\.jpg|"
    r"versions/[0-9]{6}\.safetensors)"
)
_DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
_LOCAL_HEADER = 30
_END, _END_64, _LOCATOR_64 = 22, 56, 20  # bytes of the records at the end of a zip
_EPOCH = (1980, 1, 1, 0, 0, 0)  # same model, same bytes: no clock in the file

Tensor = npt.NDArray[Any]


def write(path: str | Path, manifest: Mapping[str, Any], entries: Mapping[str, bytes]) -> None:
    """Writes a model file: beside its name first, then renamed. Raises OutputError if it cannot be written."""
    described = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in entries.items()
    }
    full = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest, "entries": described}
    text = json.dumps(full, indent=1, allow_nan=False).encode()
    try:  # nothing is written that would not be read
        _check_bounds(text)
    except ValueError as error:
        raise OutputError(f"{path}: the model cannot be written: its manifest {error}") from error
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: text, **entries}.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.extra = _padding(archive.fp.tell() if archive.fp else 0, name)
            archive.writestr(info, data)


class ModelFile:
    """What a model file holds. All of it is read into memory at once, and checksums are of the very bytes that are
    used, so nothing that happens to the file later matters.

    Raises ModelFileError if the file is missing, damaged, too new, or not a model file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._reading() as file:
            size = os.fstat(file.fileno()).st_size
            self._check_directory(file, size)
            with zipfile.ZipFile(file) as archive:
                infos, directory = archive.infolist(), archive.start_dir
            if len(infos) > MAX_ENTRIES:
                raise self._bad(f"holds {len(infos)} entries; expected at most {MAX_ENTRIES}")
            places = {info.filename: self._place(file, info, directory) for info in infos}
            if len(places) != len(infos):
                raise self._bad("holds two entries of one name")
            self._check_places(sorted(places.values()))
            self._entries = {name: self._read(file, name, *place[1:]) for name, place in places.items()}
        self.manifest = self._read_manifest({info.filename: info.CRC for info in infos}.get(MANIFEST))
        self._check_entries()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """The entries' names, sorted."""
        return sorted(self._entries)

    def entry(self, name: str) -> bytes:
        """An entry's bytes."""
        try:
            return self._entries[name]
        except KeyError:
            raise self._bad(f"lacks its entry {name}") from None

    def tensors(self, name: str, expected: Mapping[str, tuple[str, int]]) -> dict[str, Tensor]:
        """The arrays of a safetensors entry: exactly the `expected` names, each with its (dtype, number of
        dimensions). They are views of the entry's bytes."""
        try:
            return read_tensors(memoryview(self.entry(name)), expected)
        except ValueError as error:
            raise self._bad(f"{name}: {error}") from error

    def _bad(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what}")

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        """The file, open. Whatever is wrong with it becomes a ModelFileError."""
        try:
            about = self.path.stat()
            if not stat.S_ISREG(about.st_mode):  # a pipe would block, and cannot be read twice
                raise self._bad("is not a regular file; expected a model written by 'patchbank fit'")
            if about.st_size > MAX_FILE_BYTES:
                raise self._bad(f"has {about.st_size:,} bytes; expected at most {MAX_FILE_BYTES:,}")
            with self.path.open("rb") as file:
                yield file
        except FileNotFoundError as error:
            raise ModelFileError(f"{self.path}: no such file; expected a model written by 'patchbank fit'") from error
        except OSError as error:
            raise ModelFileError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeError, struct.error) as error:
            raise self._bad(
                f"is not a whole model file ({error}); it may be truncated: copy or fit it again"
            ) from error

    def _check_directory(self, file: BinaryIO, size: int) -> None:
        """Raises ModelFileError if the zip's directory is larger than that of a model: it is parsed as a whole."""
        file.seek(max(0, size - _END - _LOCATOR_64))
        end = file.read()
        stated = [struct.unpack("<I", end[-10:-6])[0]] if end[-_END:][:4] == b"PK\5\6" else [0]
        if len(end) == _END + _LOCATOR_64 and end[:4] == b"PK\6\7":
            file.seek(max(0, size - _END - _LOCATOR_64 - _END_64))
            stated = [struct.unpack("<Q", file.read(_END_64)[40:48])[0]]
        if max(stated) > MAX_ENTRIES * _DIRECTORY_ROOM:
            raise self._bad(f"has a directory of {max(stated):,} bytes; expected at most {MAX_ENTRIES} entries")

    def _place(self, file: BinaryIO, info: zipfile.ZipInfo, directory: int) -> tuple[int, int, int]:
        """Where an entry's header starts, where its data starts, and where that ends."""
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 0x1:
            raise self._bad(f"entry {info.filename!r} is compressed or encrypted; expected stored entries")
        if info.filename != MANIFEST and not _ENTRY_NAME.fullmatch(info.filename):
            raise self._bad(f"holds an unexpected entry {info.filename!r}")
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise self._bad(f"entry {info.filename!r} has no header where the directory says")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        if file.read(name_length) != info.filename.encode():
            raise self._bad(f"entry {info.filename!r} has another name in its own header")
        start = info.header_offset + _LOCAL_HEADER + name_length + extra_length
        if start + info.file_size > directory:
            raise self._bad(f"entry {info.filename!r} reaches beyond the end of the file; it is truncated")
        return info.header_offset, start, start + info.file_size

    def _check_places(self, places: list[tuple[int, int, int]]) -> None:
        """Raises ModelFileError where entries share bytes: the file would hold more than its size."""
        if any(later[0] < earlier[2] for earlier, later in itertools.pairwise(places)):
            raise self._bad("holds entries that overlap")

    def _read(self, file: BinaryIO, name: str, start: int, end: int) -> bytes:
        if name == MANIFEST and end - start > MAX_MANIFEST_BYTES:
            raise self._bad(f"has a manifest of {end - start:,} bytes; expected at most {MAX_MANIFEST_BYTES:,}")
        file.seek(start)
        data = file.read(end - start)
        if len(data) != end - start:
            raise self._bad(f"entry {name} ends early: the file changes while it is read")
        return data

    def _read_manifest(self, checksum: int | None) -> dict[str, Any]:
        data = self.entry(MANIFEST)
        if zlib.crc32(data) != checksum:
            raise self._bad("has a damaged manifest (its checksum differs); copy or fit it again")
        try:
            _check_bounds(data)
            manifest = json.loads(data)
            _check_values(manifest)
        except (ValueError, RecursionError) as error:
            raise self._bad(f"has a damaged manifest ({error})") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise self._bad("is not a patchbank model")
        version = manifest.get("format_version")
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            reads = f"this patchbank reads up to {FORMAT_VERSION}"
            raise self._bad(f"has format version {version!r}; {reads}: upgrade patchbank, or fit again")
        return manifest

    def _check_entries(self) -> None:
        described = self.manifest.get("entries")
        if not isinstance(described, dict) or set(described) != set(self._entries) - {MANIFEST}:
            raise self._bad("its manifest does not describe the entries that it holds")
        for name, about in described.items():
            digest = about.get("sha256") if isinstance(about, dict) else None
            if hashlib.sha256(self._entries[name]).hexdigest() != digest:
                raise self._bad(f"entry {name} is damaged (its checksum differs); copy or fit it again")


def _check_bounds(manifest: bytes) -> None:
    """ValueError for a manifest that would take much more memory than its text. Counts too much rather than too
    little, where texts hold brackets and commas."""
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise ValueError(f"has {len(manifest):,} bytes; expected at most {MAX_MANIFEST_BYTES:,}")
    if manifest.count(b"[") + manifest.count(b"{") > _MAX_CONTAINERS or manifest.count(b",") > _MAX_VALUES:
        raise ValueError(f"expected at most {_MAX_CONTAINERS:,} lists and objects, and {_MAX_VALUES:,} values")


def _check_values(manifest: Any) -> None:
    """ValueError for values that JSON has no room for elsewhere: NaN, infinity, huge whole numbers; for endless text;
    for deep nesting."""
    layer, depth = [manifest], 0
    while layer:
        if depth > _MAX_DEPTH:
            raise ValueError(f"is nested more than {_MAX_DEPTH} deep")
        below: list[Any] = []
        for value in layer:
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, (list, tuple)):
                below += value
            elif isinstance(value, str):
                if len(value) > _MAX_TEXT:
                    raise ValueError(f"holds a text of {len(value):,} characters; expected at most {_MAX_TEXT:,}")
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError("holds a number that is not finite")
            elif isinstance(value, int) and abs(value) > _MAX_WHOLE:
                raise ValueError("holds a whole number beyond 2**53")
        layer, depth = below, depth + 1


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Arrays -> the bytes of a safetensors file."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))


def read_tensors(data: memoryview, expected: Mapping[str, tuple[str, int]]) -> dict[str, Tensor]:
    """Views of the arrays in a safetensors file's bytes, without copying (the library's own reader copies).

    Raises ValueError unless the file holds exactly the `expected` names with their dtypes and numbers of dimensions,
    all within it.
    """
    if len(data) < 8:
        raise ValueError("is too short")
    (header_length,) = struct.unpack("<Q", data[:8])
    if header_length > min(len(data) - 8, _MAX_HEADER):
        raise ValueError("its header reaches beyond its end, or is far too long")
    try:
        header = json.loads(bytes(data[8 : 8 + header_length]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is damaged ({error})") from error
    if not isinstance(header, dict) or set(header) - {"__metadata__"} != set(expected):
        raise ValueError(f"expected the tensors {', '.join(sorted(expected))}")
    body = data[8 + header_length :]
    return {name: _tensor(name, header[name], body, *about) for name, about in expected.items()}


def _tensor(name: str, about: Any, body: memoryview, dtype_name: str, dimensions: int) -> Tensor:
    if not isinstance(about, dict) or about.get("dtype") != dtype_name:
        raise ValueError(f"tensor {name}: expected dtype {dtype_name}")
    shape, offsets = _naturals(about.get("shape"), dimensions), _naturals(about.get("data_offsets"), 2)
    if shape is None or offsets is None:
        raise ValueError(f"tensor {name}: expected {dimensions} dimensions and two offsets")
    dtype, (start, stop) = _DTYPES[dtype_name], offsets
    if stop > len(body) or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name}: its shape {shape} does not match its place {offsets} in {len(body)} bytes")
    array = np.frombuffer(body[start:stop], dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _naturals(values: Any, count: int) -> list[int] | None:
    """The values, if they are a list of `count` integers of at least 0."""
    if not isinstance(values, list) or len(values) != count:
        return None
    return values if all(type(value) is int and value >= 0 for value in values) else None


def _padding(position: int, name: str) -> bytes:
    """A zip extra field (id 0x5042, 'PB') that makes the entry's data start at a multiple of ALIGNMENT."""
    start = position + _LOCAL_HEADER + len(name.encode()) + 4
    return struct.pack("<HH", 0x5042, -start % ALIGNMENT) + bytes(-start % ALIGNMENT)
