"""PatchCore (Roth et al., CVPR 2022, https://arxiv.org/abs/2106.08265) from top to bottom, on NumPy and ONNX Runtime.

    python examples/patchcore_in_100_lines.py GOOD NEW     # two folders of images; prints one score for each new image

A frozen network describes each patch of the good images by a vector. A new image's patch is as odd as its vector is
far from the nearest good one. H, W: an image; H', W': its size for the network; C, h, w: a layer's channels and grid.
"""

import sys
from typing import NamedTuple

import cv2
import numpy as np

from patchbank import find_images, load_backbone

SIZE = (224, 224)  # H', W': what images are resized to
KEPT = 0.01  # share of the training patches that the memory bank keeps


class Inspection(NamedTuple):
    score: float  # the image's: its largest patch score
    patch_scores: np.ndarray  # (h, w)
    anomaly_map: np.ndarray  # (H, W)


def patch_features(image, backbone):
    """(H, W, 3) uint8 RGB -> (h, w, D): one vector a patch, on the grid of the first (finest) layer."""
    mean, std = np.float32(backbone.info.mean), np.float32(backbone.info.std)  # (3,) each
    pixels = (cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA) - mean) / std  # (H, W, 3) -> (H', W', 3)
    batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (H', W', 3) -> (1, 3, H', W')
    layers = [local_mean(layer[0]) for layer in backbone.features(batch)]  # (1, C, h, w) of each layer -> (C, h, w)
    aligned = [bilinear(layer, layers[0].shape[1:]) for layer in layers]  # (C_l, h_l, w_l) -> (C_l, h, w)
    return np.concatenate(aligned).transpose(1, 2, 0)  # (D, h, w) -> (h, w, D), D = sum of C_l


def local_mean(layer):
    """(C, h, w) -> (C, h, w): the mean of each position's 3 x 3 neighbourhood, zeros beyond the border (Eq. 1-2)."""
    padded = np.pad(layer, ((0, 0), (1, 1), (1, 1)))  # (C, h, w) -> (C, h + 2, w + 2)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # -> (C, h, w, 3, 3)
    return around.mean(axis=(3, 4))  # -> (C, h, w)


def bilinear(values, size):
    """(..., h, w) -> (..., *size): linear interpolation along the rows' axis, then along the columns'."""
    for axis, new in zip((-2, -1), size, strict=True):
        old = values.shape[axis]
        at = (np.arange(new) + 0.5) * old / new - 0.5  # (new,): centres of the new positions, counted in old ones
        values = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, values)
    return values.astype(np.float32)


def greedy_coreset(features, count):
    """(N, D) -> (count,) indices: each pick is the vector farthest from all picks before it (Algorithm 1)."""
    picks = [np.square(features - features.mean(axis=0)).sum(axis=1).argmax()]  # the first: farthest from the mean
    nearest = np.full(len(features), np.inf)  # (N,) squared distance to the nearest pick so far
    while len(picks) < count:
        nearest = np.minimum(nearest, np.square(features - features[picks[-1]]).sum(axis=1))
        picks.append(nearest.argmax())
    return np.array(picks)


def fit(images, backbone, kept=KEPT):
    """Images of good parts -> the memory bank, (M, D)."""
    features = np.concatenate([row for image in images for row in patch_features(image, backbone)])  # (w, D) -> (N, D)
    return features[greedy_coreset(features, max(1, int(kept * len(features))))]  # (N, D) -> (M, D)


def inspect(image, backbone, bank):
    """(H, W, 3) uint8 RGB against the bank, (M, D). Scores are Euclidean distances: higher = more anomalous."""
    features = patch_features(image, backbone)  # (h, w, D)
    nearest = [np.linalg.norm(bank - patch, axis=1).min() for patch in np.concatenate(features)]  # h w distances
    scores = np.reshape(nearest, features.shape[:2])  # (h w,) -> (h, w)
    heat = gaussian(bilinear(scores, SIZE), sigma=4)  # (h, w) -> (H', W')
    return Inspection(scores.max(), scores, bilinear(heat, image.shape[:2]))  # (H', W') -> (H, W)


def gaussian(heat, sigma):
    """(H', W') -> (H', W'): smoothed along each axis, mirrored at the border."""
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    kernel /= kernel.sum()
    for axis in (0, 1):
        mirrored = np.pad(heat, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="symmetric")
        heat = np.apply_along_axis(np.convolve, axis, mirrored, kernel, mode="valid")
    return heat


def read(path):
    """A file -> (H, W, 3) uint8 RGB."""
    image = cv2.imread(str(path))
    return image[:, :, ::-1] if image is not None else sys.exit(f"{path}: cannot be read")  # BGR -> RGB


if __name__ == "__main__":
    good, new = sys.argv[1:] if len(sys.argv) == 3 else sys.exit(__doc__)
    network = load_backbone("efficientnet_lite2")  # the paper's: wide_resnet50_2, after `patchbank backbones fetch`
    memory = fit([read(path) for path in find_images(good)], network)
    for path in find_images(new):
        print(f"{inspect(read(path), network, memory).score:8.4f}  {path}")
