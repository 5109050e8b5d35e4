"""From results to the body of an inference answer."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from patchbank import Result
from patchbank.server.models import Hosted
from patchbank.server.oip.request import InferRequest, Unreadable, Wanted
from patchbank.util.wording import finite

MAX_JSON_MAP = 4_000_000  # pixels of anomaly maps that are written as text
MAX_BINARY_MAP = 64_000_000
_COMPRESSED_FROM = 1_000  # bytes
_UNASKED = ("score", "p_value", "verdict")


class Output(NamedTuple):
    """An output as the metadata says it, and how it comes from results."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Callable[[Sequence[Result]], npt.NDArray[Any]]


class Answer(NamedTuple):
    """The body; json_length: of its JSON, where bytes follow; encoding: its compression, or ''."""

    body: bytes
    json_length: int | None
    encoding: str


def outputs_of(hosted: Hosted) -> dict[str, Output]:
    """The outputs of a model, by name. One without calibration has no p-values."""
    found = [Output("score", "FP32", (-1,), lambda results: np.array([each.score for each in results]))]
    if hosted.model.calibration is not None:
        found.append(Output("p_value", "FP32", (-1,), lambda results: np.array([each.p_value for each in results])))
    found.append(Output("verdict", "BYTES", (-1,), _verdicts))
    found.append(Output("anomaly_map", "FP32", (-1, -1, -1), _maps))
    return {each.name: each for each in found}


def wanted_of(hosted: Hosted, request: InferRequest) -> list[tuple[Output, bool]]:
    """The outputs that a request asks for, and whether as bytes. Raises Unreadable for one that there is not."""
    known = outputs_of(hosted)
    asked = request.outputs or tuple(Wanted(name, request.binary) for name in _UNASKED if name in known)
    for each in asked:
        if each.name not in known:
            raise Unreadable(f"outputs: expected {', '.join(known)}; got {each.name[:64]!r}")
    return [(known[each.name], each.binary) for each in asked]


def answer(
    hosted: Hosted, request: InferRequest, results: Sequence[Result], accept_encoding: str, asked: str | None = None
) -> Answer:
    """The answer to a request. asked: the version that was asked for. Raises Unreadable for an output that these images
    do not have."""
    tensors, parts = [], []
    for output, binary in wanted_of(hosted, request):
        if output.name == "anomaly_map":
            _check_maps(results, binary)
        values = output.values(results)
        tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(values.shape)}
        if binary:
            data = _packed(values, output.datatype)
            tensor["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        else:
            tensor["data"] = _listed(values)
        tensors.append(tensor)
    about: dict[str, Any] = {"model_name": hosted.name, "model_version": asked or str(hosted.number)}
    if request.id is not None:
        about["id"] = request.id
    about["parameters"] = {"sha256": hosted.model.made_by.sha256, "time": results[0].time}
    about["outputs"] = tensors
    text = json.dumps(about, allow_nan=False).encode()
    body = b"".join([text, *parts])
    encoding = _encoding(accept_encoding) if len(body) >= _COMPRESSED_FROM else ""
    return Answer(_compressed(body, encoding), len(text) if parts else None, encoding)


def _verdicts(results: Sequence[Result]) -> npt.NDArray[Any]:
    return np.array([str(each.verdict) for each in results], dtype=object)


def _maps(results: Sequence[Result]) -> npt.NDArray[Any]:
    """(B, H, W) float32."""
    return np.stack([each.anomaly_map for each in results])


def _check_maps(results: Sequence[Result], binary: bool) -> None:
    """Raises Unreadable for maps that do not make one tensor, or a body that nobody wants."""
    sizes = sorted({each.image_size for each in results})
    if len(sizes) > 1:
        raise Unreadable(f"anomaly_map: expected images of one size; got {sizes[0]} and {sizes[1]} (height, width)")
    pixels, most = len(results) * sizes[0][0] * sizes[0][1], MAX_BINARY_MAP if binary else MAX_JSON_MAP
    if pixels > most:
        advice = "send fewer images at a time" if binary else "ask for it with binary_data"
        raise Unreadable(f"anomaly_map: expected at most {most:,} pixels in an answer; got {pixels:,}: {advice}")


def _packed(values: npt.NDArray[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text)) + text for text in (str(each).encode() for each in values))
    return values.astype("<f4").tobytes()


def _listed(values: npt.NDArray[Any]) -> list[Any]:
    """Row by row, flat. Scores are written in full: whoever reads them as float64 gets those of `predict`."""
    flat = values.ravel().tolist()
    return flat if values.dtype == object or np.isfinite(values).all() else [finite(each) for each in flat]


def _encoding(accepted: str) -> str:
    """The compression that the caller takes, by the order of its list."""
    for part in accepted.lower().split(","):
        name, _, weight = part.strip().partition(";")
        if name in ("gzip", "deflate") and weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name
    return ""


def _compressed(body: bytes, encoding: str) -> bytes:
    if not encoding:
        return body
    stream = zlib.compressobj(1, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    return stream.compress(body) + stream.flush()
