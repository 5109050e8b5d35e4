"""Model files that somebody made: every checksum is right, and nothing in them is. Loading refuses what cannot be, and
after loading nothing raises but our own exceptions. `tests/fuzz` looks for more of them."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import math
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import helper
from safetensors.numpy import load, save

from parts import striped
from patchbank import Config, PatchCore, Runtime
from patchbank.backbones import Layer
from patchbank.backbones.checkpoint import read_checkpoint
from patchbank.backbones.fake import FakeBackbone
from patchbank.backbones.session import read_onnx
from patchbank.errors import BackboneError, CheckpointError, ModelFileError, OutputError
from patchbank.imaging.decoding import read_file
from patchbank.imaging.images import write_png
from patchbank.model_file import archive, schema
from patchbank.model_file.contents import needs_trust, packed, read
from patchbank.monitoring.audit import audit_model

Change = Callable[[dict[str, Any], dict[str, bytes]], None]


@pytest.fixture(scope="module")
def images() -> list[Any]:
    rng = np.random.default_rng(0)
    return [striped(rng) for _ in range(9)]


@pytest.fixture(scope="module")
def model(images: list[Any], tmp_path_factory: pytest.TempPathFactory) -> PatchCore:
    """As it was read back: its network is in a session, whose bits are its own."""
    path = tmp_path_factory.mktemp("model") / "m.patchbank"
    config = Config(image_size=64, coreset_size=50, max_false_alarms=0.2, confidence=0.5, include="0,0 1,0 1,1 0,1")
    PatchCore.fit(images[:8], config, backbone=FakeBackbone()).save(path)
    return PatchCore.load(path)


def sealed(manifest: dict[str, Any], entries: dict[str, bytes], *, text: bytes | None = None) -> bytes:
    """A whole file with right checksums; `text` takes the place of `"HERE"` in the manifest."""
    described = {n: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in entries.items()}
    whole = {"format": "patchbank-model", "format_version": archive.FORMAT_VERSION, **manifest, "entries": described}
    data = json.dumps(whole).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zip_file:
        for name, content in {"manifest.json": data.replace(b'"HERE"', text) if text else data, **entries}.items():
            zip_file.writestr(name, content)
    return file.getvalue()


def changed(model: PatchCore, change: Change) -> tuple[dict[str, Any], dict[str, bytes]]:
    manifest, entries = packed(model)
    manifest = copy.deepcopy(json.loads(json.dumps(manifest)))
    change(manifest, entries)
    return manifest, entries


def put(*keys: Any) -> Change:
    """A value of the manifest: its keys, and what is put there."""

    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        *way, last, value = keys
        inner: Any = manifest
        for key in way:
            inner = inner[key]
        inner[last] = value

    return change


def tensor(entry: str, name: str, value: float) -> Change:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        tensors = load(entries[entry])
        tensors[name] = np.full_like(tensors[name], value)
        entries[entry] = save(tensors)

    return change


def entry(name: str, data: bytes) -> Change:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        entries[name] = data

    return change


def png(side: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((side, side), 255, np.uint8))[1])


def jpeg(height: int, width: int, marker: int = 0xC0) -> bytes:
    """A small JPEG whose frame says another size, or another kind."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.find(b"\xff\xc0")
    data[at + 1], data[at + 5 : at + 9] = marker, struct.pack(">HH", height, width)
    return bytes(data)


def png_of(height: int, width: int, bits: int = 8) -> bytes:
    """A small PNG of colours whose header says this size."""
    data = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    data[16:25] = struct.pack(">IIB", width, height, bits)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


