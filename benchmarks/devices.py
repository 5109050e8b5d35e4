"""The network on another device: what it saves, and whether the scores stay what they are on the CPU.

    python benchmarks/devices.py [--quick] [--out DIR] [--devices cpu cuda]

In one process, on the same images: a fit on each device; then the model that was fitted on the CPU inspects the test
images on each device, one at a time by stage, and as a stream. Without `--devices`: all that ONNX Runtime has here.
The first image on a device, which compiles its kernels, is reported apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, RESULTS, save
from patchbank import Config, PatchCore, Runtime
from patchbank.backbones.session import DEVICES
from predict import images, whole

ROUNDS = 3


def present() -> list[str]:
    """The devices that ONNX Runtime has an execution provider for, the CPU first; TensorRT only when asked for."""
    from patchbank.backbones.session import import_onnxruntime

    onnxruntime = import_onnxruntime()

    available = onnxruntime.get_available_providers()
    return ["cpu", *(d for d, (p, _) in DEVICES.items() if p in available and d not in ("cpu", "tensorrt"))]


def inspect(model: PatchCore, paths: list[Path]) -> dict[str, Any]:
    """Milliseconds of the first image, of the others by stage, and of a stream; and all scores."""
    start = time.perf_counter()
    model.predict(paths[0])
    first = time.perf_counter() - start
    walls, stages = np.full(len(paths), np.inf), [dict[str, float]() for _ in paths]
    for _ in range(ROUNDS):
        for number, path in enumerate(paths):
            start = time.perf_counter()
            found = whole(model, path)
            walls[number] = min(walls[number], time.perf_counter() - start)
            stages[number] = {stage: min(stages[number].get(stage, np.inf), s) for stage, s in found.items()}
    streams, results = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        results = list(model.predict(iter(paths)))
        streams.append((time.perf_counter() - start) / len(paths))
    return {
        "first_ms": round(1e3 * first, 1),
        "whole_ms": round(1e3 * float(np.median(walls)), 2),
        "stream_ms": round(1e3 * min(streams), 2),
        "stages_ms": {stage: round(1e3 * float(np.median([s[stage] for s in stages])), 3) for stage in stages[0]},
        "scores": [result.score for result in results],
        "verdicts": [result.is_anomalous for result in results],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: a small bank of a few images")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    parser.add_argument("--devices", nargs="+", default=present(), help="cpu, cuda, ...")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in [s for s in ("bottle", "screw", "mtd") if (DATA / s).is_dir() and not options.quick] or ["synthetic"]:
        with tempfile.TemporaryDirectory() as folder:
            train, test = images(name, Path(folder))
            config = Config(coreset_size=500) if options.quick else Config()
            file, expected = Path(folder) / "cpu.patchbank", np.empty(0)
            for device in dict.fromkeys(["cpu", *options.devices]):
                runtime = Runtime(device=device)
                PatchCore.fit(train[:3], Config(coreset_size=100), runtime=runtime)  # compiles the device's kernels
                start = time.perf_counter()
                fitted = PatchCore.fit(train, config, runtime=runtime)
                fit_s = time.perf_counter() - start
                if device == "cpu":
                    fitted.save(file)
                model = PatchCore.load(file, runtime=runtime)
                found = inspect(model, test)
                scores, verdicts = np.array(found.pop("scores")), found.pop("verdicts")
                expected = scores if device == "cpu" else expected
                rows.append(
                    {
                        "set": name,
                        "device": device,
                        "training_images": len(train),
                        "bank": len(model.bank),
                        "fit_s": round(fit_s, 2),
                        **found,
                        "images": len(test),
                        "anomalous": sum(map(bool, verdicts)),
                        "largest_relative_difference": float(np.abs(scores / expected - 1).max()),
                    }
                )
                print(rows[-1], flush=True)
        save(options.out, "devices", {"gpu": gpu(), "rows": rows})
    worst = max(row["largest_relative_difference"] for row in rows)
    if options.quick and worst > 1e-3:
        print(f"scores differ by {worst:.2g} of themselves between devices", file=sys.stderr)
        return 1
    return 0


def gpu() -> str | None:
    """The NVIDIA card's name, where there is one."""
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


if __name__ == "__main__":
    sys.exit(main())
