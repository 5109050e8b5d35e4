"""Shared fixtures. Real images are found in ../shared/data or in the folder that PATCHBANK_DATA names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from patchbank import native

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime themselves
# No example is late: several test processes share the processors.
settings.register_profile("patchbank", deadline=None)
settings.load_profile("patchbank")

DATA = Path(os.environ.get("PATCHBANK_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets (bottle, screw, mtd), or a skip that says why."""
    if not DATA.is_dir():
        pytest.skip(
            f"real images not found in {DATA}; set PATCHBANK_DATA to a folder that holds bottle/, screw/ and mtd/"
        )
    return DATA


@pytest.fixture
def built() -> None:
    """The compiled part, or a skip that says why; tests/test_search.py fails where it could have been built."""
    if not native.available():
        pytest.skip("the library was not built: pip install -e . where a C compiler is")


_WAYS = {"": "native", "avxvnni": "AVX-VNNI", "avx2": "AVX2", "any": "any processor", "0": "NumPy"}


@pytest.fixture(params=_WAYS, ids=_WAYS.values())
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything must be the same bits in C, on any processor, and in NumPy."""
    monkeypatch.setenv("PATCHBANK_NATIVE", request.param)
    if request.param != "0":
        request.getfixturevalue("built")
    if request.param in ("avxvnni", "avx2") and native.instructions() != request.param:
        pytest.skip(f"this processor, or the compiler, has no {_WAYS[request.param]}")
    return str(request.param)
