"""The bank's version history in the model file: versions, what they consisted of, and the archived vectors."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from patchbank.arrays import Array
from patchbank.bank.memory_bank import ArchivedVectors, MemoryBank
from patchbank.calibration.image_check import ImageCheck
from patchbank.config import Config
from patchbank.fitted.model import FittedModel
from patchbank.fitted.versions import (
    Added,
    Removed,
    State,
    Version,
    VersionHistory,
    guarantee_fields,
    images_of,
    initial_history,
    rows_of,
)
from patchbank.model_file import archive
from patchbank.model_file.schema import fields_of
from patchbank.scoring.normal_distances import NormalDistances

RESERVE = "reserve.safetensors"
_ROWS = {"vectors": ("F32", 2), "image": ("I32", 1), "row": ("I32", 1), "column": ("I32", 1)}
_PROMISES = ("threshold", "pixel_threshold", "max_false_alarms", "confidence", "review_rate", "with_suspects")
_STATE = {"members": ("I32", 1)}
_CALIBRATION = {"calibration_image": ("I32", 1), "scores": ("F32", 1), "peaks": ("F32", 1)}
SCENE = {
    "measures": ("F32", 2),
    "deviations": ("F32", 1),
    "cells": ("F32", 3),
    "kept": ("I32", 1),
    "projection": ("F32", 2),
}
NORMAL = {"levels": ("F32", 1), "overall": ("F32", 1), "cells": ("F32", 3), "counts": ("I32", 2)}


def put_history(model: FittedModel, manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
    """Adds the model's life to what will be written."""
    history = model.history
    manifest["versions"] = [version.to_dict() for version in history.versions]
    states = [model.state(version.number) for version in history.versions]
    for about, state in zip(manifest["versions"], states, strict=True):
        about["calibration_images"] = len(state.calibration.images) if state.calibration else 0
        about["normal_images"] = state.normal.images if state.normal else 0
        about["scene"] = "own" if state.scene else "none"
    for about, state, following in zip(manifest["versions"], states, states[1:], strict=False):
        if state.scene and state.scene is following.scene:
            about["scene"] = "next"  # the same as the next version's
    if len(history.archived):
        entries[RESERVE] = archive.tensor_bytes({name: getattr(history.archived, name) for name in _ROWS})
    sets = images_of(history.versions)
    for version, about, images, state in zip(history.versions, manifest["versions"], sets, history.past, strict=False):
        tensors: dict[str, Array] = {"members": state.members}
        if state.calibration:
            numbers = {model.bank.images[image]: image for image in sorted(images)}
            tensors["calibration_image"] = np.array([numbers[name] for name in state.calibration.images], np.int32)
            tensors |= {name: getattr(state.calibration, name) for name in ("scores", "peaks")}
        if state.normal:
            tensors |= {name: getattr(state.normal, name) for name in NORMAL}
        if state.scene and about["scene"] == "own":
            tensors |= {f"scene.{name}": getattr(state.scene, name) for name in SCENE}
        entries[_entry(version)] = archive.tensor_bytes(tensors)


def get_history(file: archive.ModelFile, config: Config, bank: MemoryBank, present: State) -> VersionHistory:
    """The life that the file holds; that of a file without one begins. Raises ValueError for what cannot be; the
    manifest has passed `schema.check`."""
    archived = _reserve(file, bank)
    if "versions" not in file.manifest:
        return initial_history(bank, archived, present.calibration)
    about = file.manifest["versions"]
    versions = tuple(_version(values) for values in about)
    sets = images_of(versions)
    if max(map(max, sets)) >= len(bank.images):
        raise ValueError("versions: more images than names")
    named = [(each.image, each.name) for version in versions for each in version.added]
    named += [(each.image, each.name) for version in versions for each in version.removed]
    if any(bank.images[image] != name for image, name in named):
        raise ValueError("versions: an image under another name")
    if {_entry(version) for version in versions[:-1]} != {
        name for name in file.names() if name.startswith("versions/")
    }:
        raise ValueError("versions: expected an entry for each but the last")
    everything = ArchivedVectors.joined([rows_of(bank), archived])
    every = [present]
    for version, values, images in reversed(list(zip(versions[:-1], about, sets, strict=False))):
        every.insert(0, _state(file, config, version, values, images, bank, everything, every[-1], every[0]))
    past = every[:-1]
    if present.calibration and not set(present.calibration.images) <= {bank.images[image] for image in sets[-1]}:
        raise ValueError("calibration: images: expected training images of the present version")
    checked = [_consistent(v, images, s, everything) for v, images, s in zip(versions, sets, every, strict=True)]
    return VersionHistory(tuple(checked), tuple(past), archived)


