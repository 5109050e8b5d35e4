"""What finds more: sizes, layers, networks, banks, scores, one changed at a time, on the same images.

    python benchmarks/quality.py             # the study: parts of the data sets, many settings
    python benchmarks/quality.py --presets   # whole data sets, each preset
    python benchmarks/quality.py --cost      # what an image costs, each preset

Every setting goes through the library's own steps (embedding, coreset, search, expected distances, scores); only the
feature maps are kept between settings, in --cache. The best settings of a study are flattered by it: these are the
very images that are reported. What was concluded is in docs/results/quality.md, whose tables are made of the results.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import default_size
from _common import DATA, RESULTS, save
from patchbank import Config, PatchCore, Result
from patchbank.backbones import BackboneInfo, load_backbone
from patchbank.backbones.base import SIDE_MULTIPLE
from patchbank.backbones.build import build_graph, locate
from patchbank.backbones.checkpoint import read_checkpoint
from patchbank.backbones.zoo import ZooRow, find
from patchbank.config import PRESETS
from patchbank.evaluation.metrics import auroc
from patchbank.features.embedding import ImageStatistics, Patches, bilinear_matrix, embed
from patchbank.fit.fit import with_expected
from patchbank.fit.stream import PatchStream
from patchbank.imaging import images
from patchbank.imaging.resize import resize
from patchbank.scoring import scores as scoring
from patchbank.scoring.scores import smoothed
from patchbank.search.searcher import build_searcher
from patchbank.util.parallel import one_blas_thread
from patchbank.util.progress import silent

FloatArray = npt.NDArray[np.float32]
Image = Callable[[], images.Array]

TRAIN, GOOD, BAD = 120, 60, 100  # images of a set, at most, in the study
FRACTIONS = {"max": 0.0, "top 0.3 %": 0.003, "top 1 %": 0.01, "top 3 %": 0.03, "top 10 %": 0.1}
LAYERS = ("blocks.2", "blocks.3", "blocks.4", "blocks.5")  # whose maps are kept
EXPANDED = ("blocks.2 expanded", "blocks.4 expanded")  # what the next stage makes of them first: six times the channels
SETS = ("bottle", "screw", "mtd", "elpv", "tall")
# What the study changes one thing of: the defaults of its day. Its outcome is that Lite2 is the default now.
BASE: dict[str, Any] = {"backbone": "efficientnet_lite0", "coreset_ratio": 0.01}


@dataclass(frozen=True, eq=False)
class Data:
    """Images of a set. train: good ones. test, labels: 1 = defective. masks: paths, where there are any."""

    name: str
    train: list[Image]
    test: list[Image]
    labels: npt.NDArray[np.int64]
    masks: list[Path | None] | None = None


@dataclass(frozen=True)
class Setting:
    """What is changed of the defaults. parts: other settings, whose maps are averaged. square: squash to a square.
    transform: what is done to patch features, learned from a sample of them: 'standardise', 'whiten', 'position'; or
    without: 'root', each number's square root, keeping its sign. weights: factors on the layers' maps.
    flips: training images mirrored, too. gains: brightness of further copies of the training images."""

    name: str
    config: Config = field(default_factory=lambda: Config(**BASE))
    square: bool = False
    transform: str = ""
    weights: tuple[float, ...] = ()
    flips: tuple[int, ...] = ()
    gains: tuple[float, ...] = ()
    parts: tuple[str, ...] = ()


def study() -> list[Setting]:
    def one(name: str, **options: Any) -> Setting:
        return Setting(name, Config(**{**BASE, **options}))

    return [
        Setting("base"),
        one("distance_scaling 0", distance_scaling=0.0),
        one("distance_scaling 1", distance_scaling=1.0),
        one("image_size 256", image_size=256),
        one("image_size 320", image_size=320),
        one("image_size 448", image_size=448),
        one("image_size 512", image_size=512),
        Setting("squashed to a square", square=True),
        one("blocks.2", layers=("blocks.2",)),
        one("blocks.4", layers=("blocks.4",)),
        one("blocks.2 + 3", layers=("blocks.2", "blocks.3")),
        one("blocks.3 + 4", layers=("blocks.3", "blocks.4")),
        one("blocks.2 + 3 + 4", layers=("blocks.2", "blocks.3", "blocks.4")),
        one("blocks.2 + 4 + 5", layers=("blocks.2", "blocks.4", "blocks.5")),
        one("blocks.2 + 4, expanded", layers=EXPANDED),
        Setting("blocks.4 counts half", weights=(1.0, 0.5)),
        Setting("blocks.4 counts twice", weights=(1.0, 2.0)),
        one("Lite1", backbone="efficientnet_lite1"),
        one("Lite2", backbone="efficientnet_lite2"),
        one("Lite2, image_size 448", backbone="efficientnet_lite2", image_size=448),
        one("Lite2, image_size 512", backbone="efficientnet_lite2", image_size=512),
        one("patch_size 1", patch_size=1),
        one("patch_size 5", patch_size=5),
        one("coreset 0.3 %", coreset_ratio=0.003),
        one("coreset 3 %", coreset_ratio=0.03),
        one("coreset 10 %", coreset_ratio=0.1),
        one("3 neighbours", num_neighbours=3),
        one("9 neighbours", num_neighbours=9),
        Setting("channels standardised", transform="standardise"),
        Setting("channels whitened", transform="whiten"),
        Setting("square roots of channels", transform="root"),
        Setting("position counts", transform="position"),
        Setting("mirrored copies in the bank", flips=(1,)),
        Setting("mirrored both ways in the bank", flips=(0, 1, -1)),
        Setting("brighter and darker copies in the bank", gains=(0.9, 1.1)),
        Setting("maps of 256 and 384 averaged", parts=("image_size 256", "base")),
        Setting("maps of 256 and 512 averaged", parts=("image_size 256", "image_size 512")),
        Setting("maps of Lite0 and Lite2 averaged", parts=("base", "Lite2")),
        Setting("maps of blocks.2 and blocks.4 averaged", parts=("blocks.2", "blocks.4")),
    ]


def data_of(name: str) -> Data | None:
    """A part of a set, the same one every time; None if it is not at hand."""
    if name == "elpv":
        return _elpv()
    folder = DATA / ("mtd" if name == "tall" else name)
    if not folder.is_dir():
        return None
    train = sorted((folder / "train/good").iterdir())
    good = sorted((folder / "test/good").iterdir())
    bad = [p for kind in sorted((folder / "test").iterdir()) if kind.name != "good" for p in sorted(kind.iterdir())]
    if name == "tall":
        return _tall(train, good, [path for path in bad if path.parent.name == "crack"])
    train, good, bad = _some(train, TRAIN, 0), _some(good, GOOD, 1), _some(bad, BAD, 2)
    masks = [folder / "ground_truth" / p.parent.name / f"{p.stem}_mask.png" for p in bad]
    return Data(
        name,
        [_file(path) for path in train],
        [_file(path) for path in [*good, *bad]],
        _labels(good, bad),
        [*(None for _ in good), *masks] if name != "mtd" else None,
    )


def _tall(train: list[Path], good: list[Path], cracked: list[Path]) -> Data:
    """Tall, narrow photographs: three magnetic tiles, one above the other; the defect is a real crack in one."""
    rng = np.random.default_rng(3)
    train, good = [list(rng.permutation(np.array(paths, object))) for paths in (train, good)]

    def stacked(paths: Sequence[Path]) -> Image:
        return lambda: np.concatenate([resize(images.read_image(path), (256, 256)) for path in paths])

    stacks = [train[3 * n : 3 * n + 3] for n in range(TRAIN)]
    whole = [good[3 * n : 3 * n + 3] for n in range(40)]
    broken = []
    for n, path in enumerate(cracked):
        stack = [good[120 + 2 * n % 70], good[120 + (2 * n + 1) % 70]]
        broken.append([*stack[: n % 3], path, *stack[n % 3 :]])
    every = [stacked(paths) for paths in [*whole, *broken]]
    return Data("tall", [stacked(paths) for paths in stacks], every, _labels(whole, broken))


def _elpv() -> Data | None:
    try:
        train, test, defective = default_size.elpv()
    except ImportError:
        return None
    good, bad = ([cell for cell, found in zip(test, defective, strict=True) if found == wanted] for wanted in (0, 1))
    train, good, bad = _some(train, TRAIN, 0), _some(good, GOOD, 1), _some(bad, BAD, 2)

    def image(pixels: images.Array) -> Image:
        return lambda: images.to_rgb(pixels)

    return Data("elpv", [image(cell) for cell in train], [image(cell) for cell in [*good, *bad]], _labels(good, bad))


def _file(path: Path) -> Image:
    return lambda: images.read_image(path)


def _labels(good: Sequence[Any], bad: Sequence[Any]) -> npt.NDArray[np.int64]:
    return np.repeat([0, 1], [len(good), len(bad)])


def _some(items: list[Any], count: int, seed: int) -> list[Any]:
    if len(items) <= count:
        return items
    return [items[n] for n in sorted(np.random.default_rng(seed).choice(len(items), count, replace=False))]


class Features:
    """The networks' maps of a set's images, computed once and kept in a folder."""

    def __init__(self, data: Data, folder: Path) -> None:
        self.data, self.folder = data, folder

    def of(self, part: str, setting: Setting, flip: int | None = None, gain: float = 1.0) -> list[list[FloatArray]]:
        """part: 'train' or 'test'. One list of maps, (C_l, H_l, W_l), an image, in the order of LAYERS, or EXPANDED."""
        config = setting.config
        size = config.image_size * 2 if setting.square else config.image_size
        kind = "-expanded" if config.layers == EXPANDED else ""
        name = f"{self.data.name}-{part}-{config.backbone}-{'x'.join(map(str, size))}-{flip}-{gain}{kind}.pickle"
        path = self.folder / name
        if not path.is_file():
            row = find(config.backbone)
            features = expanded(row) if kind else load_backbone(config.backbone, LAYERS).features
            path.write_bytes(pickle.dumps(self._maps(getattr(self.data, part), row, features, size, flip, gain), 4))
        loaded: list[list[FloatArray]] = pickle.loads(path.read_bytes())  # written by ourselves, just now
        return loaded

    def _maps(
        self,
        sources: list[Image],
        row: ZooRow,
        features: Callable[[FloatArray], Sequence[FloatArray]],
        size: tuple[int, ...],
        flip: int | None,
        gain: float,
    ) -> list[list[FloatArray]]:
        import cv2

        def one(source: Image) -> list[FloatArray]:
            image = source()
            image = resize(image, images.input_size(size, image.shape, 4096, SIDE_MULTIPLE))
            if flip is not None:
                image = cv2.flip(image, flip)
            batch = images.normalise(np.clip(image * np.float32(gain), 0, 255), row.mean, row.std)
            return [m[0].astype(np.float16) for m in features(batch)]

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, sources))


def expanded(row: ZooRow) -> Callable[[FloatArray], Sequence[FloatArray]]:
    """The network of a Lite row, up to what the stages after blocks.2 and blocks.4 make of them first: a pointwise
    convolution to six times the channels, and ReLU6. Images (B, 3, H, W) -> these two maps."""
    import onnx

    from patchbank.backbones.session import import_onnxruntime

    onnxruntime = import_onnxruntime()

    graph = onnx.load_from_string(build_graph(row, row.layers[2:6], read_checkpoint(locate(row))))
    firsts = [sum(stage.blocks for stage in row.stages[:stage]) for stage in (3, 5)]
    names = [f"_blocks.{first}.expand.relu6" for first in firsts]
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(names, {"image": batch})


def embedded(maps: list[FloatArray], setting: Setting) -> Patches:
    """One image's maps -> its patches; size and look do not matter here."""
    config, kept = setting.config, EXPANDED if setting.config.layers == EXPANDED else LAYERS
    chosen = [maps[kept.index(name)][None].astype(np.float32) for name in config.layers or ("blocks.2", "blocks.4")]
    chosen = [m * np.float32(weight) for m, weight in zip(chosen, setting.weights or (1.0,) * len(chosen), strict=True)]
    features = embed(chosen, config)[0]  # (h, w, D)
    grid = (features.shape[0], features.shape[1])
    place = np.arange(grid[0] * grid[1], dtype=np.int32)
    return Patches(features.reshape(len(place), -1), place, grid, grid, ImageStatistics(1.0, 1.0, *grid))


