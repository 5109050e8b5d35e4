"""Decoding: every format gives the right numbers, or a refusal by name before anything large is done."""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import struct
import sys
import threading
import zlib
from pathlib import Path

import cv2
import deflate
import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from patchbank.config import Config, ImageFormat
from patchbank.errors import ConfigError, ImageError
from patchbank.imaging import formats, images, tiff
from patchbank.imaging.by_opencv import quiet
from patchbank.imaging.decoding import decode, decode_picture
from patchbank.imaging.formats import MAX_PIXELS, READ, VARIABLE, check_size
from patchbank.imaging.images import read_image

GOLDEN = Path(__file__).parent / "golden" / "images"


@pytest.fixture
def picture(rng):
    """A smooth RGB image (H, W, 3) uint8."""
    return cv2.GaussianBlur(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), (0, 0), 3)


def encoded(rgb, kind, **options):
    file = io.BytesIO()
    (rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)).save(file, kind, **options)
    return file.getvalue()


def as_tiff(array, **options):
    file = io.BytesIO()
    colours = {} if "photometric" in options else {"photometric": "rgb" if 3 in array.shape else "minisblack"}
    tifffile.imwrite(file, array, metadata=None, **colours, **options)
    return file.getvalue()


def by_opencv(data):
    """What patchbank 0.9 read: the values of sound files must not change."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits=8, colours=2, *between):
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# --- right values ---


@pytest.mark.parametrize(
    ("name", "format", "most"),
    [
        ("exif6.jpg", ImageFormat(), 2.0),
        ("exif6.jpg", ImageFormat(channels=3), 2.0),
        ("exif6.webp", ImageFormat(), 0.1),
        ("exif6.webp", ImageFormat(channels=3), 0.1),
        ("grey12_in16.png", ImageFormat(white=4095.0), 0.1),
        ("grey12_maxval4095.pgm", ImageFormat(), 0.1),
        ("grey12_maxval4095.pgm", ImageFormat(white=4095.0), 0.1),
        ("grey12_packed.tif", ImageFormat(), 0.1),
        ("grey12_packed.tif", ImageFormat(white=4095.0), 0.1),
        ("grey8_whiteiszero.tif", ImageFormat(), 0.0),
        ("grey16_whiteiszero.tif", ImageFormat(), 0.1),
        ("grey_float32.tif", ImageFormat(), 0.1),
        ("rgb_float32.tif", ImageFormat(), 0.1),
        ("rgb16_planar.tif", ImageFormat(), 0.1),
        ("rgb8_jpeg2000.tif", ImageFormat(), 0.5),
        ("rgba_zero.png", ImageFormat(), 0.0),
        ("rgba_zero.tif", ImageFormat(), 0.0),
    ],
)
def test_files_that_were_read_wrongly(name, format, most):
    """One picture in every disguise: upside down, packed, planar, inverted, transparent."""
    reference = read_image(GOLDEN / f"reference_{'grey' if 'grey' in name else 'rgb'}.png").astype(float)
    found = read_image(GOLDEN / name, format)
    assert found.shape == reference.shape
    assert np.abs(found - reference).mean() <= most


def test_signed_numbers_are_refused_unless_white_is_known():
    with pytest.raises(ImageError, match=r"grey_int16\.tif: .*got int16"):
        read_image(GOLDEN / "grey_int16.tif")
    signed = np.arange(400, dtype=np.int16).reshape(20, 20)
    for white in (399.0, 1000.0):
        found = images.to_rgb(decode_picture(as_tiff(signed)).values, ImageFormat(white=white))
        np.testing.assert_allclose(found[:, :, 0], signed * 255.0 / white, rtol=1e-5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("channels", [0, 3])
@pytest.mark.parametrize("turn", range(10))
def test_exif_orientation_by_one_rule(tmp_path, picture, kind, channels, turn):
    """A quarter turn learnt and none seen would be another part. 0 and 9 mean nothing."""
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "image"
    path.write_bytes(encoded(picture, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    upright = {
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: np.rot90(picture, -1)[::-1, :],
        8: np.rot90(picture),
    }.get(turn, picture)
    if turn == 7:
        upright = np.rot90(picture.transpose(1, 0, 2), 2)
    found = read_image(path, ImageFormat(channels=channels))
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < (4 if kind == "JPEG" else 1e-9)


def test_of_two_orientations_the_first_counts(picture):
    """As in OpenCV, Pillow and browsers: a camera's software may add a second part of EXIF data."""
    plain = encoded(picture, "JPEG", quality=95)
    parts = [b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0%c\0\0\0\0\0\0" % turn for turn in (8, 3)]
    both = plain[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts) + plain[2:]
    np.testing.assert_array_equal(decode(both), np.rot90(decode(plain)))


def test_sound_files_keep_the_values_that_opencv_gives(picture):
    """A model that was fitted with an older version must see what it saw."""
    pil = Image.fromarray(picture)
    grey = pil.convert("L")
    files = [encoded(pil, kind) for kind in ("PNG", "BMP", "TIFF", "WEBP", "JPEG", "PPM")]
    files += [encoded(grey, kind) for kind in ("PNG", "BMP", "TIFF", "WEBP", "JPEG", "PPM")]
    files += [encoded(pil.convert("RGBA"), kind) for kind in ("PNG", "BMP", "WEBP")]
    files += [encoded(pil.convert("CMYK"), kind) for kind in ("JPEG", "TIFF")]
    files += [encoded(pil.convert(mode), kind) for mode in "P1" for kind in ("PNG", "BMP", "TIFF")]
    files += [encoded(pil, "JPEG", quality=q, subsampling=s) for q in (20, 75, 100) for s in (0, 1, 2)]
    files += [encoded(pil, "JPEG", **more) for more in ({"progressive": True}, {"restart_marker_rows": 1})]
    files += [encoded(pil, "TIFF", compression=f"tiff_{how}") for how in ("lzw", "adobe_deflate", "deflate")]
    files += [encoded(pil, "TIFF", compression=how) for how in ("packbits", "jpeg")]
    files += [encoded(grey, "TIFF", compression="jpeg")]
    deep = picture.astype(np.uint16) * 257 + 3
    files += [cv2.imencode(suffix, part)[1].tobytes() for suffix in (".png", ".tif") for part in (deep, deep[:, :, 0])]
    for number, data in enumerate(files):
        expected, found = by_opencv(data), decode(data)
        assert found.dtype == expected.dtype, number
        np.testing.assert_array_equal(found, expected, str(number))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
def test_tiff_in_every_layout(rng, dtype, order, compression):
    """tifffile is the oracle: strips and tiles, planes, predictors, both byte orders, every depth."""
    values = np.cumsum(rng.integers(0, 9, (37, 53, 3)), axis=1) % 251
    array = (values / (256 if "f" in dtype else 1)).astype(dtype)
    for tile, planar, predicted in itertools.product((None, (16, 32)), (False, True), (False, True)):
        if predicted and compression in (None, "packbits"):
            continue
        data = as_tiff(
            np.moveaxis(array, 2, 0) if planar else array,
            compression=compression,
            predictor=(3 if "f" in dtype else 2) if predicted else None,
            tile=tile,
            rowsperstrip=None if tile else 8,
            byteorder=order,
            planarconfig="separate" if planar else "contig",
            photometric="rgb",
            bigtiff=order == ">",
        )
        found = decode_picture(data).values
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
def test_packed_bits(rng, bits):
    """White is the largest number of that many bits."""
    values = rng.integers(0, 2**bits, (9, 21)).astype(np.uint8 if bits <= 8 else np.uint16)
    packed = b"".join(
        np.packbits((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).ravel()).tobytes() for row in values
    )
    tags = {256: 21, 257: 9, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 9, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = 8 + len(packed)
    data = b"II*\0" + struct.pack("<I", start) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)
    picture = decode_picture(data)
    found = images.to_rgb(picture.values, ImageFormat(white=picture.white))
    np.testing.assert_allclose(found[:, :, 0], values * (255 / (2**bits - 1)), atol=1e-3)


def test_a_tiff_of_jpeg_with_alpha_is_refused_by_name(picture):
    """libjpeg takes its four channels for CMYK."""
    with pytest.raises(ImageError, match="JPEG with 4 channels"):
        decode(encoded(Image.fromarray(picture).convert("RGBA"), "TIFF", compression="jpeg"))


def test_a_tiff_whose_bits_are_stored_backwards(picture):
    plain = encoded(Image.fromarray(picture).convert("1"), "TIFF")
    page = next(tiff.read_pages(plain))
    where, size = page.tags[273][0], page.tags[279][0]
    swapped = np.packbits(np.unpackbits(np.frombuffer(plain[where : where + size], np.uint8)), bitorder="little")
    data = bytearray(plain)
    data[where : where + size] = swapped.tobytes()
    at = plain.index(struct.pack("<HHI", 259, 3, 1))
    data[at : at + 12] = struct.pack("<HHII", 266, 3, 1, 2)  # fill order in place of "no compression", which is implied
    np.testing.assert_array_equal(decode(bytes(data)), decode(plain))


@pytest.mark.parametrize("first", [{"subfiletype": 1}, {}])
def test_a_thumbnail_before_the_picture_is_not_taken_for_it(picture, first):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(picture[::4, ::4].copy(), photometric="rgb", metadata=None, **first)
        writer.write(picture, photometric="rgb", metadata=None)
    np.testing.assert_array_equal(decode(file.getvalue()), picture)
    if first:
        np.testing.assert_array_equal(decode_picture(file.getvalue(), 3).values, picture)


def test_several_pictures_in_one_file_are_refused(picture):
    with pytest.raises(ImageError, match=r"2 pictures; expected one .*set channels"):
        decode(as_tiff(np.stack([picture, picture]), photometric="rgb"))
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    for kind in ("PNG", "WEBP"):
        with pytest.raises(ImageError, match="animated"):
            decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize("kind", ["jpeg2000", "jpegxl", "zstd"])
def test_compressions_of_the_extra(picture, kind, monkeypatch):
    options = {"jpeg2000": {"level": 0}, "jpegxl": {"lossless": True}}.get(kind, {})
    data = as_tiff(picture, compression=kind, compressionargs=options)
    np.testing.assert_array_equal(decode(data), picture)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r"pip install 'patchbank\[tiff\]'"):
        decode(data)


