"""Inference requests that are wrong: each is refused in words, none ends in a server error, none takes memory that its
sender did not pay for."""

from __future__ import annotations

import gzip
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchbank.server.oip.request import MAX_BATCH, Unreadable, inflate, parse
from server.conftest import calling, service_of

PIXEL = {"name": "image", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
GZIPPED = gzip.compress(b"hallo", mtime=0)
FILE = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": ["aGFsbG8="]}


def body(**request) -> bytes:
    return json.dumps(request).encode()


def parsed(**request):
    return parse(body(**request), None, 3)


def refused(*, rest: bytes | None = None, **request) -> str:
    """Why a request is refused."""
    text = body(**request)
    with pytest.raises(Unreadable) as error:
        parse(text + (rest or b""), None if rest is None else str(len(text)), 3)
    assert error.value.status == 400
    return str(error.value)


def test_pixels_come_flat_nested_or_as_bytes():
    flat = list(range(12))
    nested = np.array(flat).reshape(1, 2, 2, 3).tolist()
    about = PIXEL | {"shape": [1, 2, 2, 3]}
    head = body(inputs=[{**without(about, "data"), "parameters": {"binary_data_size": 12}}])
    found = [
        parsed(inputs=[about | {"data": flat}]),
        parsed(inputs=[about | {"data": nested}]),
        parse(head + bytes(flat), str(len(head)), 3),
    ]
    for each in found:
        (image,) = each.images
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.array(flat).reshape(2, 2, 3))


def test_files_come_in_base64_or_as_elements():
    elements = struct.pack("<I", 5) + b"hallo" + struct.pack("<I", 2) + b"du"
    about = {"name": "image_bytes", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 15}}
    head = body(inputs=[about])
    assert parse(head + elements, str(len(head)), 3).images == [b"hallo", b"du"]
    assert parsed(inputs=[FILE]).images == [b"hallo"]
    assert parse(b"a file", "0", 3).images == [b"a file"]


def test_a_timeout_is_in_microseconds_and_0_is_none():
    assert parsed(inputs=[PIXEL], parameters={"timeout": 250_000}).timeout == 0.25
    assert parsed(inputs=[PIXEL], parameters={"timeout": 0}).timeout is None