REFUSED: dict[str, Change] = {
    "image of 16384": put("config", "image_size", 16384),
    "image of -1": put("config", "image_size", -1),
    "stride as text": put("config", "patch_stride", "1"),
    "embedding left open": put("config", "embedding", "auto"),
    "embedding of other vectors": put("config", "embedding", "reference"),
    "channels of other vectors": put("config", "channels", 7),
    "no config": put("config", None),
    "two means": put("backbone", "mean", [1, 2]),
    "std of 0": put("backbone", "std", [1, 0, 1]),
    "negative std": put("backbone", "std", [1, -1, 1]),
    "std of texts": put("backbone", "std", ["1", "1", "1"]),
    "no layers": put("backbone", "layers", []),
    "stride of 0": put("backbone", "layers", 0, "stride", 0),
    "channels of others": put("backbone", "layers", 0, "channels", 11),
    "a key too much": put("backbone", "evil", 1),
    "size of others": put("bank", "size", 3),
    "negative radius": put("bank", "covering_radius", -1),
    "a number among names": put("bank", "images", 0, 5),
    "fewer names": put("bank", "images", ["image 0"]),
    "names in an object": put("bank", "images", {"image 0": 1}),
    "a number among calibration names": put("calibration", "images", 0, 5),
    "an unknown calibration name": put("calibration", "images", 0, "x"),
    "unknown method": put("calibration", "method", "none"),
    "threshold as text": put("calibration", "threshold", "7"),
    "scene upside down": put("scene", "ranges", "brightness", [3, 1]),
    "a measure missing": lambda m, e: m["scene"]["ranges"].pop("pixels"),
    "expected upside down": lambda m, e: m["bank"]["expected"].update(low=0.2, high=0.1),
    "expected without bounds": lambda m, e: m["bank"]["expected"].update(high=1e30),
    "versions no list": put("versions", 7),
    "a suspect without a name": put("dropped", [{"name": 1, "score": 1, "oddness": 1, "limit": 1}]),
    "slope of NaN": tensor("expected.safetensors", "slope", math.nan),
    "slope of infinity": tensor("expected.safetensors", "slope", math.inf),
    "slope that overflows": tensor("expected.safetensors", "slope", 3e38),
    "vectors that overflow": tensor("bank.safetensors", "vectors", 1e20),
    "a scene that overflows": tensor("scene.safetensors", "cells", 3e38),
    "a region of 14000": entry("roi.png", png(5000)),
    "a region that is no PNG": entry("roi.png", b"\x93NUMPY" + bytes(200)),
    "an empty region": entry("roi.png", bytes(cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1])),
    "half a region": entry("roi.png", png(9)[:40]),
    "a self-test's picture of garbage": entry("self_test/000001.png", b"garbage"),
    "a large picture of the self-test": entry("self_test/000001.png", png_of(60000, 60000)),
    "a picture larger than what is inspected": entry("self_test/000001.png", png_of(160, 160)),
    "a picture of 16 bits": entry("self_test/000001.png", png_of(64, 64, bits=16)),
    "a picture of nobody": entry("self_test/000999.png", png_of(64, 64)),
    "a picture of infinite values": lambda m, e: (
        e.pop("self_test/000001.png"),
        e.update({"self_test/000001.npy": npy(np.full((64, 64, 3), np.inf, np.float32))}),
    ),
    "a picture of other channels": lambda m, e: (
        e.pop("self_test/000001.png"),
        e.update({"self_test/000001.npy": npy(np.zeros((64, 64, 6), np.float32))}),
    ),
    "two pictures of one image": entry("self_test/000001.npy", npy(np.zeros((64, 64, 3), np.float32))),
    "a self-test without its pictures": lambda m, e: e.pop("self_test/000001.png"),
    "a self-test without its distances": lambda m, e: e.pop("self_test.safetensors"),
    "distances of NaN": tensor("self_test.safetensors", "distances.000001", math.nan),
    "negative distances": tensor("self_test.safetensors", "distances.000001", -1),
    "a self-test of nobody": put("self_test", 0, "image", 999),
    "a self-test of one image twice": lambda m, e: m["self_test"].append(m["self_test"][0]),
    "too many images of a self-test": lambda m, e: m["self_test"].extend(m["self_test"] * 4),
    "a self-test's score as text": put("self_test", 0, "score", "1"),
    "a negative length": put("self_test", 0, "length", -1),
    "a thumbnail of garbage": entry("thumbnails/000000.jpg", b"garbage"),
    "a thumbnail of nobody": entry("thumbnails/000999.jpg", jpeg(16, 16)),
    "a large thumbnail": entry("thumbnails/000000.jpg", jpeg(65535, 65535)),
    "a progressive thumbnail": entry("thumbnails/000000.jpg", jpeg(16, 16, 0xC2)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_at_load(model: PatchCore, tmp_path: Path, case: str) -> None:
    path = tmp_path / "m.patchbank"
    path.write_bytes(sealed(*changed(model, REFUSED[case])))
    with pytest.raises(ModelFileError):
        PatchCore.load(path)


def test_the_file_of_these_tests_is_sound(model: PatchCore, images: list[Any], tmp_path: Path) -> None:
    """The test of the tests."""
    path = tmp_path / "m.patchbank"
    path.write_bytes(sealed(*packed(model)))
    assert PatchCore.load(path).predict(images[8]).score == model.predict(images[8]).score
    assert needs_trust(model) is None


@pytest.mark.parametrize(
    "text",
    [b"1e400", b"NaN", b"-Infinity", b"1" * 5000, b"[" * 900 + b"]" * 900,
     b"[" + b"[]," * 600_000 + b"[]]", b'"' + b"x" * 1_100_000 + b'"', b"[" * 10**6],
    ids=["1e400", "NaN", "-Infinity", "digits", "nested", "many", "text", "open"],
)  # fmt: skip
def test_what_no_manifest_holds_is_refused_wherever_it_stands(model: PatchCore, tmp_path: Path, text: bytes) -> None:
    """Under a key that patchbank does not even know."""
    path = tmp_path / "m.patchbank"
    manifest, entries = packed(model)
    path.write_bytes(sealed({**manifest, "more": "HERE"}, entries, text=text))
    with pytest.raises(ModelFileError, match="manifest"):
        read(path)


def test_keys_of_later_patchbanks_are_let_be(model: PatchCore, tmp_path: Path) -> None:
    path = tmp_path / "m.patchbank"
    manifest, entries = packed(model)
    path.write_bytes(sealed({**manifest, "more": {"a": [1, None]}}, entries))
    assert read(path).manifest["more"] == {"a": [1, None]}


def test_a_manifest_that_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="manifest"):
        archive.write(tmp_path / "m", {"a": ["x" * 1000] * (archive.MAX_MANIFEST_BYTES // 1000)}, {})
    assert list(tmp_path.iterdir()) == []


def test_entries_that_share_their_bytes_are_refused(model: PatchCore, tmp_path: Path) -> None:
    """300 of them made 8 GB out of 9 MB."""
    manifest, entries = packed(model)
    file = io.BytesIO(sealed(manifest, entries))
    with zipfile.ZipFile(file, "a") as zip_file:
        shared = zip_file.getinfo("bank.safetensors")
        again = zipfile.ZipInfo("reserve.safetensors")
        for name in ("header_offset", "CRC", "file_size", "compress_size"):
            setattr(again, name, getattr(shared, name))
        zip_file.filelist.append(again)
        zip_file._didModify = True
    (tmp_path / "m").write_bytes(file.getvalue())
    with pytest.raises(ModelFileError, match=r"overlap|another name"):
        archive.ModelFile(tmp_path / "m")
    whole = bytearray(file.getvalue())
    at = whole.rfind(b"reserve.safetensors")
    assert at > 0


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    """It would block for ever."""
    import os

    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in folders here")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="regular file"):
        PatchCore.load(tmp_path / "pipe")


def test_reading_a_file_takes_the_memory_of_that_file(model: PatchCore, tmp_path: Path) -> None:
    """Asked for as much as a file may have, Python takes that memory first: 4 GiB for a small model."""
    model.save(tmp_path / "m")
    write_png(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    tracemalloc.start()
    archive.ModelFile(tmp_path / "m")
    read_file(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * (tmp_path / "m").stat().st_size + 4_000_000


@pytest.mark.parametrize(
    ("load_file", "error"),
    [(PatchCore.load, ModelFileError), (read_checkpoint, CheckpointError), (read_onnx, BackboneError)],
)
def test_gigabytes_of_nothing_are_not_read(
    load_file: Callable[[Path], object], error: type[Exception], tmp_path: Path
) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        try:
            file.truncate(3 << 29)
        except OSError:
            pytest.skip("no room for such a file here")
    tracemalloc.start()
    with pytest.raises(error):
        load_file(tmp_path / "sparse")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


def test_a_model_that_was_loaded_stays_what_it_was(model: PatchCore, images: list[Any], tmp_path: Path) -> None:
    """The file is overwritten in place, by another model and by a shorter one, as cp and rsync --inplace do; save does
    not seal a mixture."""
    path = tmp_path / "m.patchbank"
    model.save(path)
    before = path.read_bytes()
    loaded = PatchCore.load(path)
    other = PatchCore.fit([255 - image for image in images[:8]], loaded.config, backbone=FakeBackbone(seed=1))
    for content in (sealed(*packed(other)), bytes(1000)):
        with path.open("r+b") as same:
            same.truncate(0)
            same.write(content)
        assert loaded.predict(images[8]).score == model.predict(images[8]).score
        loaded.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == before


def test_a_thumbnail_that_is_none_shows_when_it_is_needed(model: PatchCore, tmp_path: Path) -> None:
    """Its header is right, so the model loads; and an audit says what is wrong."""
    broken = jpeg(16, 16)[:-200]
    path = tmp_path / "m.patchbank"
    path.write_bytes(sealed(*changed(model, lambda m, e: e.update({n: broken[:180] for n in e if "thumbnails" in n}))))
    with pytest.raises(ModelFileError):
        audit_model(PatchCore.load(path))


def test_work_beyond_the_limits_needs_somebody_who_vouches(
    model: PatchCore, images: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the keyword and by the runtime option; a fit says so beforehand."""
    monkeypatch.setattr(schema, "MAX_PIXELS", 50 * 50)
    path = tmp_path / "m.patchbank"
    model.save(path)
    with pytest.raises(ModelFileError, match="--trusted"):
        PatchCore.load(path)
    assert "pixels" in str(needs_trust(model))
    for loaded in (PatchCore.load(path, trusted=True), PatchCore.load(path, runtime=Runtime(trusted=True))):
        assert loaded.predict(images[8]).score == model.predict(images[8]).score


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 2049},
        {"image_size": (100, 16384)},
        {"image_size": 384, "num_neighbours": 1000},
        {"image_size": 1024, "num_neighbours": 300},
        {"image_size": 1024, "embedding": "reference", "patch_size": 15},
        {"image_size": 512, "embedding": "reference", "pretrain_embed_dim": 16384},
    ],
)
def test_settings_that_take_too_long_or_too_much_are_found(changes: dict[str, Any], model: PatchCore) -> None:
    """And the presets are far from it, with the largest bank that a default fit makes."""
    wide = dataclasses.replace(model.backbone.info, layers=(Layer("a", 512, 4), Layer("b", 1024, 8)))
    for image_size in (256, 384, 512, 1024):
        schema.check_work(Config(image_size=image_size), model.backbone.info, (30_000, 168))
    with pytest.raises(ValueError, match="expected at most"):
        schema.check_work(Config(**changes), wide, (30_000, 1024))


def test_a_network_of_other_operators_needs_somebody_who_vouches(
    model: PatchCore, images: list[Any], tmp_path: Path
) -> None:
    import onnx

    def random(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        network = onnx.load_model_from_string(entries["backbone.onnx"])
        network.graph.node.append(helper.make_node("RandomNormal", [], ["unused"], shape=[1]))
        entries["backbone.onnx"] = network.SerializeToString()

    path = tmp_path / "m.patchbank"
    path.write_bytes(sealed(*changed(model, random)))
    with pytest.raises(BackboneError, match="RandomNormal"):
        PatchCore.load(path)
    assert PatchCore.load(path, trusted=True).predict(images[8]).score == model.predict(images[8]).score
    assert read(path).config == model.config  # what needs no network reads it all the same


def test_no_number_is_not_ok(model: PatchCore, images: list[Any]) -> None:
    """Whatever is not provably at most the threshold is anomalous, and JSON has no NaN."""
    result = dataclasses.replace(model.predict(images[8]), score=math.nan)
    assert result.is_anomalous
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["score"] is None
    assert model.calibration
    assert model.calibration.p_value(math.nan) == 1 / (len(model.calibration.scores) + 1)
    distances = np.full_like(result.distances, np.nan)
    spoilt = dataclasses.replace(model.predict(images[8]), distances=distances)
    assert spoilt.mask.all()
    json.dumps(spoilt.to_dict(), allow_nan=False)
