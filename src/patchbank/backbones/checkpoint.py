"""Reads PyTorch checkpoints without PyTorch, and without trusting them.

A checkpoint is a pickle program plus raw storages, in one of two layouts: a zip archive (`torch.save` since 1.6) or the
older sequence of five pickles followed by the storages. The program is *interpreted* here by a small stack machine
which knows only the opcodes and the few names that a state dict needs. It has no way to import or call anything else,
so there is nothing for a malicious file to reach; `pickle.load` is never used.

Arrays are read-only views of the file's bytes: however a file describes its tensors, the memory used stays about the
file's size.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import CheckpointError

MAX_FILE_BYTES = 4 << 30
MAX_OPCODES = 1_000_000  # a few seconds; a network of a thousand tensors has 40 000
MAX_TENSORS = 100_000
MAX_DIMS = 8

_LONGEST = 80  # characters of a text from the file in a message
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

# What zipfile lets through for damaged archives (RuntimeError: encrypted; NotImplementedError is one too).
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, EOFError, OSError, OverflowError, RuntimeError, struct.error)

# NumPy has no bfloat16: read as uint16, widened below.
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|u1",
}


class _Global(NamedTuple):
    """A name that a pickle mentions; it stands for nothing but itself."""

    name: str


class _Mark:
    pass


class _Dict(dict[Any, Any]):
    """An (ordered) dictionary in the pickle; told apart from other values by type."""


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_ORDERED_DICT = _Global("collections OrderedDict")
_ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}" for kind in _DTYPES),
}


def read_checkpoint(path: str | Path) -> dict[str, Array]:
    """The tensors of a PyTorch state dict, by name, as read-only NumPy arrays (bfloat16 becomes float32).

    A state dict under the key "state_dict" or "model" is found too. Raises CheckpointError for everything that is not
    such a file: damaged, truncated, too large, or asking for any object other than tensors, dictionaries, numbers and
    texts.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_FILE_BYTES >> 30} GiB, which no backbone needs")
        with path.open("rb") as file:
            if file.peek(1)[:1] not in (b"P", b"\x80", b""):  # before gigabytes of something else are read
                raise CheckpointError(f"{path}: expected a PyTorch checkpoint (.pth), a file that starts like one")
            data = file.read()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    try:
        root, storages = _read_zip(data) if data[:4] == b"PK\x03\x04" else _read_legacy(data)
        return _tensors(root, storages)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deeply for a checkpoint") from error


# --- the two layouts -------------------------------------------------------------------------------------------------


