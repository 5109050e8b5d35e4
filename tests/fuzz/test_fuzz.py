"""Some seconds of the fuzzer on each target: nothing but our own exceptions, under 1 GB, no case over 20 s. By hand it
runs for hours: python -m tests.fuzz --seconds 7200 --seed 7."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = {"models": 12, "checkpoints": 4, "onnx": 6, "images": 6, "csv": 3, "toml": 3, "partial": 4, "modbus": 2}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the runner waits for pipes as POSIX systems do")
@pytest.mark.parametrize("target", SECONDS)
def test_nothing_but_our_own_exceptions(target: str) -> None:
    done = run("--target", target, "--seconds", str(SECONDS[target]), "--seed", "1")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]


@pytest.mark.skipif(sys.platform == "win32", reason="the runner waits for pipes as POSIX systems do")
def test_the_fuzzer_finds_what_there_is(tmp_path: Path) -> None:
    """The test of the test: a reader that raises something else, hangs, swells or dies is found."""
    script = tmp_path / "found.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import tests.fuzz.__main__ as runner\n"
        "runner.MOST_SECONDS, runner.MOST_BYTES = 2.0, 600 << 20\n"
        "runner.COMMAND = [sys.executable, sys.argv[2]]\n"
        "runner.fuzz(['broken'], 9, 0, None)\n"
    )
    worker = tmp_path / "broken.py"
    worker.write_text(
        "import sys, json, os\n"
        "print('ready', flush=True)\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    case = int(line)\n"
        "    if case == 1: os._exit(3)\n"
        "    if case == 2: swollen = bytearray(b'x' * (700 << 20))\n"
        "    if case == 3:\n"
        "        while True: pass\n"
        "    error = 'ValueError' if case == 0 else None\n"
        "    print(json.dumps({'case': case, 'error': error, 'path': None, 'peak': 0}), flush=True)\n"
    )
    done = subprocess.run([sys.executable, script, ROOT, worker], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert [line.split(":")[0] for line in done.stdout.splitlines() if ", case" in line] == [
        f"broken, case {case}" for case in range(4)
    ], done.stdout + done.stderr
