"""What do 8-bit networks find and cost, beside float32 ones?

    python benchmarks/precision.py [--quick] [--sets bottle ...] [--presets balanced ...] [--seeds N] [--out DIR]

For each data set and preset, on the same images, with the library's own fit: image AUROC, pixel AUROC and AUPRO of both
precisions; how far features of good test images are apart, as a share of what varies in them; the time of a fit and of
measuring and quantising within it; and the time of the network and of a whole prediction (array to map and regions),
both precisions in turn. Parts of the sets (at most 120 training images, 60 good and 100 defective test images, the same
each time), because each is fitted many times. Another seed draws other vectors for the bank and other images to
measure on: what the figures change by is noise, so they are means over N seeds. Rows of other sets and presets that are
there stay.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import quality
from _common import DATA, arguments, save
from patchbank import Config, PatchCore
from patchbank.config import PRESETS
from patchbank.evaluation.metrics import auroc, pixel_metrics
from patchbank.features.extract import layer_maps
from patchbank.fit import quantise as quantising
from patchbank.imaging.images import Array, input_size, read_image, resize

SETS = ("bottle", "screw", "mtd", "elpv", "tall")
PRECISIONS = ("float32", "int8")
COMPARED, TIMED, ROUNDS = 8, 10, 5  # images whose features are compared; that are timed; how often


@dataclass(frozen=True, eq=False)
class Images:
    """A part of a set. masks: (H, W) bool of each test image, empty without masks. labels: 1 = defective."""

    train: list[Array]
    test: list[Array]
    labels: Any
    masks: list[Any]


def images(name: str) -> Images | None:
    """The part of a set that is used; None if it is not at hand; noise for 'synthetic'."""
    if name == "synthetic":
        rng = np.random.default_rng(0)
        made = [rng.integers(60, 200, (16, 16, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8) for _ in range(12)]
        made[-1][40:80, 40:80] = 255
        return Images(made[:6], made[6:], np.array([0, 0, 0, 0, 0, 1]), [])
    data = quality.data_of(name)
    if data is None:
        return None
    test, masks = [image() for image in data.test], data.masks
    if name == "mtd":  # masks of images of many sizes, which the study of quality does not use
        paths = [
            p
            for kind in sorted((DATA / name / "test").iterdir())
            if kind.name != "good"
            for p in sorted(kind.iterdir())
        ]
        bad = quality._some(paths, quality.BAD, 2)
        masks = [None] * (len(test) - len(bad))
        masks += [DATA / name / "ground_truth" / p.parent.name / f"{p.stem}_mask.png" for p in bad]
    pairs = zip(test, masks, strict=True) if masks else ()
    return Images([image() for image in data.train], test, data.labels, [_mask(*pair) for pair in pairs])


def _mask(image: Array, path: Path | None) -> Any:
    return np.zeros(image.shape[:2], np.bool_) if path is None else read_image(path)[:, :, 0] > 127


def fitted(data: Images, config: Config) -> tuple[PatchCore, dict[str, float]]:
    """A model, and the seconds of the fit and of quantising."""
    took = {"quantise_s": 0.0}
    quantise = quantising.in_eight_bits

    def clocked(*given: Any) -> Any:
        start = time.perf_counter()
        found = quantise(*given)
        took["quantise_s"] = time.perf_counter() - start
        return found

    quantising.in_eight_bits = clocked
    start = time.perf_counter()
    try:
        model = PatchCore.fit(data.train, config)
    finally:
        quantising.in_eight_bits = quantise
    return model, {"fit_s": time.perf_counter() - start, **took}


def found(data: Images, model: PatchCore) -> dict[str, float | None]:
    """What the model finds, in per cent."""
    results = model.predict(data.test)
    pixels = pixel_metrics([result.anomaly_map for result in results], data.masks) if data.masks else None
    numbers = {
        "image_auroc": auroc([result.score for result in results], data.labels),
        "pixel_auroc": pixels.auroc if pixels else None,
        "aupro": pixels.aupro if pixels else None,
    }
    return {name: None if value is None else round(100 * value, 2) for name, value in numbers.items()}


def network(model: PatchCore, image: Array) -> Sequence[Any]:
    config = model.config
    image = resize(image, input_size(config.image_size, image.shape, config.tile_size, model.backbone.info.side_step))
    return layer_maps(image, model.backbone, config.tile_size, config.tile_overlap)


def whole(model: PatchCore, image: Array) -> None:
    result = model.predict(image)
    _ = result.anomaly_map, result.regions


def distance(models: dict[str, PatchCore], data: Images) -> list[float]:
    """Of each layer: the size of the difference of good images' features, a constant of each channel left out, over the
    size of what varies in them."""
    good = [image for image, label in zip(data.test, data.labels, strict=True) if not label][:COMPARED]
    maps = {name: [network(model, image) for image in good] for name, model in models.items()}
    apart = []
    for layer in range(len(models["int8"].backbone.info.layers)):
        flat = [
            np.concatenate([m[layer][0].reshape(m[layer].shape[1], -1) for m in maps[p]], axis=1) for p in PRECISIONS
        ]
        exact, rounded = (values - values.mean(axis=1, keepdims=True) for values in flat)
        apart.append(round(float(np.linalg.norm(exact - rounded) / np.linalg.norm(exact)), 4))
    return apart


def clocked(
    calls: dict[str, Callable[[Array], Any]], pictures: Sequence[Array]
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of wall and of processor time of each call: the median of the images' best times, in turn, so that a
    slow spell meets all."""
    wall, processor = ({name: np.full(len(pictures), np.inf) for name in calls} for _ in range(2))
    for _ in range(ROUNDS):
        for number, picture in enumerate(pictures):
            for name, call in calls.items():
                start, used = time.perf_counter(), time.process_time()
                call(picture)
                wall[name][number] = min(wall[name][number], 1e3 * (time.perf_counter() - start))
                processor[name][number] = min(processor[name][number], 1e3 * (time.process_time() - used))
    medians = [{name: round(float(np.median(v)), 2) for name, v in kind.items()} for kind in (wall, processor)]
    return medians[0], medians[1]


