"""What a model file's manifest and entries mean: a model as bytes, and back. Each part of the model has a pair of
functions here; `model_file/archive.py` knows the bytes, `docs/reference/model-file.md` specifies both.

Everything that is read is checked: a file that passes gives a model that predicts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.arrays import IntArray
from patchbank.backbones import Backbone, BackboneInfo, Layer, restore_backbone
from patchbank.backbones.onnx_safety import check_plain
from patchbank.backbones.session import OnnxBackbone
from patchbank.bank.memory_bank import MemoryBank
from patchbank.calibration.image_check import MEASURES, ImageCheck
from patchbank.calibration.outliers import SuspectedOutlier
from patchbank.calibration.thresholds import Calibration
from patchbank.config import Config, Runtime
from patchbank.errors import BackboneError, ImageError, ModelFileError
from patchbank.features.embedding import patch_grid
from patchbank.fitted.model import FittedModel
from patchbank.fitted.self_test import SelfTestImage
from patchbank.fitted.versions import State, VersionHistory
from patchbank.imaging.roi import Roi
from patchbank.model_file import archive, schema
from patchbank.model_file.self_test import get_self_test, put_self_test
from patchbank.model_file.thumbnails import check_thumbnail
from patchbank.model_file.versions import NORMAL, SCENE, get_history, packed_radius, put_history, radius_of
from patchbank.scoring.normal_distances import NormalDistances
from patchbank.scoring.scores import ExpectedDistance
from patchbank.search.searcher import build_searcher
from patchbank.util.log import logger
from patchbank.version import __version__

Manifest = dict[str, Any]
Entries = dict[str, bytes]

_BANK_1 = {"vectors": ("F32", 2), "image": ("I32", 1), "row": ("I32", 1), "column": ("I32", 1)}
_BANK = {**_BANK_1, "grids": ("I32", 2)}
# What scores, thresholds and networks were before there were these options, and before patch_size could be left to the
# network.
_BEFORE = {
    "distance_scaling": 0.0,
    "score_smoothing": 0.0,
    "calibrate_on_suspects": True,
    "precision": "float32",
    "patch_size": 3,
}
_STEEPEST = 1e10
_EXPECTED = ("level", "low", "high")
_CALIBRATION = {"scores": ("F32", 1), "peaks": ("F32", 1)}


def save(model: FittedModel, path: str | Path) -> None:
    """Writes the model file: beside its name first, then renamed. Raises OutputError."""
    archive.write(path, *packed(model))


def file_bytes(model: FittedModel) -> bytes:
    """The file that `save` writes."""
    return archive.file_bytes(*packed(model))


def sha256(model: FittedModel) -> str:
    """The digest of the file that `save` writes, in hexadecimal."""
    return hashlib.sha256(file_bytes(model)).hexdigest()


def packed(model: FittedModel) -> tuple[Manifest, Entries]:
    """The model as a manifest and the bytes of the file's entries."""
    manifest: Manifest = {
        "patchbank_version": __version__,
        "config": model.config.to_dict(),
        "backbone": _described_backbone(model.backbone.info),
    }
    entries: Entries = {"backbone.onnx": model.backbone.to_onnx()}
    if model.roi:
        entries["roi.png"] = model.roi.to_png()
    _put_bank(model.bank, manifest, entries)
    _put_calibration(model.calibration, manifest, entries)
    _put_normal(model.normal, manifest, entries)
    put_history(model, manifest, entries)
    _put_scene(model.scene, manifest, entries)
    manifest["dropped"] = [dataclasses.asdict(suspect) for suspect in model.dropped]
    put_self_test(model.self_test_images, manifest, entries)
    entries |= {f"thumbnails/{image:06d}.jpg": data for image, data in sorted(model.thumbnails.items())}
    return manifest, entries


@dataclass(frozen=True, eq=False)
class Stored:
    """Holds what a file holds, read once and checked; its network is not started yet."""

    file: archive.ModelFile
    config: Config
    info: BackboneInfo
    bank: MemoryBank
    state: State
    history: VersionHistory
    roi: Roi | None
    thumbnails: Mapping[int, bytes]
    dropped: tuple[SuspectedOutlier, ...]
    self_test_images: tuple[SelfTestImage, ...]

    @property
    def manifest(self) -> Manifest:
        """The file's manifest; what follows from the tensors and options is computed, in the words of the present
        format."""
        calibration, scene = self.state.calibration, self.state.scene
        described = {
            "config": self.config.to_dict(),
            "calibration": _described(calibration) if calibration else None,
            "scene": _ranges(scene) if scene else None,
        }
        manifest = {name: described.get(name, value) for name, value in self.file.manifest.items()}
        if "versions" in manifest:
            pairs = zip(manifest["versions"], self.history.versions, strict=True)
            manifest["versions"] = [about | version.to_dict() for about, version in pairs]
        return manifest


