"""What a manifest may say: one description of every key, its type and its range, and what must agree with what.

`docs/reference/model-file.md` says the same in words. The options have their own description, in `config.py`;
whatever a model asks for beyond it is held to the limits here. Pure functions over JSON values; each raises
ValueError that says what was expected and what was got.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from patchbank.backbones import BackboneInfo
from patchbank.backbones.base import LARGEST_SIDE_MULTIPLE, LARGEST_STATISTIC, SMALLEST_STD
from patchbank.calibration.image_check import MEASURES
from patchbank.config import Config, choices
from patchbank.fitted.self_test import MAX_IMAGES
from patchbank.fitted.versions import ACTIONS, CALIBRATED
from patchbank.model_file.archive import MAX_WHOLE

Check = Callable[[Any], None]

MAX_LAYERS = 1000
MAX_NAMES = 1_000_000
MAX_VERSIONS = 10_000
# What a model may ask of this machine for one image. Larger settings are possible, but not by a file that nobody
# vouches for (`trusted`).
MAX_PIXELS = 2048 * 2048  # of the resized image
MAX_FEATURES = 1 << 27  # numbers: half a GB
MAX_PAIRS = 1 << 22  # patches times neighbours
MAX_PRODUCTS = 1 << 39  # multiplications of the search, if nothing could be ruled out


# --- the kinds of values ---------------------------------------------------------------------------------------------


def text(value: Any) -> None:
    """A name or a sentence. What it holds is shown as it is nowhere: renderers escape it."""
    if not isinstance(value, str):
        raise _wrong("text", value)


def whole(low: int = 0, high: int = 2**31 - 1) -> Check:
    """A whole number in a range."""

    def check(value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(f"a whole number from {low} to {high}", value)

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A finite number in a range."""

    def check(value: Any) -> None:
        if type(value) not in (int, float) or not (math.isfinite(value) and low <= value <= high):
            raise _wrong(f"a number from {low:g} to {high:g}", value)

    return check


