"""The model file: what is written comes back as it was, and no damaged or hostile file gets through."""

from __future__ import annotations

import errno
import json
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.errors import ModelFileError, OutputError
from patchbank.model_file import archive as artifact
from patchbank.model_file.archive import ModelFile, read_tensors, tensor_bytes, write

ENTRIES = {"backbone.onnx": b"graph", "bank.safetensors": b"bank" * 100, "thumbnails/000000.jpg": b"\xff\xd8"}


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "m.patchbank", {"config": {"a": 1}}, ENTRIES)
    return tmp_path / "m.patchbank"


def rewrite(path, manifest=None, entries=None, compression=zipfile.ZIP_STORED):
    """The file again, with some of its entries replaced behind the writer's back."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= entries or {}
    if manifest is not None:
        content["manifest.json"] = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(name, data)


def manifest_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("manifest.json"))


def test_round_trip(path):
    file = ModelFile(path)
    assert file.manifest["config"] == {"a": 1}
    assert {name: bytes(file.entry(name)) for name in ENTRIES} == ENTRIES
    assert "backbone.onnx" in file
    assert "calibration.safetensors" not in file


def test_what_is_read_stays_as_it_was(path):
    """A file that is overwritten in place, as cp and rsync --inplace do, changes nothing that was loaded; and on
    Windows, a file that is in use could not be replaced."""
    file = ModelFile(path)
    with path.open("r+b") as same:
        same.write(bytes(path.stat().st_size))
    assert {name: bytes(file.entry(name)) for name in ENTRIES} == ENTRIES
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelFileError):
        ModelFile(path)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError):
        ModelFile(path)


def test_same_content_same_bytes(path, tmp_path):
    write(tmp_path / "again", {"config": {"a": 1}}, ENTRIES)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_entries_are_aligned_and_readable_by_any_zip_tool(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            data = archive.read(info)
            start = path.read_bytes().find(data)
            if len(data) > 4:
                assert start % artifact.ALIGNMENT == 0, info.filename


def test_every_truncation_is_an_error(path):
    whole = path.read_bytes()
    for length in [0, 1, 10, *range(30, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            ModelFile(path)


@settings(max_examples=150, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_an_error_or_harmless(tmp_path_factory, position, flip):
    """Whatever byte changes: either the file is refused, or everything that it says is unchanged."""
    path = tmp_path_factory.mktemp("flip") / "m.patchbank"
    write(path, {"config": {"a": 1}}, ENTRIES)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= flip
    before = manifest_of(path)
    path.write_bytes(data)
    try:
        file = ModelFile(path)
    except ModelFileError:
        return
    assert {name: bytes(file.entry(name)) for name in ENTRIES} == ENTRIES
    assert file.manifest == before


def test_missing_file_folder_and_other_files(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        ModelFile(tmp_path / "none")
    with pytest.raises(ModelFileError, match="cannot be read"):
        ModelFile(tmp_path)
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(ModelFileError, match="not a whole model file"):
        ModelFile(tmp_path / "text")


def test_another_zip_is_not_a_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("manifest.json", "{}")
    with pytest.raises(ModelFileError, match="not a patchbank model"):
        ModelFile(tmp_path / "z")


@pytest.mark.parametrize("version", [artifact.FORMAT_VERSION + 1, 99, 0, "1", None, True])
def test_a_future_version_says_what_to_do(path, version):
    rewrite(path, manifest_of(path) | {"format_version": version})
    if version is True:
        ModelFile(path)  # JSON true is Python's 1; harmless
        return
    with pytest.raises(ModelFileError, match="upgrade patchbank"):
        ModelFile(path)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "thumbnails/../../x.jpg", "run.py", "thumbnails/1.jpg"])
def test_unexpected_entries_are_refused(path, name):
    rewrite(path, entries={name: b"x"})
    with pytest.raises(ModelFileError, match="unexpected entry"):
        ModelFile(path)


def test_compressed_entries_are_refused(path):
    """A stored file cannot be a zip bomb."""
    rewrite(path, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="compressed"):
        ModelFile(path)


def test_changed_missing_and_undescribed_entries(path):
    whole = path.read_bytes()
    rewrite(path, entries={"backbone.onnx": b"other"})
    with pytest.raises(ModelFileError, match=r"backbone\.onnx is damaged"):
        ModelFile(path)
    path.write_bytes(whole)
    rewrite(path, entries={"backbone.onnx": None})
    with pytest.raises(ModelFileError, match="does not describe"):
        ModelFile(path)


def test_hostile_manifests(path):
    for text in (
        b"{" * 100_000,
        b"[1]",
        b"null",
        b"\xff\xfe",
        b'{"format": "patchbank-model", "format_version": 1, "entries": 3}',
    ):
        whole = path.read_bytes()
        rewrite(path, text)
        with pytest.raises(ModelFileError):
            ModelFile(path)
        path.write_bytes(whole)


def test_full_disk_leaves_the_old_file(path, monkeypatch):
    whole = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write(path, {"config": {"b": 2}}, ENTRIES)
    assert path.read_bytes() == whole
    assert [p.name for p in path.parent.iterdir()] == [path.name]


EXPECTED = {"a": ("F32", 2), "b": ("I32", 1)}


def test_tensors_round_trip_without_a_copy():
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int32)}
    found = read_tensors(memoryview(tensor_bytes(tensors)), EXPECTED)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
        assert not found[name].flags.owndata
        assert not found[name].flags.writeable


def safetensors(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(struct.pack("<Q", len(text)) + text + body)


B = {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        memoryview(b""),
        memoryview(struct.pack("<Q", 1 << 60) + b"{}"),
        safetensors(b"{" * 9999),
        safetensors({"a": 1}),
        safetensors({"b": B}, b"1234"),
        safetensors({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}, "b": B}, b"0" * 16),
        safetensors({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "b": B}, b"0" * 8),
        safetensors({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, "b": B}, b"0" * 8),
        safetensors({"a": {"dtype": "F32", "shape": [1, 1], "data_offsets": [8, 4]}, "b": B}, b"0" * 8),
        safetensors({"a": {"dtype": "F64", "shape": [1, 1], "data_offsets": [0, 8]}, "b": B}, b"0" * 8),
        safetensors({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}, "b": B}, b"0" * 8),
        safetensors({"a": {"dtype": "F32", "shape": "12", "data_offsets": [0, 8]}, "b": B}, b"0" * 8),
    ],
)
def test_hostile_tensors_are_refused(data):
    with pytest.raises(ValueError):
        read_tensors(data, EXPECTED)
