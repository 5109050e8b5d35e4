"""What the base install weighs and how long its parts take to import; evidence for docs/adr/0001-dependencies.md.

    python -m venv fresh && fresh/bin/pip install . && fresh/bin/python tools/measure_install.py [--limit-mb 450]
        [--json benchmarks/results/install.json]

To be run in an environment that holds nothing but patchbank. Sizes are those of the files that pip recorded, with the
byte code that it compiled; pip itself does not count. With --limit-mb, exits with 1 if the sum is not below that many
MiB; with --over FILE, an earlier result, if it is not below that many MiB more than there: what an extra weighs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

NOT_OURS = {"pip", "setuptools", "wheel"}
IMPORTS = ("patchbank", "numpy", "onnxruntime", "onnx", "cv2", "safetensors.numpy", "threadpoolctl", "typer", "rich")
MIB = 1 << 20


def sizes() -> dict[str, dict[str, float]]:
    """{distribution: {"mib": with byte code, "mib_without_bytecode": without}}, largest first."""
    found = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name.lower() in NOT_OURS:
            continue
        files = {Path(str(file.locate())) for file in distribution.files or ()}
        weights = {path: path.stat().st_size for path in files if path.is_file()}
        plain = sum(size for path, size in weights.items() if path.suffix != ".pyc")
        found[f"{name} {distribution.version}"] = {
            "mib": sum(weights.values()) / MIB,
            "mib_without_bytecode": plain / MIB,
        }
    return dict(sorted(found.items(), key=lambda item: -item[1]["mib"]))


def import_milliseconds(module: str, repetitions: int = 5) -> float:
    """Median time to import a module in a fresh interpreter, less the interpreter's own start."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # noqa: S603  (our own code)
        return 1000 * (time.perf_counter() - start)

    run(f"import {module}")  # the first import reads from disk and compiles
    return statistics.median(run(f"import {module}") - run("pass") for _ in range(repetitions))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit-mb", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--over", type=Path)
    arguments = parser.parse_args()
    table = sizes()
    total = sum(row["mib"] for row in table.values())
    plain = sum(row["mib_without_bytecode"] for row in table.values())
    print(f"site-packages: {total:.0f} MiB, of which {total - plain:.0f} MiB byte code; largest: ", end="")
    print(", ".join(f"{name} {row['mib']:.0f}" for name, row in list(table.items())[:6]))
    if arguments.json:
        times = {module: round(import_milliseconds(module), 1) for module in IMPORTS}
        result = {
            "script": "tools/measure_install.py",
            "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "total_mib": round(total, 1),
            "total_mib_without_bytecode": round(plain, 1),
            "distributions": {n: {k: round(v, 2) for k, v in row.items()} for n, row in table.items()},
            "import_ms": times,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {arguments.json}")
    if arguments.over:
        total -= json.loads(arguments.over.read_text())["total_mib"]
        print(f"that is {total:.1f} MiB more than before")
    if arguments.limit_mb is not None and total >= arguments.limit_mb:
        sys.exit(f"site-packages: expected less than {arguments.limit_mb} MiB, got {total:.0f}")


if __name__ == "__main__":
    main()