@settings(deadline=None, max_examples=200)
@example(b"")
@example(bytes(100_000))
@example(bytes(range(256)) * 300)
@given(st.binary(max_size=3000))
def test_lzw_of_the_base_install(data):
    """imagecodecs is the oracle: codes of 9 to 12 bits, tables that fill up and are cleared."""
    code = imagecodecs.lzw_encode(data)
    assert tiff._lzw(code, len(data)) == data


@pytest.mark.parametrize("kind", ["lzw", "packbits"])
def test_without_the_extra_the_same_is_read_and_refused(picture, monkeypatch, kind):
    """Sound strips, and strips that were changed at one place, by imagecodecs and by our own decoder."""
    whole = as_tiff(picture, compression=kind)

    def outcome(data):
        try:
            return decode(data).tobytes()
        except ImageError:
            return b""

    damaged = [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in range(300, len(whole) - 300, 97)]
    expected = [outcome(data) for data in (whole, *damaged)]
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert [outcome(data) for data in (whole, *damaged)] == expected
    np.testing.assert_array_equal(decode(whole), picture)
    monkeypatch.setattr(tiff, "MOST_BY_PYTHON", 7199)
    with pytest.raises(ImageError, match=r"patchbank\[tiff\]"):
        decode(whole)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_by_zlib_alone_the_same_deflate_is_read_and_refused(picture, monkeypatch, rows):
    """Strips that are sound, padded, cut, changed at one place, too long or short: libdeflate decides none of it."""
    whole = as_tiff(picture, compression="zlib", rowsperstrip=rows)
    page = next(tiff.read_pages(whole))
    strips = [whole[at : at + size] for at, size in zip(page.tags[273], page.tags[279], strict=True)]
    last = zlib.decompress(strips[-1])
    changes = [strips[-1][:-5], strips[-1] + b"junk", b"\x78\x9c", zlib.compress(last[:-1]), zlib.compress(last + b"x")]
    changes += [zlib.compress(last + bytes(180 * (rows - len(last) // 180))), zlib.compress(last + bytes(10**6), 9)]
    damaged = [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in range(300, len(whole) - 300, 97)]

    def outcome(data):
        try:
            return decode(data).tobytes()
        except ImageError as error:
            return str(error)

    def unpacked(raw):
        try:
            return bytes(tiff._unpacked(raw, 8, len(last), 180 * rows))
        except ImageError as error:
            return str(error)

    expected = [*map(outcome, (whole, *damaged)), *map(unpacked, (strips[-1], *changes))]
    assert expected[0] == picture.tobytes()
    assert any(isinstance(each, str) for each in expected)
    monkeypatch.setattr(deflate, "zlib_decompress", _refusing)
    assert [*map(outcome, (whole, *damaged)), *map(unpacked, (strips[-1], *changes))] == expected


def _refusing(*_):
    raise deflate.DeflateError("no")


# --- PBM, PGM, PPM ---


def test_netpbm_says_what_white_is(tmp_path):
    """10 x 8 pixels of 0 to 79; white is 100, in numbers and in text, with comments."""
    values = np.arange(80, dtype=np.uint8).reshape(8, 10)
    text = " ".join(map(str, values.ravel()))
    for data in (
        b"P5\n# camera\n10 8\n100\n" + values.tobytes(),
        f"P2 10\n8 # size\n100\n{text}".encode(),
        b"P6 10 8 100 " + np.repeat(values[:, :, None], 3, 2).tobytes(),
        b"P5 10 8 1000 " + (values.astype(np.uint16) * 10).astype(">u2").tobytes(),
    ):
        (tmp_path / "a").write_bytes(data)
        np.testing.assert_allclose(read_image(tmp_path / "a")[:, :, 1], values * 2.55, rtol=1e-5)
        np.testing.assert_array_equal(read_image(tmp_path / "a", ImageFormat(white=1000.0)).argmax(), 79 * 3)


def test_netpbm_of_8_and_16_bits_and_black_and_white(picture):
    grey = picture[:, :, 0]
    np.testing.assert_array_equal(decode(b"P5 60 40 255 " + grey.tobytes())[:, :, 0], grey)
    deep = decode(b"P5 60 40 65535 " + (grey * np.uint16(257)).astype(">u2").tobytes())
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep[:, :, 2], grey * np.uint16(257))
    marks = grey > 128
    packed = np.packbits(marks, axis=1).tobytes()
    digits = b"\n".join(b"".join(b"%d" % value for value in row) for row in marks)
    for data in (b"P4 60 40\n" + packed, b"P1 60 40\n" + digits):
        np.testing.assert_array_equal(decode(data)[:, :, 0], np.where(marks, 0, 255))  # 1 is black


@pytest.mark.parametrize(
    "data",
    [
        b"P5 10 8 100 " + bytes(79),
        b"P5 10 8 100 " + bytes(79) + b"\xff",
        b"P5 10 8 0 " + bytes(80),
        b"P5 10 8 65536 " + bytes(160),
        b"P5 10 " + bytes(100),
        b"P2 10 8 255 1 2 3",
        b"P2 10 8 255 " + b"-1 " * 80,
        b"P2 10 8 255 " + b"9" * 3000,
        b"P1 10 8 " + b"2" * 80,
        b"P4 10 8 " + bytes(3),
        b"P2 1 1 255 " + b" " * 200_000 + b"1",
        b"P5 10 8 100000 " + bytes(240),
        b"P5 10 8 255#" + bytes(81),
        b"P5 10 8 255\n# written by a camera\n" + bytes(80),
        b"P5\r\n10 8\r\n255\r\n" + bytes(80),
        b"P4 8 0000000080\n" + bytes(80),
        b"P6 10 8 255\n" + bytes(240) + b"P6 10 8 255\n" + bytes(240),
        b"P2 10 8 255 " + b"1 " * 81,
        b"P1 10 8 " + b"1 " * 81,
    ],
)
def test_damaged_netpbm(data):
    """Cut, with another header than it seems, or longer than its picture, which then lies elsewhere."""
    with pytest.raises(ImageError, match=r"damaged|truncated|decoded"):
        decode(data)


def test_every_cut_of_numbers_as_text_is_noticed(rng):
    """NumPy fills up what it does not find with whatever lies in the memory."""
    numbers = rng.integers(0, 256, 40 * 30).tolist()
    whole = b"P2 40 30 255\n" + " ".join(map(str, numbers)).encode()
    assert decode(whole)[:, :, 0].ravel().tolist() == numbers
    for end in range(20, len(whole) - 3, 7):
        with pytest.raises(ImageError, match=r"truncated"):
            decode(whole[:end])


# --- BMP ---


def bmp(picture, masks, start):
    """32 bits a pixel, bottom row first, with the old header, after which OpenCV does not look at the masks."""
    rows = np.concatenate([picture[::-1], np.zeros((*picture.shape[:2], 1), np.uint8)], 2).tobytes()
    height, width = picture.shape[:2]
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0) + struct.pack(
        "<3I", *masks
    )
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, start) + header + rows


def test_a_bmp_in_another_order_of_colours_is_not_read_as_if_it_had_the_usual_one(picture):
    usual = bmp(picture[:, :, ::-1], (0xFF0000, 0xFF00, 0xFF), 66)
    np.testing.assert_array_equal(decode(usual), picture)
    with pytest.raises(ImageError, match="order of colours"):
        decode(bmp(picture, (0xFF, 0xFF00, 0xFF0000), 66))


@pytest.mark.parametrize("start", [0, 14, 53])
def test_a_bmp_whose_header_is_not_taken_for_its_picture(picture, start):
    data = bmp(picture[:, :, ::-1], (0xFF0000, 0xFF00, 0xFF), start)
    with pytest.raises(ImageError, match="begins inside"):
        decode(data)
    indexed = encoded(Image.fromarray(picture).quantize(256), "BMP")
    decode(indexed)
    with pytest.raises(ImageError, match="begins inside"):
        decode(indexed[:10] + struct.pack("<I", 54) + indexed[14:])


# --- damage ---

HOLES = {
    "jpeg": lambda image: encoded(image, "JPEG", quality=92),
    "jpeg with restarts": lambda image: encoded(image, "JPEG", quality=92, restart_marker_rows=1),
    "grey jpeg": lambda image: encoded(Image.fromarray(image).convert("L"), "JPEG", quality=95),
    "png": lambda image: encoded(image, "PNG"),
    "deflate": lambda image: encoded(image, "TIFF", compression="tiff_adobe_deflate"),
    "lzw": lambda image: encoded(image, "TIFF", compression="tiff_lzw"),
    "packbits": lambda image: encoded(image, "TIFF", compression="packbits"),
    "jpeg in tiff": lambda image: encoded(image, "TIFF", compression="jpeg"),
}


@pytest.mark.parametrize("kind", HOLES)
@pytest.mark.parametrize("size", [128, 512, 4096])
def test_a_hole_in_the_middle_is_an_error_not_a_picture_with_grey_blocks(rng, kind, size):
    """A page that was not yet written on a share: zeros where the picture should be."""
    image = cv2.GaussianBlur(rng.integers(0, 256, (400, 400, 3), dtype=np.uint8), (0, 0), 1.0)
    whole = HOLES[kind](image)
    decode(whole)
    for share in (0.3, 0.5, 0.7):
        data, start = bytearray(whole), int(len(whole) * share)
        data[start : start + size] = bytes(size)
        with pytest.raises(ImageError, match=r"damaged|truncated"):
            decode(bytes(data))


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
def test_a_flat_picture_is_no_hole(options):
    """In the code of a flat picture there may be long rows of zeros."""
    for value, mode in itertools.product((0, 77, 255), ("L", "RGB")):
        image = Image.fromarray(np.full((600, 600, 3), value, np.uint8)).convert(mode)
        for quality in (10, 75, 100):
            assert abs(int(decode(encoded(image, "JPEG", quality=quality, **options)).max()) - value) < 4


def test_what_a_decoder_warns_about_can_be_accepted(tmp_path, picture):
    """Some web cameras write bytes too many, and their pictures are sound."""
    data = encoded(picture, "JPEG")
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:-2] + bytes(8) + data[-2:])
    with pytest.raises(ImageError, match=r"a\.jpg: is damaged \(libjpeg: .*accept_damaged"):
        read_image(path)
    format = Config(accept_damaged=True).image_format
    np.testing.assert_array_equal(read_image(path, format), decode(data))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="truncated"):  # there is no end to accept
        read_image(path, format)