def measure(name: str, preset: str, data: Images, changes: dict[str, Any], seeds: int) -> dict[str, Any]:
    config = {**PRESETS[preset], "calibration": "none", "thumbnail_size": 0, **changes}
    row: dict[str, Any] = {"set": name, "preset": preset, "train": len(data.train), "test": len(data.test)}
    row |= {"seeds": seeds, "each": {precision: [] for precision in PRECISIONS}}
    models: dict[str, PatchCore] = {}
    for seed in range(seeds):
        for precision in PRECISIONS:
            models[precision], took = fitted(data, Config(**{**config, "precision": precision, "seed": seed}))
            row["each"][precision].append(took | found(data, models[precision]))
            print(name, preset, precision, seed, row["each"][precision][-1], flush=True)
    for precision, runs in row["each"].items():
        row[precision] = {
            key: None if runs[0][key] is None else round(float(np.mean([run[key] for run in runs])), 2)
            for key in runs[0]
        }
    row["features_apart"] = distance(models, data)
    calls: dict[str, Callable[[Array], Any]] = {}
    for precision, model in models.items():
        calls[f"network {precision}"] = lambda image, model=model: network(model, image)
        calls[f"whole {precision}"] = lambda image, model=model: whole(model, image)
        whole(model, data.test[0])
    row["ms"], processor = clocked(calls, data.test[:TIMED])
    row["processor_ms"] = processor
    row["faster"] = {
        part: round(processor[f"{part} float32"] / processor[f"{part} int8"], 2) for part in ("network", "whole")
    }
    print(json.dumps({key: value for key, value in row.items() if key != "each"}), flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each preset: what 8 bits change, on average over the sets and at worst."""
    about = {}
    for preset in dict.fromkeys(row["preset"] for row in rows):
        mine = [row for row in rows if row["preset"] == preset]
        about[preset] = {"sets": [row["set"] for row in mine]}
        for key in ("image_auroc", "pixel_auroc", "aupro"):
            pairs = [(row["int8"][key], row["float32"][key]) for row in mine if row["int8"][key] is not None]
            changes = [after - before for after, before in pairs]
            if changes:
                about[preset][key] = {"mean": round(float(np.mean(changes)), 2), "least": round(min(changes), 2)}
    return about


def main() -> int:
    import argparse

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--seeds", type=int, default=3)
    mine, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    options = arguments(__doc__ or "", SETS)
    path = options.out / "precision.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() and not options.quick else []
    for name in ["synthetic"] if options.quick else options.sets:
        data = images(name)
        if data is None:
            print(f"{name}: not at hand")
            continue
        for preset in ["fast"] if options.quick else mine.presets:
            changes = {"coreset_size": 200, "backbone": "efficientnet_lite0"} if options.quick else {}
            row = measure(name, preset, data, changes, 1 if options.quick else mine.seeds)
            rows = [each for each in rows if (each["set"], each["preset"]) != (name, preset)] + [row]
            save(options.out, "precision", {"rows": rows, "int8 minus float32": summary(rows)})
    if options.quick and max(rows[0]["features_apart"]) > 0.5:
        print(f"features are far apart: {rows[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
