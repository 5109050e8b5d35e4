"""Weights and images that NumPy makes again anywhere, so that golden files need not hold them. No torch here."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def seeded_state(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, Array]:
    """Name -> weights drawn from a generator seeded by the name; batch norms get statistics far from 0 and 1."""
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes}


def seeded_images(seed: int, height: int, width: int) -> Array:
    """(2, 3, height, width) standard normal."""
    return np.random.default_rng(seed).standard_normal((2, 3, height, width), dtype=np.float32)


def sample(values: Array, count: int = 400) -> Array:
    """About `count` values, evenly spread through the array in memory order (a prime step visits rows and channels)."""
    flat = values.reshape(-1)  # (B C H W,)
    step = max(1, flat.size // count) | 1
    return np.concatenate([flat[::step], flat[-1:]])


def _tensor(name: str, shape: tuple[int, ...]) -> Array:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:  # (C_out, C_in/groups, k, k): keeps the variance through a ReLU
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if len(shape) == 2:  # (C_out, C_in): keeps the variance
        return rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[1]))
    if name.endswith((".running_var", ".weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (0.2 * rng.standard_normal(shape)).astype(np.float32)