def transformed(patches: list[Patches], setting: Setting) -> Callable[[Patches], Patches]:
    """What `setting.transform` does to patches, learned from those of the training images."""
    if not setting.transform:
        return lambda each: each
    if setting.transform == "root":
        return lambda each: replace(each, features=np.sign(each.features) * np.sqrt(np.abs(each.features)))
    sample = np.concatenate([each.features[::7] for each in patches]).astype(np.float64)
    spread = sample.std(axis=0) + 1e-6
    if setting.transform == "standardise":
        matrix = np.diag(1 / spread)
    elif setting.transform == "whiten":  # with shrinkage by a tenth towards the mean variance
        values, vectors = np.linalg.eigh(np.cov(sample.T))
        matrix = vectors / np.sqrt(0.9 * np.maximum(values, 0) + 0.1 * values.mean())
    else:
        matrix = np.eye(sample.shape[1])
    scale = float(spread.mean() / (sample @ matrix).std(axis=0).mean())

    def apply(each: Patches) -> Patches:
        features = (each.features @ (scale * matrix)).astype(np.float32)
        if setting.transform == "position":  # a whole image apart counts as much as all features' deviations together
            h, w = each.grid
            where = np.stack(np.divmod(each.place, w), 1) / np.array([h, w]) * np.linalg.norm(spread)
            features = np.column_stack([features, where.astype(np.float32)])
        return replace(each, features=features)

    return apply


