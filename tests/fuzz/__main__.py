"""The runner: gives cases to child processes, and watches their time and memory."""

from __future__ import annotations

import argparse
import json
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fuzz.worker import TARGETS

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.fuzz.worker"]
MOST_BYTES = 1 << 30
MOST_SECONDS = 20.0  # of processor time; a busy machine is no finding
_PATIENCE = 180.0  # seconds by the clock, for what waits without end


class Worker:
    """A child process for one target."""

    def __init__(self, target: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, target],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line != "ready\n":
            raise SystemExit(f"{target}: the worker did not start: {self.process.communicate()[1]}")

    def run(self, case: int) -> dict[str, Any]:
        """The outcome of a case; with an error if the process died, hung or swelled."""
        assert self.process.stdin
        assert self.process.stdout
        print(case, file=self.process.stdin, flush=True)
        began, spent = time.monotonic(), self._seconds()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            while not waiting.select(0.05):
                if self._bytes() > MOST_BYTES:
                    return self._ended(case, f"more than {MOST_BYTES >> 20} MB")
                if self._seconds() - spent > MOST_SECONDS or time.monotonic() - began > _PATIENCE:
                    return self._ended(case, f"more than {MOST_SECONDS:g} s")
        line = self.process.stdout.readline()
        if not line:
            return self._ended(case, "the process ended")
        outcome: dict[str, Any] = json.loads(line)
        if outcome["peak"] > MOST_BYTES:
            outcome["error"] = outcome["error"] or f"{outcome['peak'] >> 20} MB"
        return outcome

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()

    def _ended(self, case: int, why: str) -> dict[str, Any]:
        self.close()
        return {"case": case, "error": f"{why} (exit code {self.process.returncode})", "path": None}

    def _seconds(self) -> float:
        """Processor time, where the system says so; 0 elsewhere, where the clock alone counts."""
        with suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / 100
        return 0.0

    def _bytes(self) -> int:
        with suppress(OSError, IndexError, ValueError):
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096
        return 0


def fuzz(targets: Sequence[str], seconds: float, seed: int, keep: Path | None) -> int:
    """Runs cases of each target for its share of the time; prints what it found. Returns the number of findings."""
    findings = 0
    for target in targets:
        end, case, worker = time.monotonic() + seconds / len(targets), seed * 1_000_000, Worker(target)
        end = max(end, time.monotonic() + 1)
        while time.monotonic() < end:
            outcome = worker.run(case)
            if outcome["error"]:
                findings += 1
                print(f"{target}, case {case}: {outcome['error']}", flush=True)
                if keep and outcome["path"]:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(outcome["path"], keep / f"{target}-{case}{Path(outcome['path']).suffix}")
            case += 1
            if worker.process.returncode is not None:
                worker = Worker(target)
        worker.close()
        print(f"{target}: {case - seed * 1_000_000} cases", flush=True)
    return findings


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes what patchbank reads.")
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other cases")
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="can be repeated; default: all")
    parser.add_argument("--case", type=int, help="one case of one target again")
    parser.add_argument("--keep", type=Path, help="folder for the files that were found")
    given = parser.parse_args()
    targets = given.target or list(TARGETS)
    if given.case is not None:
        outcome = Worker(targets[0]).run(given.case)
        print(outcome["error"] or outcome)
        return int(outcome["error"] is not None)
    return int(fuzz(targets, given.seconds, given.seed, given.keep) > 0)


if __name__ == "__main__":
    sys.exit(main())