def _entry(version: Version) -> str:
    return f"versions/{version.number:06d}.safetensors"


def _state(
    file: archive.ModelFile,
    config: Config,
    version: Version,
    about: dict[str, Any],
    images: frozenset[int],
    bank: MemoryBank,
    everything: ArchivedVectors,
    present: State,
    following: State,
) -> State:
    """An earlier version's state. Its calibration's method is the present one's."""
    calibration = present.calibration
    scored, normals = about["calibration_images"], about["normal_images"]
    seen = {f"scene.{name}": kind for name, kind in SCENE.items()} if about["scene"] == "own" else {}
    expected = _STATE | (_CALIBRATION if scored else {}) | (NORMAL if normals else {}) | seen
    tensors = file.tensors(_entry(version), expected)
    members = tensors["members"]
    if len(members) == 0 or members.min() < 0 or members.max() >= len(everything):
        raise ValueError(f"versions: {version.number} has no vectors, or some that are not there")
    if len(np.unique(members)) != len(members):
        raise ValueError(f"versions: {version.number} has a vector twice")
    held = None
    if scored:
        if calibration is None:
            raise ValueError("versions: calibration scores in a model without calibration")
        numbers = tensors["calibration_image"].tolist()
        if not set(numbers) <= images:
            raise ValueError(f"versions: {version.number} is calibrated with images that are not its own")
        names = tuple(bank.images[image] for image in numbers)
        held = dataclasses.replace(
            calibration,
            scores=tensors["scores"],
            peaks=tensors["peaks"],
            images=names,
            max_false_alarms=_promised(about["max_false_alarms"]),
            confidence=_promised(about["confidence"]),
            **_later(about, config),
        )
    normal = NormalDistances(**{name: tensors[name] for name in NORMAL}, images=normals) if normals else None
    scene = following.scene if about["scene"] == "next" else None
    if seen:
        parts = {name: tensors[f"scene.{name}"] for name in SCENE}
        if len(parts["projection"]) != bank.vectors.shape[1]:
            raise ValueError(f"versions: the scene of {version.number} does not fit the bank's vectors")
        scene = ImageCheck(**parts, max_false_alarms=config.scene_false_alarms)
    return State(members, held, normal, scene)


def _consistent(version: Version, images: frozenset[int], state: State, everything: ArchivedVectors) -> Version:
    """The version, with what follows from its state. Raises ValueError where they contradict each other."""
    if len(state.members) != version.size:
        raise ValueError(f"versions: {version.number} has {len(state.members)} vectors; it says {version.size}")
    if not set(everything.image[state.members].tolist()) <= images:
        raise ValueError(f"versions: {version.number} holds vectors of images that are not its own")
    if (version.calibrated == "none") != (state.calibration is None):
        raise ValueError(f"versions: {version.number} is calibrated without scores, or has scores without it")
    return dataclasses.replace(version, **guarantee_fields(state.calibration))


def _reserve(file: archive.ModelFile, bank: MemoryBank) -> ArchivedVectors:
    if RESERVE not in file:
        return rows_of(bank).take(np.empty(0, np.int64))
    archived = ArchivedVectors(**file.tensors(RESERVE, _ROWS))
    if len(archived):  # the same rules as for the bank's own vectors
        dataclasses.replace(bank, **{name: getattr(archived, name) for name in _ROWS})
    if not np.isfinite(archived.vectors).all() or archived.vectors.shape[1] != bank.vectors.shape[1]:
        raise ValueError("the reserve holds vectors unlike the bank's")
    return archived


def packed_radius(radius: float) -> float | None:
    """A covering radius for the manifest, which has no NaN: null where it is unknown."""
    return None if math.isnan(radius) else radius


def radius_of(value: float | None) -> float:
    """The covering radius that a manifest holds."""
    return math.nan if value is None else float(value)


def _version(about: dict[str, Any]) -> Version:
    values = fields_of(Version, about | dict.fromkeys(_PROMISES))  # they follow from the calibration
    values["covering_radius"] = radius_of(values["covering_radius"])
    values["added"] = tuple(Added(**each) for each in values["added"])
    values["removed"] = tuple(Removed(**each) for each in values["removed"])
    return Version(**values)


def _later(about: dict[str, Any], config: Config) -> dict[str, Any]:
    """Returns what versions did not say before there were these options: the model's review rate, and that all images
    count."""
    rate, suspects = about.get("review_rate"), about.get("with_suspects")
    return {
        "review_rate": config.review_rate if rate is None else float(rate),
        "with_suspects": True if suspects is None else suspects,
    }


def _promised(value: float | None) -> float:
    if value is None:
        raise ValueError("versions: calibration scores without a promise")
    return float(value)