def read(path: str | Path, data: bytes | None = None) -> Stored:
    """All that a file holds, without starting its network. data: as for `archive.ModelFile`. Raises ModelFileError."""
    file = archive.ModelFile(path, data)
    with _checked(path):
        schema.check(file.manifest)
        config, info = _config(file), _backbone_info(file)
        bank = _bank(file, config, info)
        state = _state(file, config, bank)
        history = get_history(file, config, bank, state)
        roi = Roi.from_png(bytes(file.entry("roi.png"))) if "roi.png" in file else None
        images = get_self_test(file, config, history)
        return Stored(file, config, info, bank, state, history, roi, _thumbnails(file, bank), _dropped(file), images)


def load(path: str | Path, runtime: Runtime) -> tuple[dict[str, Any], str]:
    """The fields of the FittedModel that the file holds, and the file's digest. Without `runtime.trusted`, there are
    limits to what they may cost. Raises ModelFileError or BackboneError."""
    stored = read(path)
    if not runtime.trusted:
        _check_work(path, stored)
    return _fields(stored, _backbone(stored, runtime)), stored.file.sha256()


def copied(data: bytes, runtime: Runtime) -> dict[str, Any]:
    """The fields of a FittedModel from the bytes that `file_bytes` made in a process that is trusted: nothing is held
    against the limits for files that nobody vouches for. Raises ModelFileError or BackboneError."""
    stored = read("a copied model", data)
    return _fields(stored, OnnxBackbone(bytes(stored.file.entry("backbone.onnx")), stored.info, runtime))


def _fields(stored: Stored, backbone: Backbone) -> dict[str, Any]:
    with _checked(stored.file.path):
        searcher = build_searcher(stored.bank.vectors, stored.config)
    return {
        "config": stored.config,
        "backbone": backbone,
        "bank": stored.bank,
        "searcher": searcher,
        "calibration": stored.state.calibration,
        "history": stored.history,
        "scene": stored.state.scene,
        "roi": stored.roi,
        "normal": stored.state.normal,
        "thumbnails": stored.thumbnails,
        "dropped": stored.dropped,
        "self_test_images": stored.self_test_images,
    }


def _check_work(path: str | Path, stored: Stored) -> None:
    try:
        schema.check_work(stored.config, stored.info, (len(stored.bank), stored.bank.vectors.shape[1]))
    except ValueError as error:
        raise ModelFileError(
            f"{path}: asks for more than a model may that nobody vouches for ({error}); if you know where the "
            "file comes from, load it with trusted=True (--trusted)"
        ) from error


def needs_trust(model: FittedModel) -> str | None:
    """Says why the model's file will load with `Runtime.trusted` only; None if it loads as it is."""
    try:
        schema.check_work(model.config, model.backbone.info, (len(model.bank), model.bank.vectors.shape[1]))
        check_plain(model.backbone.to_onnx(), _side(model.config))
    except (ValueError, BackboneError) as error:
        return str(error)
    return None


def _side(config: Config) -> int:
    """Of the largest square that the network gets."""
    return min(config.tile_size, math.ceil(math.sqrt(config.image_size[0] * config.image_size[-1])))


def _state(file: archive.ModelFile, config: Config, bank: MemoryBank) -> State:
    """Returns what the present version consists of, beside its bank."""
    members = np.arange(len(bank), dtype=np.int32)
    return State(members, _calibration(file, config), _normal(file), _scene(file, config, bank.vectors.shape[1]))


@contextmanager
def _checked(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, ImageError) as error:  # ConfigError is one of the first
        raise ModelFileError(f"{path}: its manifest is not that of a patchbank model ({error})") from error


def _config(file: archive.ModelFile) -> Config:
    """The options; version 1 called one of them false_alarm_rate, and promised that on average.

    faiss' HNSW graph, which earlier versions offered, missed neighbours: on a bank of several products, image scores
    were much too high. Such a model searches exactly from now on.
    """
    options = {**_BEFORE, **file.manifest["config"]}
    if options.get("search") == "hnsw":
        options["search"] = "exact"
        logger.warning(
            "%s: it was fitted with search = 'hnsw', which made scores too high and is not offered any more; it "
            "searches exactly now. Its threshold may be too high for the scores of today: fit it again",
            file.path,
        )
    if file.manifest["format_version"] == 1:
        options |= {"max_false_alarms": options.pop("false_alarm_rate", None), "confidence": 0.0}
    return schema.resolved(Config.from_dict(options))


