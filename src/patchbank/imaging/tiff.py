"""TIFF files: the numbers as they are stored, with the value that means white.

Only the tags that say how the picture is stored are read, each with a bound, and a strip or tile must give exactly as
many bytes as the header says: one that gives fewer or more is damaged. Without compression, LZW, deflate, PackBits and
JPEG are read by the base install; JPEG 2000, JPEG XL and Zstandard by imagecodecs (extra `tiff`).
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import ImageError
from patchbank.imaging.formats import check_size, turned, upright
from patchbank.imaging.jpeg import check_scans, decoded, read_header, with_tables

MAX_PAGES = 256
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the integers that the tags below may have
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL = 256, 257, 258, 259, 262, 266
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 274, 277, 278, 279, 284, 317
_COLOURS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SUB_IFDS, _EXTRA = 320, 322, 323, 324, 325, 330, 338
_KIND, _OLD_KIND, _FORMAT, _JPEG_TABLES = 254, 255, 339, 347
_TAGS = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL, _STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES}
    | {_PLANAR, _PREDICTOR, _COLOURS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SUB_IFDS, _EXTRA, _KIND}
    | {_OLD_KIND, _FORMAT, _JPEG_TABLES}
)
MAX_BLOCKS = 100_000  # strips or tiles of a page
_MAX_VALUES = 2_000_000  # of all tags together
_NAMES = {2: "CCITT", 3: "fax", 4: "fax", 6: "old-style JPEG", 34887: "LERC", 50001: "WebP", 34933: "PNG"}
_JPEG, _JPEG_2000, _JPEG_XL, _ZSTD = 7, frozenset({33004, 33005, 34712}), frozenset({50002, 52546}), frozenset({50000})
_PHOTOMETRICS = {3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 32803: "a raw sensor's colour filters"}


@dataclass(frozen=True)
class Page:
    """One directory of a TIFF file: how a picture of (height, width, samples) is stored."""

    tags: dict[int, tuple[int, ...]]
    tables: bytes
    order: str  # ">" or "<"

    def __getitem__(self, tag: int) -> int:
        return self.get(tag, _DEFAULTS.get(tag))

    def get(self, tag: int, default: int | None) -> int:
        value = self.tags.get(tag, () if default is None else (default,))
        if not value:
            raise ImageError(f"is damaged (the TIFF file lacks tag {tag})")
        return value[0]

    @property
    def height(self) -> int:
        return self[_HEIGHT]

    @property
    def width(self) -> int:
        return self[_WIDTH]

    @property
    def samples(self) -> int:
        return self[_SAMPLES]

    @property
    def bits(self) -> int:
        return self._same(_BITS, "depths")

    @property
    def kind(self) -> str:
        """ "u", "i" or "f": unsigned, signed or floating point numbers."""
        found = self._same(_FORMAT, "types of numbers")
        if found not in (1, 2, 3, 4):
            raise ImageError("is a TIFF file of complex numbers; expected integers or floats")
        return {1: "u", 2: "i", 3: "f", 4: "u"}[found]

    @property
    def is_preview(self) -> bool:
        """A reduced picture, or one that only says which pixels of another count."""
        return bool(self[_KIND] & 0b101) or self[_OLD_KIND] == 2

    def _same(self, tag: int, what: str) -> int:
        values = set(self.tags.get(tag, (_DEFAULTS[tag],)))
        if len(values) != 1:
            raise ImageError(f"is a TIFF file whose channels have different {what}; expected one")
        return values.pop()


_DEFAULTS = {
    _BITS: 1, _COMPRESSION: 1, _FILL: 1, _ORIENTATION: 1, _SAMPLES: 1, _ROWS: 2**32 - 1, _PLANAR: 1, _PREDICTOR: 1,
    _KIND: 0, _OLD_KIND: 0, _FORMAT: 1,
}  # fmt: skip


def decode_tiff(data: bytes, channels: int = 0) -> tuple[Array, float | None, bool]:
    """A TIFF file's bytes -> (H, W, C) as it is to be seen, in the file's own depth; the value that means white where
    it is not the type's own; whether it is lossy.

    channels = 0: the one picture in the file; otherwise the channels of all its pages, one after the other. Raises
    ImageError for anything else.
    """
    pages = list(read_pages(data))
    whole = [page for page in pages if not page.is_preview]
    if not whole and len(pages) == 1 and _SUB_IFDS not in pages[0].tags:
        whole = pages
    if not whole:
        raise ImageError("is a TIFF file of previews only; expected a picture (a raw file: develop it first)")
    if not channels:
        whole = [_the_picture(whole)]
    shapes = {(page.height, page.width, page.bits, page.kind) for page in whole}
    if len(shapes) > 1:
        raise ImageError("its pages differ in size or depth; expected the channels of one picture")
    for page in whole:
        _check(page, page.samples * len(whole))
    pictures = [turned(_picture(data, page), upright(page[_ORIENTATION])) for page in whole]
    bits = whole[0].bits
    white = float(2**bits - 1) if whole[0].kind == "u" and bits not in (1, 2, 4, 8, 16, 32) else None
    lossy = whole[0][_COMPRESSION] == _JPEG
    if len({picture.shape[:2] for picture in pictures}) > 1:
        raise ImageError("its pages differ in size or depth; expected the channels of one picture")
    return pictures[0] if len(pictures) == 1 else np.concatenate(pictures, axis=2), white, lossy


def read_pages(data: bytes) -> Iterator[Page]:
    """The directories of a file, at most MAX_PAGES. Raises ImageError for one that is cut off, or a circle of them."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        offset, size, word = (8, 8, "Q") if big else (4, 4, "I")
        (start,) = struct.unpack_from(order + word, data, offset)
        seen: set[int] = set()
        values = 0
        while start:
            if start in seen or len(seen) >= MAX_PAGES:
                raise ImageError(f"is damaged, or a TIFF file of more than {MAX_PAGES} pages")
            seen.add(start)
            (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
            entries = start + (8 if big else 2)
            if count > 65535 or entries + count * (12 + 2 * (size - 4)) + size > len(data):
                raise ImageError("is truncated (the TIFF file's directory is not all there)")
            page = _page(data, order, entries, count, big)
            values += sum(map(len, page.tags.values()))
            if values > _MAX_VALUES:
                raise ImageError("is damaged (the TIFF file's directories are too long)")
            yield page
            (start,) = struct.unpack_from(order + word, data, entries + count * (20 if big else 12))
    except struct.error as error:
        raise ImageError("is truncated (the TIFF file's directory is not all there)") from error


def _page(data: bytes, order: str, entries: int, count: int, big: bool) -> Page:
    size, word = (8, "Q") if big else (4, "I")
    tags: dict[int, tuple[int, ...]] = {}
    tables = b""
    for entry in range(entries, entries + count * (4 + 2 * size), 4 + 2 * size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        (number,) = struct.unpack_from(order + word, data, entry + 4)
        if tag not in _TAGS or tag in tags:
            continue
        if tag == _JPEG_TABLES:
            (where,) = struct.unpack_from(order + word, data, entry + 4 + size)
            tables = data[where : where + min(number, 65536)]
            continue
        code = _TYPES.get(kind)
        if code is None or number > _MAX_VALUES or not number:
            if tag == _SUB_IFDS:
                tags[tag] = (0,)
                continue
            raise ImageError(f"is damaged (the TIFF file's tag {tag} has {number} values of type {kind})")
        where = entry + 4 + size
        if number * struct.calcsize(code) > size:
            (where,) = struct.unpack_from(order + word, data, where)
        tags[tag] = struct.unpack_from(f"{order}{number}{code}", data, where)
    return Page(tags, tables, order)


def _the_picture(pages: list[Page]) -> Page:
    """The one picture that a file shows. Others that are at most half as wide and high are previews of it."""
    largest = max(pages, key=lambda page: page.width * page.height)
    others = [page for page in pages if page is not largest]
    if any(2 * page.width > largest.width or 2 * page.height > largest.height for page in others):
        raise ImageError(
            f"is a TIFF file of {len(pages)} pictures; expected one (where its pages are the channels of one picture, "
            "set channels)"
        )
    return largest


def _check(page: Page, channels: int) -> None:
    """ImageError for what is too large, or stored in a way that is not read."""
    bits, kind, colours = page.bits, page.kind, page[_PHOTOMETRIC]
    depths = {"u": range(1, 33), "i": (8, 16, 32), "f": (16, 32, 64)}[kind]
    if bits not in depths:
        raise ImageError(f"is a TIFF file of numbers of {bits} bits; expected 1 to 32, or floats of 16, 32 or 64")
    depth = 1 if bits <= 8 else 2 if bits <= 16 else 4 if bits <= 32 else 8
    check_size(page.width, page.height, channels, depth)
    least = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}.get(colours)
    eight_bits = colours in (3, 5, 6) and (bits, kind) != (8, "u")
    is_jpeg = page[_COMPRESSION] == _JPEG
    if least is None or eight_bits or (is_jpeg and colours in (3, 5)) or (colours == 6 and not is_jpeg):
        name = _PHOTOMETRICS.get(colours, f"colours of type {colours}")
        raise ImageError(f"is a TIFF file of {name} in {bits} bits; expected grey or RGB: convert it")
    if page.samples < least:
        raise ImageError(f"is damaged (the TIFF file has {page.samples} channels for its colours)")


def _picture(data: bytes, page: Page) -> Array:
    """(H, W, C) of one page: grey, RGB, or any number of channels, in native byte order."""
    samples = _samples(data, page)
    colours = page[_PHOTOMETRIC]
    if colours == 0 and page.kind == "u":  # white is zero
        samples = (2**page.bits - 1) - samples if page.bits < 32 else ~samples
    elif colours == 0:
        raise ImageError("is a TIFF file whose zero is white, of signed or float numbers; expected unsigned ones")
    elif colours == 3:
        samples = _palette(page)[samples[:, :, 0]]
    elif colours == 5:
        black = 255 - samples[:, :, 3:4].astype(np.uint32)
        samples = (black * (255 - samples[:, :, :3].astype(np.uint32)) // 255).astype(np.uint8)
    if page.kind == "u" and page.bits in (1, 2, 4) and colours != 3:
        samples = samples * np.uint8(255 // (2**page.bits - 1))
    return samples


def _palette(page: Page) -> Array:
    table = np.array(page.tags.get(_COLOURS, ()), np.uint16)
    if len(table) != 3 << page.bits:
        raise ImageError("is damaged (the TIFF file's palette is not all there)")
    return (table.reshape(3, -1).T >> (8 if table.max() > 255 else 0)).astype(np.uint8)  # (2 ** bits, 3)


def _samples(data: bytes, page: Page) -> Array:
    """(H, W, C): every strip or tile in its place."""
    tiled = _TILE_WIDTH in page.tags
    width = page[_TILE_WIDTH] if tiled else page.width
    height = page.get(_TILE_HEIGHT, None) if tiled else min(page[_ROWS], page.height)
    if width < 1 or height < 1:
        raise ImageError("is damaged (the TIFF file has strips or tiles without a pixel)")
    across, down = -(-page.width // width), -(-page.height // height)
    if tiled:
        check_size(across * width, down * height, page.samples, 1)
    planes = page.samples if page[_PLANAR] == 2 and page.samples > 1 else 1
    each = page.samples // planes
    offsets = page.tags.get(_TILES if tiled else _STRIPS, ())
    sizes = page.tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    if not sizes and len(offsets) == 1 and page[_COMPRESSION] == 1:
        sizes = (page.height * -(-page.width * each * page.bits // 8),)
    if not len(offsets) == len(sizes) == across * down * planes:
        raise ImageError(f"is damaged (the TIFF file lists {len(offsets)} strips or tiles of {across * down * planes})")
    if len(offsets) > MAX_BLOCKS or sum(sizes) > 4 * len(data):
        raise ImageError(
            f"is a TIFF file of {len(offsets)} strips or tiles; expected at most {MAX_BLOCKS}: save it again"
        )
    out = np.empty((page.height, page.width, page.samples), _dtype(page))
    _check_work(page, out.nbytes)
    for number, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        plane, place = divmod(number, across * down)
        top, left = place // across * height, place % across * width
        rows = height if tiled else min(height, page.height - top)
        if size < 1 or offset + size > len(data):
            raise ImageError("is truncated (a strip or tile of the TIFF file is not there)")
        block = _block(data[offset : offset + size], page, (rows, width, each), height)
        target = out[top : top + rows, left : left + width, plane * each : (plane + 1) * each]
        target[...] = block[: target.shape[0], : target.shape[1]]
    return out


def _dtype(page: Page) -> np.dtype[Any]:
    stored = next(bits for bits in (8, 16, 32, 64) if page.bits <= bits)
    return np.dtype(f"{page.kind}{stored // 8}")


def _block(raw: bytes, page: Page, shape: tuple[int, int, int], full: int) -> Array:
    """(rows, width, C) of one strip or tile. full: the rows of a strip that is not the last, as some pad it to."""
    how = page[_COMPRESSION]
    if page[_FILL] == 2:
        raw = np.packbits(np.unpackbits(np.frombuffer(raw, np.uint8)), bitorder="little").tobytes()
    if how == _JPEG:
        return _jpeg(raw, page, shape)
    if how in _JPEG_2000 or how in _JPEG_XL:
        return _by_imagecodecs(raw, page, shape)
    row = -(-shape[1] * shape[2] * page.bits // 8)  # bytes
    plain = _unpacked(raw, how, row * shape[0], row * full)
    if len(plain) < row * shape[0]:
        raise ImageError("is damaged (a strip or tile of the TIFF file is too short)")
    return _numbers(np.frombuffer(plain, np.uint8, row * shape[0]).reshape(shape[0], row), page, shape)


def _unpacked(raw: bytes, how: int, wanted: int, most: int) -> bytes | bytearray:
    """Returns what a strip or tile holds: `wanted` bytes, or up to `most` where it is padded. ImageError for any other
    number."""
    if how == 1:
        return raw
    if len(raw) > 2 * most + 4096:
        raise ImageError("is damaged (a strip or tile of the TIFF file is longer than any compression makes it)")
    try:
        if how in (8, 32946):
            plain = _inflated(raw, most)
        elif how == 5:
            if _LZW_HOLE in raw:
                raise ValueError("it has a hole")
            plain = _decoder("lzw", _lzw)(raw, most)
        elif how == 32773:
            if len(raw) > most + most // 2 + 4096:
                raise ValueError("it is longer than any encoder makes it")
            plain = _decoder("packbits", _packbits)(raw, most)
        elif how in _ZSTD:
            plain = bytes(_imagecodecs("Zstandard").zstd_decode(raw, out=most))
        else:
            name = _NAMES.get(how, f"method {how}")
            raise ImageError(
                f"is a TIFF file compressed by {name}; expected none, LZW, deflate, PackBits or JPEG: save it so"
            )
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"is damaged (a strip or tile of the TIFF file: {error})") from error
    if len(plain) not in (wanted, most):
        raise ImageError(f"is damaged (a strip or tile of the TIFF file holds {len(plain)} bytes; expected {wanted})")
    return plain


def _numbers(rows: Array, page: Page, shape: tuple[int, int, int]) -> Array:
    """(rows, bytes) uint8 -> (rows, width, C) of the page's type, the predictor undone."""
    height, width, each = shape
    predictor, bits = page[_PREDICTOR], page.bits
    if predictor not in (1, 2, 3) or (predictor == 2 and (bits not in (8, 16, 32, 64) or page.kind == "f")):
        raise ImageError(f"is a TIFF file with predictor {predictor} for {bits} bits; expected none")
    if predictor == 3:
        if page.kind != "f":
            raise ImageError("is damaged (the TIFF file has a predictor of floats for integers)")
        summed = np.add.accumulate(rows.reshape(height, -1, each), axis=1, dtype=np.uint8)
        planes = summed.reshape(height, bits // 8, width * each)  # the most significant bytes first
        return np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{bits // 8}").reshape(shape)
    if bits not in (8, 16, 32, 64):
        return _from_bits(rows, bits, width * each).reshape(shape)
    values = rows.view(np.dtype(f"{page.order}{page.kind}{bits // 8}")).reshape(shape)
    if predictor == 2:
        native = values.astype(values.dtype.newbyteorder("="))
        values = np.add.accumulate(native, axis=1, dtype=native.dtype)
    return values


def _from_bits(rows: Array, bits: int, count: int) -> Array:
    """(rows, bytes) -> (rows, count) of numbers that are packed, the most significant bit first."""
    out = np.zeros((len(rows), count), np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)
    step = max(1, 4_000_000 // max(1, count * bits))  # rows at a time: a byte for each bit takes room
    for top in range(0, len(rows), step):
        digits = np.unpackbits(rows[top : top + step], axis=1, count=count * bits).reshape(-1, count, bits)
        part = out[top : top + step]
        for bit in range(bits):
            part <<= 1
            part |= digits[:, :, bit]
    return out


def _packbits(raw: bytes, most: int) -> bytes:
    out, position = bytearray(), 0
    while position < len(raw) and len(out) <= most:
        code = raw[position]
        if code < 128:
            out += raw[position + 1 : position + 2 + code]
            position += 2 + code
        else:
            if code > 128:
                out += raw[position + 1 : position + 2] * (257 - code)
            position += 1 if code == 128 else 2
    return bytes(out)


# No encoder writes the code of a zero byte twice in a row: it has given two of them a code of their own.
_LZW_HOLE = bytes(16)


# What our own decoders of LZW and PackBits may be asked for: 80 MB take them up to twenty seconds.
MOST_BY_PYTHON = 80_000_000
_BY_PYTHON = frozenset({5, 32773})


def _inflated(raw: bytes, most: int) -> bytes | bytearray:
    """At most most + 1 bytes, whose sum was checked. libdeflate takes half of zlib's time, or less; it only says that
    something is wrong, and zlib says what."""
    from deflate import DeflateError, zlib_decompress

    if 0 < most < 2**32:  # a number of 32 bits, in libdeflate's binding
        with contextlib.suppress(DeflateError):
            return zlib_decompress(raw, most)
    inflate = zlib.decompressobj()
    plain = inflate.decompress(raw, most + 1)
    if not inflate.eof and len(plain) <= most:
        raise ValueError("its end is missing")
    return plain


def _decoder(name: str, ours: Callable[[bytes, int], bytes]) -> Callable[[bytes, int], bytes]:
    """imagecodecs's, which is much faster than ours and refuses the same; ours where it is not installed."""
    try:
        import imagecodecs
    except ImportError:
        return ours
    return lambda raw, most: bytes(getattr(imagecodecs, f"{name}_decode")(raw, out=most + 1))


def _check_work(page: Page, size: int) -> None:
    """ImageError for a page of so many bytes that only imagecodecs unpacks in a bearable time."""
    if page[_COMPRESSION] in _BY_PYTHON and size > MOST_BY_PYTHON:
        _imagecodecs("LZW or PackBits, and large")


def _lzw(raw: bytes, most: int) -> bytes:
    """TIFF's LZW: codes of 9 to 12 bits, 256 clears the table, 257 ends. ValueError for what no encoder writes, and for
    more than `most` bytes."""
    data, out, position = np.frombuffer(raw + bytes(3), np.uint8).astype(np.uint32), bytearray(), 0
    for _ in range(16 + most // 512):  # encoders clear a table when it is full, or has become useless
        codes, widths = _codes(data, position, 8 * len(raw))
        stop = np.flatnonzero((codes == 256) | (codes == 257))
        upto = int(stop[0]) if len(stop) else len(codes)
        _expand(codes[:upto].tolist(), out, most)
        if upto == len(codes) < len(_WIDTHS) or (upto < len(codes) and codes[upto] == 257):
            return bytes(out)
        if upto == len(codes):
            break
        position += int(widths[: upto + 1].sum())
    raise ValueError("its LZW table is never cleared, or all the time")


# After a clear code: 254 codes of 9 bits, then the table has 511, 1023, 2047 entries; and 4096 at most.
_WIDTHS = np.repeat([9, 10, 11, 12], [254, 512, 1024, 2050])
_STARTS = np.concatenate([[0], np.cumsum(_WIDTHS)])


def _codes(data: Array, position: int, end: int) -> tuple[Array, Array]:
    """The codes from a bit on until the table is full, as if none of them cleared it, and their widths."""
    count = max(0, int(np.searchsorted(_STARTS, end - position, side="right")) - 1)
    widths, starts = _WIDTHS[:count], _STARTS[:count] + position
    byte, bit = starts >> 3, starts & 7
    words = data[byte] << 16 | data[byte + 1] << 8 | data[byte + 2]
    return words >> (24 - bit - widths).astype(np.uint32) & ((1 << widths) - 1).astype(np.uint32), widths


def _expand(codes: list[int], out: bytearray, most: int) -> None:
    """Appends what the codes of one table mean. Entry 258 + i is what code i meant, and the byte after it, which all
    lies in `out` already."""
    places: list[int] = []
    for number, code in enumerate(codes):
        place = len(out)
        if code < 256:
            out.append(code)
        else:
            entry = code - 258
            if entry >= number:
                raise ValueError("its LZW code is not in the table")
            start = places[entry]
            end = places[entry + 1] + 1 if entry + 1 < number else place + 1
            if end > place:  # the entry that this very code completes: its last byte is its first
                out += out[start:place]
                out.append(out[start])
            else:
                out += out[start:end]
        places.append(place)
        if len(out) > most:
            raise ValueError("it is longer than the picture")


def _jpeg(raw: bytes, page: Page, shape: tuple[int, int, int]) -> Array:
    colours = page[_PHOTOMETRIC]
    stream = with_tables(page.tables, raw, ycc=colours == 6)
    header = read_header(stream)
    check_scans(stream, header)
    if header.components not in (1, 3):
        raise ImageError(f"is a TIFF file of JPEG with {header.components} channels; expected 1 or 3: save it again")
    if (header.height, header.width, header.components) != shape:
        raise ImageError("is damaged (a JPEG strip or tile of the TIFF file has another size than it should)")
    return decoded(stream, header)


def _by_imagecodecs(raw: bytes, page: Page, shape: tuple[int, int, int]) -> Array:
    """JPEG 2000 or JPEG XL, into an array of the size that is right: any other is refused before it is decoded."""
    if page[_PHOTOMETRIC] not in (0, 1, 2):
        raise ImageError("is a TIFF file of YCbCr in JPEG 2000 or JPEG XL; expected grey or RGB: convert it")
    jpeg_2000 = page[_COMPRESSION] in _JPEG_2000
    codecs = _imagecodecs("JPEG 2000" if jpeg_2000 else "JPEG XL")
    if jpeg_2000:
        where = raw.find(b"\xff\x4f\xff\x51")
        right, bottom, left, top = struct.unpack_from(">4I", raw, where + 8) if where >= 0 else (0, 0, 0, 0)
        if (bottom - top, right - left) != shape[:2]:
            raise ImageError("is damaged (a JPEG 2000 strip or tile of the TIFF file has another size than it should)")
    squeezed = shape if shape[2] > 1 else shape[:2]
    out = np.empty(squeezed, _dtype(page))
    try:
        found = (codecs.jpeg2k_decode if jpeg_2000 else codecs.jpegxl_decode)(raw, out=out)
    except Exception as error:
        raise ImageError(f"is damaged (a strip or tile of the TIFF file: {error})") from error
    return np.asarray(found).reshape(shape)


def _imagecodecs(name: str) -> Any:
    try:
        import imagecodecs
    except ImportError as error:
        raise ImageError(
            f"is a TIFF file compressed by {name}; for that, run pip install 'patchbank[tiff]', or save it with deflate"
        ) from error
    return imagecodecs