@one_blas_thread()
def patch_maps(features: Features, setting: Setting) -> tuple[list[FloatArray], dict[str, float]]:
    """Test images' patch scores, (h, w) each, over the mean normal distance; and what it took."""
    config = replace(setting.config, embedding="mean", patch_size=setting.config.patch_size or BackboneInfo.patch_size)
    setting = replace(setting, config=config)
    copies = [(None, 1.0), *((flip, 1.0) for flip in setting.flips), *((None, gain) for gain in setting.gains)]
    learned = [[embedded(maps, setting) for maps in features.of("train", setting, *copy)] for copy in copies]
    transform = transformed(learned[0], setting)
    count = len(learned[0])
    stream = PatchStream(replace(config, calibration="none"), 1 << 36, count * len(copies), lambda _: False, silent)
    for patches in (each for group in learned for each in group):
        stream.add(transform(patches))
    start = time.perf_counter()
    sample = stream.sample()
    bank, _, _ = stream.finish(tuple(map(str, range(count * len(copies)))))
    if len(copies) > 1:  # a copy's vectors are of its image, too
        bank = replace(bank, image=(bank.image % count).astype(np.int32))
        sample = sample and replace(sample, image=(sample.image % count).astype(np.int32))
    searcher = build_searcher(bank.vectors, config)
    bank = with_expected(bank, searcher, sample, config.distance_scaling)
    fitted = time.perf_counter()
    normal = float(searcher.search(transform(learned[0][0]).features, 1)[0].mean())
    found = []
    for maps in features.of("test", setting):
        patches = transform(embedded(maps, setting))
        distances, _ = searcher.search(patches.features, config.num_neighbours)
        found.append(
            patches.on_grid(scoring.patch_scores(scoring.mean_distances(distances), patches.features, bank.expected))
            / normal
        )
    took = {"bank": len(bank), "fit_s": fitted - start, "test_s": time.perf_counter() - fitted}
    return found, took