def _described_backbone(info: BackboneInfo) -> Manifest:
    """Leaves out what is as in all networks that older patchbanks know, which refuse other keys."""
    usual = {field.name: field.default for field in dataclasses.fields(info)}
    return {name: value for name, value in dataclasses.asdict(info).items() if value != usual[name]}


def _backbone_info(file: archive.ModelFile) -> BackboneInfo:
    about = dict(file.manifest["backbone"])
    about["layers"] = tuple(Layer(**layer) for layer in about["layers"])
    for name in ("mean", "std"):
        about[name] = tuple(float(value) for value in about[name])
    return BackboneInfo(**about)


def _backbone(stored: Stored, runtime: Runtime) -> Backbone:
    onnx = bytes(stored.file.entry("backbone.onnx"))
    try:
        return restore_backbone(onnx, stored.info, runtime, side=_side(stored.config))
    except BackboneError as error:
        raise type(error)(f"{stored.file.path}: {error}") from error


def _put_bank(bank: MemoryBank, manifest: Manifest, entries: Entries) -> None:
    entries["bank.safetensors"] = archive.tensor_bytes({name: getattr(bank, name) for name in _BANK})
    manifest["bank"] = {
        "size": len(bank),
        "covering_radius": packed_radius(bank.covering_radius),
        "images": list(bank.images),
        "expected": None,
    }
    if expected := bank.expected:
        slopes = {"slope": expected.slope}
        manifest["bank"]["expected"] = {name: getattr(expected, name) for name in _EXPECTED}
        if expected.folds:
            slopes["folds"] = np.stack([fold.slope for fold in expected.folds])
            terms = [[getattr(fold, name) for name in _EXPECTED] for fold in expected.folds]
            manifest["bank"]["expected"] |= {"folds": terms, "images": expected.images}
        entries["expected.safetensors"] = archive.tensor_bytes(slopes)


def _expected(file: archive.ModelFile, config: Config, dims: int) -> ExpectedDistance | None:
    about: Mapping[str, Any] | None = file.manifest["bank"].get("expected")  # version 1 has none
    if about is None:
        return None
    terms: list[list[float]] = [[float(about[name]) for name in _EXPECTED]]
    terms += [[float(value) for value in fold] for fold in about.get("folds", [])]  # there were none before
    tensors = {"slope": ("F32", 1), "folds": ("F32", 2)} if len(terms) > 1 else {"slope": ("F32", 1)}
    read = file.tensors("expected.safetensors", tensors)
    slopes = [read["slope"], *read.get("folds", ())]
    if len(terms) != len(slopes) or any(len(slope) != dims for slope in slopes):
        raise ValueError("expected: not of the bank's vectors, or not as many folds as there are slopes")
    for slope in slopes:  # features are less than 1e15 (`search.exact`): products must not overflow
        if not (np.abs(slope) <= _STEEPEST).all():
            raise ValueError(f"expected: slope: expected numbers of at most {_STEEPEST:g}")
    whole, *folds = (
        ExpectedDistance(slope, level, low, high, config.distance_scaling)
        for slope, (level, low, high) in zip(slopes, terms, strict=True)
    )
    return dataclasses.replace(whole, folds=tuple(folds), images=about.get("images", 0))


def _bank(file: archive.ModelFile, config: Config, info: BackboneInfo) -> MemoryBank:
    about, first = file.manifest["bank"], file.manifest["format_version"] == 1
    tensors = file.tensors("bank.safetensors", _BANK_1 if first else _BANK)
    if not np.isfinite(tensors["vectors"]).all():
        raise ValueError("the bank holds values that are not finite")
    if tensors["vectors"].shape != (about["size"], schema.dimensions(config, info)):
        expected = (about["size"], schema.dimensions(config, info))
        raise ValueError(f"bank: expected vectors of shape {expected}; got {tensors['vectors'].shape}")
    if first:
        tensors["grids"] = np.tile(_grid_of_version_1(tensors, config, info), (len(about["images"]), 1))
    return MemoryBank(
        **tensors,
        images=tuple(about["images"]),
        covering_radius=radius_of(about["covering_radius"]),
        expected=_expected(file, config, tensors["vectors"].shape[1]),
    )


