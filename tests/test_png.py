"""PNG by libdeflate and the compiled part: the pixels that OpenCV reads, of every layout, and its refusals."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patchbank.errors import ImageError
from patchbank.imaging import png as reader
from patchbank.imaging.by_opencv import by_opencv
from patchbank.imaging.decoding import decode_picture

GOLDEN = Path(__file__).parent / "golden" / "images"
Bytes = npt.NDArray[np.uint8]

CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the type of colours
FILTERS = range(5)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(rows: Bytes, step: int, filters: list[int]) -> bytes:
    """(H, bytes) -> the rows as PNG's specification filters them, byte by byte: slow, and by no code of ours."""
    above, out = np.zeros(rows.shape[1], np.int64), bytearray()
    for row, how in zip(rows.astype(np.int64), filters, strict=True):
        left, corner = np.zeros_like(row), np.zeros_like(row)
        left[step:], corner[step:] = row[:-step], above[:-step]
        estimate = left + above - corner
        apart = np.abs(np.stack([left, above, corner]) - estimate)
        nearest = np.stack([left, above, corner])[apart.argmin(axis=0), np.arange(len(row))]  # ties: in this order
        predicted = [np.zeros_like(row), left, above, (left + above) // 2, nearest][how]
        out += bytes([how]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    return bytes(out)


def png(
    rows: Bytes, size: tuple[int, int], bits: int, colours: int, filters: list[int], *, split: int = 0, level: int = 6
) -> bytes:
    """A PNG file of (H, bytes) rows. split: the bytes of a part of its data, 0 = all in one."""
    data = zlib.compress(filtered(rows, CHANNELS[colours] * bits // 8, filters), level)
    pieces = [data[at : at + split] for at in range(0, len(data), split)] if split else [data]
    header = struct.pack(">IIBBBBB", size[1], size[0], bits, colours, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(b"IDAT", piece) for piece in pieces), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def outcome(data: bytes, as_stored: bool = False) -> Any:
    """The pixels that are read of a file, or why it is refused."""
    try:
        return decode_picture(data, as_stored=as_stored).values
    except ImageError as error:
        return str(error)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch, built: None) -> list[bool]:
    """For each PNG that is read, whether OpenCV was not needed."""
    seen: list[bool] = []
    real = reader._unpacked

    def watched(*args: Any) -> Any:
        found = real(*args)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(reader, "_unpacked", watched)
    return seen


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """A sound file of any size, depth, colours and filters, with its depth and colours."""
    bits, colours = draw(st.sampled_from([8, 16])), draw(st.sampled_from(sorted(CHANNELS)))
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = rng.integers(0, draw(st.sampled_from([2, 9, 256])), (size[0], size[1] * CHANNELS[colours] * bits // 8))
    few = draw(st.lists(st.sampled_from(FILTERS), min_size=1, max_size=5))
    filters = [few[(at // 3) % len(few)] for at in range(size[0])] if draw(st.booleans()) else [few[0]] * size[0]
    split, level = draw(st.sampled_from([0, 1, 100])), draw(st.sampled_from([0, 1, 9]))
    return png(rows.astype(np.uint8), size, bits, colours, filters, split=split, level=level), bits, colours


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("level", ["", "avx2", "any"])
@settings(deadline=None, max_examples=150)
@given(file=files(), as_stored=st.booleans())
def test_every_layout_has_the_pixels_that_opencv_reads(
    level: str, file: tuple[bytes, int, int], as_stored: bool
) -> None:
    """Grey, RGB, with alpha, 8 and 16 bits, every filter and row length; for pictures, and for masks and channels."""
    data, bits, colours = file
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATCHBANK_NATIVE", level)
        found, turn = reader.decode_png(data, as_stored)
    expected = by_opencv(data, as_stored)
    assert turn == 1
    assert found.dtype == expected.dtype == np.dtype(f"u{bits // 8}")
    if found.shape[2] == 1:
        assert colours in (0, 4)
        found = np.broadcast_to(found, expected.shape)  # OpenCV repeats grey; here that comes later, for all formats
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("level", ["", "any"])
@pytest.mark.parametrize(("bits", "colours"), [(bits, colours) for bits in (8, 16) for colours in CHANNELS])
def test_none_of_the_usual_layouts_needs_opencv(
    unpacked: list[bool], monkeypatch: pytest.MonkeyPatch, level: str, bits: int, colours: int
) -> None:
    """The property above would hold if all went to OpenCV."""
    monkeypatch.setenv("PATCHBANK_NATIVE", level)
    rows = np.random.default_rng(0).integers(0, 256, (48, 300 * CHANNELS[colours] * bits // 8)).astype(np.uint8)
    data = png(rows, (48, 300), bits, colours, [at % 5 for at in range(48)])
    assert decode_picture(data).values.shape[:2] == (48, 300)
    assert unpacked == [True]


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.png")), ids=lambda path: path.name)
def test_golden_files_are_read_alike_with_and_without_the_compiled_part(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    for as_stored in (False, True):
        monkeypatch.delenv("PATCHBANK_NATIVE", raising=False)
        found = outcome(path.read_bytes(), as_stored)
        monkeypatch.setenv("PATCHBANK_NATIVE", "0")
        expected = outcome(path.read_bytes(), as_stored)
        if isinstance(found, str):
            assert found == expected
        else:
            np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)


@pytest.mark.realdata
def test_real_images_have_the_pixels_that_they_were_saved_with(data_root: Path, unpacked: list[bool]) -> None:
    """At their original size, in colour and grey, as OpenCV and as Pillow write them (filters differ)."""
    image = pytest.importorskip("PIL.Image")
    paths = [
        *sorted((data_root / "bottle/train/good").iterdir())[:2],
        *sorted((data_root / "screw/test").rglob("*.*"))[:2],
    ]
    for path in paths:
        picture = cv2.resize(cv2.imread(str(path)), (900, 900), interpolation=cv2.INTER_CUBIC)[:, :, ::-1]
        for pixels in (picture, picture[:, :, 1]):
            file = pytest.importorskip("io").BytesIO()
            image.fromarray(pixels).save(file, "PNG")
            for data in (file.getvalue(), cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1]):
                found = decode_picture(bytes(data)).values
                np.testing.assert_array_equal(found, pixels if pixels.ndim == 3 else pixels[:, :, None])
    assert unpacked == [True] * 4 * len(paths)


# --- what is wrong with a file, or unusual ---

PLAIN = np.random.default_rng(1).integers(0, 256, (20, 93)).astype(np.uint8)  # 20 x 31 pixels of RGB
ROWS = filtered(PLAIN, 3, [4] * 20)


def changed(coded: bytes, *between: bytes, after: bytes = b"", methods: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """A file of 31 x 20 pixels of RGB with these coded data, and parts before and after them."""
    header = struct.pack(">IIBBBBB", 31, 20, 8, 2, *methods)
    parts = [chunk(b"IHDR", header), *between, chunk(b"IDAT", coded), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zlib_of(data: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(data) + packer.flush()


WHOLE = zlib.compress(ROWS)
UNUSUAL = {
    "no checksum at its end": changed(WHOLE[:-4]),
    "another checksum at its end": changed(WHOLE[:-1] + bytes([WHOLE[-1] ^ 1])),
    "cut": changed(WHOLE[: len(WHOLE) // 2]),
    "too few rows": changed(zlib.compress(ROWS[:-94])),
    "part of a row is missing": changed(zlib.compress(ROWS[:-1])),
    "too many rows": changed(zlib.compress(ROWS + bytes(94))),
    "one byte too many": changed(zlib.compress(ROWS + b"\0")),
    "something after its end": changed(WHOLE + b"junk"),
    "a filter that there is not": changed(zlib.compress(b"\5" + ROWS[1:])),
    "a filter that there is not, at the end": changed(zlib.compress(ROWS[:-94] + b"\xff" + ROWS[-93:])),
    "a small window": changed(zlib_of(ROWS, 9)),
    "a window that is said to be small": changed(b"\x08\x1d" + WHOLE[2:]),
    "no zlib": changed(b"\x79" + WHOLE[1:]),
    "a dictionary": changed(b"\x78\xbb" + WHOLE[2:]),
    "no data": changed(b""),
    "one byte of data": changed(b"\x78"),
    "a transparent colour": changed(WHOLE, chunk(b"tRNS", bytes(6))),
    "a palette that is only a suggestion": changed(WHOLE, chunk(b"PLTE", bytes(range(9)))),
    "an unknown part that counts": changed(WHOLE, chunk(b"ABCD", b"x")),
    "two headers": changed(WHOLE, chunk(b"IHDR", struct.pack(">IIBBBBB", 31, 20, 8, 2, 0, 0, 0))),
    "data in two places": changed(WHOLE[:50], after=chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", WHOLE[50:])),
    "data in two places, something that counts between": changed(
        WHOLE[:50], after=chunk(b"PLTE", bytes(9)) + chunk(b"IDAT", WHOLE[50:])
    ),
    "another compression": changed(WHOLE, methods=(1, 0, 0)),
    "other filters": changed(WHOLE, methods=(0, 1, 0)),
    "interlaced, by its header": changed(WHOLE, methods=(0, 0, 1)),
    "a header that is too long": changed(WHOLE).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 31, 20, 8, 2, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 31, 20, 8, 2, 0, 0, 0) + b"\0"),
    ),
    "an end with something in it": changed(WHOLE).replace(chunk(b"IEND", b""), chunk(b"IEND", b"abc")),
}


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("what", UNUSUAL)
def test_opencv_decides_about_whatever_is_unusual(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A file that is refused without the compiled part is refused with it, in the same words; others are not."""
    monkeypatch.setenv("PATCHBANK_NATIVE", "0")
    expected = outcome(UNUSUAL[what])
    monkeypatch.delenv("PATCHBANK_NATIVE")
    found = outcome(UNUSUAL[what])
    assert isinstance(found, str) == isinstance(expected, str)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("built")
@settings(deadline=None, max_examples=300)
@example(0, 1)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_one_changed_byte_of_the_data_is_no_other_picture(place: int, bits: int) -> None:
    """Where its part's own checksum was made to fit, too: the sum at the data's end still says so."""
    coded = bytearray(WHOLE)
    coded[place] ^= bits
    found = outcome(changed(bytes(coded)))
    assert isinstance(found, str) or np.array_equal(found, PLAIN.reshape(20, 31, 3))


def test_what_unpacks_to_more_than_its_picture_is_not_unpacked(unpacked: list[bool]) -> None:
    """Nothing is ever written past the picture, however much the data would become: 60 MB for 31 x 20 pixels."""
    found = outcome(changed(zlib.compress(ROWS + bytes(60_000_000), 9)))
    assert unpacked == [False]
    assert isinstance(found, str) or np.array_equal(found, PLAIN.reshape(20, 31, 3))  # OpenCV's versions differ
