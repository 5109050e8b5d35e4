"""From the body of an inference request to images: JSON, tensors after it as bytes, or one image file alone. All of it
is from outside: sizes are checked before memory is taken, and whatever does not fit is an Unreadable that says why.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_BATCH = 64  # images of one request
_LONGEST_ID = 256
_LONGEST_NAME = 64
_STATEFUL = ("sequence_id", "sequence_start", "sequence_end", "priority")
_DATATYPES = {"image": "UINT8", "image_bytes": "BYTES"}


class Unreadable(Exception):  # noqa: N818
    """A request that cannot be taken. status: of the answer."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for. binary: as bytes after the JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, eq=False)
class InferRequest:
    """images: bytes of image files, or arrays (H, W, C) uint8. outputs: None = those that come unasked. binary: whether
    outputs come as bytes where they do not say it themselves. timeout: seconds, or None."""

    images: list[bytes | npt.NDArray[np.uint8]]
    id: str | None = None
    outputs: tuple[Wanted, ...] | None = None
    binary: bool = False
    timeout: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its compression ('', 'identity', 'gzip' or 'deflate'), of at most `limit` bytes. Raises
    Unreadable."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise Unreadable(f"expected the content encoding gzip or deflate; got {encoding!r}", 415)
    stream = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Unreadable(f"the body is no {encoding} data ({error})") from error
    if len(plain) > limit:
        raise Unreadable(f"expected a body of at most {limit:,} bytes after {encoding}; got more", 413)
    if not stream.eof or stream.unused_data:
        raise Unreadable(f"the body's {encoding} data is {'followed by something' if stream.eof else 'cut off'}")
    return plain


def parse(body: bytes, header_length: str | None, channels: int) -> InferRequest:
    """header_length: `Inference-Header-Content-Length`; '0' = the body is an image file. channels: those of the model's
    images. Raises Unreadable."""
    if header_length is None:
        return _parse(_json(body), memoryview(b""), channels)
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) <= 10):
        raise Unreadable(f"Inference-Header-Content-Length: expected a number of bytes; got {header_length[:20]!r}")
    length = int(header_length)
    if length > len(body):
        raise Unreadable(f"Inference-Header-Content-Length: expected at most the body's {len(body)}; got {length}")
    if length == 0:
        return InferRequest([_image_file(body)])
    return _parse(_json(body[:length]), memoryview(body)[length:], channels)