def _read_legacy(data: bytes) -> tuple[Any, Callable[[_Storage], memoryview]]:
    """Five pickles (magic number, version, system, state dict, keys), then an int64 count and raw bytes each."""
    file = io.BytesIO(data)
    if _run(file) != _LEGACY_MAGIC:
        raise CheckpointError("expected a PyTorch checkpoint (.pth), got a file that does not start like one")
    version = _run(file)
    if version != _LEGACY_VERSION:
        raise CheckpointError(f"expected checkpoint version {_LEGACY_VERSION}, got {_brief(version)}")
    system = _run(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("expected a checkpoint written on a little-endian machine")
    seen: dict[str, _Storage] = {}
    root = _run(file, seen)
    keys = _run(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("damaged: expected the list of storage keys")
    view, raw, position = memoryview(data), {}, file.tell()
    for key in keys:
        storage = seen.get(key)
        if storage is None:
            raise CheckpointError(f"damaged: storage {_brief(key)} belongs to no tensor")
        if position + 8 > len(data) or struct.unpack_from("<q", data, position)[0] != storage.count:
            raise CheckpointError(f"damaged or truncated: storage {_brief(key)} should hold {storage.count} numbers")
        length = storage.count * np.dtype(_DTYPES[storage.kind]).itemsize
        raw[key] = view[position + 8 : position + 8 + length]
        position += 8 + length
    if position != len(data):
        missing = position - len(data)
        raise CheckpointError(f"truncated: {missing} bytes are missing" if missing > 0 else "damaged: excess bytes")
    return root, lambda storage: raw.get(storage.key, memoryview(b""))


def _read_zip(data: bytes) -> tuple[Any, Callable[[_Storage], memoryview]]:
    """`<name>/data.pkl`, `<name>/data/<key>` and, since torch 2.1, `<name>/byteorder`; all stored, not compressed."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _ZIP_ERRORS as error:
        raise CheckpointError(f"damaged or truncated zip archive ({error})") from error
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()) or len(entries) > MAX_TENSORS:
        raise CheckpointError("damaged: repeated or too many entries")
    # Stored entries cannot swell, and together they cannot be larger than the file, so there is no zip bomb.
    if any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size for e in entries.values()):
        raise CheckpointError("expected uncompressed entries, as torch.save writes them")
    if sum(e.file_size for e in entries.values()) > len(data):
        raise CheckpointError("damaged: the entries overlap")
    programs = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise CheckpointError("expected a PyTorch checkpoint, got a zip archive without exactly one <name>/data.pkl")
    prefix = programs[0].removesuffix("data.pkl")

    def read(name: str) -> bytes:
        if name not in entries:
            raise CheckpointError(f"damaged: entry {_brief(name)} is missing")
        try:
            return archive.read(entries[name])
        except _ZIP_ERRORS as error:
            raise CheckpointError(f"damaged: entry {_brief(name)} cannot be read ({error})") from error

    if prefix + "byteorder" in entries and read(prefix + "byteorder").strip() != b"little":
        raise CheckpointError("expected a checkpoint written on a little-endian machine")
    root = _run(io.BytesIO(read(programs[0])), {})
    return root, lambda storage: memoryview(read(f"{prefix}data/{storage.key}"))


# --- the stack machine -----------------------------------------------------------------------------------------------


def _run(file: io.BytesIO, storages: dict[str, _Storage] | None = None) -> Any:
    """Interprets one pickle of the file and leaves the file behind it. `storages` collects the storages it mentions."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPCODES:
                raise CheckpointError("too long a pickle for a checkpoint")
            if opcode.name == "STOP":
                return stack.pop()
            _step(opcode.name, argument, stack, memo, storages)
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, struct.error) as error:
        raise CheckpointError(f"damaged or truncated, or not a PyTorch checkpoint ({error})") from error
    raise CheckpointError("damaged or truncated: the pickle has no end")


def _step(
    name: str, argument: Any, stack: list[Any], memo: dict[int, Any], storages: dict[str, _Storage] | None
) -> None:
    if name in _CONSTANTS:
        stack.append(_CONSTANTS[name]())
    elif name in _LITERALS:
        stack.append(argument)
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
        memo[argument] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[argument])
    elif name == "GLOBAL":
        stack.append(_global(argument))
    elif name == "STACK_GLOBAL":
        attribute, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
        stack.append(_global(f"{module} {attribute}"))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        items = [stack.pop() for _ in range(int(name[-1]))]
        stack.append(tuple(reversed(items)))
    elif name == "TUPLE":
        stack.append(tuple(_pop_mark(stack)))
    elif name == "APPEND":
        item = stack.pop()
        _expect(stack[-1], list).append(item)
    elif name == "APPENDS":
        items = _pop_mark(stack)
        _expect(stack[-1], list).extend(items)
    elif name == "SETITEM":
        value, key = stack.pop(), _key(stack.pop())
        _expect(stack[-1], _Dict)[key] = value
    elif name == "SETITEMS":
        items = _pop_mark(stack)
        _expect(stack[-1], _Dict).update(zip(map(_key, items[::2]), items[1::2], strict=True))
    elif name == "BUILD":
        stack.pop()  # the attributes of a state dict (`_metadata`) say nothing about its tensors
        _expect(stack[-1], _Dict)
    elif name == "BINPERSID":
        storage = _storage(stack.pop())
        if storages is None or storages.setdefault(storage.key, storage) != storage:
            raise CheckpointError(f"damaged: storage {_brief(storage.key)} is described twice, or where none belongs")
        stack.append(storage)
    elif name == "REDUCE":
        arguments = stack.pop()
        stack.append(_call(stack.pop(), arguments))
    elif name not in ("PROTO", "FRAME"):
        raise CheckpointError(f"expected a plain state dict, got a pickle with the opcode {name}; refused")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": _Dict,
}
_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINSTRING",
    "SHORT_BINSTRING",
}


def _pop_mark(stack: list[Any]) -> list[Any]:
    items = []
    while not isinstance(item := stack.pop(), _Mark):
        items.append(item)
    return items[::-1]


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"damaged: expected a {kind.__name__.strip('_').lower()}, got {type(value).__name__}")
    return value


def _key(value: Any) -> str | int:
    """A dictionary's key: never a tuple, since that of tuples that hold each other takes for ever to hash."""
    if not isinstance(value, (str, int)):
        raise CheckpointError(f"damaged: expected a name or a number as a key, got {type(value).__name__}")
    return value