def test_an_outputs_own_word_overrides_the_requests():
    request = parsed(
        inputs=[PIXEL],
        parameters={"binary_data_output": True},
        outputs=[{"name": "score"}, {"name": "verdict", "parameters": {"binary_data": False}}],
    )
    assert [(each.name, each.binary) for each in request.outputs] == [("score", True), ("verdict", False)]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "inputs: expected a list of one tensor"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [PIXEL, FILE]}, "got 2"),
        ({"inputs": [[]]}, "expected an object"),
        ({"inputs": [PIXEL | {"name": "x"}]}, "image or image_bytes"),
        ({"inputs": [PIXEL | {"name": ["image"]}]}, "image or image_bytes"),
        ({"inputs": [PIXEL | {"datatype": "FP32"}]}, "datatype UINT8"),
        ({"inputs": [PIXEL | {"shape": [1, 1, 3]}]}, "expected the shape"),
        ({"inputs": [PIXEL | {"shape": [1, 1, 1, 4]}]}, "expected the shape"),
        ({"inputs": [PIXEL | {"shape": [0, 1, 1, 3]}]}, "at least 1"),
        ({"inputs": [PIXEL | {"shape": [-1, 1, 1, 3]}]}, "at least 1"),
        ({"inputs": [PIXEL | {"shape": [1, 1.5, 1, 3]}]}, "whole numbers"),
        ({"inputs": [PIXEL | {"shape": "1113"}]}, "whole numbers"),
        ({"inputs": [PIXEL | {"shape": [2**40, 2**40, 2**40, 3]}]}, "expected the shape"),
        ({"inputs": [PIXEL | {"shape": [MAX_BATCH + 1, 1, 1, 3]}]}, f"at most {MAX_BATCH} images"),
        ({"inputs": [PIXEL | {"shape": [1, 2**31, 2**31, 3]}]}, "numbers, flat or nested"),
        ({"inputs": [PIXEL | {"data": [1, 2]}]}, "expected 3 numbers"),
        ({"inputs": [PIXEL | {"data": [1, 2, 256]}]}, "from 0 to 255"),
        ({"inputs": [PIXEL | {"data": [1, 2, -1]}]}, "from 0 to 255"),
        ({"inputs": [PIXEL | {"data": [1, 2, 2.5]}]}, "whole numbers"),
        ({"inputs": [PIXEL | {"data": [1, 2, "3"]}]}, "whole numbers"),
        ({"inputs": [PIXEL | {"data": [True, False, True]}]}, "whole numbers"),
        ({"inputs": [PIXEL | {"data": [1, 2, 10**30]}]}, "from 0 to 255"),
        ({"inputs": [PIXEL | {"data": [[1, 2], [3]]}]}, "flat or nested"),
        ({"inputs": [PIXEL | {"data": [[[[[1]]], 2, 3]]}]}, "flat or nested"),
        ({"inputs": [PIXEL | {"data": "123"}]}, "list of numbers"),
        ({"inputs": [{k: v for k, v in PIXEL.items() if k != "data"}]}, "expected data"),
        ({"inputs": [PIXEL | {"parameters": 3}]}, "expected an object"),
        ({"inputs": [PIXEL | {"parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
        ({"inputs": [FILE | {"data": ["hallo!"]}]}, "base64"),
        ({"inputs": [FILE | {"data": [""]}]}, "0 bytes"),
        ({"inputs": [FILE | {"data": ["aGFsbG8=", "aGFsbG8="]}]}, "expected 1 elements"),
        ({"inputs": [FILE | {"data": "aGFsbG8="}]}, "flat list of texts"),
        ({"inputs": [PIXEL], "id": 7}, "id: expected a text"),
        ({"inputs": [PIXEL], "id": "x" * 1000}, "id: expected a text"),
        ({"inputs": [PIXEL], "outputs": "score"}, "outputs"),
        ({"inputs": [PIXEL], "outputs": ["score"]}, "objects with a name"),
        ({"inputs": [PIXEL], "outputs": [{"name": "score"}, {"name": "score"}]}, "twice"),
        ({"inputs": [PIXEL], "outputs": [{"name": "score", "parameters": {"classification": 3}}]}, "classify"),
        ({"inputs": [PIXEL], "parameters": {"sequence_id": 5}}, "no state"),
        ({"inputs": [PIXEL], "parameters": {"priority": 5}}, "no priorities"),
        ({"inputs": [PIXEL], "parameters": {"timeout": -1}}, "microseconds"),
        ({"inputs": [PIXEL], "parameters": {"timeout": "1s"}}, "microseconds"),
    ],
)
def test_what_is_wrong_is_said(request_, said):
    assert said in refused(**request_)


def test_bytes_after_the_json_must_be_announced_and_all_there():
    binary = without(PIXEL, "data")
    assert "3 bytes follow" in refused(inputs=[PIXEL], rest=b"123")
    assert "got both" in refused(inputs=[PIXEL | {"parameters": {"binary_data_size": 3}}], rest=b"123")
    for size in (2, 4, -1, 2**70, 3.0, True, "3"):
        assert "binary_data_size" in refused(inputs=[binary | {"parameters": {"binary_data_size": size}}], rest=b"123")
    assert "expected 3 bytes" in refused(inputs=[binary | {"parameters": {"binary_data_size": 4}}], rest=b"1234")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x01\0\0", "within a length"),
        (b"\x05\0\0\0hall", "says 5 bytes, and 4 follow"),
        (b"\xff\xff\xff\xffhallo", "says 4294967295 bytes"),
        (b"\0\0\0\0" * (MAX_BATCH + 1), f"at most {MAX_BATCH} elements"),
        (b"\0\0\0\0", "0 bytes"),
        (b"", "expected 1 elements"),
    ],
)
def test_elements_must_be_whole(data, said):
    tensor = without(FILE, "data") | {"parameters": {"binary_data_size": len(data)}}
    assert said in refused(inputs=[tensor], rest=data)


@pytest.mark.parametrize("header", ["", "-1", "1e3", "0x10", "٣", "99999999999999", "1000000"])
def test_the_length_of_the_json_must_be_one(header):
    with pytest.raises(Unreadable, match="Inference-Header-Content-Length"):
        parse(body(inputs=[PIXEL]), header, 3)


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"{", b'{"inputs": NaN}', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b"null"]
)
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(Unreadable):
        parse(text, None, 3)


def test_a_bomb_is_not_inflated():
    """50 MB of zeros are 50 kB: not one byte more than the limit is made of them."""
    for coding, bomb in (("gzip", gzip.compress(bytes(50_000_000))), ("deflate", zlib.compress(bytes(50_000_000)))):
        with pytest.raises(Unreadable, match="at most 1,000,000 bytes") as error:
            inflate(bomb, coding, 1_000_000)
        assert error.value.status == 413
        assert len(inflate(bomb, coding, 50_000_000)) == 50_000_000


