"""What a model file's manifest and entries mean: a model as bytes, and back. Each part of the model has a pair of
functions here; `model_file/archive.py` knows the bytes, `docs/reference/model-file.md` specifies both.

Everything that is read is checked: a file that passes gives a model that predicts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank.backbones import Backbone, BackboneInfo, Layer, restore_backbone
from patchbank.bank.memory_bank import MemoryBank
from patchbank.calibration.image_check import MEASURES, Scene
from patchbank.calibration.outliers import Suspect
from patchbank.calibration.thresholds import Calibration
from patchbank.config import Config, Runtime, choices
from patchbank.errors import BackboneError, ConfigError, ModelFileError
from patchbank.features.embedding import patch_grid
from patchbank.fitted.model import FittedModel
from patchbank.fitted.versions import State, Version
from patchbank.imaging.roi import Roi
from patchbank.model_file import archive
from patchbank.model_file.versions import NORMAL, SCENE, get_life, packed_radius, put_life, radius_of
from patchbank.scoring.expected_distance import ExpectedDistance
from patchbank.scoring.normal_distances import NormalDistances
from patchbank.search.searcher import build_searcher
from patchbank.util.log import logger
from patchbank.version import __version__

Manifest = dict[str, Any]
Entries = dict[str, bytes]

_BANK_1 = {"vectors": ("F32", 2), "image": ("I32", 1), "row": ("I32", 1), "column": ("I32", 1)}
_BANK = {**_BANK_1, "grids": ("I32", 2)}
_BEFORE = {"distance_scaling": 0.0, "score_smoothing": 0.0}  # what scores were before there were these options
_EXPECTED = ("level", "low", "high")
_CALIBRATION = {"scores": ("F32", 1), "peaks": ("F32", 1)}


def save(model: FittedModel, path: str | Path) -> None:
    """Writes the model file: beside its name first, then renamed. Raises OutputError."""
    archive.write(path, *packed(model))


def sha256(model: FittedModel) -> str:
    """The digest of the file that `save` writes, in hexadecimal."""
    return hashlib.sha256(archive.file_bytes(*packed(model))).hexdigest()


def packed(model: FittedModel) -> tuple[Manifest, Entries]:
    """The model as a manifest and the bytes of the file's entries."""
    manifest: Manifest = {
        "patchbank_version": __version__,
        "config": model.config.to_dict(),
        "backbone": dataclasses.asdict(model.backbone.info),
    }
    entries: Entries = {"backbone.onnx": model.backbone.to_onnx()}
    if model.roi:
        entries["roi.png"] = model.roi.to_png()
    _put_bank(model.bank, manifest, entries)
    _put_calibration(model.calibration, manifest, entries)
    _put_normal(model.normal, manifest, entries)
    put_life(model, manifest, entries)
    _put_scene(model.scene, manifest, entries)
    manifest["dropped"] = [dataclasses.asdict(suspect) for suspect in model.dropped]
    entries |= {f"thumbnails/{image:06d}.jpg": data for image, data in sorted(model.thumbnails.items())}
    return manifest, entries


def load(path: str | Path, runtime: Runtime) -> tuple[dict[str, Any], str]:
    """The fields of the FittedModel that the file holds, and the file's digest. Raises ModelFileError or
    BackboneError."""
    file = archive.ModelFile(path)
    with _checked(path):
        config = _config(file)
        backbone = _backbone(file, runtime)
        bank = _bank(file, config, backbone.info)
        state = _state(file, config, bank)
        fields: dict[str, Any] = {
            "config": config,
            "backbone": backbone,
            "bank": bank,
            "searcher": build_searcher(bank.vectors, config),
            "calibration": state.calibration,
            "life": get_life(file, bank, state),
            "scene": state.scene,
            "roi": Roi.from_png(bytes(file.entry("roi.png"))) if "roi.png" in file else None,
            "normal": state.normal,
            "thumbnails": _thumbnails(file),
            "dropped": _dropped(file),
        }
        return fields, file.sha256()


def load_calibration(path: str | Path) -> Calibration | None:
    """The held-out scores of the model in a file, without the model. Raises ModelFileError."""
    file = archive.ModelFile(path)
    with _checked(path):
        return _calibration(file, _config(file))


def load_versions(path: str | Path) -> tuple[Version, ...]:
    """The versions of the bank in a file, without the model. Raises ModelFileError."""
    file = archive.ModelFile(path)
    with _checked(path):
        config = _config(file)
        bank = _bank(file, config, _backbone_info(file))
        return get_life(file, bank, _state(file, config, bank)).versions


def load_scene(path: str | Path) -> Scene | None:
    """How normal images look as a whole, without the model. Raises ModelFileError."""
    file = archive.ModelFile(path)
    with _checked(path):
        return _scene(file, _config(file))


def load_manifest(path: str | Path) -> Manifest:
    """The file's manifest, its options and calibration in the words of the present format. Raises ModelFileError."""
    file = archive.ModelFile(path)
    with _checked(path):
        config = _config(file)
        calibration = _calibration(file, config)
        described = {"config": config.to_dict(), "calibration": _described(calibration) if calibration else None}
        return {name: described.get(name, value) for name, value in file.manifest.items()}


def _state(file: archive.ModelFile, config: Config, bank: MemoryBank) -> State:
    """What the present version consists of, beside its bank."""
    members = np.arange(len(bank), dtype=np.int32)
    return State(members, _calibration(file, config), _normal(file), _scene(file, config, bank.vectors.shape[1]))


