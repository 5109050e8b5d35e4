"""Model files: every key of the manifest, every tensor, every entry, the zip around them, and its bytes."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors.numpy import load, save
from tests.fuzz import hostile, onnx_files

from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import PatchbankError
from patchbank.model_file.archive import FORMAT_VERSION
from patchbank.model_file.contents import read
from patchbank.monitoring.audit import audit_model
from patchbank.monitoring.drift import find_drift

Parts = dict[str, bytes]


def images(seed: int, count: int) -> list[Any]:
    """Pictures of one striped part."""
    rng = np.random.default_rng(seed)
    stripes = 100 + 40 * np.sin(np.arange(96) / 6)[None, :, None]
    return [np.clip(stripes + rng.normal(0, 5, (80, 96, 3)), 0, 255).astype(np.uint8) for _ in range(count)]


class Target:
    """Changed model files, on which everything is done that can be done with one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bases = folder, []
        options: dict[str, Any] = {"image_size": 64, "coreset_size": 60, "max_false_alarms": 0.2, "confidence": 0.5}
        plain = PatchCore.fit(images(0, 8), Config(**options), backbone=FakeBackbone())
        lived = plain.update(images(1, 2), certify=False, time="2026-01-01").rollback(1, time="2026-01-02")
        lived = lived.with_threshold(max_false_alarms=0.3, time="2026-01-03")
        region = PatchCore.fit(
            images(0, 8),
            Config(**options, include="0.1,0.1 0.9,0.1 0.5,0.9", num_neighbours=3, embedding="reference"),
            backbone=FakeBackbone(),
        )
        holdout = PatchCore.fit(images(0, 12), Config(**options, calibration="holdout"), backbone=FakeBackbone())
        for number, model in enumerate((plain, lived, region, holdout)):
            model.save(folder / f"base{number}")
            with zipfile.ZipFile(folder / f"base{number}") as file:
                entries = {name: file.read(name) for name in file.namelist()}
            self.bases.append((json.loads(entries.pop("manifest.json")), entries))

    def case(self, rng: np.random.Generator) -> Path:
        path = self.folder / "case.patchbank"
        manifest, entries = self.bases[rng.integers(len(self.bases))]
        entries, kind = dict(entries), rng.integers(10)
        if kind <= 3:
            manifest = hostile.changed({key: v for key, v in manifest.items() if key != "entries"}, rng)
        elif kind <= 6:
            _change_tensor(entries, rng)
        elif kind == 7:
            _change_entry(entries, rng)
        data = _sealed(manifest, entries, rng if kind == 8 else None)
        path.write_bytes(hostile.bytes_changed(data, rng) if kind == 9 else data)
        return path

    def run(self, path: Path) -> None:
        with suppress(PatchbankError):
            stored = read(path)
            json.dumps(stored.manifest, allow_nan=False)
            json.dumps([version.to_dict() for version in stored.history.versions], allow_nan=False)
        try:
            model = PatchCore.load(path)
        except PatchbankError:
            return
        for number, act in enumerate(_ACTS):
            with suppress(PatchbankError):
                act(model, self.folder / f"out{number}")


def _predict(model: PatchCore, out: Path) -> None:
    for image in (*images(5, 1), images(6, 1)[0][:33, :50]):
        result = model.predict(image)
        json.dumps(result.to_dict(), allow_nan=False)
        assert result.threshold is None or result.score <= result.threshold or result.is_anomalous
        result.overlay()


def _explain(model: PatchCore, out: Path) -> None:
    image = images(5, 1)[0]
    image[20:50, 20:50] = 255
    found = model.predict(image).explain()
    json.dumps(found.to_dict(), allow_nan=False)
    found.save(out.with_suffix(".html"))
    found.save(out.with_suffix(".png"))


def _audit(model: PatchCore, out: Path) -> None:
    found = audit_model(model)
    json.dumps(found.to_dict(), allow_nan=False)
    found.save(out.with_suffix(".html"))


def _thresholds(model: PatchCore, out: Path) -> None:
    changed = model.with_threshold(max_false_alarms=0.1, confidence=0.2)
    changed.save(out)
    json.dumps(PatchCore.load(out).diff().to_dict(), allow_nan=False)


def _learn(model: PatchCore, out: Path) -> None:
    changed = model.update(images(7, 1), certify=False)
    changed.save(out)
    PatchCore.load(out).predict(images(5, 1)[0])


def _forget(model: PatchCore, out: Path) -> None:
    model.update(remove=[model.training_images[0]], certify=False).save(out)


def _back(model: PatchCore, out: Path) -> None:
    json.dumps(model.rollback().diff(1, 1).to_dict(), allow_nan=False)


def _same(model: PatchCore, out: Path) -> None:
    model.save(out)
    PatchCore.load(out)
    assert isinstance(model.suspects, tuple)
    assert isinstance(model.unpictured, tuple)


def _drift(model: PatchCore, out: Path) -> None:
    if model.calibration:
        find_drift(np.linspace(0, 50, 60), model.calibration, in_scene=[True, False, None] * 20, scene=model.scene)


