"""How much do the self-test's images differ on other machines, and how much after a fault? Its tolerance lies between.

    python benchmarks/self_test.py [--quick] [--out DIR]

Rounding: the model's file is loaded in other processes, with other numbers of threads, with NumPy in place of the
compiled part, with BLAS kernels of other processors, and, where qemu-x86_64 is installed, on an emulated processor
without AVX, where every kernel of ONNX Runtime is another one. Faults: one thing of the model is changed at a time. A
difference is a share of a patch's length. Also: how much larger the file becomes, and how long fit and self-test take.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from _common import arguments, save, training_images
from patchbank import Config, PatchCore
from patchbank.backbones.session import OnnxBackbone
from patchbank.fit import self_test as keeping
from patchbank.inspection.self_test import TOLERANCE, scored_again

_ONE = """
import json, sys
from patchbank import PatchCore, Runtime
from patchbank.inspection.self_test import scored_again
model = PatchCore.load(sys.argv[1], runtime=Runtime(threads=int(sys.argv[2])))
print(json.dumps([each.difference for each in scored_again(model)]))
"""
_BLAS = ("Nehalem", "Haswell", "SkylakeX")
_EMULATED = "Nehalem"  # qemu gets NumPy's sorting with AVX2 wrong


def elsewhere(path: Path, threads: int = 0, emulated: str | None = None, **environment: str) -> float | None:
    """The largest difference in a process of its own; None where it does not run."""
    before = [shutil.which("qemu-x86_64") or "", "-cpu", emulated] if emulated else []
    done = subprocess.run(
        [*before, sys.executable, "-c", _ONE, str(path), str(threads)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return max(json.loads(done.stdout)) if done.returncode == 0 else None


def rounding(path: Path, quick: bool) -> dict[str, float | None]:
    """The largest difference on each other way to compute."""
    found = {
        "as it was made": elsewhere(path),
        "1 thread": elsewhere(path, threads=1, OMP_NUM_THREADS="1"),
        "3 threads": elsewhere(path, threads=3),
        "NumPy in place of the compiled part": elsewhere(path, PATCHBANK_NATIVE="0"),
    }
    if not quick:
        found |= {f"BLAS for {each}": elsewhere(path, OPENBLAS_CORETYPE=each) for each in _BLAS}
        if shutil.which("qemu-x86_64"):
            found[f"emulated {_EMULATED}, without AVX"] = elsewhere(path, emulated=_EMULATED)
    return found


def faults(model: PatchCore) -> dict[str, float]:
    """The largest difference after each change of one thing."""
    info, bank, rng = model.backbone.info, model.bank, np.random.default_rng(0)
    swapped = dataclasses.replace(info, mean=info.mean[::-1], std=info.std[::-1])
    brighter = dataclasses.replace(info, mean=tuple(value - 1 for value in info.mean))
    noise = rng.normal(0, 1e-3, bank.vectors.shape) * np.linalg.norm(bank.vectors, axis=1, keepdims=True)
    changed: dict[str, PatchCore] = {
        "images one grey level brighter": _network(model, info=brighter),
        "weights of 16 bits": _network(model, weights=lambda w: w.astype(np.float16).astype(np.float32)),
        "weights of bfloat16": _network(model, weights=_bfloat16),
        "one weight of the first layer doubled": _network(model, weights=_Doubled()),
        "bank of 16 bits": _vectors(model, bank.vectors.astype(np.float16).astype(np.float32)),
        "noise of 0.1 % in the bank": _vectors(model, (bank.vectors + noise / bank.vectors.shape[1] ** 0.5)),
        "a tenth of the bank missing": _vectors(model, bank.vectors[rng.permutation(len(bank))[len(bank) // 10 :]]),
        "patches of 5 x 5": dataclasses.replace(model, config=dataclasses.replace(model.config, patch_size=5)),
    }
    if swapped != info:
        changed["red and blue swapped in the statistics"] = _network(model, info=swapped)
    return {name: max(each.difference for each in scored_again(each)) for name, each in changed.items()}


def _vectors(model: PatchCore, vectors: Any) -> PatchCore:
    from patchbank.search.searcher import build_searcher

    vectors = np.ascontiguousarray(vectors, np.float32)
    rows = {name: getattr(model.bank, name)[: len(vectors)] for name in ("image", "row", "column")}
    bank = dataclasses.replace(model.bank, vectors=vectors, **rows)
    return dataclasses.replace(model, bank=bank, searcher=build_searcher(vectors, model.config))


def _network(model: PatchCore, info: Any = None, weights: Callable[[Any], Any] | None = None) -> PatchCore:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model.backbone.to_onnx())
    for each in graph.graph.initializer if weights else ():
        values = numpy_helper.to_array(each)
        if values.dtype == np.float32 and values.ndim == 4:
            assert weights is not None
            each.CopyFrom(numpy_helper.from_array(weights(values), each.name))
    backbone = OnnxBackbone(graph.SerializeToString(), info or model.backbone.info)
    return dataclasses.replace(model, backbone=backbone)


def _bfloat16(weights: Any) -> Any:
    return (weights.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


class _Doubled:
    """Changes one weight of the first layer that it meets."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, weights: Any) -> Any:
        if not self.done:
            weights = weights.copy()
            weights.reshape(-1)[np.abs(weights).argmax()] *= 2
            self.done = True
        return weights


def timed_fit(paths: list[Path], images: int) -> tuple[PatchCore, float]:
    """A fit with so many images for its self-test, and its seconds."""
    before, keeping.IMAGES = keeping.IMAGES, images
    try:
        start = time.perf_counter()
        return PatchCore.fit(paths, Config()), time.perf_counter() - start
    finally:
        keeping.IMAGES = before


def main() -> int:
    options = arguments(__doc__ or "")
    results: dict[str, Any] = {"tolerance": TOLERANCE, "sets": {}}
    for name in ("bottle", "screw", "mtd"):
        paths = training_images(name)[: 20 if options.quick else 100]
        if not paths or (options.quick and name != "bottle"):
            continue
        bare, without = timed_fit(paths, 0)
        model, with_images = timed_fit(paths, keeping.IMAGES)
        with tempfile.TemporaryDirectory() as folder:
            sizes = []
            for number, each in enumerate((bare, model)):
                each.save(Path(folder, f"{number}.patchbank"))
                sizes.append(Path(folder, f"{number}.patchbank").stat().st_size)
            path = Path(folder, "1.patchbank")
            loaded = PatchCore.load(path)
            start = time.perf_counter()
            loaded.run_self_test()
            results["sets"][name] = {
                "images": len(paths),
                "kept": len(model.self_test_images),
                "file_bytes_without": sizes[0],
                "file_bytes": sizes[1],
                "fit_s_without": round(without, 2),
                "fit_s": round(with_images, 2),
                "self_test_s": round(time.perf_counter() - start, 3),
                "rounding": rounding(path, options.quick),
                "faults": faults(loaded),
            }
        print(json.dumps(results["sets"][name], indent=1))
    found = list(results["sets"].values())
    if not found:
        print("no real images at hand: nothing measured")
        return 0
    results["largest_rounding"] = max(
        value for each in found for value in each["rounding"].values() if value is not None
    )
    results["smallest_fault"] = min(value for each in found for value in each["faults"].values())
    print(f"largest rounding {results['largest_rounding']:.1e}, smallest fault {results['smallest_fault']:.1e}")
    save(options.out, "self_test", results)
    return 0 if results["largest_rounding"] < TOLERANCE / 3 and results["smallest_fault"] > 3 * TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