def averaged(groups: list[list[FloatArray]]) -> list[FloatArray]:
    """Several settings' patch scores of the same images, on the finest grid."""
    found = []
    for maps in zip(*groups, strict=True):
        h, w = max((m.shape for m in maps), key=np.prod)
        found.append(sum(bilinear_matrix(m.shape[0], h) @ m @ bilinear_matrix(m.shape[1], w).T for m in maps))
    return found


def judged(data: Data, maps: list[FloatArray]) -> dict[str, float]:
    """AUROC of every image score, and of pixels on 256 x 256."""
    row = {
        name: auroc(np.array([_score(m, fraction) for m in maps]), data.labels) for name, fraction in FRACTIONS.items()
    }
    if data.masks:
        row["pixel"] = _pixel_auroc(maps, data.masks)
    return row


def _score(scores: FloatArray, fraction: float) -> float:
    return scoring.top_fraction_mean(scores, fraction)


def _pixel_auroc(maps: list[FloatArray], masks: list[Path | None]) -> float:
    import cv2

    scores, truth = [], []
    for m, path in zip(maps, masks, strict=True):
        heat = bilinear_matrix(m.shape[0], 256) @ m @ bilinear_matrix(m.shape[1], 256).T
        scores.append(cv2.GaussianBlur(heat, (0, 0), 2.7))
        mask = np.zeros((256, 256), np.uint8) if path is None else cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        truth.append(cv2.resize(mask, (256, 256), interpolation=cv2.INTER_NEAREST) > 127)
    return auroc(np.concatenate(scores).ravel(), np.concatenate(truth).ravel().astype(np.int64))