def _grid_of_version_1(tensors: Mapping[str, Any], config: Config, info: BackboneInfo) -> IntArray:
    """(2,) the patch grid that all training images have: version 1 resized them to one size, and did not store it."""
    least = [max(int(tensors[name].max(initial=0)) + 1, 1) for name in ("row", "column")]
    if len(config.image_size) == 2:
        sides = [-(-side // info.layers[0].stride) for side in config.image_size]
        least = [
            max(pair) for pair in zip(patch_grid(sides, config.patch_size, config.patch_stride), least, strict=True)
        ]
    return np.array(least).astype(np.int32)


def _put_calibration(calibration: Calibration | None, manifest: Manifest, entries: Entries) -> None:
    manifest["calibration"] = None
    if calibration:
        entries["calibration.safetensors"] = archive.tensor_bytes(
            {name: getattr(calibration, name) for name in _CALIBRATION}
        )
        manifest["calibration"] = _described(calibration)


def _described(calibration: Calibration) -> Manifest:
    """Method and images are read again; the rest, for other readers, follows from the scores and the options."""
    support, bounds = calibration.support, calibration.bounds
    return {
        "method": calibration.method,
        "max_false_alarms": calibration.max_false_alarms,
        "confidence": calibration.confidence,
        "supported": support.satisfied,
        "supported_rate": support.rate,
        "images_needed": support.needed,
        "threshold": calibration.threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "images": list(calibration.images),
        "review_rate": calibration.review_rate,
        "review_above": calibration.review_above,
        "with_suspects": calibration.with_suspects,
        **dataclasses.asdict(bounds),
    }


def _calibration(file: archive.ModelFile, config: Config) -> Calibration | None:
    about: Mapping[str, Any] | None = file.manifest["calibration"]
    if about is None:
        return None
    held = file.tensors("calibration.safetensors", _CALIBRATION)
    return Calibration(
        **held,
        images=tuple(about["images"]),
        method=about["method"],
        max_false_alarms=config.max_false_alarms,
        confidence=config.confidence,
        review_rate=config.review_rate,
        with_suspects=config.calibrate_on_suspects,
    )


def _put_normal(normal: NormalDistances | None, manifest: Manifest, entries: Entries) -> None:
    manifest["normal"] = None
    if normal:
        entries["normal.safetensors"] = archive.tensor_bytes({name: getattr(normal, name) for name in NORMAL})
        manifest["normal"] = {"images": normal.images}


def _normal(file: archive.ModelFile) -> NormalDistances | None:
    about: Mapping[str, Any] | None = file.manifest.get("normal")  # version 1 has none
    if about is None:
        return None
    return NormalDistances(**file.tensors("normal.safetensors", NORMAL), images=about["images"])


def _put_scene(scene: ImageCheck | None, manifest: Manifest, entries: Entries) -> None:
    manifest["scene"] = None
    if scene:
        entries["scene.safetensors"] = archive.tensor_bytes({name: getattr(scene, name) for name in SCENE})
        manifest["scene"] = _ranges(scene)


def _ranges(scene: ImageCheck) -> Manifest:
    """For other readers: they follow from the measures."""
    ranges = zip(MEASURES, scene.ranges.T.tolist(), strict=True)
    return {"ranges": {measure.name: pair for measure, pair in ranges}}


def _scene(file: archive.ModelFile, config: Config, dims: int) -> ImageCheck | None:
    about: Mapping[str, Any] | None = file.manifest.get("scene")  # version 1 has none
    if about is None:
        return None
    tensors = file.tensors("scene.safetensors", SCENE)
    if len(tensors["projection"]) != dims:
        raise ValueError("the scene's projection does not fit the bank's vectors")
    return ImageCheck(**tensors, max_false_alarms=config.scene_false_alarms)


def _dropped(file: archive.ModelFile) -> tuple[SuspectedOutlier, ...]:
    """The training images that a fit left out; files written before there was drop_outliers have none."""
    return tuple(SuspectedOutlier(**about) for about in file.manifest.get("dropped", []))


def _thumbnails(file: archive.ModelFile, bank: MemoryBank) -> dict[int, bytes]:
    found = {int(name[11:17]): bytes(file.entry(name)) for name in file.names() if name.startswith("thumbnails/")}
    for image, data in found.items():
        if image >= len(bank.images):
            raise ValueError(f"thumbnails: {image} is the number of no training image")
        check_thumbnail(data)
    return found
