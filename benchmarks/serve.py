"""What does `patchbank serve` add to the inspection itself, and does it keep what it acknowledges?

    python benchmarks/serve.py [--quick] [--posts N] [--out DIR]

A real service is started on an empty data folder. Images are JPEGs of 900 pixels, each with other bytes, so that each
is kept. The same images go to the library in this process, in turn with the service, so that a slow moment of the
machine meets both:

- throughput: 16 clients post until each image has its 201; a refusal (503) is repeated after what `Retry-After` says.
  The baseline is `PatchCore.inspector` with as many workers, fed with as many images as it takes.
- latency: one client, one image at a time. The baseline is `PatchCore.predict`.
- memory: the service's after half of the posts and after all of them.
- the same latency while a job of the service fits a model.

At the end the service is asked for its inspections: each acknowledged id must be there, once.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from _common import RESULTS, save
from patchbank import Config, PatchCore

CLIENTS, WORKERS, QUEUE = 16, 2, 8
SIDE, TRAIN, DIFFERENT = 900, 40, 20
MOST_RETRIES = 600
QUICK_RATIO = 0.4  # of the throughput, on a busy machine


def picture(rng: np.random.Generator, side: int = SIDE, defect: bool = False) -> bytes:
    """A part with stripes and a camera's noise, as a JPEG file."""
    y, x = np.mgrid[:side, :side]
    image = 120 + 40 * np.sin(x / 23 + rng.uniform(0, 6)) + 20 * np.cos(y / 31)
    if defect:
        cv2.circle(image, tuple(int(v) for v in rng.integers(100, side - 100, 2)), side // 20, 30, -1)
    colours = np.stack([image, image * 0.9, image * 0.8], axis=-1) + rng.normal(0, 2, (side, side, 3))
    done, data = cv2.imencode(".jpg", np.clip(colours, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done
    return bytes(data)


def numbered(file: bytes, number: int) -> bytes:
    """The same JPEG with a comment in it: other bytes, the same pixels."""
    comment = f"part {number}".encode()
    return file[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + file[2:]


class Client:
    """One connection to the service."""

    def __init__(self, address: str) -> None:
        self._host = urlsplit(address).netloc
        self._http = http.client.HTTPConnection(self._host, timeout=120)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, float]:
        """Status, JSON and the seconds to wait (0 without Retry-After)."""
        self._http.request(method, path, body, headers)
        answer = self._http.getresponse()
        content = answer.read()
        return answer.status, json.loads(content), float(answer.headers.get("Retry-After", 0))

    def post(self, image: bytes, key: str) -> tuple[int, Any, float]:
        headers = {"Content-Type": "image/jpeg", "Idempotency-Key": key, "X-Serial": key}
        return self.call("POST", "/api/v1/inspections", image, **headers)


@contextlib.contextmanager
def service(model: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """The address and process of a service with the model."""
    command = [sys.executable, "-m", "patchbank", "serve", str(model), "--data", str(folder / "data"), "--port", "0"]
    command += ["--workers", str(WORKERS), "--queue", str(QUEUE), "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def resident(pid: int) -> float:
    """MB of memory that the process holds."""
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


class Load:
    """Many clients post numbered images, until all are stored."""

    def __init__(self, address: str, images: list[bytes]) -> None:
        self._clients = [Client(address) for _ in range(CLIENTS)]
        self._images = images
        self.statuses: Counter[int] = Counter()
        self.kept: dict[str, str] = {}
        self._lock = threading.Lock()

    def run(self, numbers: range) -> float:
        """Seconds until all of them are acknowledged."""
        waiting = iter(numbers)
        start = time.perf_counter()
        threads = [threading.Thread(target=self._work, args=(client, waiting)) for client in self._clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    def _work(self, client: Client, waiting: Iterator[int]) -> None:
        while True:
            with self._lock:
                number = next(waiting, None)
            if number is None:
                return
            image, key = numbered(self._images[number % len(self._images)], number), f"post-{number}"
            for _ in range(MOST_RETRIES):
                status, answer, wait = client.post(image, key)
                with self._lock:
                    self.statuses[status if status != 503 or wait else 500] += 1
                if status in (200, 201):
                    with self._lock:
                        self.kept[key] = answer["id"]
                    break
                time.sleep(wait or 1)


def alone(model: PatchCore, images: list[bytes], number: int) -> float:
    """Seconds that the inspector takes for so many images, without a service."""
    with model.inspector(workers=WORKERS, queue=QUEUE) as inspector:
        start = time.perf_counter()
        futures = [inspector.submit(images[n % len(images)], timeout=600) for n in range(number)]
        for future in futures:
            future.result()
        return time.perf_counter() - start


def latencies(call: Callable[[int], object], numbers: range) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for number in numbers:
        start = time.perf_counter()
        call(number)
        found.append(1000 * (time.perf_counter() - start))
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {"median": round(float(np.median(values)), 1), "p99": round(float(np.percentile(values, 99)), 1)}


def stored(client: Client) -> Counter[str]:
    """How often each serial number is there."""
    found: Counter[str] = Counter()
    cursor = ""
    while True:
        _, page, _ = client.call("GET", f"/api/v1/inspections?limit=200{cursor}")
        found.update(each["serial"] for each in page["items"])
        if not page.get("next"):
            return found
        cursor = f"&cursor={page['next']}"


def measure(posts: int, rounds: int, singles: int, quick: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = [picture(rng, defect=n % 5 == 0) for n in range(DIFFERENT)]
    results: dict[str, Any] = {"clients": CLIENTS, "workers": WORKERS, "queue": QUEUE, "side": SIDE, "posts": posts}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = Config(image_size=128) if quick else Config()
        model = PatchCore.fit([picture(rng) for _ in range(TRAIN)], config)
        model.save(folder / "part.patchbank")
        with service(folder / "part.patchbank", folder) as (address, pid):
            load, client = Load(address, images), Client(address)
            bare, served, memory = [], [], []
            model.predict(images[0])
            client.post(numbered(images[0], -1), "warm")
            for block in range(rounds):
                part = range(posts * block // rounds, posts * (block + 1) // rounds)
                bare.append(len(part) / alone(model, images, len(part)))
                served.append(len(part) / load.run(part))
                memory.append(resident(pid))
                print(f"{part.stop} of {posts}: {bare[-1]:.1f} and {served[-1]:.1f} images a second", flush=True)
            ours, library = [], []
            for block in range(rounds):
                part = range(singles * block // rounds, singles * (block + 1) // rounds)
                library += latencies(lambda n: model.predict(images[n % DIFFERENT]), part)
                ours += latencies(lambda n: client.post(numbered(images[n % DIFFERENT], n), f"single-{n}"), part)
            found = stored(client)
        wanted = {*load.kept, "warm", *(f"single-{n}" for n in range(singles))}
        results |= {
            "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
            "acknowledged": len(load.kept),
            "lost": len(wanted - set(found)),
            "doubled": sum(count > 1 for count in found.values()),
            "inspector_a_second": round(float(np.median(bare)), 1),
            "service_a_second": round(float(np.median(served)), 1),
            "throughput_ratio": round(float(np.median(np.divide(served, bare))), 3),
            "predict_ms": spread(library),
            "post_ms": spread(ours),
            "p99_ratio": round(spread(ours)["p99"] / spread(library)["p99"], 2),
            "memory_mb": {"half": round(memory[rounds // 2 - 1]), "end": round(memory[-1])},
            "memory_growth": round(memory[-1] / memory[rounds // 2 - 1] - 1, 3),
        }
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: small sizes, wide margins, fails if missed")
    parser.add_argument("--posts", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = measure(*((120, 2, 20) if options.quick else (options.posts, 20, 1000)), options.quick)
    print(json.dumps(results, indent=1))
    save(options.out, "serve", results)
    whole = results["acknowledged"] == results["posts"] and not results["lost"] and not results["doubled"]
    answered = set(results["statuses"]) <= {"200", "201", "503"}
    return 0 if whole and answered and results["throughput_ratio"] > (QUICK_RATIO if options.quick else 0) else 1


if __name__ == "__main__":
    sys.exit(main())