def run_study(names: Sequence[str], settings: list[Setting], cache: Path, out: Path) -> None:
    """The settings on parts of the sets. Rows of other sets and settings that are there stay."""
    path = out / "quality.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    for name in names:
        data = data_of(name)
        if data is None:
            print(f"{name}: not at hand")
            continue
        features, maps = Features(data, cache), dict[str, list[FloatArray]]()
        about = {"train": len(data.train), "good": int((data.labels == 0).sum()), "bad": int(data.labels.sum())}
        for setting in settings:
            took: dict[str, float] = {}
            if setting.parts:
                maps[setting.name] = averaged([maps[part] for part in setting.parts])
            else:
                maps[setting.name], took = patch_maps(features, setting)
            row = {"set": name, "setting": setting.name, **about, **took, **judged(data, maps[setting.name])}
            rows = [each for each in rows if (each["set"], each["setting"]) != (name, setting.name)] + [row]
            print(row, flush=True)
            run = {each["setting"] for each in rows}
            save(out, "quality", {"rows": rows, "settings": [s.name for s in study() if s.name in run]})
    plot(rows, out / "quality.png")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Each setting's gain over the base in image AUROC, a point a data set and a bar for their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by = {(row["set"], row["setting"]): 100 * row["top 1 %"] for row in rows}
    names = sorted({row["set"] for row in rows}, key=SETS.index)
    settings = [s for s in dict.fromkeys(row["setting"] for row in rows) if all((n, s) in by for n in names)]
    gains = {s: [by[n, s] - by[n, "base"] for n in names] for s in settings if s != "base"}
    order = sorted(gains, key=lambda s: float(np.mean(gains[s])))
    figure, axes = pyplot.subplots(figsize=(8, 0.26 * len(order) + 1.2), layout="constrained")
    axes.barh(order, [float(np.mean(gains[s])) for s in order], color="#d0d4da")
    for number, name in enumerate(names):
        axes.plot([gains[s][number] for s in order], order, "o", ms=4, label=name)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel("image AUROC against the base, points (bar: mean of the sets)")
    axes.legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


LABELS = {
    **PRESETS,
    "balanced, Lite0": {"backbone": "efficientnet_lite0"},
}


