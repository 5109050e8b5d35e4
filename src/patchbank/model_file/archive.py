"""The .patchbank file: a stored (uncompressed) zip. Its specification is `docs/reference/model-file.md`.

This module knows bytes, names, checksums and tensors; what they mean is the business of `schema.py` and `contents.py`.
Files are untrusted input: every size, name and offset is checked before it is used, and nothing in a file can run code.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import ModelFileError, OutputError
from patchbank.util.files import atomic_write

FORMAT = "patchbank-model"
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
ALIGNMENT = 64  # entries start at multiples of this, so that other readers can map the file and use tensors in place
MAX_FILE_BYTES = 4 << 30
MAX_MANIFEST_BYTES = 32 << 20
MAX_ENTRIES = 200_000
_MAX_CONTAINERS, _MAX_VALUES = 500_000, 4_000_000  # of a manifest; 100 000 training images need half of these
_MAX_DEPTH = 12
_MAX_HEADER = 100_000  # bytes, of a safetensors entry
_MAX_TEXT = 1 << 20  # characters
MAX_WHOLE = int(sys.float_info.max)  # what becomes a float without an error
_DIRECTORY_ROOM = 128  # bytes of the zip's directory for each entry: header, name and 64-bit sizes
_ENTRY_NAME = re.compile(
    r"(backbone\.onnx|(bank|calibration|expected|normal|reserve|scene|self_test)\.safetensors|roi\.png|"
    r"thumbnails/[0-9]{6}\.jpg|versions/[0-9]{6}\.safetensors|self_test/[0-9]{6}\.(png|npy))"
)
_DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
_LOCAL_HEADER = 30
_END, _END_64, _LOCATOR_64 = 22, 56, 20  # bytes of the records at the end of a zip
_EPOCH = (1980, 1, 1, 0, 0, 0)  # same model, same bytes: no clock in the file


def write(path: str | Path, manifest: Mapping[str, Any], entries: Mapping[str, bytes]) -> None:
    """Writes a model file: beside its name first, then renamed. Raises OutputError if it cannot be written."""
    with atomic_write(path) as file:
        _write(file, manifest, entries)


def file_bytes(manifest: Mapping[str, Any], entries: Mapping[str, bytes]) -> bytes:
    """Returns what `write` writes."""
    file = io.BytesIO()
    _write(file, manifest, entries)
    return file.getvalue()


def _write(file: IO[bytes], manifest: Mapping[str, Any], entries: Mapping[str, bytes]) -> None:
    described = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in entries.items()
    }
    full = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest, "entries": described}
    text = json.dumps(full, indent=1, allow_nan=False).encode()
    try:  # nothing is written that would not be read
        _check_bounds(text)
    except ValueError as error:
        raise OutputError(f"the model cannot be written: its manifest {error}") from error
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: text, **entries}.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.extra = _padding(archive.fp.tell() if archive.fp else 0, name)
            archive.writestr(info, data)


class ModelFile:
    """Holds what a model file holds. All of it is read into memory at once, and checksums are of the very bytes that
    are used, so nothing that happens to the file later matters.

    data: the file's bytes, where they are in memory already; the path then only names them. Raises ModelFileError if
    the file is missing, damaged, too new, or not a model file.
    """

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        self.path = Path(path)
        self._data = self._read() if data is None else data
        self._check_directory()
        try:
            with zipfile.ZipFile(io.BytesIO(self._data)) as file:
                infos, directory = file.infolist(), file.start_dir
        except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeError, struct.error) as error:
            raise self._bad(
                f"is not a whole model file ({error}); it may be truncated: copy or fit it again"
            ) from error
        if len(infos) > MAX_ENTRIES:
            raise self._bad(f"holds {len(infos)} entries; expected at most {MAX_ENTRIES}")
        places = {info.filename: self._place(info, directory) for info in infos}
        if len(places) != len(infos):
            raise self._bad("holds two entries of one name")
        if any(later[0] < earlier[2] for earlier, later in itertools.pairwise(sorted(places.values()))):
            raise self._bad("holds entries that overlap, so that it would be larger than it is")
        self._views = {name: memoryview(self._data)[start:end] for name, (_, start, end) in places.items()}
        self.manifest = self._read_manifest({info.filename: info.CRC for info in infos}.get(MANIFEST))
        self._check_entries()

    def __contains__(self, name: str) -> bool:
        return name in self._views

    def sha256(self) -> str:
        """The digest of the whole file, in hexadecimal, as `sha256sum` prints it."""
        return hashlib.sha256(self._data).hexdigest()

    def names(self) -> list[str]:
        """The entries' names, sorted."""
        return sorted(self._views)

    def entry(self, name: str) -> memoryview:
        """An entry's bytes, where they lie in the file's."""
        try:
            return self._views[name]
        except KeyError:
            raise self._bad(f"lacks its entry {name}") from None

    def tensors(self, name: str, expected: Mapping[str, tuple[str, int]]) -> dict[str, Array]:
        """The arrays of a safetensors entry: exactly the `expected` names, each with its (dtype, number of
        dimensions)."""
        try:
            return read_tensors(self.entry(name), expected)
        except ValueError as error:
            raise self._bad(f"{name}: {error}") from error

    def _bad(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what}")

    def _read(self) -> bytes:
        """The whole file, as it is now."""
        try:
            about = self.path.stat()
            if not stat.S_ISREG(about.st_mode):  # a pipe would block, a device would never end
                raise self._bad("cannot be read: it is no regular file; expected a model written by 'patchbank fit'")
            if about.st_size > MAX_FILE_BYTES:
                raise self._bad(f"has {about.st_size:,} bytes; expected at most {MAX_FILE_BYTES:,}")
            with self.path.open("rb") as file:
                if file.peek(4)[:4] not in (b"PK\3\4", b""):  # before gigabytes of something else are read
                    raise self._bad("is not a whole model file (it does not begin as one); fit or copy it again")
                return file.read(about.st_size)  # not more: Python would first take the memory for it
        except FileNotFoundError as error:
            raise ModelFileError(f"{self.path}: no such file; expected a model written by 'patchbank fit'") from error
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL
            raise ModelFileError(
                f"{self.path}: cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from error

    def _check_directory(self) -> None:
        """Raises ModelFileError if the zip's directory is larger than that of a model: it is parsed as a whole."""
        data, stated = self._data, 0
        if data[-_END:][:4] == b"PK\5\6":
            stated = int.from_bytes(data[-10:-6], "little")
            if data[-_END - _LOCATOR_64 :][:4] == b"PK\6\7":  # its size is said again, in 64 bits
                stated = int.from_bytes(data[-_END - _LOCATOR_64 - _END_64 :][40:48], "little")
        if stated > MAX_ENTRIES * _DIRECTORY_ROOM:
            raise self._bad(f"has a directory of {stated:,} bytes; expected at most {MAX_ENTRIES} entries")

    def _place(self, info: zipfile.ZipInfo, directory: int) -> tuple[int, int, int]:
        """Returns where an entry's header starts, where its data starts, and where that ends."""
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 0x1:
            raise self._bad(f"entry {info.filename!r} is compressed or encrypted; expected stored entries")
        if info.filename != MANIFEST and not _ENTRY_NAME.fullmatch(info.filename):
            raise self._bad(f"holds an unexpected entry {info.filename!r}")
        header = self._data[info.header_offset : info.header_offset + _LOCAL_HEADER]
        if info.header_offset < 0 or len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise self._bad(f"entry {info.filename!r} has no header where the directory says")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        named = info.header_offset + _LOCAL_HEADER
        if self._data[named : named + name_length] != info.filename.encode():
            raise self._bad(f"entry {info.filename!r} has another name in its own header")
        start = named + name_length + extra_length
        if start + info.file_size > directory:
            raise self._bad(f"entry {info.filename!r} reaches beyond the end of the file; it is truncated")
        return info.header_offset, start, start + info.file_size

    def _read_manifest(self, checksum: int | None) -> dict[str, Any]:
        if len(self.entry(MANIFEST)) > MAX_MANIFEST_BYTES:
            raise self._bad(
                f"has a manifest of {len(self.entry(MANIFEST)):,} bytes; expected at most {MAX_MANIFEST_BYTES:,}"
            )
        data = bytes(self.entry(MANIFEST))
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
        if not isinstance(described, dict) or set(described) != set(self._views) - {MANIFEST}:
            raise self._bad("its manifest does not describe the entries that it holds")
        for name, about in described.items():
            digest = about.get("sha256") if isinstance(about, dict) else None
            if hashlib.sha256(self._views[name]).hexdigest() != digest:
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
            elif isinstance(value, int) and abs(value) > MAX_WHOLE:
                raise ValueError("holds a whole number beyond 1.8e308")
        layer, depth = below, depth + 1


def tensor_bytes(tensors: Mapping[str, Array]) -> bytes:
    """Arrays -> the bytes of a safetensors file."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))


def read_tensors(data: memoryview, expected: Mapping[str, tuple[str, int]]) -> dict[str, Array]:
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


def _tensor(name: str, about: Any, body: memoryview, dtype_name: str, dimensions: int) -> Array:
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
