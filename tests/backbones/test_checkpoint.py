"""The checkpoint reader gives what torch wrote, and gives nothing to whoever wrote something else."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.backbones.checkpoint import read_checkpoint
from patchbank.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden"
MAGIC = 0x1950A86A20F9469CFC6C
FORMATS = ("zip.pth", "legacy.pth")


class Name:
    """Pickles as a bare global, such as `torch FloatStorage`, which need not be importable here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """Pickles as a call of a Name."""

    def __init__(self, function: Name, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Storage:
    def __init__(self, kind: str, key: str, count: Any, view: Any = None) -> None:
        self.id = ("storage", Name("torch", kind), key, "cpu", count, view)


class Pickler(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python, which can be taught opcodes
    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Storage) else None

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, Name):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(b"R")
        else:
            super().save(value, save_persistent_id)


def dumps(value: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def tensor(size: Any, stride: Any, offset: Any = 0, count: Any = 6, kind: str = "FloatStorage", key: str = "0") -> Call:
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), Storage(kind, key, count), offset, size, stride, False, {})


def write_zip(path: Path, program: bytes, data: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for key, raw in (data or {"0": np.arange(6, dtype="<f4").tobytes()}).items():
            archive.writestr(f"archive/data/{key}", raw)
    return path


def write_legacy(path: Path, root: Any, count: int = 6, raw: bytes | None = None, magic: int = MAGIC) -> Path:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [dumps(part) for part in (magic, 1001, system, root, ["0"])]
    raw = np.arange(6, dtype="<f4").tobytes() if raw is None else raw
    path.write_bytes(b"".join(parts) + struct.pack("<q", count) + raw)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_tensor_that_torch_wrote_is_read_back(name: str) -> None:
    """All number types, views with offsets, transposes, shared storages, parameters, scalars, empty tensors."""
    state = read_checkpoint(GOLDEN / name)
    with np.load(GOLDEN / "checkpoints.npz") as expected:
        assert set(state) == set(expected)
        assert len(state) == 14
        for key in expected:
            assert state[key].dtype == expected[key].dtype, key
            np.testing.assert_array_equal(state[key], expected[key], err_msg=key)


def test_a_nested_state_dict_is_found() -> None:
    """Training scripts wrap the state dict: {"epoch": ..., "state_dict": {...}}."""
    assert read_checkpoint(GOLDEN / "nested.pth")["weight"].shape == (4, 6)


def test_a_hand_written_file_of_each_format_is_read(tmp_path: Path) -> None:
    """The writers below make valid files, so that the attacks fail for what they change and for nothing else."""
    root = {"w": tensor((2, 3), (3, 1))}
    for path in (write_zip(tmp_path / "a.pth", dumps(root)), write_legacy(tmp_path / "b.pth", root)):
        np.testing.assert_array_equal(read_checkpoint(path)["w"], np.arange(6).reshape(2, 3))


def test_the_arrays_cannot_be_written() -> None:
    """They are views of shared bytes: writing to one could change another."""
    array = read_checkpoint(GOLDEN / "zip.pth")["float32"]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


class Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_calls_os_system_is_refused_and_does_nothing(tmp_path: Path, protocol: int, legacy: bool) -> None:
    """The attack that plain pickle.load falls for; first shown to work, then refused."""
    target = tmp_path / "owned"
    program = pickle.dumps({"w": Exploit(target)}, protocol)
    pickle.loads(program)
    assert target.exists()
    target.unlink()
    path = tmp_path / "evil.pth"
    if legacy:
        path.write_bytes(b"".join(map(dumps, (MAGIC, 1001, {"little_endian": True}))) + program)
    else:
        write_zip(path, program)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "torch load", "torch._utils getattr", "numpy.core.multiarray scalar", "os system"]
)
def test_names_outside_the_list_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """The message says what the file asked for."""
    module, attribute = name.split()
    with pytest.raises(CheckpointError, match=name.replace(" ", r"\.") + ".*refused"):
        read_checkpoint(write_zip(tmp_path / "a.pth", dumps({"w": Call(Name(module, attribute), "1")})))


def test_a_whole_module_is_refused() -> None:
    """torch.save(model) pickles code by name; torch's own answer to it is `weights_only=False`."""
    with pytest.raises(CheckpointError, match="refused"):
        read_checkpoint(GOLDEN / "whole_module.pth")


@pytest.mark.parametrize("opcode", [b"i", b"o", b"\x81", b"\x92", b"\x82", b"\x96"])
def test_other_opcodes_are_refused(tmp_path: Path, opcode: bytes) -> None:
    """INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, BYTEARRAY8 make objects or memory; a state dict has none of them."""
    program = b"\x80\x02}" + opcode + b"os\nsystem\n" + b"\x00" * 8 + b"."
    with pytest.raises(CheckpointError):
        read_checkpoint(write_zip(tmp_path / "a.pth", program))


