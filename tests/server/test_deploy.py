"""What `deploy/` holds: systemd takes the unit, and the service runs as the Containerfile starts it, as a user without
rights on a root file system that is read-only. (No container is built: that needs images from elsewhere.)"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UID = "10001"


def instruction(name: str) -> str:
    """The rest of the line of the Containerfile that begins with this word; lines are joined first."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", text, re.MULTILINE)[-1]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_takes_the_unit_and_finds_it_well_closed(tmp_path: Path) -> None:
    unit = tmp_path / "patchbank.service"
    text = (DEPLOY / "patchbank.service").read_text()
    unit.write_text(text.replace("/opt/patchbank/bin/patchbank", sys.executable))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)], capture_output=True, text=True
    )
    assert security.returncode == 0, security.stdout  # an exposure of at most 2.0 of 10


def sandbox(data: Path) -> list[str] | None:
    """bubblewrap's command line: everything is read-only but the data and a temporary folder. None without it."""
    if not (program := shutil.which("bwrap")):
        return None
    (data / "tmp").mkdir()
    command = [program, "--ro-bind", "/", "/", "--dev", "/dev", "--bind", str(data), str(data)]
    command += ["--tmpfs", str(data / "tmp"), "--unshare-user", "--uid", UID, "--gid", UID, "--die-with-parent", "--"]
    return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else None


def test_it_runs_as_the_containerfile_says(model_file: Path, files: list[bytes], tmp_path: Path) -> None:
    """On a read-only root file system, without rights: it starts, inspects, keeps, is healthy, and ends with 0."""
    if (inside := sandbox(tmp_path)) is None:
        pytest.skip("no bubblewrap here, or no user namespaces")
    program, serve, *options = json.loads(instruction("ENTRYPOINT"))
    assert (program, serve) == ("patchbank", "serve")
    assert instruction("USER") == f"{UID}:{UID}"
    data = str(tmp_path / "data")
    options = [{"/data": data, "0.0.0.0": "127.0.0.1", "8080": "0"}.get(each, each) for each in options]
    home = {"HOME": "/nonexistent", "TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    service = subprocess.Popen(
        [*inside, sys.executable, "-m", "patchbank", "serve", *options, str(model_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=os.environ | home,
    )
    try:
        address = service.stdout.readline().strip()
        assert address.startswith("http://"), service.stderr.read()
        answer = httpx.post(
            f"{address}/api/v1/inspections", content=files[1], headers={"Content-Type": "image/png"}, timeout=60
        )
        assert (answer.status_code, answer.json()["verdict"]) == (201, "ng")
        check = instruction("HEALTHCHECK").partition("CMD ")[2]
        _, *words = json.loads(check)
        words = [word.replace("http://127.0.0.1:8080", address) for word in words]
        assert subprocess.run([sys.executable, *words]).returncode == 0
        inner = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        os.kill(int(inner[0]), signal.SIGTERM)  # the service itself, not the sandbox around it
        _, errors = service.communicate(timeout=60)
        assert service.returncode == 0
        assert all("Traceback" not in line for line in errors.splitlines())
    finally:
        service.kill()
        service.communicate()
