"""The same numbers on every processor: whole predictions of 8-bit models, the network included, to the last bit.

Libraries choose their code by the processor's instructions. Some can be told to do without newer ones; `qemu-x86_64`
(Debian: qemu-user) is another processor altogether, for every library at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from parts import noisy, striped
from patchbank import Config, PatchCore

SCRIPT = Path(__file__).parents[1] / "tools" / "same_numbers.py"
CONFIG = Config(
    backbone="efficientnet_lite0", layers=("blocks.1", "blocks.2"), image_size=64, coreset_size=120, precision="int8"
)
# All that the first one does not do.
OTHER = dataclasses.replace(
    CONFIG,
    embedding="reference",
    pretrain_embed_dim=60,
    target_embed_dim=45,
    patch_size=5,
    num_neighbours=3,
    image_score="reweighted",
    ignore="0,0 0.4,0 0,0.4",
    confidence=0.9,
    max_false_alarms=0.2,
)
Numbers = dict[str, dict[str, dict[str, str]]]  # model, image, stage -> digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and images that are shrunk, enlarged, grey, of 16 bits, and in several formats."""
    folder, rng = tmp_path_factory.mktemp("numbers"), np.random.default_rng(3)
    parts = [striped(rng, size=(120, 150)) for _ in range(24)]
    for name, config in (("plain", CONFIG), ("other", OTHER)):
        PatchCore.fit(parts, config).save(folder / f"{name}.patchbank")
    images = {
        "good.jpg": striped(rng, size=(151, 187)),
        "bad.png": striped(rng, defect=True, size=(250, 301)),
        "small.webp": striped(rng, stain=True, size=(60, 77)),
        "grey.jpg": noisy(striped(rng, size=(131, 144))[:, :, 0], rng, 2),
        "deep.png": striped(rng, defect=True, size=(133, 100)).astype(np.uint16) * 251,
    }
    for name, image in images.items():
        assert cv2.imwrite(str(folder / name), image)
    return folder


def numbers(folder: Path, before: tuple[str, ...] = (), after: tuple[str, ...] = (), **env: str) -> Numbers:
    """What tools/same_numbers.py prints, in a process of its own."""
    paths = sorted(path.name for path in folder.iterdir())
    command = [*before, sys.executable, str(SCRIPT), *paths, *after]
    environment = {**os.environ, **env}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: Numbers = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def here(folder: Path) -> Numbers:
    """The numbers of this processor."""
    found = numbers(folder)
    for model in ("plain.patchbank", "other.patchbank"):
        assert len({each["score"] for each in found[model].values()}) == 5
        assert any(each["verdict"].startswith("ng") for each in found[model].values())
    return found


def different(here: Numbers, there: Numbers) -> list[str]:
    """The stages that differ; the first of an image is where it began."""
    return [
        f"{model}, {name}: {stage}"
        for model, images in here.items()
        for name, stages in images.items()
        for stage, digest in stages.items()
        if digest != there[model][name][stage]
    ]


def dispatched() -> str:
    """The instructions that NumPy can do without."""
    module: Any = getattr(np, "_core", None) or np.core
    return " ".join(module._multiarray_umath.__cpu_dispatch__)


OLD = {
    "NPY_DISABLE_CPU_FEATURES": dispatched(),
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENCV_CPU_DISABLE": "SSE4.1,SSE4.2,AVX,AVX2,FP16,AVX512-SKX",
    "OPENCV_IPP": "disabled",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable",
    "PATCHBANK_NATIVE": "any",
}
WAYS: dict[str, dict[str, str]] = {
    "without newer instructions": OLD,
    "without the compiled part": {"PATCHBANK_NATIVE": "0"},
    "AVX2 only": {"PATCHBANK_NATIVE": "avx2", "OPENBLAS_CORETYPE": "Haswell", "OPENCV_IPP": "avx2"},
}


@pytest.mark.parametrize("way", WAYS)
def test_libraries_that_do_without_newer_instructions_give_the_same_numbers(
    folder: Path, here: Numbers, way: str
) -> None:
    assert different(here, numbers(folder, **WAYS[way])) == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not limit a process to a processor")
def test_one_thread_gives_the_same_numbers(folder: Path, here: Numbers) -> None:
    assert different(here, numbers(folder, after=("--one-processor",))) == []


QEMU = shutil.which("qemu-x86_64")


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="emulates x86-64 on x86-64 Linux")
@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed (Debian: apt-get install qemu-user)")
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell"])
def test_other_processors_give_the_same_numbers(folder: Path, here: Numbers, processor: str) -> None:
    """Nehalem (2008) is the oldest that NumPy runs on; Haswell (2013) brought AVX2 and FMA, and has no VNNI.

    NumPy does without AVX2 there, because QEMU 7.2 crashes in its sorting.
    """
    before = (str(QEMU), "-cpu", processor)
    assert different(here, numbers(folder, before, NPY_DISABLE_CPU_FEATURES=dispatched())) == []