def _self_test(model: PatchCore, out: Path) -> None:
    json.dumps(model.run_self_test().to_dict(), allow_nan=False)


_ACTS: tuple[Callable[[PatchCore, Path], None], ...] = (
    _predict, _explain, _audit, _thresholds, _learn, _forget, _back, _same, _drift, _self_test
)  # fmt: skip


def _change_tensor(entries: Parts, rng: np.random.Generator) -> None:
    names = [name for name in entries if name.endswith(".safetensors")]
    name = names[rng.integers(len(names))]
    tensors = load(entries[name])
    for _ in range(int(rng.integers(1, 3))):
        key = sorted(tensors)[rng.integers(len(tensors))]
        tensors[key] = _tensor(tensors[key], rng)
        if rng.integers(20) == 0:
            tensors[hostile.name(rng).encode(errors="replace").decode()] = tensors[key]
        if rng.integers(20) == 0 and len(tensors) > 1:
            del tensors[key]
    data = save({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()})
    entries[name] = hostile.bytes_changed(data[:200], rng) + data[200:] if rng.integers(8) == 0 else data


def _tensor(old: Any, rng: np.random.Generator) -> Any:
    new = old.copy()
    if new.dtype not in (np.float32, np.int32):  # has been changed before
        return new[:1]
    special = [0, -1, 1, 1e-30, 3e38, -3e38, np.inf, np.nan, 1e15, 1e16, 2**31 - 1, -(2**31), 10_000]
    number = special[rng.integers(len(special))]
    if new.dtype.kind == "i" and not (np.isfinite(number) and abs(number) < 2**31):
        number = int(rng.integers(-3, 100))
    what = rng.integers(9)
    if what <= 1 and new.size:
        new.reshape(-1)[rng.integers(new.size)] = number
    elif what == 2:
        new[...] = number
    elif what == 3:
        new = new[:-1]
    elif what == 4:
        new = np.concatenate([new, new])
    elif what == 5:
        new = new.reshape(-1) if rng.integers(2) else new[..., :0]
    elif what == 6:
        new = new.astype([np.float64, np.int64, np.float16, np.uint8][rng.integers(4)])
    elif what == 7:
        new = np.frombuffer(rng.bytes(new.nbytes), new.dtype).reshape(new.shape)
    else:
        rng.shuffle(new.reshape(-1))
    return new


def _change_entry(entries: Parts, rng: np.random.Generator) -> None:
    what = rng.integers(6)
    names = sorted(entries)
    name = names[rng.integers(len(names))]
    if what == 0:
        del entries[name]
    elif what == 1:
        entries[name] = entries[names[rng.integers(len(names))]]
    elif what == 2:
        entries["backbone.onnx"] = onnx_files.changed(entries["backbone.onnx"], rng)
    elif what == 3:
        sides = [int(rng.choice([0, 1, 7, 64, 5000, 14000])) for _ in range(2)]
        png = cv2.imencode(".png", np.full(sides, rng.choice([0, 255]), np.uint8))[1] if min(sides) else np.zeros(9)
        entries["roi.png"] = hostile.bytes_changed(png.tobytes(), rng) if rng.integers(2) else png.tobytes()
    elif what == 4:
        jpeg = bytearray(cv2.imencode(".jpg", np.zeros((40, 40, 3), np.uint8))[1].tobytes())
        at = jpeg.find(b"\xff\xc0") + 5
        jpeg[at : at + 4] = struct.pack(">HH", *rng.choice([0, 1, 40, 1024, 65535], 2).tolist())
        entries[f"thumbnails/{rng.integers(4):06d}.jpg"] = (
            bytes(jpeg) if rng.integers(2) else hostile.bytes_changed(bytes(jpeg), rng)
        )
    else:
        entries[name] = hostile.bytes_changed(entries[name], rng)


def _sealed(manifest: dict[str, Any], entries: Parts, rng: np.random.Generator | None) -> bytes:
    """The file, with checksums that are right. rng: its zip is made in another way than patchbank's."""
    described = {n: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in entries.items()}
    manifest = {"format": "patchbank-model", "format_version": FORMAT_VERSION, **manifest}
    if isinstance(manifest, dict):
        manifest = {**manifest, "entries": described}
    file, text = io.BytesIO(), hostile.as_json(manifest)
    if rng is not None and rng.integers(4) == 0:
        text = (
            text[:-1] + b', "more": ' + [b"[" * 900 + b"]" * 900, b"[" + b"[]," * 10**6 + b"1]"][rng.integers(2)] + b"}"
        )
    ways = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
    with zipfile.ZipFile(file, "w", ways[rng.integers(2)] if rng else ways[0]) as archive:
        for name, data in {"manifest.json": text, **entries}.items():
            archive.writestr(name, data)
        if rng is not None and rng.integers(2):  # entries that share one place
            shared = archive.infolist()[-1]
            for number in range(int(rng.integers(1, 300))):
                info = zipfile.ZipInfo(f"thumbnails/{number:06d}.jpg")
                for field in ("header_offset", "CRC", "file_size", "compress_size", "compress_type"):
                    setattr(info, field, getattr(shared, field))
                archive.filelist.append(info)
    return file.getvalue()
