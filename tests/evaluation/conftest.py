"""A data set on disk, small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_model import touch, write_mask


@pytest.fixture
def category(tmp_path: Path) -> Path:
    """Three images to train on; two good and three defective ones of two kinds to test on, with masks."""
    root = tmp_path / "part"
    for name in ("train/good/0", "train/good/1", "train/good/2", "test/good/0", "test/good/1"):
        touch(root / f"{name}.png")
    for name in ("dent/0", "dent/1", "scratch/0"):
        touch(root / "test" / f"{name}.png")
        write_mask(root / "ground_truth" / f"{name}_mask.png")
    return root
