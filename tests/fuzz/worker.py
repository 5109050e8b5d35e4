"""The child process: makes and runs cases, by their numbers, as they come on stdin; one line of JSON for each on
stdout."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.errors import PatchbankError

TARGETS = {
    "models": "model_files.Target",
    "checkpoints": "checkpoints.Target",
    "onnx": "onnx_files.Target",
    "images": "pictures.Target",
    "csv": "texts.Csv",
    "toml": "texts.Toml",
    "partial": "partial.Target",
    "modbus": "frames.Target",
}


def make(name: str, folder: Path) -> Any:
    """A target by its name."""
    module, kind = TARGETS[name].split(".")
    return getattr(importlib.import_module(f"tests.fuzz.{module}"), kind)(folder)


def attempt(target: Any, name: str, number: int) -> dict[str, Any]:
    """Makes a case and runs it. error: the traceback of what should not have come out, or None."""
    _forget_peak()
    start, error, path = time.process_time(), None, None
    try:
        path = target.case(np.random.default_rng([list(TARGETS).index(name), number]))
        target.run(path)
    except PatchbankError:
        pass
    except Exception:  # noqa: BLE001  (this is what it looks for)
        error = traceback.format_exc()
    spent = time.process_time() - start
    return {"case": number, "error": error, "path": path and str(path), "seconds": spent, "peak": _peak()}


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Bytes of memory at most since `_forget_peak`; 0 where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Runs until stdin ends."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    warnings.simplefilter("ignore")
    name, out = sys.argv[1], sys.stdout
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr), open(os.devnull, "w") as nothing:  # noqa: PTH123
        with redirect_stderr(nothing):
            target = make(name, Path(folder))
        print("ready", file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps(attempt(target, name, int(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
