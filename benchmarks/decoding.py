"""What does decoding an image cost, by whom, and who gives the same pixels?

    python benchmarks/decoding.py [--quick] [--out DIR]

Pictures of the sizes that cameras have (900 to 5000 pixels a side, colour and grey; the data sets' images, enlarged,
with a camera's noise) are written as PNG (by Pillow, with filters that adapt; and by OpenCV), JPEG and TIFF. Every
decoder that is installed reads the same bytes, in turn, in one process; OpenCV is the baseline. patchbank's time
includes all that it does with a file's bytes: header, limits, checksums. `ms` is processor time, each decoder's best of
several rounds.

`same`: the pixels are OpenCV's. `lock`: Python's lock is held while it decodes, so that no other thread of the process
works meanwhile. `parts` says what patchbank's own reading of a PNG is made of.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from _common import DATA, arguments, save
from patchbank.imaging.decoding import decode_picture, read_file
from patchbank.native.calls import unfiltered

SIDES = (900, 1024, 2000, 5000)
QUICK_RATIO = 0.9  # of PNG with the compiled part, against OpenCV: a third to a half on most machines
Decoder = Callable[[], Any]


def pictures(side: int) -> dict[str, np.ndarray]:
    """A colour and a grey picture (side, side[, 3]) uint8."""
    found = {}
    for name in ("bottle", "screw"):
        folder = DATA / name / "train" / "good"
        rng = np.random.default_rng(0)
        noise = rng.normal(0, 1, (side, side, 3)).round().astype(np.int16)
        if folder.is_dir():
            small = cv2.imread(str(min(folder.iterdir())))
        else:
            small = cv2.blur(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8), (9, 9))
        large = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
        picture = np.clip(large + noise, 0, 255).astype(np.uint8)
        found["colour" if name == "bottle" else "grey"] = picture if name == "bottle" else picture[:, :, 1].copy()
    return found


def files(picture: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """The picture (BGR) in every format."""
    from PIL import Image

    image = Image.fromarray(picture[:, :, ::-1] if picture.ndim == 3 else picture)
    for name, options in {
        "PNG": {"format": "PNG"},
        "JPEG": {"format": "JPEG", "quality": 95},
        "TIFF deflate": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
        "TIFF LZW": {"format": "TIFF", "compression": "tiff_lzw"},
        "TIFF": {"format": "TIFF"},
    }.items():
        file = io.BytesIO()
        image.save(file, **options)
        yield name, file.getvalue()
    yield "PNG by OpenCV", cv2.imencode(".png", picture)[1].tobytes()


def decoders(kind: str, data: bytes, shape: tuple[int, ...]) -> dict[str, Decoder]:
    """What reads this file here, by name; each returns (H, W[, C]) RGB or grey."""
    ways: dict[str, Decoder] = {
        "OpenCV": lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED),
        "patchbank": lambda: decode_picture(data).values,
    }
    if kind.startswith("PNG"):
        ways["patchbank, not compiled"] = lambda: not_compiled(data)
    if importlib.util.find_spec("PIL"):
        from PIL import Image

        ways["Pillow"] = lambda: np.asarray(Image.open(io.BytesIO(data)))
    if importlib.util.find_spec("imagecodecs"):
        import imagecodecs

        name = {"P": "png", "J": "jpeg8", "T": "tiff"}[kind[0]]
        with contextlib.suppress(imagecodecs.DelayedImportError, AttributeError):
            read = getattr(imagecodecs, f"{name}_decode")
            ways["imagecodecs"] = lambda: read(data)
    if importlib.util.find_spec("kornia_rs") and kind[0] in "PJ":
        from kornia_rs import io as kornia

        mode = "rgb" if len(shape) == 3 else "mono"
        if kind[0] == "P":
            ways["kornia-rs"] = lambda: kornia.decode_image_png_u8(data, shape[:2], mode)
        else:
            ways["kornia-rs"] = lambda: kornia.decode_image_jpeg(data)
    if importlib.util.find_spec("imgread"):
        import imgread

        ways["imgread"] = lambda: imgread.load_numpy_from_bytes(data)
    return {name: way for name, way in ways.items() if reads(way)}


def reads(way: Decoder) -> bool:
    """Whether a decoder knows this kind of file."""
    try:
        way()
    except Exception as error:  # noqa: BLE001  (of a decoder that somebody else wrote)
        print(f"left out: {error!r}"[:200], file=sys.stderr)
        return False
    return True


def not_compiled(data: bytes) -> np.ndarray:
    before = os.environ.get("PATCHBANK_NATIVE")
    os.environ["PATCHBANK_NATIVE"] = "0"
    try:
        return decode_picture(data).values
    finally:
        del os.environ["PATCHBANK_NATIVE"]
        if before is not None:
            os.environ["PATCHBANK_NATIVE"] = before


def holds_lock(call: Decoder) -> bool:
    """Whether other Python threads stand still for most of a call: in each of several calls."""

    def stands_still() -> bool:
        gaps, stop = [0.0], threading.Event()

        def tick() -> None:
            last = time.perf_counter()
            while not stop.is_set():
                now = time.perf_counter()
                gaps.append(now - last)
                last = now

        thread = threading.Thread(target=tick)
        thread.start()
        time.sleep(0.02)
        start = time.perf_counter()
        call()
        taken = time.perf_counter() - start
        stop.set()
        thread.join()
        return max(gaps) > 0.6 * taken

    return all(stands_still() for _ in range(5))


def rgb(picture: Any, by_opencv: bool) -> np.ndarray:
    array = np.asarray(picture)
    array = array[:, :, None] if array.ndim == 2 else array
    return array[:, :, ::-1] if by_opencv else array


def best(ways: dict[str, Decoder], rounds: int) -> dict[str, float]:
    """Milliseconds of processor time, each way's best of several rounds, in turn."""
    found = dict.fromkeys(ways, np.inf)
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            found[name] = min(found[name], 1e3 * (time.process_time() - start))
    return found


