"""Which images does the scene check recognise as not of its scene, and which good and defective ones does it mistake?

    python benchmarks/scene.py [--quick] [--out DIR]

For each data set, with the defaults: the share of test images, by kind, that are called out of scene; the same for good
test images after a distortion, and for images of the other sets. Then the false-alarm rate on real good images by the
number of training images: over random splits of the training images, those left over are checked against a scene that
is learned from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from _common import DATA, arguments, save
from patchbank import Config, PatchCore
from patchbank.calibration.image_check import MEASURES, ImageCheck, layout_distances, leave_one_out_deviations
from patchbank.evaluation.datasets import read_dataset
from patchbank.imaging.images import read_image, to_8bit

Image = npt.NDArray[np.uint8]
SETS = ("bottle", "screw", "mtd", "elpv")
DISTORTED = 20  # good test images of each set
FOREIGN = 40  # good test images of each other set


def load(name: str) -> tuple[list[Any], list[tuple[str, Any]]]:
    """Training images, and (kind, image) of the test images. ELPV: 600 functional cells to train, 200 to test, and 300
    of defect probability 1."""
    if name == "elpv":
        from elpv_dataset.utils import load_dataset

        images, probability, _ = load_dataset()
        rng = np.random.default_rng(0)
        good, bad = (rng.permutation(np.flatnonzero(probability == p)) for p in (0, 1))
        test = [("good", images[i]) for i in good[600:800]] + [("defective", images[i]) for i in bad[:300]]
        return [images[i] for i in good[:600]], test
    data = read_dataset(DATA / name)
    return list(data.train_paths), [(Path(sample.path).parent.name, sample.path) for sample in data.test]


def warped(image: Image, matrix: Any) -> Image:
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def shifted(image: Image, share: float) -> Image:
    """To the right by a share of the width, and half as much down."""
    height, width = image.shape[:2]
    return warped(image, np.float32([[1, 0, share * width], [0, 1, share / 2 * height]]))


def turned(image: Image, degrees: float, zoom: float = 1.0) -> Image:
    height, width = image.shape[:2]
    return warped(image, cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, zoom))


def blurred(image: Image, sigma: float) -> Image:
    """sigma: in pixels of an image of 384 x 384, the size that the network gets."""
    return cv2.GaussianBlur(image, (0, 0), sigma * (image.shape[0] * image.shape[1]) ** 0.5 / 384)


def scaled(image: Image, factor: Any) -> Image:
    return np.clip(np.rint(image * np.float32(factor)), 0, 255).astype(np.uint8)


def noisy(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def covered(image: Image, share: float) -> Image:
    """A grey hand from the left."""
    image = image.copy()
    image[:, : int(share * image.shape[1])] = 90
    return image


def compressed(image: Image, quality: int) -> Image:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


Distortion = Callable[[Image, np.random.Generator], Image]
DISTORTIONS: dict[str, Distortion] = {
    **{f"shifted by {100 * s:g} %": lambda a, _, s=s: shifted(a, s) for s in (0.02, 0.05, 0.1, 0.2)},
    **{f"turned by {d} degrees": lambda a, _, d=d: turned(a, d) for d in (3, 10, 30, 90)},
    "flipped left to right": lambda a, _: a[:, ::-1].copy(),
    "flipped upside down": lambda a, _: a[::-1].copy(),
    **{f"zoom x{z:g}": lambda a, _, z=z: turned(a, 0, z) for z in (0.8, 0.9, 1.1, 1.25)},
    **{f"blur, sigma {s:g} px": lambda a, _, s=s: blurred(a, s) for s in (0.5, 1, 2, 4)},
    **{f"exposure x{f:g}": lambda a, _, f=f: scaled(a, f) for f in (0.5, 0.75, 0.9, 1.1, 1.25, 1.5)},
    "colour cast (1, 0.85, 0.7)": lambda a, _: scaled(a, [1, 0.85, 0.7]),
    **{f"noise, sigma {s:g}": lambda a, rng, s=s: noisy(a, s, rng) for s in (5, 10, 25)},
    "JPEG quality 20": lambda a, _: compressed(a, 20),
    **{f"covered, {100 * s:g} %": lambda a, _, s=s: covered(a, s) for s in (0.1, 0.25, 0.5)},
    "negative": lambda a, _: 255 - a,
    "black": lambda a, _: np.zeros_like(a),
    "lens cap (black, noise)": lambda a, rng: noisy(np.zeros_like(a), 4, rng),
    "white": lambda a, _: np.full_like(a, 255),
    "white noise": lambda a, rng: rng.integers(0, 256, a.shape, dtype=np.uint8),
    "half as wide": lambda a, _: a[:, : a.shape[1] // 2].copy(),
}


def row(model: PatchCore, images: Iterator[Any]) -> dict[str, Any]:
    """The share of the images that is called out of scene, and the shares that each measure finds."""
    results = list(model.predict_each(images))
    shares = {m.name: [bool(r.scene[i].reason) for r in results] for i, m in enumerate(MEASURES)}
    return {
        "images": len(results),
        "out_of_scene": round(float(np.mean([not result.in_scene for result in results])), 4),
        "by": {name: round(float(np.mean(found)), 3) for name, found in shares.items() if any(found)},
    }


def false_alarms(scene: ImageCheck, sizes: tuple[int, ...], repetitions: int) -> list[dict[str, Any]]:
    """Over random splits: the share of the training images left over that a scene of `n` others calls out of scene."""
    rng, rows, total = np.random.default_rng(0), [], len(scene.measures)
    between = np.stack([layout_distances(own, scene.cells) for own in scene.cells])  # (total, total)
    np.fill_diagonal(between, np.inf)
    for n in sizes:
        if n > total - 20:
            continue
        rates = []
        for _ in range(repetitions):
            order = rng.permutation(total)
            known, new = order[:n], order[n:]
            measures = scene.measures.copy()
            measures[:, -1] = between[:, known].min(axis=1)
            part = ImageCheck(
                measures[known],
                leave_one_out_deviations(measures[known]),
                scene.cells[known],
                scene.kept,
                scene.projection,
                scene.max_false_alarms,
            )
            low, high = part.ranges
            rates.append(float(((measures[new] < low) | (measures[new] > high)).any(axis=1).mean()))
        rows.append({"training_images": n, "false_alarms": round(float(np.mean(rates)), 5)})
    return rows


def measure(name: str, quick: bool) -> dict[str, Any]:
    train, test = load(name)
    few = 60 if quick else len(train)
    model = PatchCore.fit(
        train[:few], Config(thumbnail_size=0, coreset_size=500) if quick else Config(thumbnail_size=0)
    )
    kinds: dict[str, list[Any]] = {}
    for kind, image in test:
        kinds.setdefault(kind, []).append(image)
    good = kinds["good"][: 4 if quick else DISTORTED]
    rng = np.random.default_rng(0)
    tested = {kind: row(model, iter(images[:5] if quick else images)) for kind, images in kinds.items()}
    print(name, {kind: found["out_of_scene"] for kind, found in tested.items()}, flush=True)
    distorted = {}
    for what, distort in DISTORTIONS.items():
        distorted[what] = row(model, (distort(to_8bit(read_image(image)), rng) for image in good))
        print(name, what, distorted[what]["out_of_scene"], flush=True)
    foreign = {}
    for other in SETS:
        if other != name:
            images = [image for kind, image in load(other)[1] if kind == "good"]
            foreign[other] = row(model, iter(images[: 4 if quick else FOREIGN]))
    assert model.scene
    return {
        "set": name,
        "training_images": len(model.scene.measures),
        "ranges": {
            m.name: [float(f"{v:.5g}") for v in pair] for m, pair in zip(MEASURES, model.scene.ranges.T, strict=True)
        },
        "test": tested,
        "distorted": distorted,
        "foreign": foreign,
        "by_training_images": false_alarms(model.scene, (5, 10, 20, 50, 100, 200, 400), 20 if quick else 200),
    }


def main() -> None:
    options = arguments(__doc__ or "", SETS)
    names = [name for name in options.sets if name == "elpv" or (DATA / name).is_dir()]
    rows = [measure(name, options.quick) for name in names[: 2 if options.quick else None]]
    if options.quick:
        for found in rows:
            assert found["distorted"]["black"]["out_of_scene"] == 1, found["distorted"]["black"]
    save(options.out, "scene", {"rate": Config().scene_false_alarms, "rows": rows})


if __name__ == "__main__":
    main()