def test_a_checksum_that_does_not_match(picture):
    data = bytearray(encoded(picture, "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="checksum"):
        decode(bytes(data))


def test_a_tiff_that_lists_fewer_strips_than_it_needs(picture):
    data = as_tiff(picture, rowsperstrip=8)
    at = max(data.find(struct.pack("<HHI", 257, kind, 1)) for kind in (3, 4))
    with pytest.raises(ImageError, match="lists 5 strips or tiles of 8"):
        decode(data[: at + 8] + struct.pack("<I", 64) + data[at + 12 :])


# --- what is no image, or too large a one ---


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gif.png", "is a GIF file; expected PNG"),
        ("bmp_rle.bmp", "30000x30000"),
        ("tiff_u16_30000.tif", "30000x30000"),
        ("npy_paren.npy", "is no NumPy array"),
        ("npy_minus.npy", "is no NumPy array"),
        ("npy_descr_tuple.npy", "is no NumPy array"),
    ],
)
def test_hostile_files(name, says):
    with pytest.raises(ImageError, match=rf"{re.escape(name)}: .*{says}"):
        read_image(GOLDEN / name)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"GIF89a", "GIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"8BPS\0\1", "Photoshop"),
    ],
)
def test_formats_that_are_not_read_are_refused_by_name(head, name):
    with pytest.raises(ImageError, match=f"is a {name} file; expected .*convert it"):
        decode(head + bytes(100))