def _brief(value: Any) -> str:
    """A value for a message. Of what others are made of, only the kind is said: it may be endless."""
    if isinstance(value, str):
        return repr(value[:_LONGEST])
    return repr(value) if type(value) in (int, float, bool) and abs(value) < 1e18 else f"a {type(value).__name__}"


def _global(name: str) -> _Global:
    if name not in _ALLOWED:
        raise CheckpointError(
            f"the file asks for {_brief(name.replace(' ', '.'))}, which a checkpoint of plain tensors does not need; "
            "refused"
        )
    return _Global(name)


def _storage(persistent_id: Any) -> _Storage:
    """('storage', type, key, device, number of elements[, view])."""
    if not isinstance(persistent_id, tuple) or len(persistent_id) not in (5, 6) or persistent_id[0] != "storage":
        raise CheckpointError("damaged: expected the description of a storage")
    _, kind, key, _, count = persistent_id[:5]
    if any(view is not None for view in persistent_id[5:]):
        raise CheckpointError("views of storages, a form that torch has not written since 2017, are not supported")
    if not isinstance(kind, _Global) or not kind.name.endswith("Storage") or not isinstance(key, str):
        raise CheckpointError("damaged: expected the description of a storage")
    if not _is_count(count):
        raise CheckpointError(f"damaged: a storage of {_brief(count)} elements")
    return _Storage(kind.name.removeprefix("torch "), key, count)


def _call(function: Any, arguments: Any) -> Any:
    name = _expect(function, _Global).name
    arguments = _expect(arguments, tuple)
    if function == _ORDERED_DICT and arguments == ():
        return _Dict()
    if name == "torch._utils _rebuild_parameter":
        return _expect(arguments[0], _Tensor)
    if name in ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2"):
        storage, offset, size, stride = arguments[:4]
        return _tensor(_expect(storage, _Storage), offset, _expect(size, tuple), _expect(stride, tuple))
    raise CheckpointError(f"damaged: {name.replace(' ', '.')} is called in an unknown way")


def _tensor(storage: _Storage, offset: Any, size: tuple[Any, ...], stride: tuple[Any, ...]) -> _Tensor:
    """Checks that every element lies inside the storage and that no element is described twice over."""
    if len(size) != len(stride) or len(size) > MAX_DIMS or not all(map(_is_count, (offset, *size, *stride))):
        raise CheckpointError(f"damaged: expected a tensor of at most {MAX_DIMS} sides, with whole numbers for all")
    if math.prod(max(n, 1) for n in size) > MAX_FILE_BYTES:
        raise CheckpointError(f"damaged: a tensor of size {size}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last >= storage.count or math.prod(size) > storage.count):
        raise CheckpointError(
            f"damaged: a tensor of size {size} reaches outside its storage of {storage.count} elements"
        )
    return _Tensor(storage, offset, size, stride)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_FILE_BYTES


# --- from descriptions to arrays -------------------------------------------------------------------------------------


def _tensors(root: Any, read: Callable[[_Storage], memoryview]) -> dict[str, Array]:
    if isinstance(root, _Dict) and not any(isinstance(v, _Tensor) for v in root.values()):
        root = next((root[key] for key in ("state_dict", "model") if isinstance(root.get(key), _Dict)), root)
    if not isinstance(root, Mapping):
        raise CheckpointError("expected a state dict (names and tensors), got something else")
    named = {name: value for name, value in root.items() if isinstance(name, str) and isinstance(value, _Tensor)}
    if not named:
        raise CheckpointError("expected a state dict (names and tensors), got one without tensors")
    if len(named) > MAX_TENSORS:
        raise CheckpointError(f"more than {MAX_TENSORS} tensors, which no backbone needs")
    storages: dict[_Storage, Array] = {}
    for tensor in named.values():
        if tensor.storage not in storages:
            storages[tensor.storage] = _load(tensor.storage, read(tensor.storage))
    return {name: _view(tensor, storages[tensor.storage]) for name, tensor in named.items()}


def _load(storage: _Storage, raw: memoryview) -> Array:
    dtype = np.dtype(_DTYPES[storage.kind])
    if len(raw) != storage.count * dtype.itemsize:
        raise CheckpointError(
            f"damaged: storage {_brief(storage.key)} should hold {storage.count * dtype.itemsize} bytes, got {len(raw)}"
        )
    values: Array = np.frombuffer(raw, dtype)
    if storage.kind == "BFloat16Storage":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif storage.kind == "BoolStorage":
        values = values != 0
    return values


def _view(tensor: _Tensor, values: Array) -> Array:
    if 0 in tensor.size:
        return np.empty(tensor.size, values.dtype)
    strides = [step * values.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.size, strides, writeable=False)
