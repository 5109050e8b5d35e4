"""The .patchbank file: a stored (uncompressed) zip that can be memory-mapped. Its specification is
`docs/reference/model-file.md`.

This module knows bytes, names, checksums and tensors; what they mean is `model.py`'s business. Files are untrusted
input: every size, name and offset is checked before it is used, and nothing in a file can run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from patchbank.errors import ModelFileError
from patchbank.util.files import atomic_write

FORMAT = "patchbank-model"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
ALIGNMENT = 64  # entries start at multiples of this, so that tensors can be used where they lie
MAX_MANIFEST_BYTES = 64 << 20
MAX_ENTRIES = 1_000_000
_ENTRY_NAME = re.compile(
    r"(backbone\.onnx|(bank|calibration|expected|normal|reserve|scene)\.safetensors|roi\.png|thumbnails/[0-9]{6}\.jpg|"
    r"versions/[0-9]{6}\.safetensors)"
)
_DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
_LOCAL_HEADER = 30
MAPPED = sys.platform != "win32"  # there, a file that is mapped cannot be replaced: no update while a model is loaded
_EPOCH = (1980, 1, 1, 0, 0, 0)  # same model, same bytes: no clock in the file

Tensor = npt.NDArray[Any]


def write(path: str | Path, manifest: Mapping[str, Any], entries: Mapping[str, bytes]) -> None:
    """Writes a model file: beside its name first, then renamed. Raises OutputError if it cannot be written."""
    with atomic_write(path) as file:
        _write(file, manifest, entries)


def file_bytes(manifest: Mapping[str, Any], entries: Mapping[str, bytes]) -> bytes:
    """What `write` writes."""
    file = io.BytesIO()
    _write(file, manifest, entries)
    return file.getvalue()


def _write(file: IO[bytes], manifest: Mapping[str, Any], entries: Mapping[str, bytes]) -> None:
    described = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in entries.items()
    }
    full = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest, "entries": described}
    text = json.dumps(full, indent=1, allow_nan=False).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: text, **entries}.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.extra = _padding(archive.fp.tell() if archive.fp else 0, name)
            archive.writestr(info, data)


class ModelFile:
    """A model file that is open for reading. Entries are views into a memory map (on Windows, into its bytes), so
    nothing is copied.

    Raises ModelFileError if the file is missing, damaged, too new, or not a model file; checksums are compared at once.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if MAPPED else file.read()
                with zipfile.ZipFile(file) as archive:
                    infos = archive.infolist()
        except FileNotFoundError as error:
            raise ModelFileError(f"{path}: no such file; expected a model written by 'patchbank fit'") from error
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeError, struct.error) as error:
            raise self._bad(
                f"is not a whole model file ({error}); it may be truncated: copy or fit it again"
            ) from error
        if len(infos) > MAX_ENTRIES:
            raise self._bad(f"holds {len(infos)} entries; expected at most {MAX_ENTRIES}")
        self._views = {info.filename: self._view(info) for info in infos}
        if len(self._views) != len(infos):
            raise self._bad("holds two entries of one name")
        self.manifest = self._read_manifest({info.filename: info.CRC for info in infos}.get(MANIFEST))
        self._check_entries()

    def __contains__(self, name: str) -> bool:
        return name in self._views

    def sha256(self) -> str:
        """The digest of the whole file, in hexadecimal, as `sha256sum` prints it."""
        return hashlib.sha256(self._map).hexdigest()

    def names(self) -> list[str]:
        """The entries' names, sorted."""
        return sorted(self._views)

    def entry(self, name: str) -> memoryview:
        """An entry's bytes, where they lie in the file."""
        try:
            return self._views[name]
        except KeyError:
            raise self._bad(f"lacks its entry {name}") from None

    def tensors(self, name: str, expected: Mapping[str, tuple[str, int]]) -> dict[str, Tensor]:
        """The arrays of a safetensors entry: exactly the `expected` names, each with its (dtype, number of
        dimensions)."""
        try:
            return read_tensors(self.entry(name), expected)
        except ValueError as error:
            raise self._bad(f"{name}: {error}") from error

    def _bad(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what}")

    def _view(self, info: zipfile.ZipInfo) -> memoryview:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 0x1:
            raise self._bad(f"entry {info.filename!r} is compressed or encrypted; expected stored entries")
        if info.filename != MANIFEST and not _ENTRY_NAME.fullmatch(info.filename):
            raise self._bad(f"holds an unexpected entry {info.filename!r}")
        header = self._map[info.header_offset : info.header_offset + _LOCAL_HEADER]
        if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise self._bad(f"entry {info.filename!r} has no header where the directory says")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + _LOCAL_HEADER + name_length + extra_length
        if start + info.file_size > len(self._map):
            raise self._bad(f"entry {info.filename!r} reaches beyond the end of the file; it is truncated")
        return memoryview(self._map)[start : start + info.file_size]

    def _read_manifest(self, checksum: int | None) -> dict[str, Any]:
        data = self.entry(MANIFEST)
        if len(data) > MAX_MANIFEST_BYTES:
            raise self._bad(f"has a manifest of {len(data):,} bytes; expected at most {MAX_MANIFEST_BYTES:,}")
        if zlib.crc32(data) != checksum:
            raise self._bad("has a damaged manifest (its checksum differs); copy or fit it again")
        try:
            manifest = json.loads(bytes(data))
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
    if header_length > len(data) - 8:
        raise ValueError("its header reaches beyond its end")
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
    return np.frombuffer(body[start:stop], dtype).reshape(shape)


def _naturals(values: Any, count: int) -> list[int] | None:
    """The values, if they are a list of `count` integers of at least 0."""
    if not isinstance(values, list) or len(values) != count:
        return None
    return values if all(type(value) is int and value >= 0 for value in values) else None


def _padding(position: int, name: str) -> bytes:
    """A zip extra field (id 0x5042, 'PB') that makes the entry's data start at a multiple of ALIGNMENT."""
    start = position + _LOCAL_HEADER + len(name.encode()) + 4
    return struct.pack("<HH", 0x5042, -start % ALIGNMENT) + bytes(-start % ALIGNMENT)