BAD_TENSORS = {
    "past the end": tensor((3, 3), (3, 1)),
    "offset past the end": tensor((2, 3), (3, 1), offset=1),
    "stride past the end": tensor((2, 3), (4, 1)),
    "negative offset": tensor((2, 3), (3, 1), offset=-1),
    "negative stride": tensor((2, 3), (-3, 1), offset=3),
    "negative size": tensor((-2, 3), (3, 1)),
    "expanded to terabytes": tensor((1 << 20, 1 << 20), (0, 0)),
    "huge size": tensor((1 << 62,), (1,)),
    "overflowing product": tensor((1 << 32, 1 << 32, 0), (0, 0, 0)),
    "float size": tensor((2.0, 3), (3, 1)),
    "bool size": tensor((True, 3), (3, 1)),
    "lengths differ": tensor((2, 3), (1,)),
    "too many dimensions": tensor((1,) * 40, (1,) * 40),
    "size is no tuple": tensor([2, 3], (3, 1)),
    "huge storage": tensor((2, 3), (3, 1), count=1 << 40),
    "negative storage": tensor((0,), (1,), count=-6),
    "storage longer than its bytes": tensor((2, 3), (3, 1), count=7),
    "storage shorter than its bytes": tensor((2,), (1,), count=5),
    "unknown number type": tensor((2, 3), (3, 1), kind="ComplexFloatStorage"),
    "missing storage": tensor((2, 3), (3, 1), key="../0"),
    "no storage": Call(Name("torch._utils", "_rebuild_tensor_v2"), "0", 0, (2,), (1,)),
    "called with too little": Call(Name("torch._utils", "_rebuild_tensor_v2")),
    "parameter of nothing": Call(Name("torch._utils", "_rebuild_parameter"), None, True, {}),
    "a storage called": Call(Name("torch", "FloatStorage"), 1 << 40),
    "a dictionary of something": Call(Name("collections", "OrderedDict"), [["a", 1]]),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
@pytest.mark.parametrize("legacy", [False, True])
def test_impossible_tensors_are_refused(tmp_path: Path, case: str, legacy: bool) -> None:
    """No read outside the storage, no allocation beyond the file, whatever sizes, strides and offsets say."""
    root, path = {"w": BAD_TENSORS[case]}, tmp_path / "bad.pth"
    if legacy:
        if case == "storage longer than its bytes":
            write_legacy(path, root, count=7)
        else:
            write_legacy(path, root)
    else:
        write_zip(path, dumps(root))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_many_tensors_over_one_storage_take_no_memory_of_their_own(tmp_path: Path) -> None:
    """A small file could otherwise ask for a copy of its storage thousands of times."""
    storage = Storage("FloatStorage", "0", 6)
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    root = {f"w{i}": Call(rebuild, storage, 0, (6,), (1,), False, {}) for i in range(500)}
    state = read_checkpoint(write_zip(tmp_path / "a.pth", dumps(root)))
    assert len(state) == 500
    assert all(np.shares_memory(state["w0"], array) for array in state.values())


def test_a_compressed_zip_is_refused_before_it_swells(tmp_path: Path) -> None:
    """A zip bomb: 100 MB of zeros in 100 kB."""
    root = {"w": tensor((25_000_000,), (1,), count=25_000_000)}
    path = write_zip(tmp_path / "bomb.pth", dumps(root), {"0": bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError, match="uncompressed"):
        read_checkpoint(path)


def test_a_repeated_zip_entry_is_refused(tmp_path: Path) -> None:
    """Two entries of one name: readers disagree on which one counts."""
    path = write_zip(tmp_path / "a.pth", dumps({"w": tensor((2, 3), (3, 1))}))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", dumps({}))
    with pytest.raises(CheckpointError, match="repeated"):
        read_checkpoint(path)


def test_a_damaged_zip_entry_is_noticed(tmp_path: Path) -> None:
    """The zip's own checksum is verified."""
    path = write_zip(tmp_path / "a.pth", dumps({"w": tensor((2, 3), (3, 1))}))
    raw = np.arange(6, dtype="<f4").tobytes()
    path.write_bytes(path.read_bytes().replace(raw, raw[::-1]))
    with pytest.raises(CheckpointError, match="data/0"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", FORMATS)
def test_big_endian_files_are_refused(tmp_path: Path, name: str) -> None:
    """Rather than read as other numbers."""
    path = tmp_path / name
    if name == "zip.pth":
        write_zip(path, dumps({"w": tensor((2, 3), (3, 1))}))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/byteorder", "big")
    else:
        path.write_bytes(b"".join(map(dumps, (MAGIC, 1001, {"little_endian": False}))))
    with pytest.raises(CheckpointError, match="little-endian"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02.", b"\x93NUMPY", dumps(7), dumps(MAGIC)]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """Empty files, texts, archives, pickles of something else."""
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        read_checkpoint(path)


def test_wrong_magic_number_and_version_are_refused(tmp_path: Path) -> None:
    """A legacy file says what it is in its first two pickles."""
    with pytest.raises(CheckpointError, match="does not start like one"):
        read_checkpoint(write_legacy(tmp_path / "a.pth", {}, magic=MAGIC + 1))
    (tmp_path / "b.pth").write_bytes(dumps(MAGIC) + dumps(1002))
    with pytest.raises(CheckpointError, match="1002"):
        read_checkpoint(tmp_path / "b.pth")


@pytest.mark.parametrize("root", [[], 3, {}, {"epoch": 1}, OrderedDict])
def test_files_without_tensors_are_refused(tmp_path: Path, root: Any) -> None:
    """An empty result would only fail later, and less clearly."""
    root = Call(Name("collections", "OrderedDict")) if root is OrderedDict else root
    with pytest.raises(CheckpointError, match="state dict"):
        read_checkpoint(write_zip(tmp_path / "a.pth", dumps(root)))


def test_missing_files_and_folders_are_checkpoint_errors(tmp_path: Path) -> None:
    """No bare OSError."""
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(CheckpointError, match="cannot read"):
            read_checkpoint(path)


def test_a_file_larger_than_any_backbone_is_not_read(tmp_path: Path) -> None:
    """A sparse file of 5 GiB."""
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(CheckpointError, match="4 GiB"):
        read_checkpoint(path)


ENDLESS = b")q\x00" + b"h\x00h\x00\x86q\x00" * 100  # a tuple of two tuples, of two tuples, ...: 2^100 in all, 400 bytes

STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


@pytest.mark.parametrize(
    ("place", "program"),
    {
        "a key": b"}" + ENDLESS + b"K\x01s.",
        "several keys": b"}(" + ENDLESS + b"K\x01u.",
        "a version": ENDLESS + b".",
        "a storage's number of elements": STORAGE + ENDLESS + b"tQ.",
        "a storage's view": STORAGE + b"K\x01" + ENDLESS + b"tQ.",
        "a module's name": ENDLESS + b"X\x01\x00\x00\x00a\x93.",
        "arguments": b"ccollections\nOrderedDict\n" + ENDLESS + b"R.",
    }.items(),
)
def test_tuples_that_share_each_other_take_no_time(tmp_path: Path, place: str, program: bytes) -> None:
    """Their hash, repr or comparison would never end. In either layout."""
    for path in (write_zip(tmp_path / "a.pth", b"\x80\x02" + program), tmp_path / "b.pth"):
        if path.name == "b.pth":
            path.write_bytes(dumps(MAGIC) + b"\x80\x02" + program)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert len(str(caught.value)) < 500


def test_a_memo_of_a_huge_index_costs_nothing(tmp_path: Path) -> None:
    """LONG_BINPUT 0xffffffff makes C's unpickler allocate 32 GiB."""
    program = b"\x80\x02}r\xff\xff\xff\xff."
    with pytest.raises(CheckpointError, match="without tensors"):
        read_checkpoint(write_zip(tmp_path / "a.pth", program))


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_noticed(tmp_path: Path, name: str) -> None:
    """At each length short of the whole file."""
    content, path = (GOLDEN / name).read_bytes(), tmp_path / name
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_a_zip_entry_at_an_impossible_offset_is_refused(tmp_path: Path) -> None:
    """Python 3.11's zipfile lets an OverflowError out for an offset of 2^64 - 1."""
    path = tmp_path / "a.pth"
    entry = zipfile.ZipInfo("archive/data.pkl")
    entry.extra = struct.pack("<HHQ", 1, 8, (1 << 64) - 1)  # the 64-bit offset, used where the 32-bit one is all ones
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, dumps({"w": tensor((2, 3), (3, 1))}))
    content = bytearray(path.read_bytes())
    offset = content.index(b"PK\x01\x02") + 42
    content[offset : offset + 4] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools, decoding a damaged text
@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(FORMATS))
def test_random_damage_never_raises_anything_but_checkpoint_errors(
    data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Flipped bytes give other numbers or a CheckpointError; no other exception leaves the reader."""
    content = bytearray((GOLDEN / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content)
    try:
        state = read_checkpoint(path)
    except CheckpointError:
        return
    assert sum(array.nbytes for array in state.values()) < 100 * len(content)
    assert all(np.asarray(array).tobytes() is not None for array in state.values())  # touches every element
