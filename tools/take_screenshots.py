"""Takes the screenshots of docs/operate/operators.md: a service over the plates of `make_pictures.py`, in Chromium.

python tools/take_screenshots.py    writes docs/pictures/screen-*.jpg
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import httpx
import numpy as np

import make_pictures as made
from patchbank import Config, PatchCore
from patchbank.store import passwords, preferences, tokens, users
from patchbank.store.engine import Store, open_store
from patchbank.store.values import SYSTEM

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
LARGEST = 150_000  # bytes of a picture
PANEL, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
FLAGS = ("no-sandbox", "disable-gpu", "no-first-run", "hide-scrollbars")
PARTS = 48
MARKS = {2: made.scratch, 14: made.stamp, 25: made.dent, 33: made.rust, 40: made.stamp, PARTS - 1: made.rust}
DARK = 21  # the part that was inspected while a lamp was out


def prepare(store: Store) -> tuple[str, dict[str, str]]:
    """A person's session, and a machine's header."""
    user = store.write(users.add, "Anna", "admin", argon2=passwords.hashed("correct horse battery"))
    session, secret = passwords.new_secret(), tokens.new_secret()
    end = datetime.now(UTC) + timedelta(hours=1)
    store.write(users.begin_session, user.id, session, end, "127.0.0.1")
    store.write(tokens.add, "cell 7", ["inspect"], secret.prefix, secret.sha256)
    store.write(preferences.put, "site", "Plant 1", by=SYSTEM)
    store.write(preferences.put, "review.ng", True, by=SYSTEM)
    return session, {"Authorization": f"Bearer {secret.text}"}


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a service on which the plates' model is deployed."""
    images = [made.plate(made.rng_of(number))[:, :, ::-1] for number in range(60)]
    PatchCore.fit(images, Config(max_false_alarms=0.05)).save(folder / "plate.patchbank")
    command = ("-m", "patchbank", "serve", str(folder / "plate.patchbank"), "--data", str(folder / "data"))
    server = subprocess.Popen(  # noqa: S603  (our own program)
        [sys.executable, *command, "--port", "0", "--log-level", "warning"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait(60)


def inspect(address: str, headers: dict[str, str]) -> list[str]:
    """Sends plates. Returns the identifiers of their inspections."""
    found = []
    with httpx.Client(base_url=address, timeout=60, headers=headers) as client:
        for number in range(PARTS):
            image = made.plate(made.rng_of(1000 + number), MARKS.get(number))
            if number == DARK:
                image = np.clip(image * 0.45, 0, 255).astype(np.uint8)
            data = cv2.imencode(".png", image)[1].tobytes()
            about = {"X-Serial": f"P{7100 + number}", "X-Batch": f"B-{48 + number // 20}"}
            answer = client.post("/api/v1/inspections", content=data, headers=about).raise_for_status()
            found.append(str(answer.json()["id"]))
    return found


def take(address: str, session: str, parts: list[str]) -> None:
    """Opens the pages and writes the pictures."""
    from playwright.sync_api import sync_playwright

    shots = (
        ("screen-line", "/line", PANEL, "light", ".band"),
        ("screen-inspections", "/inspections", PANEL, "light", ".part img"),
        ("screen-inspection", f"/inspections/{parts[2]}", PANEL, "light", "#why figure img"),
        ("screen-review", "/review", PANEL, "light", "#work[data-ready]"),
        ("screen-phone", "/line", PHONE, "dark", ".band"),
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[f"--{flag}" for flag in FLAGS], timeout=180_000
        )
        for name, path, size, scheme, ready in shots:
            context = browser.new_context(viewport=size, color_scheme=scheme, locale="en-GB", base_url=address)
            context.add_cookies([{"name": "patchbank", "value": session, "url": address}])
            tab = context.new_page()
            tab.goto(path)
            tab.wait_for_selector(ready, timeout=60_000)
            tab.wait_for_timeout(1500)  # images fade in
            for quality in (85, 75, 65, 50):
                data = tab.screenshot(type="jpeg", quality=quality)
                if len(data) < LARGEST:
                    break
            (PICTURES / f"{name}.jpg").write_bytes(data)
            print(f"wrote {name}.jpg: {len(data) // 1000} kB")
            context.close()
        browser.close()


def main(words: list[str]) -> None:
    if words:
        sys.exit(str(__doc__))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_store(folder / "data") as store:
            session, headers = prepare(store)
        with serving(folder) as address:
            take(address, session, inspect(address, headers))


if __name__ == "__main__":
    main(sys.argv[1:])