@pytest.mark.parametrize(
    ("data", "coding", "said"),
    [
        (b"hallo", "gzip", "no gzip data"),
        (GZIPPED, "deflate", "no deflate data"),
        (GZIPPED[:-1], "gzip", "cut off"),
        (GZIPPED + b"x", "gzip", "followed by something"),
        (b"hallo", "br", "gzip or deflate"),
        (b"", "gzip", "cut off"),
    ],
)
def test_damaged_compression_is_refused(data, coding, said):
    with pytest.raises(Unreadable, match=said):
        inflate(data, coding, 1000)


@pytest.fixture(scope="module")
def call(model):
    with calling(service_of(model, max_body_mb=1)) as caller:
        yield caller


def test_a_body_over_the_limit_is_refused_however_it_comes(call):
    path = "/v2/models/part/infer"

    async def chunks():
        for _ in range(20):
            yield bytes(100_000)

    for content in (bytes(1_000_001), chunks()):
        answer = call.post(path, content=content)
        assert answer.status_code == 413
        assert "at most 1,000,000 bytes" in answer.json()["error"]
    answer = call.post(path, content=gzip.compress(bytes(2_000_000)), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413


def test_a_picture_that_is_larger_than_its_file_is_refused_before_it_is_decoded(call):
    """A PNG of 100 bytes may say that it has 10^10 pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    answer = call.post("/v2/models/part/infer", content=bomb, headers={"Inference-Header-Content-Length": "0"})
    assert answer.status_code == 422
    assert "pixels" in answer.json()["error"]


def test_maps_of_images_of_two_sizes_are_refused(call, files):
    import base64

    from server.conftest import png

    small = png(np.full((70, 80, 3), 128, np.uint8))
    data = [base64.b64encode(each).decode() for each in (files[0], small)]
    tensor = {"name": "image_bytes", "shape": [2], "datatype": "BYTES", "data": data}
    assert call.post("/v2/models/part/infer", json={"inputs": [tensor]}).status_code == 200
    answer = call.post("/v2/models/part/infer", json={"inputs": [tensor], "outputs": [{"name": "anomaly_map"}]})
    assert answer.status_code == 400
    assert "images of one size" in answer.json()["error"]


def test_an_unknown_output_is_refused_before_the_inspection(call, files):
    answer = call.post("/v2/models/part/infer", json={"inputs": [PIXEL], "outputs": [{"name": "heat"}]})
    assert answer.status_code == 400
    assert answer.json()["error"] == "outputs: expected score, p_value, verdict, anomaly_map; got 'heat'"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def nearly_right(draw):
    """A right request with one value, somewhere in it, replaced by any other."""
    request = json.loads(json.dumps({"inputs": [draw(st.sampled_from([PIXEL, FILE]))], "id": "1", "parameters": {}}))
    request["outputs"] = [{"name": "score", "parameters": {"binary_data": True}}]
    owner = request
    while True:
        key = draw(st.sampled_from(sorted(owner) if isinstance(owner, dict) else range(len(owner))))
        if isinstance(owner[key], (dict, list)) and owner[key] and draw(st.booleans()):
            owner = owner[key]
            continue
        owner[key] = draw(_JSON)
        return request


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(request=nearly_right(), cut=st.integers(-3, 3), header=st.sampled_from([None, "right", "0", "wrong"]))
def test_no_request_is_a_server_error(call, request, cut, header):
    text = json.dumps(request).encode()
    content = text[:cut] if cut < 0 else text + bytes(cut)
    length = {None: None, "right": str(len(text)), "0": "0", "wrong": str(len(text) + 7)}[header]
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    answer = call.post("/v2/models/part/infer", content=content, headers=headers)
    assert answer.status_code in (200, 400, 422), answer.text
    assert answer.status_code == 200 or set(answer.json()) == {"error"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200),
    headers=st.dictionaries(
        st.sampled_from(["Inference-Header-Content-Length", "Content-Encoding", "Content-Type", "Accept-Encoding"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12),
    ),
)
def test_no_bytes_are_a_server_error(call, content, headers):
    answer = call.post("/v2/models/part/infer", content=content, headers=headers)
    assert answer.status_code in (400, 413, 415, 422), answer.text
    assert set(answer.json()) == {"error"}


def without(owner: dict, name: str) -> dict:
    return {key: value for key, value in owner.items() if key != name}
