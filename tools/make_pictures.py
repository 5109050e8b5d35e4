"""Draws the parts of the first day's tutorial, and the pictures in it. No photograph is used: all comes from a seed.

python tools/make_pictures.py parts      draws the tutorial's images of parts into the folder `parts`
python tools/make_pictures.py --docs     runs the tutorial's steps and writes docs/pictures/

The part is a plate of brushed metal with four screws, a bore and a slot, under a lamp that is not quite even.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Drawing = npt.NDArray[np.float64]

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
HEIGHT, WIDTH = 360, 480
CORNERS = ((105, 95), (375, 95), (105, 265), (375, 265))  # centres of the screws: x, y in pixels
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 82)


def rng_of(number: int) -> np.random.Generator:
    return np.random.default_rng([2024, number])


# --- the part ---


def plate(rng: np.random.Generator, mark: Callable[[Drawing, np.random.Generator], None] | None = None) -> Picture:
    """A plate, (HEIGHT, WIDTH, 3) BGR. Between one plate and the next: the grain, the angles of the screws, 2 pixels of
    place, 2 % of light. mark: what is drawn on this one."""
    image = np.full((HEIGHT, WIDTH), 38.0)
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.rectangle(inside, (72, 60), (408, 300), 255, -1)
    cv2.rectangle(inside, (60, 72), (420, 288), 255, -1)
    for x, y in ((72, 72), (408, 72), (72, 288), (408, 288)):
        cv2.circle(inside, (x, y), 12, 255, -1, cv2.LINE_AA)
    share = cv2.GaussianBlur(inside.astype(np.float64) / 255, (0, 0), 0.8)
    image += share * (brushed(rng) - image)
    rim = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    image += 0.14 * cv2.GaussianBlur(rim.astype(np.float64), (0, 0), 1)
    bore(image, (240, 165), 42)
    slot(image)
    for centre in CORNERS:
        screw(image, centre, rng)
    colour = image[:, :, None] * np.array([1.02, 1.0, 0.97])
    if mark:
        mark(colour, rng)
    return photographed(colour, rng)


def brushed(rng: np.random.Generator) -> Drawing:
    """Grain that runs from left to right, and a soft shine from the upper left."""
    grain = cv2.blur(rng.normal(0, 1, (HEIGHT, WIDTH)), (61, 1)) * 40
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    shine = 22 * np.exp(-(((columns - 170) / 190) ** 2 + ((rows - 120) / 150) ** 2))
    return np.asarray(148 + grain + shine)


def disc(image: Drawing, centre: tuple[int, int], radius: int, value: float) -> None:
    """Fills a disc with soft edges."""
    full = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(full, centre, radius, 255, -1, cv2.LINE_AA)
    share = cv2.GaussianBlur(full.astype(np.float64) / 255, (0, 0), 0.8)
    image += share * (value - image)


def bore(image: Drawing, centre: tuple[int, int], radius: int) -> None:
    """A hole with a chamfer that is bright where it faces the lamp."""
    disc(image, centre, radius, 198)
    disc(image, (centre[0] - 2, centre[1] - 2), radius - 4, 104)
    disc(image, centre, radius - 8, 26)


def slot(image: Drawing) -> None:
    """A long hole under the bore."""
    for x in range(190, 291):
        cv2.circle(image, (x, 255), 9, 190.0, -1)
    for x in range(190, 291):
        cv2.circle(image, (x, 255), 6, 28.0, -1)


def screw(image: Drawing, centre: tuple[int, int], rng: np.random.Generator) -> None:
    """A round head with a cross slot, at any angle."""
    disc(image, (centre[0] + 2, centre[1] + 3), 19, 84)
    disc(image, centre, 18, 186)
    disc(image, (centre[0] + 1, centre[1] + 1), 15, 168)
    angle = rng.uniform(0, np.pi / 2)
    for turned in (angle, angle + np.pi / 2):
        step = 10 * np.array([np.cos(turned), np.sin(turned)])
        start, end = (tuple(int(v) for v in np.rint(np.array(centre) + side * step)) for side in (-1, 1))
        cv2.line(image, start, end, 62.0, 4, cv2.LINE_AA)


def photographed(colour: Drawing, rng: np.random.Generator) -> Picture:
    """The camera's part: place, light, focus, noise."""
    shift = np.float32([[1, 0, rng.uniform(-2, 2)], [0, 1, rng.uniform(-2, 2)]])
    colour = cv2.warpAffine(colour, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    colour = cv2.GaussianBlur(colour, (0, 0), 0.7) * rng.uniform(0.98, 1.02) + rng.normal(0, 2, colour.shape)
    return np.clip(colour, 0, 255).astype(np.uint8)


# --- what can be on it ---


def scratch(image: Drawing, rng: np.random.Generator) -> None:
    """A defect: a bent line, bright beside dark."""
    start = np.array([rng.uniform(255, 300), rng.uniform(95, 115)])
    middle = start + np.array([2, 70])
    end = start + np.array([rng.uniform(65, 80), rng.uniform(95, 120)])
    t = np.linspace(0, 1, 40)[:, None]
    points = np.rint((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end).astype(np.int32)
    cv2.polylines(image, [points + 1], False, (85.0,) * 3, 1)
    cv2.polylines(image, [points], False, (232.0,) * 3, 1)


def dent(image: Drawing, rng: np.random.Generator) -> None:
    """A defect: dark on one side, bright on the other."""
    x, y = rng.uniform(130, 175), rng.uniform(190, 215)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    bell = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 9**2))
    image += (bell * ((columns - x) + (rows - y)) * 6.5)[:, :, None]


