"""A fitted model as one ONNX graph, from the image to the verdict, for images of one size. Each line of
`inspection_graph` is a step of `inspection/inspect.py`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patchbank.backbones.session import MAX_ONNX_BYTES
from patchbank.calibration.image_check import MEASURES
from patchbank.errors import ConfigError
from patchbank.export import preprocessing, scores, verdict
from patchbank.export.graph import Graph, opset_of
from patchbank.export.patches import Shape, embedded
from patchbank.fitted.model import FittedModel
from patchbank.imaging.formats import max_pixels
from patchbank.imaging.images import MIN_SIDE, input_size

_MOST_BYTES = int(0.9 * MAX_ONNX_BYTES)  # what is left is for the constants of resizing, and of the image check
MASK = 255  # in the mask, of a pixel that is over the threshold


@dataclass(frozen=True)
class Plan:
    """What is fixed in a graph. size, input_size: (height, width) of its images, and of what the network gets. shapes:
    (C_l, H_l, W_l) of the network's maps."""

    size: tuple[int, int]
    input_size: tuple[int, int]
    shapes: tuple[Shape, ...]


def plan_for(model: FittedModel, size: tuple[int, int]) -> Plan:
    """Returns what a graph for images of (height, width) has to fix. Raises ConfigError, with what to do, where no
    graph does what the library does."""
    config = model.config
    if config.channels:
        raise ConfigError(f"export: expected a model of colour or grey images; got one of {config.channels} channels")
    if config.white is not None:
        raise ConfigError(
            f"export: expected a model of 8-bit images; got one whose white is {config.white:g}: fit it with images "
            "that were converted to 8 bits, and without white"
        )
    if config.search == "ivf":
        raise ConfigError(
            "export: expected exact search; got search = 'ivf', whose scores a graph cannot repeat: fit with "
            "search = 'exact'"
        )
    if min(size) < MIN_SIDE or size[0] * size[1] > max_pixels():
        raise ConfigError(
            f"input_size: expected sides of at least {MIN_SIDE} pixels, and {max_pixels():,} pixels at most; got "
            f"{size[0]}x{size[1]}"
        )
    sides = input_size(config.image_size, size, config.tile_size, model.backbone.info.side_step)
    if max(sides) > config.tile_size:
        raise ConfigError(
            f"export: images of {size[0]}x{size[1]} pixels go through the network as {sides[0]}x{sides[1]}, in tiles "
            f"of {config.tile_size}, which a graph does not have: fit with a larger tile_size or a smaller image_size"
        )
    maps = model.backbone.features(np.zeros((1, 3, *sides), np.float32))
    return Plan(size, sides, tuple((m.shape[1], m.shape[2], m.shape[3]) for m in maps))


def inspection_graph(model: FittedModel, plan: Plan, metadata: dict[str, str]) -> bytes:
    """The ONNX file: takes `image`, (H, W, 3) uint8 RGB, and gives score, p_value, verdict, anomaly_map, mask and,
    where the model has an image check, its measures. Raises ConfigError or BackboneError."""
    onnx, info, roi, config = model.backbone.to_onnx(), model.backbone.info, model.roi, model.config
    if len(onnx) + model.bank.vectors.nbytes > _MOST_BYTES:
        raise ConfigError(
            f"export: expected a network and a bank of at most {_MOST_BYTES:,} bytes, as one ONNX file holds; got "
            f"{len(onnx):,} and {model.bank.vectors.nbytes:,}: thin the bank (--bank-size)"
        )
    g = Graph(opset_of(onnx))
    height, width = plan.size
    pixels = preprocessing.blanked(g, "image", roi.inside(plan.size) if roi else None, info.mean)
    small = preprocessing.resized(g, pixels, plan.size, plan.input_size)  # (3, H', W')
    batch = preprocessing.normalised(g, small, plan.input_size, info.mean, info.std)  # (1, 3, H', W')
    maps = g.network(onnx, batch, [layer.name for layer in info.layers])  # (1, C_l, H_l, W_l) for each
    features, grid = embedded(g, maps, plan.shapes, config)  # (P, D)
    place = np.flatnonzero(roi.inside(grid)).astype(np.int32) if roi else None
    if place is not None and len(place) == 0:
        raise ConfigError(f"input_size: no patch of an image of {height}x{width} pixels lies in the region of interest")
    on_grid = scores.OnGrid(grid, place)
    if place is not None:
        features = g.node("Gather", features, place, axis=0)  # (n, D)
    bank = scores.Bank(g, model.bank.vectors)
    queries = bank.queries(g, features)
    distances, indices = scores.nearest(g, queries, len(on_grid), bank, config.num_neighbours)  # (n, k)
    plain = g.reduced("ReduceMean", distances, [1], keepdims=False)  # (n,)
    patch_scores = scores.scaled(g, plain, features, model.bank.expected)
    if config.image_score == "reweighted":
        about = (bank, model.searcher, config.reweight_neighbours)
        score = scores.reweighted(g, patch_scores, queries, indices, *about)
    else:
        score = scores.image_score(g, patch_scores, on_grid, config)
    odds, above = verdict.p_value(g, score, model.calibration)
    measured = unlike = None
    if model.scene:
        inside = roi.inside(plan.input_size) if roi else None
        sizes = (plan.input_size, plan.size)
        measured = verdict.measures(g, small, features, patch_scores, model.scene, on_grid, *sizes, inside)
        unlike = verdict.outside(g, measured, model.scene)
    decided = verdict.verdict(g, score, above, model.calibration, unlike)
    heat = scores.smoothed(g, on_grid.laid(g, plain), on_grid, plan.input_size, plan.size, config.smoothing_sigma)
    if roi:
        heat = g.node("Where", roi.inside(plan.size), heat, 0.0)
    highest = np.inf if model.pixel_threshold is None else model.pixel_threshold
    over = g.node("Not", g.node("LessOrEqual", heat, float(highest)))
    g.node("Identity", score, name="score")
    g.node("Identity", odds, name="p_value")
    g.node("Identity", decided, name="verdict")
    g.node("Identity", heat, name="anomaly_map")
    g.node("Where", over, np.array(MASK, np.uint8), np.array(0, np.uint8), name="mask")
    outputs = [
        ("score", np.float32, ()),
        ("p_value", np.float32, ()),
        ("verdict", np.int32, ()),
        ("anomaly_map", np.float32, plan.size),
        ("mask", np.uint8, plan.size),
    ]
    if measured:
        g.node("Identity", measured, name="image_check")
        outputs.append(("image_check", np.float32, (len(MEASURES),)))
    return g.build([("image", np.uint8, (height, width, 3))], outputs, metadata)