def test_the_limit_by_hand(monkeypatch):
    """100 pixels of 8 bits in colour: 16 bits and floats count three times, 64 bits six times, channels by thirds."""
    monkeypatch.setenv(VARIABLE, "100")
    for fits in ((10, 10), (10, 10, 1), (33, 1, 3, 2), (33, 1, 1, 4), (16, 1, 3, 8), (10, 5, 6), (10, 5, 3, 1, 2)):
        check_size(*fits)
    for large in ((101, 1), (101, 1, 1), (34, 1, 3, 2), (34, 1, 1, 4), (17, 1, 3, 8), (10, 6, 6), (17, 3, 3, 1, 2)):
        with pytest.raises(ImageError, match=VARIABLE):
            check_size(*large)
    monkeypatch.delenv(VARIABLE)
    for depth in (1, 2, 4):
        check_size(5000, 5000, 3, depth)
    monkeypatch.setenv(VARIABLE, "many")
    for use in (lambda: decode(png(8, 8)), lambda: read_image(GOLDEN / "gif.png")):
        with pytest.raises(ConfigError, match=VARIABLE):  # not an unreadable image: each would be one
            use()


def bombs(picture):
    deep = picture.astype(np.uint16) * 257
    yield "png", encoded(picture, "PNG"), 1
    yield "png16", cv2.imencode(".png", deep)[1].tobytes(), 3
    yield "jpeg", encoded(picture, "JPEG"), 1
    yield "progressive", encoded(picture, "JPEG", progressive=True), 2
    yield "bmp", encoded(picture, "BMP"), 1
    yield "webp", encoded(picture, "WEBP"), 1
    yield "lossless webp", encoded(picture, "WEBP", lossless=True), 1
    yield "tiff", as_tiff(picture, compression="zlib"), 1
    yield "tiff16", as_tiff(deep, compression="lzw"), 3
    yield "jpeg in tiff", encoded(picture, "TIFF", compression="jpeg"), 1
    yield "ppm", encoded(picture, "PPM"), 1
    yield "npy", (file := io.BytesIO(), np.save(file, picture.astype(np.float32)))[0].getvalue(), 3


