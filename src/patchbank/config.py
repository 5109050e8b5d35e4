"""Every option of patchbank, once. These dataclasses feed the Python API, TOML files, the command line, the model
file and `docs/reference/configuration.md`. What their values may be, and how they are read, is checked in
`validation.py`.

`Config` says what the model *is* and travels in the model file; `Runtime` says how this machine runs it and does not.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from patchbank.errors import ConfigError
from patchbank.validation import Area, ImageSize, check_names, check_tiles, memory_budget, names_checked, validate

_T = TypeVar("_T", "Config", "Runtime")


def option(
    default: Any,
    help: str,
    *,
    group: str,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    fit_only: bool = False,
) -> Any:
    """A dataclass field that carries its own documentation and limits (`low <= value <= high`).

    fit_only: it means nothing to a model that is fitted already, so commands that only use one do not have its flag.
    """
    limits = {"choices": choices, "low": low, "high": high, "low_open": low_open}
    return field(default=default, metadata={"help": help, "group": group, "fit_only": fit_only, **limits})


@dataclass(frozen=True)
class ImageFormat:
    """Holds what an image's numbers mean. channels: 0 = colour or grey, n = that many channels of equal standing, none
    of them alpha. white: the value of full brightness, None = the type's own. accept_damaged: take what a decoder warns
    about. channel_order: "rgb" or "bgr", of arrays and NPY files, which do not say it themselves."""

    channels: int = 0
    white: float | None = None
    accept_damaged: bool = False
    channel_order: str = "rgb"


@names_checked
@dataclass(frozen=True, kw_only=True)
class Config:
    """The options that a model is made with. Immutable; `dataclasses.replace` makes a changed copy.

    Raises ConfigError for an unknown or impossible value. Unset values (`None`, `"auto"`, an empty tuple, `patch_size`
    0) are filled in by the backbone when a model is fitted; `PatchCore.config` shows the result.
    """

    # image
    image_size: ImageSize = option(
        (384,),
        "Size that images are resized to for the backbone: N = about N x N pixels in the image's own aspect ratio, "
        "HEIGHTxWIDTH = exactly that",
        group="image",
        low=32,
        high=16384,
    )
    tile_size: int = option(
        2048,
        "Resized images with a longer side go through the network in tiles of at most this side, a multiple of 32 "
        "(rounded down to whole patches of a vision transformer)",
        group="image",
        low=128,
        high=16384,
    )
    tile_overlap: int = option(
        192,
        "Pixels around a tile that are read but not kept, a multiple of 32: from half the receptive field on there are "
        "no seams (default network: 170)",
        group="image",
        low=0,
        high=1024,
    )
    channels: int = option(
        0,
        "0 = colour or grey images; N = images of N channels that are no colours (lights, wavelengths): arrays "
        "(H, W, N), NPY files or TIFF files with pages. They go through the network in groups of three",
        group="image",
        low=0,
        high=48,
    )
    white: float | None = option(
        None,
        "Pixel value of full brightness where it is not the type's own: 4095 for a 12-bit camera",
        group="image",
        low=0.0,
        low_open=True,
    )
    channel_order: str = option(
        "rgb",
        "Order of the channels in arrays and NPY files: 'bgr' for frames of OpenCV. Files of other formats, and PIL "
        "images, say it themselves: nothing changes for them",
        group="image",
        choices=("rgb", "bgr"),
    )
    accept_damaged: bool = option(
        False,
        "Take JPEG files that their decoder warns about or that have a hole, with whatever it makes of them: for "
        "cameras whose files are known to be sound all the same",
        group="image",
    )
    include: Area | None = option(
        None,
        "Region of interest, outside of which nothing counts: a mask (PNG, white counts), or polygons in shares of the "
        "width and height, 'x,y x,y x,y; x,y ...'",
        group="image",
    )
    ignore: Area | None = option(
        None, "Region that does not count: a mask (PNG, white is ignored), or polygons as for include", group="image"
    )
    # backbone
    backbone: str = option("efficientnet_lite2", "Name of a zoo backbone, or path of an ONNX file", group="backbone")
    layers: tuple[str, ...] = option(
        (), "Layers whose features are used; empty = the backbone's own choice", group="backbone"
    )
    precision: str = option(
        "auto",
        "Numbers that the network computes with: 'float32', or 'int8', for which the fit quantises it on the training "
        "images: faster, and the same features on every processor. 'auto' = float32",
        group="backbone",
        choices=("auto", "float32", "int8"),
    )
    # patches
    embedding: str = option(
        "auto",
        "How layers become one vector a patch: 'mean' (paper's Eq. 1-3 without the dimension reduction), 'reference' "
        "(the reference implementation's two adaptive poolings), or 'auto' (the backbone's own choice)",
        group="patches",
        choices=("auto", "mean", "reference"),
    )
    patch_size: int = option(
        0,
        "Side of a patch's neighbourhood, in feature-map positions; 0 = the backbone's own choice: 3, or 1 for vision "
        "transformers",
        group="patches",
        low=0,
        high=15,
    )
    patch_stride: int = option(1, "Step between patches, in feature-map positions", group="patches", low=1, high=15)
    pretrain_embed_dim: int = option(
        1024, "'reference' embedding: dimension of each layer's vector", group="patches", low=1, high=16384
    )
    target_embed_dim: int = option(
        1024, "'reference' embedding: dimension of a patch's vector", group="patches", low=1, high=16384
    )
    # coreset
    sampler: str = option(
        "approx_greedy_coreset",
        "How the memory bank is thinned: 'greedy_coreset' is exact k-center, 'approx_greedy_coreset' does it on "
        "random projections",
        group="coreset",
        choices=("identity", "random", "greedy_coreset", "approx_greedy_coreset"),
    )
    coreset_ratio: float | None = option(
        None,
        "Share of the training patches that the bank keeps; unset = 0.01, but at least 8 000 patches",
        group="coreset",
        low=0.0,
        low_open=True,
        high=1.0,
    )
    coreset_size: int | None = option(
        None, "Number of patches that the bank keeps (wins over the ratio)", group="coreset", low=1
    )
    coreset_limit: int = option(
        30_000, "The bank keeps at most this many patches, whatever the ratio", group="coreset", low=1
    )
    projection_dim: int = option(
        128, "'approx_greedy_coreset': dimension of the random projection", group="coreset", low=1, high=4096
    )
    drop_outliers: bool = option(
        False,
        "Leave out training images that look defective: those whose left-out scores stand out from the others'. The "
        "model lists them; it is fitted again without them",
        group="coreset",
    )
    seed: int = option(
        0, "Seed of everything random: same seed, same machine, same bytes", group="coreset", low=0, high=2**32 - 1
    )
    # search
    search: str = option(
        "exact",
        "Nearest-neighbour search: 'exact', or a faiss index (extra 'ann'): 'flat', as exact, up to 14 times slower, "
        "or 'ivf', inverted lists: approximate, for banks of more than a million vectors",
        group="search",
        choices=("exact", "flat", "ivf"),
    )
    num_neighbours: int = option(
        1, "A patch's score is its mean distance to this many nearest bank vectors", group="search", low=1, high=1000
    )
    # score
    image_score: str = option(
        "top_fraction",
        "The image's score: the largest patch score, the mean of the top fraction, or the largest re-weighted (Eq. 7)",
        group="score",
        choices=("max", "top_fraction", "reweighted"),
    )
    distance_scaling: float = option(
        0.5,
        "For the image's score, patches' distances are divided by this power of how far normal patches that look like "
        "them are from the bank, relative to the average: 0 = not at all (the paper), 1 = in full",
        group="score",
        low=0.0,
        high=1.0,
    )
    top_fraction: float = option(
        0.01, "'top_fraction': the share of patches averaged", group="score", low=0.0, low_open=True, high=1.0
    )
    score_smoothing: float = option(
        1.0,
        "'top_fraction': patch scores are smoothed before, by a Gaussian of this sigma in patches; 0 = not",
        group="score",
        low=0.0,
        high=10.0,
    )
    reweight_neighbours: int = option(
        9, "'reweighted': the paper's b, the neighbours of the closest bank vector", group="score", low=2, high=1000
    )
    # map
    smoothing_sigma: float = option(
        4.0,
        "Gaussian smoothing of the anomaly map, in pixels of the resized image; 0 = none",
        group="map",
        low=0.0,
        high=100.0,
    )
    # threshold
    calibration: str = option(
        "leave_one_out",
        "Where held-out normal scores come from: each training image against the bank without its own vectors, against "
        "a bank without its fold's images, or a share of the training images set aside",
        group="threshold",
        choices=("leave_one_out", "cross_fit", "holdout", "none"),
    )
    holdout_fraction: float = option(
        0.2, "'holdout': share of the training images set aside", group="threshold", low=0.0, low_open=True, high=0.9
    )
    folds: int = option(
        5, "'cross_fit': number of folds, each with a bank of its own", group="threshold", low=2, high=100
    )
    calibrate_on_suspects: bool = option(
        False,
        "Let training images that look defective count for the threshold and the p-values like all others",
        group="threshold",
    )
    max_false_alarms: float = option(
        0.05, "Share of good images that may be flagged", group="threshold", low=0.0, high=0.5
    )
    confidence: float = option(
        0.95,
        "How sure that must be, over the choice of the good images; 0 = the share holds on average only",
        group="threshold",
        low=0.0,
        high=0.999999,
    )
    review_rate: float = option(
        0.1,
        "Images that are not flagged, but look odder than all but this share of good ones, are for a person to review; "
        "0 = none",
        group="threshold",
        low=0.0,
        high=0.5,
    )
    scene_false_alarms: float = option(
        0.01,
        "Share of good images that may be taken for another scene (another part, a moved camera, lost focus); 0 = do "
        "not check",
        group="threshold",
        low=0.0,
        high=0.5,
    )
    # file
    thumbnail_size: int = option(
        256,
        "Longest side of the training images' thumbnails in the model file, which explanations show; 0 = none",
        group="file",
        low=0,
        high=1024,
    )
    spare_ratio: float = option(
        0.1,
        "Spare vectors in the model file, as a share of the bank: they fill the hole that a removed training image "
        "leaves; 0 = none",
        group="file",
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        validate(self)
        check_tiles(self.tile_size, self.tile_overlap)
        if self.channels and self.channel_order != "rgb":
            raise ConfigError("channel_order: expected rgb, because channels says that the channels are no colours")

    @property
    def image_format(self) -> ImageFormat:
        """Returns what the images' numbers mean."""
        return ImageFormat(self.channels, self.white, self.accept_damaged, self.channel_order)

    @property
    def groups(self) -> int:
        """G: the groups of three channels that an image goes through the network in."""
        return -(-self.channels // 3) if self.channels else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON and TOML values; `from_dict` takes them back."""
        return {
            f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v for f in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Builds a Config; an unknown name is a ConfigError that lists the valid ones. The key `preset` names one of
        PRESETS, over which the other values win."""
        return _from_mapping(cls, with_preset(values))

    @classmethod
    def preset(cls, name: str, **changes: object) -> Config:
        """The options of a preset ('fast', 'balanced' or 'accurate'), changed as the keywords say."""
        return cls.from_dict({"preset": name, **changes})

    @classmethod
    def from_toml(cls, path: str | Path) -> Config:
        """Reads a TOML file whose top-level keys are the names of the options."""
        return cls.from_dict(read_toml(path))


@names_checked
@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Says how this machine runs a model: never stored in the model file, and of no influence on which options it
    has."""

    device: str = option(
        "cpu",
        "Where the backbone runs: cpu, cuda, tensorrt, openvino, coreml, directml, or the name of an ONNX Runtime "
        "execution provider",
        group="runtime",
    )
    threads: int = option(
        0, "Threads of the backbone; 0 = one for each processor this process may use", group="runtime", low=0, high=1024
    )
    memory: str = option(
        "auto",
        "Memory for what grows with the number of training images, as '2GB' or '500MB'; 'auto' = half of the machine's",
        group="runtime",
        fit_only=True,
    )
    weights: str | None = option(
        None,
        "Path of the backbone's checkpoint, where it is not installed or cached",
        group="runtime",
        fit_only=True,
    )
    trusted: bool = option(
        False,
        "You know where the network or the model file comes from: it may have any operators, and take as much time and "
        "memory as it wants",
        group="runtime",
    )

    def __post_init__(self) -> None:
        validate(self)
        memory_budget(self.memory)


# What each preset changes of the defaults; `balanced` is the defaults; `patchbank tune` measures them.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"image_size": (256,)},
    "balanced": {},
    "accurate": {"image_size": (512,)},
}


MAX_TOML_BYTES = 64_000
# Strings and comments of TOML; each begins and ends where it does for a parser, so that nothing hides in them.
_STRINGS = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"{3,5}|\Z)|' + r"'''.*?(?:'{3,5}|\Z)|" + r'"(?:\\.|[^"\\\n])*"?|' + r"'[^'\n]*'?|#[^\n]*",
    re.DOTALL,
)
_LONGEST_KEY = 10  # parts of a dotted key: to parse it takes the square of them, of time and of memory


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without their key `preset`, over those of the preset that it names. Raises ConfigError."""
    rest = dict(values)
    name = rest.pop("preset", "balanced")
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}; got {name!r}")
    return {**PRESETS[name], **rest}


def options(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    """The option fields of Config or Runtime, in order of declaration."""
    return dataclasses.fields(cls)


def choices(cls: type, name: str) -> tuple[str, ...]:
    """The values that the option of Config or Runtime may have; () where it is not one of a few."""
    (found,) = (each for each in options(cls) if each.name == name)
    values: tuple[str, ...] = found.metadata["choices"]
    return values


def read_toml(path: str | Path) -> dict[str, Any]:
    """The contents of a TOML file (UTF-8, with or without a byte order mark); ConfigError where it cannot be read or
    parsed."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    if len(data) > MAX_TOML_BYTES:
        raise ConfigError(f"{path}: expected a configuration file of at most {MAX_TOML_BYTES:,} bytes; got more")
    try:
        text = data.decode("utf-8-sig")
        if _longest_key(text) > _LONGEST_KEY:
            raise ConfigError(f"{path} is not a configuration file: expected options by their name; got 'a.b.c.d. ...'")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: it is not UTF-8 text; save it as UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not a configuration file: its values are nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _longest_key(text: str) -> int:
    """At least the parts of the longest dotted key, without parsing it."""
    bare = _STRINGS.sub(lambda found: "" if found[0][0] == "#" else "s", text)
    return max(part.count(".") + 1 for part in re.split(r"[,=\[\]{}\n]", bare))


def _from_mapping(cls: type[_T], values: Mapping[str, Any]) -> _T:
    check_names(values, {f.name for f in dataclasses.fields(cls)})
    return cls(**dict(values))