def measure(colours: str, side: int, kind: str, data: bytes, rounds: int) -> list[dict[str, Any]]:
    picture = rgb(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), True)
    ways = decoders(kind, data, picture.shape if picture.shape[2] == 3 else picture.shape[:2])
    rows = []
    for name, ms in best(ways, rounds).items():
        found = rgb(ways[name](), name == "OpenCV")
        row = {
            "colours": colours,
            "side": side,
            "format": kind,
            "bytes": len(data),
            "decoder": name,
            "ms": round(ms, 2),
            "ratio": 0.0,
            "same": bool((found == picture).all()),
            "lock": holds_lock(ways[name]) if side == 2000 else None,
        }
        row["ratio"] = round(ms / rows[0]["ms"], 3) if rows else 1.0
        rows.append(row)
    print(*(f"{kind} {colours} {side}: {r['decoder']} {r['ms']} ({r['ratio']})" for r in rows), sep="\n", flush=True)
    return rows


def parts(data: bytes, folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds of what reading a PNG is made of."""
    from deflate import crc32, zlib_decompress

    path = folder / "picture.png"
    path.write_bytes(data)
    view, position, coded = memoryview(data), 8, []
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IDAT":
            coded.append(view[position + 8 : position + 8 + length])
        position += 12 + length
    joined = b"".join(coded)
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    step = 3 if data[25] == 2 else 1
    raw = np.frombuffer(zlib_decompress(joined, height * (1 + width * step)), np.uint8)
    ways: dict[str, Decoder] = {
        "read the file": lambda: read_file(path),
        "checksums": lambda: [crc32(piece) for piece in coded],
        "join": lambda: b"".join(coded),
        "inflate": lambda: zlib_decompress(joined, raw.size),
        "filters": lambda: unfiltered(raw, height, width, step),
        "all": lambda: decode_picture(read_file(path)),
    }
    return {name: round(ms, 3) for name, ms in best(ways, rounds).items()}


def main() -> int:
    options = arguments(__doc__ or "")
    rounds = 3 if options.quick else 15
    rows: list[dict[str, Any]] = []
    made_of: dict[str, dict[str, float]] = {}
    for side in (300,) if options.quick else SIDES:
        for colours, picture in pictures(side).items():
            for kind, data in files(picture):
                rows += measure(colours, side, kind, data, rounds if side < 5000 else max(2, rounds // 4))
                if kind == "PNG" and side <= 1024:
                    with tempfile.TemporaryDirectory() as folder:
                        made_of[f"{colours}, {side}"] = parts(data, Path(folder), rounds)
    save(options.out, "decoding", {"rows": rows, "parts": made_of})
    slow = [r for r in rows if r["decoder"] == "patchbank" and r["format"] == "PNG" and r["ratio"] > QUICK_RATIO]
    wrong = [row for row in rows if row["decoder"].startswith("patchbank") and not row["same"]]
    if wrong or (options.quick and slow):
        print(f"other pixels: {wrong}; slow: {slow}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