def test_nothing_is_decoded_that_is_too_large(picture, monkeypatch):
    """2400 pixels: with a limit of that many times the format's weight it is read, with one less nothing decodes it."""
    files = list(bombs(picture))
    for _, data, weight in files:
        monkeypatch.setenv(VARIABLE, str(2400 * weight))
        decode(data)

    def never(*args, **kwargs):
        raise AssertionError("decoded before its size was checked")

    monkeypatch.setattr(cv2, "imdecode", never)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", never)
    monkeypatch.setattr(tiff, "_samples", never)
    monkeypatch.setattr(np, "frombuffer", never)
    for name, data, weight in files:
        monkeypatch.setenv(VARIABLE, str(2400 * weight - 1))
        with pytest.raises(ImageError, match=VARIABLE):
            decode(data)
        assert name


def test_scans_pages_parts_and_strips_are_counted(picture):
    data = encoded(picture, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="scans"):
        decode(data[:-2] + data[last:-2] * 200 + data[-2:])
    with pytest.raises(ImageError, match="parts"):
        decode(png(8, 8, 8, 2, chunk(b"teXt", b"") * 200_001))
    with pytest.raises(ImageError, match="parts"):
        decode(data[:2] + b"\xff\xe2\0\2" * 10_001 + data[2:])
    page = struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 8)
    circle = b"II*\0" + struct.pack("<I", 8) + page + struct.pack("<I", 8)
    with pytest.raises(ImageError, match="pages"):
        decode(circle)
    counts = b"".join(struct.pack("<HHII", tag, 4, 70_000_000, 8) for tag in (273, 279))
    with pytest.raises(ImageError, match="damaged"):
        decode(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + counts + bytes(4))