def _json(text: bytes) -> dict[str, Any]:
    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(text, parse_constant=constant)
    except RecursionError as error:
        raise Unreadable("the JSON is nested too deeply") from error
    except ValueError as error:
        raise Unreadable(f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unreadable(f"expected a JSON object; got {_kind(value)}")
    return value


def _parse(request: dict[str, Any], rest: memoryview, channels: int) -> InferRequest:
    parameters = _parameters(request, "the request")
    for name in _STATEFUL:
        if parameters.get(name):
            raise Unreadable(f"parameter {name}: the model has no state and no priorities; leave it out")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        got = len(inputs) if isinstance(inputs, list) else _kind(inputs)
        raise Unreadable(f"inputs: expected a list of one tensor, image or image_bytes; got {got}")
    return InferRequest(
        images=_images(inputs[0], rest, channels),
        id=_id(request.get("id")),
        outputs=_outputs(request.get("outputs"), bool(parameters.get("binary_data_output"))),
        binary=bool(parameters.get("binary_data_output")),
        timeout=_timeout(parameters.get("timeout")),
        parameters=parameters,
    )


def _id(given: Any) -> str | None:
    if given is None or given == "":
        return None
    if not isinstance(given, str) or len(given) > _LONGEST_ID:
        raise Unreadable(f"id: expected a text of at most {_LONGEST_ID} characters")
    return given


def _timeout(given: Any) -> float | None:
    """Microseconds, as Triton's clients say it; 0 = none."""
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= 10**15:
        raise Unreadable("parameter timeout: expected a whole number of microseconds")
    return given / 1e6 or None


def _outputs(given: Any, binary: bool) -> tuple[Wanted, ...] | None:
    if given is None or given == []:
        return None
    if not isinstance(given, list) or len(given) > 16:
        raise Unreadable("outputs: expected a list of at most 16 outputs")
    wanted: dict[str, Wanted] = {}
    for each in given:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise Unreadable("outputs: expected objects with a name")
        name, parameters = each["name"], _parameters(each, "an output")
        if "classification" in parameters:
            raise Unreadable("outputs: the model does not classify; leave the parameter classification out")
        if name in wanted:
            raise Unreadable(f"outputs: {name[:_LONGEST_NAME]!r} is asked for twice")
        wanted[name] = Wanted(name, bool(parameters.get("binary_data", binary)))
    return tuple(wanted.values())


def _parameters(owner: dict[str, Any], whose: str) -> dict[str, Any]:
    found = owner.get("parameters", {})
    if not isinstance(found, dict):
        raise Unreadable(f"parameters of {whose}: expected an object; got {_kind(found)}")
    if any(name.startswith("shared_memory") for name in found):
        raise Unreadable("shared memory is not offered; send the data in the body")
    return found


def _images(tensor: Any, rest: memoryview, channels: int) -> list[bytes | npt.NDArray[np.uint8]]:
    if not isinstance(tensor, dict):
        raise Unreadable(f"inputs: expected an object; got {_kind(tensor)}")
    name, datatype = tensor.get("name"), tensor.get("datatype")
    if not isinstance(name, str) or name not in _DATATYPES:
        raise Unreadable(f"inputs: expected the name image or image_bytes; got {str(name)[:_LONGEST_NAME]!r}")
    if datatype != _DATATYPES[name]:
        raise Unreadable(f"{name}: expected the datatype {_DATATYPES[name]}; got {str(datatype)[:_LONGEST_NAME]!r}")
    shape = _shape(name, tensor.get("shape"), channels)
    data = _binary(name, tensor, rest)
    if name == "image":
        return [_kept(each) for each in _pixels(tensor["data"] if data is None else data, shape)]
    files = _strings(tensor["data"]) if data is None else _elements(data)
    if len(files) != shape[0]:
        raise Unreadable(f"image_bytes: expected {shape[0]} elements, as the shape says; got {len(files)}")
    return [_image_file(each) for each in files]


def _shape(name: str, given: Any, channels: int) -> tuple[int, ...]:
    if not isinstance(given, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in given):
        raise Unreadable(f"{name}: expected a shape, a list of whole numbers")
    right = len(given) == 4 and given[3] == channels if name == "image" else len(given) == 1
    if not right or any(not 1 <= n <= 2**31 for n in given):
        wanted = f"[images, height, width, {channels}]" if name == "image" else "[images]"
        raise Unreadable(f"{name}: expected the shape {wanted}, each at least 1; got {str(given)[:100]}")
    if given[0] > MAX_BATCH:
        raise Unreadable(f"{name}: expected at most {MAX_BATCH} images; got {given[0]}")
    return tuple(given)


def _binary(name: str, tensor: dict[str, Any], rest: memoryview) -> memoryview | None:
    """The tensor's bytes, or None if it has its data in the JSON."""
    size = _parameters(tensor, name).get("binary_data_size")
    if size is None:
        if len(rest):
            raise Unreadable(f"{name}: {len(rest)} bytes follow the JSON; expected its binary_data_size")
        if "data" not in tensor:
            raise Unreadable(f"{name}: expected data, or binary_data_size and bytes after the JSON")
        return None
    if "data" in tensor:
        raise Unreadable(f"{name}: expected data or binary_data_size; got both")
    if not isinstance(size, int) or isinstance(size, bool) or size != len(rest):
        raise Unreadable(f"{name}: expected a binary_data_size of the {len(rest)} bytes after the JSON; got {size!r}")
    return rest


def _pixels(data: Any, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """(B, H, W, C) uint8, row by row."""
    count = math.prod(shape)
    if isinstance(data, memoryview):
        if len(data) != count:
            raise Unreadable(f"image: expected {count} bytes, as the shape says; got {len(data)}")
        return np.frombuffer(data, np.uint8).reshape(shape)
    if not isinstance(data, list):
        raise Unreadable(f"image: expected data as a list of numbers; got {_kind(data)}")
    try:
        values = np.array(data)
    except (ValueError, OverflowError) as error:  # lists of different lengths, or nested deeper than arrays are
        raise Unreadable("image: expected data as a list of numbers, flat or nested as the shape") from error
    if values.size != count or (values.ndim > 1 and values.shape != shape):
        raise Unreadable(f"image: expected {count} numbers, flat or nested as the shape {list(shape)}")
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise Unreadable("image: expected whole numbers from 0 to 255")
    return values.astype(np.uint8).reshape(shape)


def _kept(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A copy that nobody can write to: it is handed over as it is."""
    copy = image.copy()
    copy.setflags(write=False)
    return copy


def _elements(data: memoryview) -> list[bytes]:
    """BYTES: each element is its length, uint32 little-endian, and as many bytes."""
    found, at = [], 0
    while at < len(data):
        if at + 4 > len(data):
            raise Unreadable("image_bytes: the data ends within a length")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            raise Unreadable(f"image_bytes: an element says {length} bytes, and {len(data) - at} follow")
        found.append(bytes(data[at : at + length]))
        at += length
        if len(found) > MAX_BATCH:
            raise Unreadable(f"image_bytes: expected at most {MAX_BATCH} elements; got more")
    return found


def _strings(data: Any) -> list[bytes]:
    """BYTES in JSON: no image file is a text, so each element is one in base64."""
    if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
        raise Unreadable("image_bytes: expected data as a flat list of texts: image files in base64")
    try:
        return [base64.b64decode(each, validate=True) for each in data]
    except (binascii.Error, ValueError) as error:
        raise Unreadable(f"image_bytes: in JSON, image files are in base64; got something else ({error})") from error


def _image_file(data: bytes) -> bytes:
    if not data:
        raise Unreadable("image_bytes: expected an image file; got 0 bytes")
    return data


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