def rust(image: Drawing, rng: np.random.Generator) -> None:
    """A defect: a brown stain with a ragged edge."""
    x, y = rng.uniform(320, 350), rng.uniform(170, 210)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    ragged = cv2.GaussianBlur(rng.normal(0, 1, image.shape[:2]), (0, 0), 4) * 9
    share = 1 / (1 + np.exp(((columns - x) ** 2 + (rows - y) ** 2) / 500 - 1.5 - ragged))
    image += share[:, :, None] * 0.7 * (np.array([45.0, 78.0, 122.0]) - image)


def stamp(image: Drawing, rng: np.random.Generator) -> None:
    """No defect: the blue ink stamp of an inspector."""
    x, y = int(rng.integers(132, 135)), int(rng.integers(190, 193))  # a machine stamps
    ink = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(ink, (x, y), 17, 255, 2, cv2.LINE_AA)
    cv2.putText(ink, "OK", (x - 11, y + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1, cv2.LINE_AA)
    share = cv2.GaussianBlur(ink.astype(np.float64) / 255, (0, 0), 0.5)[:, :, None]
    image += share * 0.85 * (np.array([150.0, 70.0, 40.0]) - image)


# --- the tutorial's folders ---


def make_parts(folder: Path) -> None:
    """good/: 60 good plates. new/: 3 good plates and 3 defective ones. stamped/: 3 good plates with a stamp.
    confirmed/: 10 more of them. mixed/: 20 good plates, a defective one, a copy, and one out of focus."""
    for number in range(60):
        write(folder / "good" / f"{number:03d}.png", plate(rng_of(number)))
    for number, (name, mark) in enumerate(
        {"good-1": None, "good-2": None, "good-3": None, "scratch": scratch, "dent": dent, "rust": rust}.items()
    ):
        write(folder / "new" / f"{name}.png", plate(rng_of(100 + number), mark))
    for number in range(3):
        write(folder / "stamped" / f"{number}.png", plate(rng_of(200 + number), stamp))
    for number in range(10):
        write(folder / "confirmed" / f"{number}.png", plate(rng_of(300 + number), stamp))
    mixed = [plate(rng_of(400 + number), scratch if number == 7 else None) for number in range(21)]
    mixed += [mixed[3], cv2.GaussianBlur(plate(rng_of(421)), (0, 0), 2)]
    for number, image in enumerate(mixed):
        write(folder / "mixed" / f"{number:02d}.png", image)


def write(path: Path, image: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        sys.exit(f"cannot write {path}")


# --- the pictures of the page ---


def make_docs_pictures(folder: Path) -> None:
    """Takes the steps of docs/first-day.md and pictures what their reader sees."""
    from patchbank import Config, PatchCore

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        parts = Path(name)
        make_parts(parts)

        def seen(path: str) -> Picture:
            return np.asarray(cv2.imread(str(parts / path)), np.uint8)

        def judged(model: PatchCore, path: str) -> Picture:
            result = model.predict(parts / path)
            verdict = "ANOMALOUS" if result.is_anomalous else "ok"
            title = f"{Path(path).name}: {verdict}, score {result.score:.1f}, threshold {result.threshold:.1f}"
            return captioned(np.asarray(result.overlay()[:, :, ::-1]), title)

        images = sorted((parts / "good").glob("*.png"))
        save(folder / "parts.jpg", grid([seen(f"good/{number:03d}.png") for number in range(6)], 3))
        model = PatchCore.fit(images, Config(max_false_alarms=0.05))
        new = [f"new/{name}.png" for name in ("scratch", "dent", "rust", "good-1")]
        save(folder / "verdicts.jpg", grid([judged(model, path) for path in new], 2))
        model.explain(model.predict(parts / "new/scratch.png")).save(parts / "why.png")
        save(folder / "why.jpg", seen("why.png"), longest=1100)
        taught = model.update([*sorted((parts / "confirmed").glob("*.png"))], note="the stamp is fine")
        save(folder / "stamp.jpg", grid([judged(each, "stamped/0.png") for each in (model, taught)], 2))
        odd = {"07.png": "a defect", "22.png": "out of focus", "03.png": "one of two copies"}
        save(folder / "audit.jpg", grid([captioned(seen(f"mixed/{n}"), f"{n}: {why}") for n, why in odd.items()], 3))


def captioned(image: Picture, title: str) -> Picture:
    """The picture with a line of text over it."""
    bar = np.full((26, image.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.vstack([bar, image])


def grid(images: list[Picture], columns: int) -> Picture:
    """The pictures side by side, with a white line between."""
    framed = [cv2.copyMakeBorder(each, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(255,) * 3) for each in images]
    rows = [np.hstack(framed[start : start + columns]) for start in range(0, len(framed), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def save(path: Path, image: Picture, longest: int = 960) -> None:
    """A JPEG whose longer side has at most so many pixels."""
    scale = longest / max(image.shape[:2])
    if scale < 1:
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    if not cv2.imwrite(str(path), image, JPEG):
        sys.exit(f"cannot write {path}")
    print(f"wrote {path.name}: {path.stat().st_size // 1000} kB")


def main(words: list[str]) -> None:
    if len(words) != 1:
        sys.exit(str(__doc__))
    if words == ["--docs"]:
        make_docs_pictures(PICTURES)
    else:
        make_parts(Path(words[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