def run_presets(names: Sequence[str], labels: Sequence[str], out: Path) -> None:
    """Whole sets, the library's own fit and evaluation. Rows of other sets and presets that are there stay."""
    from patchbank import evaluate, read_dataset

    path = out / "presets.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    for label in labels:
        changes = LABELS[label]
        for name in names:
            rows = [row for row in rows if (row["set"], row["preset"]) != (name, label)]
            config = Config(**{**changes, "thumbnail_size": 0})
            start = time.perf_counter()
            if name == "elpv":
                row = _whole_elpv(config)
            elif not (DATA / name).is_dir():
                print(f"{name}: not at hand")
                continue
            else:
                data = read_dataset(DATA / name)
                model = PatchCore.fit([sample.path for sample in data.train], config)
                fitted = time.perf_counter() - start
                others = Others()
                found = evaluate(model, data, each=lambda sample, result, o=others: o.add(result, sample.defective))
                row = {"fit_s": fitted, "image": found.image_auroc, "pixel": found.pixel_auroc, "aupro": found.aupro}
                row |= {"bank": len(model.bank), **others.aurocs()}
            rows.append({"set": name, "preset": label, **row})
            print(rows[-1], flush=True)
            save(out, "presets", {"rows": rows})


class Others:
    """What other image scores would have made of the same patch scores."""

    def __init__(self) -> None:
        self._scores: dict[str, list[float]] = {}
        self._defective: list[bool] = []

    def add(self, result: Result, defective: bool) -> None:
        scaled, plain, counted = result.patch_scores, result.distances, result.counted
        fraction, sigma = Config().top_fraction, Config().score_smoothing
        values = {
            "largest patch": scaled.max(),
            "neither": scoring.top_fraction_mean(plain, fraction),
            "not smoothed": scoring.top_fraction_mean(scaled, fraction),
            "not scaled": scoring.top_fraction_mean(smoothed(plain, sigma, counted), fraction),
        }
        for name, value in values.items():
            self._scores.setdefault(name, []).append(float(value))
        self._defective.append(defective)

    def aurocs(self) -> dict[str, float | None]:
        return {name: auroc(np.array(scores), np.array(self._defective)) for name, scores in self._scores.items()}


def _whole_elpv(config: Config) -> dict[str, Any]:
    """Functional cells train, four in five; probability 1 is defective."""
    train, test, defective = default_size.elpv()
    start = time.perf_counter()
    model = PatchCore.fit(train, config)
    fitted = time.perf_counter() - start
    scores, others = [], Others()
    for result, bad in zip(model.predict(iter(test)), defective, strict=True):
        scores.append(result.score)
        others.add(result, bool(bad))
    image = auroc(np.array(scores), defective)
    row = {"fit_s": fitted, "image": image, "pixel": None, "aupro": None, "bank": len(model.bank)}
    return row | others.aurocs()


def run_cost(out: Path) -> None:
    """Wall time of one image, file to anomaly map: all in turn on the same images, so that noise meets all."""
    folder = DATA / "bottle" / "train" / "good"
    paths = sorted(folder.iterdir())[:40] if folder.is_dir() else []
    if not paths:
        print("bottle: not at hand")
        return
    models = {
        name: PatchCore.fit(paths[:24], Config(**{**changes, "thumbnail_size": 0})) for name, changes in LABELS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for path in (paths[0], *paths[24:]):
        for name, model in models.items():
            start = time.perf_counter()
            _ = model.predict(path).anomaly_map
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: float(np.median(values[1:])) for name, values in times.items()}  # the first warms up
    rows = [
        {"preset": name, "ms": ms, "ratio": ms / medians["balanced"], "bank": len(models[name].bank)}
        for name, ms in medians.items()
    ]
    print(rows)
    save(out, "cost", {"rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", action="store_true", help="whole sets, each preset")
    parser.add_argument("--cost", action="store_true", help="what an image costs, each preset")
    parser.add_argument("--sets", nargs="+", default=None, choices=SETS)
    parser.add_argument("--settings", nargs="+", help="only these of the study (and the base)")
    parser.add_argument("--labels", nargs="+", default=list(LABELS), choices=LABELS, help="only these presets")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "patchbank-quality")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.cost:
        run_cost(options.out)
        return
    if options.presets:
        run_presets(options.sets or SETS[:-1], options.labels, options.out)
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    settings = [s for s in study() if not options.settings or s.name in (*options.settings, "base")]
    run_study(options.sets or SETS, settings, options.cache, options.out)


if __name__ == "__main__":
    main()