def truth(value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong("true or false", value)


def one_of(*words: str) -> Check:
    """One of a few words."""

    def check(value: Any) -> None:
        if not isinstance(value, str) or value not in words:
            raise _wrong(f"one of {', '.join(words)}", value)

    return check


def nullable(inner: Check) -> Check:
    """Null, or what `inner` takes."""

    def check(value: Any) -> None:
        if value is not None:
            inner(value)

    return check


def list_of(inner: Check, least: int = 0, most: int = MAX_NAMES) -> Check:
    """A list, each of whose values `inner` takes."""

    def check(value: Any) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            raise _wrong(f"a list of {count} values", value)
        for each in value:
            inner(each)

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None, *, closed: bool = True) -> Check:
    """An object with these keys; `closed`: and no others."""
    known = {**required, **(optional or {})}

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise _wrong("an object", value)
        if missing := set(required) - set(value):
            raise ValueError(f"lacks {', '.join(sorted(missing))}")
        if closed and (others := set(value) - set(known)):
            raise ValueError(f"holds {', '.join(map(repr, sorted(others)))}, which is unknown")
        name = ""
        try:
            for name in known.keys() & value.keys():
                known[name](value[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    return check


def _wrong(expected: str, value: Any) -> ValueError:
    return ValueError(f"expected {expected}; got {value!r:.80}")


# --- the manifest ----------------------------------------------------------------------------------------------------

_share = number(0, 1)
_distance = number(0)
_names = list_of(text, least=1)
_terms = {"level": number(-1e10, 1e10), "low": number(-10, 10), "high": number(-10, 10)}
_ranges = record({measure.name: list_of(number(), 2, 2) for measure in MEASURES})


def _fold(value: Any) -> None:
    list_of(number(), 3, 3)(value)
    record(_terms)(dict(zip(_terms, value, strict=True)))


_layer = record({"name": text, "channels": whole(1, 1 << 16), "stride": whole(1, 1 << 12)})
_backbone = record(
    {
        "name": text,
        "layers": list_of(_layer, 1, MAX_LAYERS),
        "mean": list_of(number(-LARGEST_STATISTIC, LARGEST_STATISTIC), 3, 3),
        "std": list_of(number(SMALLEST_STD, LARGEST_STATISTIC), 3, 3),
        "licence": text,
        "embedding": one_of("mean", "reference"),
    },
    {"patch_size": whole(1, 15), "side_multiple": whole(1, LARGEST_SIDE_MULTIPLE)},
)
_bank = record(
    {"size": whole(1), "covering_radius": nullable(_distance), "images": _names},
    {"expected": nullable(record(_terms, {"folds": list_of(_fold, 1, 100), "images": whole()}))},
    closed=False,
)
_calibration = record(
    {"method": one_of(*(method for method in choices(Config, "calibration") if method != "none")), "images": _names},
    {
        "max_false_alarms": _share,
        "confidence": _share,
        "supported_rate": _share,
        "images_needed": nullable(whole(high=MAX_WHOLE)),
        "threshold": number(),
        "pixel_threshold": number(),
        "review_rate": _share,
        "review_above": nullable(number()),
        "with_suspects": truth,
        "suspects": whole(),
        "if_bad": _share,
        "if_good": _share,
    },
    closed=False,
)
_suspect = record({"name": text, "score": number(), "oddness": number(), "limit": number()})
_added = record(
    {
        "name": text,
        "score_before": number(),
        "score_after": number(),
        **dict.fromkeys(("image", "patches", "covered", "vectors"), whole()),
    }
)
_removed = record({"name": text, **dict.fromkeys(("image", "vectors", "uncovered"), whole())})
_version = record(
    {
        "number": whole(1, MAX_VERSIONS),
        "action": one_of(*ACTIONS),
        "calibrated": one_of(*CALIBRATED),
        "images": whole(1),
        "size": whole(1),
        "covering_radius": nullable(_distance),
        "max_false_alarms": nullable(_share),
        "confidence": nullable(_share),
        "threshold": nullable(number()),
        "pixel_threshold": nullable(number()),
        "time": text,
        "author": text,
        "note": text,
        "added": list_of(_added),
        "removed": list_of(_removed),
        "refilled": whole(),
        "restored": nullable(whole(1, MAX_VERSIONS)),
        "calibration_images": whole(),
        "normal_images": whole(),
        "scene": one_of("own", "next", "none"),
    },
    {"review_rate": nullable(_share), "with_suspects": nullable(truth)},
)
_self_test = record({"image": whole(high=999_999), "score": number(), "length": _distance})
_manifest = record(
    {
        "format_version": whole(1),
        "patchbank_version": text,
        "config": record({}, closed=False),
        "backbone": _backbone,
        "bank": _bank,
        "calibration": nullable(_calibration),
    },
    {
        "scene": nullable(record({"ranges": _ranges}, closed=False)),
        "normal": nullable(record({"images": whole(1)}, closed=False)),
        "versions": list_of(_version, 1, MAX_VERSIONS),
        "dropped": list_of(_suspect),
        "self_test": list_of(_self_test, most=MAX_IMAGES),
    },
    closed=False,
)


def check(manifest: Mapping[str, Any]) -> None:
    """ValueError unless every key that patchbank knows holds what it should, and all of it agrees. Keys that it does
    not know are those of later patchbanks, and mean nothing to it."""
    _manifest(manifest)
    images, scene = manifest["bank"]["images"], manifest.get("scene")
    calibration, versions = manifest["calibration"], manifest.get("versions", [])
    if scene and any(low > high for low, high in scene["ranges"].values()):
        raise ValueError("scene: ranges: expected low and high; got high and low")
    if (expected := manifest["bank"].get("expected")) is not None:
        terms = [[expected["low"], expected["high"]], *([low, high] for _, low, high in expected.get("folds", []))]
        if any(low > high for low, high in terms):
            raise ValueError("bank: expected: low is above high")
    if calibration and (strange := set(calibration["images"]).difference(images)):
        raise ValueError(f"calibration: images: {min(strange)!r:.80} is none of the bank's images")
    if any(version["images"] > len(images) for version in versions):
        raise ValueError(f"versions: expected at most the bank's {len(images)} images; got more")
    if sum(version["images"] for version in versions if version["added"] or version["removed"]) > 10 * MAX_NAMES:
        raise ValueError(f"versions: expected at most {10 * MAX_NAMES:,} images of all versions together")


def check_work(config: Config, info: BackboneInfo, vectors: tuple[int, int]) -> None:
    """ValueError for a model that would take very long, or very much memory, for one image. vectors: (M, D), the
    shape of its bank."""
    pixels = config.image_size[0] * config.image_size[-1]
    if pixels > MAX_PIXELS:
        raise ValueError(f"config: image_size: {pixels:,} pixels; expected at most {MAX_PIXELS:,}")
    groups = config.groups
    sides = [math.sqrt(pixels) / layer.stride + 1 for layer in info.layers]
    patches = math.ceil((sides[0] / config.patch_stride + 1) ** 2)
    features = patches * vectors[1]
    if config.embedding == "reference":
        each = [layer.channels * groups * config.patch_size**2 + config.pretrain_embed_dim for layer in info.layers]
        positions = [(side / config.patch_stride + 1) ** 2 for side in sides]
        features += math.ceil(sum(n * p for n, p in zip(each, positions, strict=True)))
    work = {
        "image_size, layers, patch_size: features": (features, MAX_FEATURES),
        "num_neighbours: neighbours of patches": (patches * min(config.num_neighbours, vectors[0]), MAX_PAIRS),
        "bank: products of patches and vectors": (patches * math.prod(vectors), MAX_PRODUCTS),
    }
    for what, (count, most) in work.items():
        if count > most:
            raise ValueError(f"{what}: about {count:,} for an image; expected at most {most:,}")


def dimensions(config: Config, info: BackboneInfo) -> int:
    """D: how many numbers a patch has."""
    channels = sum(layer.channels for layer in info.layers)
    return config.target_embed_dim if config.embedding == "reference" else channels * config.groups


def resolved(config: Config) -> Config:
    """The options, if none is left to the backbone any more; else ValueError."""
    if config.embedding == "auto":
        raise ValueError("config: embedding: expected mean or reference; got auto")
    if config.precision == "auto":
        raise ValueError("config: precision: expected float32 or int8; got auto")
    if not config.patch_size:
        raise ValueError("config: patch_size: expected at least 1; got 0")
    return config


def fields_of(kind: type[Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Of a checked object, the values that a dataclass has fields for."""
    return {field.name: about[field.name] for field in dataclasses.fields(kind)}