@contextmanager
def _checked(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, ConfigError) as error:
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
        options |= {"max_false_alarms": options.pop("false_alarm_rate"), "confidence": 0.0}
    return Config.from_dict(options)


def _backbone_info(file: archive.ModelFile) -> BackboneInfo:
    about = dict(file.manifest["backbone"])
    about["layers"] = tuple(Layer(**layer) for layer in about["layers"])
    for name in ("mean", "std"):
        about[name] = tuple(float(value) for value in about[name])
    return BackboneInfo(**about)


def _backbone(file: archive.ModelFile, runtime: Runtime) -> Backbone:
    info = _backbone_info(file)
    try:
        return restore_backbone(bytes(file.entry("backbone.onnx")), info, runtime)
    except BackboneError as error:
        raise type(error)(f"{file.path}: {error}") from error


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
    terms = [[float(about[name]) for name in _EXPECTED]]
    terms += [[float(value) for value in fold] for fold in about.get("folds", [])]  # there were none before
    tensors = {"slope": ("F32", 1), "folds": ("F32", 2)} if len(terms) > 1 else {"slope": ("F32", 1)}
    read = file.tensors("expected.safetensors", tensors)
    slopes = [read["slope"], *read.get("folds", ())]
    if len(terms) != len(slopes) or any(len(slope) != dims for slope in slopes):
        raise ValueError("expected: not of the bank's vectors, or not as many folds as there are slopes")
    for slope, (level, low, high) in zip(slopes, terms, strict=True):
        if not np.isfinite([*slope, level, low, high]).all() or low > high:
            raise ValueError("expected: not finite, or from high to low")
    whole, *folds = (
        ExpectedDistance(slope, level, low, high, config.distance_scaling)
        for slope, (level, low, high) in zip(slopes, terms, strict=True)
    )
    return dataclasses.replace(whole, folds=tuple(folds), images=operator.index(about.get("images", 0)))


def _bank(file: archive.ModelFile, config: Config, info: BackboneInfo) -> MemoryBank:
    about, first = file.manifest["bank"], file.manifest["format_version"] == 1
    tensors = file.tensors("bank.safetensors", _BANK_1 if first else _BANK)
    if not np.isfinite(tensors["vectors"]).all():
        raise ValueError("the bank holds values that are not finite")
    if first:
        tensors["grids"] = np.tile(_grid_of_version_1(tensors, config, info), (len(about["images"]), 1))
    return MemoryBank(
        **tensors,
        images=tuple(about["images"]),
        covering_radius=radius_of(about["covering_radius"]),
        expected=_expected(file, config, tensors["vectors"].shape[1]),
    )


def _grid_of_version_1(tensors: Mapping[str, Any], config: Config, info: BackboneInfo) -> npt.NDArray[np.int32]:
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
    support = calibration.support
    return {
        "method": calibration.method,
        "max_false_alarms": calibration.max_false_alarms,
        "confidence": calibration.confidence,
        "supported": support.kept,
        "supported_rate": support.rate,
        "images_needed": support.needed,
        "threshold": calibration.threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "images": list(calibration.images),
    }


def _calibration(file: archive.ModelFile, config: Config) -> Calibration | None:
    about: Mapping[str, Any] | None = file.manifest["calibration"]
    if about is None:
        return None
    held = file.tensors("calibration.safetensors", _CALIBRATION)
    method, known = str(about["method"]), set(choices(Config, "calibration")) - {"none"}
    if method not in known:
        raise ValueError(f"calibration: expected one of {', '.join(sorted(known))}; got {method!r}")
    return Calibration(
        **held,
        images=tuple(about["images"]),
        method=method,
        max_false_alarms=config.max_false_alarms,
        confidence=config.confidence,
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
    return NormalDistances(**file.tensors("normal.safetensors", NORMAL), images=operator.index(about["images"]))


def _put_scene(scene: Scene | None, manifest: Manifest, entries: Entries) -> None:
    manifest["scene"] = None
    if scene:
        entries["scene.safetensors"] = archive.tensor_bytes({name: getattr(scene, name) for name in SCENE})
        ranges = zip(MEASURES, scene.ranges.T.tolist(), strict=True)
        manifest["scene"] = {"ranges": {measure.name: pair for measure, pair in ranges}}


def _scene(file: archive.ModelFile, config: Config, dims: int | None = None) -> Scene | None:
    about: Mapping[str, Any] | None = file.manifest.get("scene")  # version 1 has none
    if about is None:
        return None
    tensors = file.tensors("scene.safetensors", SCENE)
    if dims is not None and len(tensors["projection"]) != dims:
        raise ValueError("the scene's projection does not fit the bank's vectors")
    return Scene(**tensors, max_false_alarms=config.scene_false_alarms)


def _dropped(file: archive.ModelFile) -> tuple[Suspect, ...]:
    """The training images that a fit left out; files written before there was drop_outliers have none."""
    found = tuple(Suspect(**about) for about in file.manifest.get("dropped", []))
    for each in found:
        if not isinstance(each.name, str) or not np.isfinite([each.score, each.oddness, each.limit]).all():
            raise ValueError(f"dropped: expected a name and finite numbers; got {each}")
    return found


def _thumbnails(file: archive.ModelFile) -> dict[int, bytes]:
    return {int(name[11:17]): bytes(file.entry(name)) for name in file.names() if name.startswith("thumbnails/")}
