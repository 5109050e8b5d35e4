"""The base install, without any extra: import, help, a fit, an inspection, a report. Run in an empty folder.

The tests run with all extras; here is what would go unseen there: a package of an extra that the base needs.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

import patchbank

EXTRAS = ("torch", "timm", "faiss", "matplotlib", "scipy", "sklearn", "PIL", "pytest", "elpv_dataset")
COMMAND = str(Path(sys.executable).with_name("patchbank"))


def run(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command of patchbank, which must end with this exit code."""
    done = subprocess.run([COMMAND, *args], capture_output=True, text=True, check=False)
    assert done.returncode == code, f"patchbank {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def main() -> None:
    """Raises AssertionError where something is not as it should be."""
    found = [name for name in EXTRAS if importlib.util.find_spec(name)]
    assert found == [], f"the base install brings {found}"
    assert "predict" in run("--help").stdout
    assert patchbank.__version__ in run("--version").stdout

    rng = np.random.default_rng(0)
    Path("good").mkdir()
    Path("new").mkdir()
    pictures = np.clip(rng.normal(150, 5, (11, 80, 80, 3)), 0, 255).astype(np.uint8)
    pictures[10, 30:50, 30:50] = 0
    for number, picture in enumerate(pictures):
        assert cv2.imwrite(f"{'good' if number < 9 else 'new'}/{number:02d}.png", picture)
    run("fit", "good", "-o", "part.patchbank", "--image-size", "64")
    lines = run("predict", "part.patchbank", "new", "--json", "--out", "inspected").stdout.splitlines()
    good, bad = (json.loads(line) for line in lines)
    assert bad["score"] > 2 * good["score"]
    assert bad["is_anomalous"]
    assert Path("inspected/report.html").stat().st_size > 10_000
    run("explain", "part.patchbank", "new/10.png", "-o", "why.html")
    run("info", "part.patchbank")

    missing = run("fit", "good", "-o", "b.patchbank", "--image-size", "64", "--search", "ivf", code=6).stderr
    assert "pip install 'patchbank[ann]'" in missing
    assert not Path("b.patchbank").exists()
    print("patchbank", patchbank.__version__, "fits, inspects and explains without extras")


main()
