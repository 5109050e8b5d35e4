"""What the benchmarks share: features of real images, timing, machine facts, results as JSON and plots."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

DATA = Path(os.environ.get("PATCHBANK_DATA", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"


def arguments(description: str, sets: Sequence[str] = ()) -> argparse.Namespace:
    """--quick and --out, the same for every benchmark, and --sets where one runs over data sets."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a smoke test: small sizes, wide margins, fails if missed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the plot")
    if sets:
        parser.add_argument("--sets", nargs="+", default=list(sets), choices=sets, help="only these data sets")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{name: _version(name) for name in ("faiss-cpu", "onnxruntime", "patchbank")},
        "compiled part": _native(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "date": time.strftime("%Y-%m-%d"),
    }


def seconds(call: Callable[[], object], repetitions: int = 1) -> float:
    """Median wall time of the call."""
    return float(np.median([_once(call) for _ in range(repetitions)]))


def save(folder: Path, name: str, results: dict[str, Any]) -> None:
    """Writes NAME.json and says where."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    print(f"wrote {path}")


def training_images(*names: str) -> list[Path]:
    """The good training images of the data sets (bottle and screw), as far as the real data is on this machine."""
    folders = [DATA / name / "train" / "good" for name in names or ("bottle", "screw")]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]


def original(path: Path, side: int, suffix: str) -> bytes:
    """A reduced image as a camera would have given it: enlarged to `side` pixels, with noise of one grey level, as the
    bytes of a ".png" (filters that adapt, as most programs write it) or ".jpg" file."""
    import io

    import cv2
    from PIL import Image

    small = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    large = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0, 1, large.shape).round()
    picture = np.clip(large + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(picture[:, :, ::-1] if picture.ndim == 3 else picture)
    image.save(file, **({"format": "PNG"} if suffix == ".png" else {"format": "JPEG", "quality": 95}))
    return file.getvalue()


def image_features(paths: list[Path], image_size: int = 320, embedding: str = "mean") -> Iterator[FloatArray]:
    """(h, w, D) patch features of each image: the default network and layers."""
    from patchbank.backbones import load_backbone
    from patchbank.config import Config
    from patchbank.features import embedding as patches
    from patchbank.imaging import images
    from patchbank.imaging.resize import resize

    config = Config(embedding=embedding, patch_size=3)
    network = load_backbone(config.backbone)
    for path in paths:
        pixels = resize(images.read_image(path), (image_size, image_size))
        batch = images.normalise(pixels, network.info.mean, network.info.std)
        yield patches.embed(network.features(batch.reshape(1, 3, image_size, image_size)), config)[0]


def features(n: int) -> tuple[FloatArray, str]:
    """(n, D) patch features, real ones where the images are at hand, and where they come from."""
    from patchbank.config import Config

    paths = training_images()
    if paths:
        rows: list[FloatArray] = []
        for block in image_features(paths):
            rows.append(block.reshape(-1, block.shape[-1]))
            if sum(map(len, rows)) >= n:
                break
        if sum(map(len, rows)) >= n:
            return np.concatenate(rows)[:n], f"{Config().backbone} features of real images (bottle, screw)"
    return clustered(n, 152), "synthetic, clustered (no real images at hand)"


def clustered(n: int, d: int, seed: int = 0) -> FloatArray:
    """(n, d) points around 300 centres in a subspace of 24 dimensions, with a little noise in all of them."""
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((24, d)) / np.sqrt(d)
    scales = 1 / np.arange(1, 25) ** 0.5
    centres = rng.standard_normal((300, 24)) * scales * 3
    points = centres[rng.integers(0, 300, n)] + rng.standard_normal((n, 24)) * scales
    return (points @ basis + 0.02 * rng.standard_normal((n, d))).astype(np.float32)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _native() -> bool:
    from patchbank import native

    return native.available()


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
