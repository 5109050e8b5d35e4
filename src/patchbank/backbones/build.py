"""From a zoo row to an ONNX graph: its checkpoint is found on this machine, and read. Nothing is downloaded here."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import BinaryIO, cast

from patchbank.backbones.base import BackboneInfo, Layer
from patchbank.backbones.graph import Weights
from patchbank.backbones.zoo import DownloadedWeights, MBStage, PackagedWeights, ResStage, ZooRow, choose_layers, find
from patchbank.errors import CheckpointError, WeightsNotFoundError


def prepare(name: str, layers: tuple[str, ...], weights: str | None) -> tuple[bytes, BackboneInfo]:
    """The ONNX file and description of a zoo network; `weights`: its checkpoint's path, None = where it is expected."""
    from patchbank.backbones.checkpoint import read_checkpoint

    row = find(name)
    chosen = choose_layers(name, row.layers, layers or row.default_layers)
    onnx = build_graph(row, chosen, read_checkpoint(locate(row, weights)))
    return onnx, describe(row, chosen)


def build_graph(row: ZooRow, layers: tuple[Layer, ...], weights: Weights) -> bytes:
    """The ONNX file of a row's network, cut at the deepest of `layers` (same weights, same bytes)."""
    from patchbank.backbones import efficientnet, resnet

    if row.family == "efficientnet_lite":
        return efficientnet.build(row.name, cast("tuple[MBStage, ...]", row.stages), layers, weights)
    return resnet.build(row.name, cast("tuple[ResStage, ...]", row.stages), layers, weights)


def describe(row: ZooRow, layers: tuple[Layer, ...]) -> BackboneInfo:
    """Returns what a model is told about a zoo network of which it uses `layers`."""
    return BackboneInfo(row.name, layers, row.mean, row.std, row.licence, row.embedding)


NO_CACHE = (
    "this user has no home folder; set the environment variable PATCHBANK_CACHE to a folder for downloaded weights, or "
    "the runtime option weights to the path of a checkpoint"
)


def locate(row: ZooRow, given: str | None = None) -> Path:
    """The path of the row's checkpoint: `given`, or the installed package's, or the cached download's.

    Raises WeightsNotFoundError, which says what to run or which file to put where; CheckpointError where the found file
    is not the published one. A `given` file may hold other weights of the same network, so it has no checksum to match.
    """
    if given is not None:
        if not Path(given).is_file():
            raise WeightsNotFoundError(f"{row.name}: expected a checkpoint at {given}, but there is no such file")
        return Path(given)
    path = expected_path(row)
    if path is None or not path.is_file():
        raise WeightsNotFoundError(how_to_get(row))
    checksum = row.weights.sha256 if isinstance(row.weights, PackagedWeights) else row.weights.sha256_prefix
    verify(path, checksum)
    return path


def expected_path(row: ZooRow) -> Path | None:
    """Returns where the row's checkpoint is looked for; None where the package that holds it is not installed, or no
    cache is known."""
    if isinstance(row.weights, DownloadedWeights):
        cache = cache_dir()
        return cache / row.weights.file if cache else None
    spec = importlib.util.find_spec(row.weights.module)  # finds without importing
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0], row.weights.path) if folders else None


def how_to_get(row: ZooRow) -> str:
    """One sentence: how the row's weights come onto this machine, online and offline."""
    weights = row.weights
    if isinstance(weights, PackagedWeights):
        return (
            f"the weights of {row.name} are not installed; run: {weights.install} "
            f"(or set the runtime option weights to the path of {weights.file})"
        )
    cache = cache_dir()
    if cache is None:
        return f"the weights of {row.name} cannot be looked for: {NO_CACHE}"
    return (
        f"the weights of {row.name} are not on this machine; run: patchbank backbones fetch {row.name} "
        f"({weights.megabytes} MB). Offline, download {weights.url} elsewhere and put it at "
        f"{cache / weights.file} (or set the runtime option weights to its path)"
    )


def cache_dir() -> Path | None:
    """The folder of downloaded checkpoints: PATCHBANK_CACHE, or the platform's folder for caches; None for a user
    without a home folder, as services and containers have."""
    try:
        if chosen := os.environ.get("PATCHBANK_CACHE"):
            return Path(chosen).expanduser()
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local", "patchbank", "cache")
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "patchbank"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "patchbank")
    except RuntimeError:  # no HOME, and the system does not know the user
        return None


def verify(path: Path, sha256_prefix: str) -> None:
    """CheckpointError unless the file's SHA-256 starts with these hexadecimal digits."""
    try:
        with path.open("rb") as file:
            actual = digest(file)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    if not actual.startswith(sha256_prefix):
        raise CheckpointError(
            f"{path}: expected a file whose SHA-256 starts with {sha256_prefix[:16]}, got {actual[:16]}; "
            "it is damaged or another file: delete it and get it again"
        )


def digest(file: BinaryIO) -> str:
    """The SHA-256 of what is left of an open file, in hexadecimal."""
    total = hashlib.sha256()
    while block := file.read(1 << 20):
        total.update(block)
    return total.hexdigest()
