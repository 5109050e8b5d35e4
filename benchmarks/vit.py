"""What a vision transformer costs: DINOv2-S/14 and DINOv3-S/16 against the default network, at several sizes.

    pip install -e '.[torch]' && python benchmarks/vit.py [--quick] [--out DIR]

The networks are exported here, from timm, with random weights: what a network costs does not depend on them, and what
it finds is not measured. All run in one process, one after the other in each round, with the threads that patchbank
takes. The ratio is that of all processors' seconds, which other programs on the machine disturb less than the clock.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from _common import arguments, save
from patchbank import Config
from patchbank.backbones import Backbone, load_backbone
from patchbank.backbones.export import export
from patchbank.imaging.images import input_size

NETWORKS = ("vit_small_patch14_dinov2", "vit_small_patch16_dinov3")
SIZES, QUICK = (384, 512, 768), (224,)
ROUNDS = 15


def cost(backbone: Backbone, images: np.ndarray) -> tuple[float, float]:
    """Seconds of all processors together, and by the clock, for one image."""
    clock, processors = time.perf_counter(), time.process_time()
    backbone.features(images)
    return time.process_time() - processors, time.perf_counter() - clock


def main() -> int:
    options = arguments(__doc__)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        backbones = {Config().backbone: load_backbone(Config().backbone)}
        for name in NETWORKS:
            path = export(name, Path(folder) / f"{name}.onnx", pretrained=False)
            backbones[name] = load_backbone(str(path))
        for size in QUICK if options.quick else SIZES:
            sides = {n: input_size((size,), (1, 1), 2048, b.info.side_step) for n, b in backbones.items()}
            images = {
                name: np.random.default_rng(0).standard_normal((1, 3, *side), dtype=np.float32)
                for name, side in sides.items()
            }
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in backbones}
            for _ in range(2 if options.quick else ROUNDS + 1):
                for name, backbone in backbones.items():
                    taken[name].append(cost(backbone, images[name]))
            medians = {name: np.median(each[1:], axis=0) for name, each in taken.items()}  # the first one warms up
            base = medians[Config().backbone]
            for name, (processors, clock) in medians.items():
                maps = backbones[name].features(images[name])
                rows.append(
                    {
                        "backbone": name,
                        "image_size": size,
                        "input": "x".join(map(str, sides[name])),
                        "patches": maps[0].shape[2] * maps[0].shape[3],
                        "dimensions": sum(m.shape[1] for m in maps),
                        "processor_ms": round(1e3 * float(processors), 1),
                        "ms": round(1e3 * float(clock), 1),
                        "ratio": round(float(processors / base[0]), 2),
                        "network_mb": round(len(backbones[name].to_onnx()) / 1e6, 1),
                    }
                )
                print(rows[-1], flush=True)
    save(options.out, "vit", {"rows": rows})
    if options.quick and not all(3 < row["ratio"] < 60 for row in rows if row["backbone"] in NETWORKS):
        print("a vision transformer's cost is far from what it was", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