def test_parts_of_a_png_that_unpack_for_minutes_are_not_unpacked(picture, rng):
    """Texts and profiles of a gigabyte are left out; coded data that are longer than the picture are damage."""
    whole = encoded(picture, "PNG")
    head, rest = whole[:33], whole[33:]
    bomb = zlib.compress(bytes(50_000_000))
    extra = (
        chunk(b"zTXt", b"x\0\0" + bomb) + chunk(b"iCCP", b"x\0\0" + bomb) + chunk(b"gAMA", struct.pack(">I", 100000))
    )
    extra += chunk(b"bKGD", bytes(6)) + chunk(b"sBIT", b"\5\5\5")
    np.testing.assert_array_equal(decode(head + extra * 300 + rest), picture)
    with pytest.raises(ImageError, match="coded bytes for a picture"):
        decode(png(8, 8, 8, 2, chunk(b"IDAT", bytes(100_000))))
    noise = rng.integers(0, 256, 1_200_000, dtype=np.uint8).tobytes()
    start = whole[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 800, 800, 8, 2, 0, 0, 0))
    for level in (1, 6, 9):
        coded = zlib.compress(noise + bytes(40_000_000), level)
        with pytest.raises(ImageError, match="longer than its picture"):
            decode(start + chunk(b"IDAT", coded) + chunk(b"IEND", b""))
    half = noise + bytes(2401 * 800 - len(noise))  # a sound picture whose lower part is black
    rows = b"".join(b"\0" + half[2401 * row + 1 : 2401 * (row + 1)] for row in range(800))
    assert decode(start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")).shape == (800, 800, 3)


def test_only_files_of_a_bounded_size_are_read(tmp_path, monkeypatch):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(formats.max_file_bytes() + 1)
    with pytest.raises(ImageError, match="expected at most"):
        read_image(tmp_path / "huge.png")
    for path, says in ((tmp_path, "folder"), (tmp_path / "gone.png", "no such file"), ("a\0b", "null")):
        with pytest.raises(ImageError, match=says):
            read_image(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ImageError, match="pipe"):
            read_image(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="link leads nowhere"):
        read_image(tmp_path / "link.png")


@pytest.mark.parametrize("error", [RuntimeError("odd"), MemoryError(), IndexError(), cv2.error("x")])
@pytest.mark.parametrize("native", ["1", "0"])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, picture, monkeypatch, error, native):
    """One bad file must not end a batch."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture, "PNG"))

    def broken(*args):
        raise error

    monkeypatch.setenv("PATCHBANK_NATIVE", native)
    monkeypatch.setattr(cv2, "imdecode", broken)
    monkeypatch.setattr(deflate, "zlib_decompress", broken)
    with pytest.raises(ImageError, match=r"a\.png: "):
        read_image(path)


HEADS = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"RIFF\x40\0\0\0WEBP"]
HEADS += [b"P5 ", b"P2 9 9 ", b"P4\n", b"\x93NUMPY\1\0\x30\0{'descr': ", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0"]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(HEADS), st.binary(max_size=200), st.sampled_from([0, 3]))
def test_any_bytes_are_an_image_error(head, data, channels):
    with pytest.raises(ImageError) as error:
        decode_picture(head + data, channels)
    assert len(str(error.value)) < 500


# --- NumPy ---


@pytest.mark.parametrize("dtype", ["S3", "U2", "M8[s]", "c8", [("a", "u1"), ("b", "u2")]])
def test_numpy_files_of_other_things_than_numbers(dtype):
    file = io.BytesIO()
    np.save(file, np.zeros((9, 9), dtype))
    with pytest.raises(ImageError, match="numbers of 8 to 64 bits"):
        decode(file.getvalue())


def test_numpy_files_of_truth_values_are_true_or_false():
    file = io.BytesIO()
    np.save(file, np.eye(9, dtype=np.bool_))
    data = bytearray(file.getvalue())
    data[-1] = 77  # neither 0 nor 1: 77 * 255 would not be 255
    found = images.to_rgb(decode_picture(bytes(data)).values)
    np.testing.assert_array_equal(found[:, :, 0], np.eye(9) * 255)


def test_arrays_of_the_other_byte_order(picture):
    for dtype in ("u2", "f4"):
        array = (picture / (255 if dtype == "f4" else 1)).astype(dtype)
        np.testing.assert_array_equal(read_image(array.astype(f">{dtype}")), read_image(array.astype(f"<{dtype}")))
    with pytest.raises(ImageError, match="expected values of type"):
        read_image(np.zeros((9, 9), [("a", "u1")]))


# --- what is said ---


def test_a_nearly_black_image_of_16_bits_is_pointed_out_once(caplog, monkeypatch):
    monkeypatch.setattr(images, "_said", threading.Event())
    with caplog.at_level(logging.WARNING, "patchbank"):
        read_image(GOLDEN / "grey12_in16.png", ImageFormat(white=4095.0))
        read_image(np.full((9, 9), 5000, np.uint16))
        assert not caplog.records
        read_image(GOLDEN / "grey12_in16.png")
        read_image(GOLDEN / "grey12_in16.png")
    assert [record.name for record in caplog.records] == ["patchbank"]
    assert re.search(r"grey12_in16\.png: .*white = 4095", caplog.text)


@pytest.mark.skipif(not hasattr(cv2.utils, "logging"), reason="this OpenCV has no log level")
def test_opencvs_log_level_is_set_back_after_reads_in_threads(picture):
    before = cv2.utils.logging.getLogLevel()
    data = encoded(picture, "PNG")
    threads = [threading.Thread(target=lambda: [decode(data) for _ in range(40)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cv2.utils.logging.getLogLevel() == before
    with quiet(cv2), quiet(cv2):
        assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
    assert cv2.utils.logging.getLogLevel() == before


def test_the_documentation_names_every_format_and_limit():
    """docs/reference/image-formats.md is the promise."""
    text = (Path(__file__).parents[1] / "docs" / "reference" / "image-formats.md").read_text("utf-8")
    for name in (*READ, VARIABLE, f"{MAX_PIXELS:,}".replace(",", " "), "accept_damaged"):
        assert name in text, name
