"""The extra `serve` and nothing else: the service starts, inspects and stops. Run with a model, where new/ is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("patchbank"))


def main() -> None:
    """Raises AssertionError where something is not as it should be."""
    process = subprocess.Popen([COMMAND, "serve", sys.argv[1], "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert verdict(process.stdout.readline().strip()) == "ng"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    print("patchbank serve starts, inspects and stops with the extra serve alone")


def verdict(address: str) -> str:
    """What the service at that address says of the last image in new/."""
    name, image = Path(sys.argv[1]).stem, sorted(Path("new").iterdir())[-1]
    request = urllib.request.Request(
        f"{address}/v2/models/{name}/infer", image.read_bytes(), {"Inference-Header-Content-Length": "0"}
    )
    with urllib.request.urlopen(request) as answer:
        outputs = {each["name"]: each["data"][0] for each in json.load(answer)["outputs"]}
    return str(outputs["verdict"])


main()
