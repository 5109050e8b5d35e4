"""The same features on every processor, for networks in 8 bits: held against those of emulated processors, in which
ONNX Runtime takes other paths (AVX2 without VNNI; SSE4 without AVX, FMA and FMA's rounding)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parts import striped
from patchbank import Config, PatchCore

EMULATOR = shutil.which("qemu-x86_64")
PROCESSORS = ("Haswell", "Nehalem")
SCRIPT = """
import sys
import numpy as np
import onnxruntime
settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads, settings.log_severity_level = 1, 4
session = onnxruntime.InferenceSession(sys.argv[1], settings, providers=["CPUExecutionProvider"])
images = np.load(sys.argv[2])
np.savez(sys.argv[3], *session.run(None, {session.get_inputs()[0].name: images}))
"""


@pytest.fixture(scope="module")
def models() -> dict[str, PatchCore]:
    """A model of each precision, of the same images."""
    rng = np.random.default_rng(0)
    images = [striped(rng) for _ in range(4)]
    options = {"backbone": "efficientnet_lite0", "image_size": 96, "coreset_size": 40, "calibration": "none"}
    return {name: PatchCore.fit(images, Config(precision=name, **options)) for name in ("int8", "float32")}


def features(model: PatchCore, processor: str, folder: Path, image: Any) -> list[Any]:
    """The network's maps of an image, on a processor; "" = this one."""
    network, pixels, found = folder / "n.onnx", folder / "x.npy", folder / f"{processor}.npz"
    network.write_bytes(model.backbone.to_onnx())
    np.save(pixels, image)
    emulator = [str(EMULATOR), "-cpu", processor] if processor else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [*emulator, str(Path(sys.executable).resolve()), "-c", SCRIPT, str(network), str(pixels), str(found)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(found) as maps:
        return [maps[name] for name in maps.files]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="emulates processors of this kind only")
@pytest.mark.skipif(EMULATOR is None, reason="qemu-x86_64 is not installed (Debian: apt-get install qemu-user)")
def test_features_in_8_bits_are_the_same_bits_on_other_processors(models: Any, tmp_path: Path) -> None:
    """Real weights, all channels, noise that reaches the ends of the ranges; of float32, some bits differ, so that the
    emulation does compute something else."""
    image = np.random.default_rng(1).integers(0, 256, (1, 3, 96, 64)).astype(np.float32)
    image = (image - 127) / 128
    here = features(models["int8"], "", tmp_path, image)
    for layer, values in zip(models["int8"].backbone.features(image), here, strict=True):
        np.testing.assert_array_equal(layer, values)  # whatever the threads
    for processor in PROCESSORS:
        for layer, values in zip(features(models["int8"], processor, tmp_path, image), here, strict=True):
            np.testing.assert_array_equal(layer, values, err_msg=processor)
    exact = features(models["float32"], "", tmp_path, image)
    other = features(models["float32"], "Nehalem", tmp_path, image)
    assert any((a != b).any() for a, b in zip(exact, other, strict=True))
