"""The Open Inference Protocol with the clients that people have: whatever way an image takes, the scores are those of
`predict`, to the bit."""

from __future__ import annotations

import asyncio
import base64

import httpx
import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
from tritonclient.utils import InferenceServerException  # noqa: E402


@pytest.fixture
def client(address):
    client = triton.InferenceServerClient(address.removeprefix("http://"), concurrency=4)
    yield client
    client.close()


def image_input(pictures, binary):
    batch = np.stack(pictures)
    tensor = triton.InferInput("image", list(batch.shape), "UINT8")
    return [tensor.set_data_from_numpy(batch, binary_data=binary)]


def bytes_input(files):
    data = np.array(files, dtype=object)
    return [triton.InferInput("image_bytes", [len(files)], "BYTES").set_data_from_numpy(data)]


def outputs(names, binary=True):
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def expect_same(answer, results):
    """Scores, p-values and verdicts of an answer are those of `predict`."""
    np.testing.assert_array_equal(answer.as_numpy("score"), np.float32([each.score for each in results]))
    np.testing.assert_array_equal(answer.as_numpy("p_value"), np.float32([each.p_value for each in results]))
    verdicts = [each.decode() if isinstance(each, bytes) else each for each in answer.as_numpy("verdict")]
    assert verdicts == [str(each.verdict) for each in results]


@pytest.fixture(scope="module")
def results(model, pictures):
    found = model.predict(pictures)
    assert {str(each.verdict) for each in found} > {"ng"}
    return found


def test_triton_asks_about_server_and_model(client, model):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("part")
    assert client.is_model_ready("part", "1")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("part", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    about = client.get_model_metadata("part", "1")
    assert about["versions"] == ["1"]
    assert [each["name"] for each in about["inputs"]] == ["image", "image_bytes"]
    assert [each["name"] for each in about["outputs"]] == ["score", "p_value", "verdict", "anomaly_map"]
    assert client.get_model_repository_index() == [{"name": "part", "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("asked", [None, True, False], ids=["unasked", "binary out", "JSON out"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary in", "JSON in"])
def test_triton_sends_pixels(client, pictures, results, binary, asked):
    wanted = None if asked is None else outputs(["score", "p_value", "verdict"], asked)
    answer = client.infer("part", image_input(pictures, binary), outputs=wanted, request_id="piece 7")
    expect_same(answer, results)
    assert answer.get_response()["id"] == "piece 7"
    assert answer.get_response()["model_version"] == "1"


def test_triton_sends_files(client, files, results):
    expect_same(client.infer("part", bytes_input(files), model_version="1"), results)


def test_triton_mixes_outputs_in_bytes_and_json(client, pictures, results):
    """Tensors after the JSON come in the order of the outputs, those within it take no room there."""
    wanted = [
        triton.InferRequestedOutput("verdict", binary_data=False),
        triton.InferRequestedOutput("anomaly_map", binary_data=True),
        triton.InferRequestedOutput("p_value", binary_data=True),
        triton.InferRequestedOutput("score", binary_data=False),
    ]
    answer = client.infer("part", image_input(pictures, True), outputs=wanted)
    expect_same(answer, results)
    np.testing.assert_array_equal(answer.as_numpy("anomaly_map"), np.stack([each.anomaly_map for each in results]))


def test_the_map_in_json_is_the_same_map(client, pictures, results):
    answer = client.infer("part", image_input(pictures[:1], True), outputs=outputs(["anomaly_map"], False))
    np.testing.assert_array_equal(answer.as_numpy("anomaly_map")[0], results[0].anomaly_map)


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("wanted", [None, "gzip", "deflate"])
def test_triton_compresses(client, pictures, results, sent, wanted):
    names = ["score", "p_value", "verdict", "anomaly_map"]
    answer = client.infer(
        "part",
        image_input(pictures, True),
        outputs=outputs(names),
        request_compression_algorithm=sent,
        response_compression_algorithm=wanted,
    )
    expect_same(answer, results)


def test_a_large_answer_is_really_compressed(address, files):
    body = {"inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [_base64(files[0])]}]}
    body["outputs"] = [{"name": "anomaly_map"}]
    plain, packed = (
        httpx.post(f"{address}/v2/models/part/infer", json=body, headers={"Accept-Encoding": coding})
        for coding in ("identity", "gzip")
    )
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["outputs"] == plain.json()["outputs"]
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2


def test_triton_asks_many_at_a_time(client, files, results):
    """More than wait in the queue, fewer than are refused."""
    pending = [client.async_infer("part", bytes_input([files[n % 3]]), request_id=str(n)) for n in range(8)]
    for number, each in enumerate(pending):
        answer = each.get_result()
        assert answer.get_response()["id"] == str(number)
        expect_same(answer, [results[number % 3]])


def test_the_asynchronous_client(address, files, results):
    from tritonclient.http import aio

    async def ask():
        async with aio.InferenceServerClient(address.removeprefix("http://")) as client:
            return await client.infer("part", bytes_input(files))

    expect_same(asyncio.run(ask()), results)


@pytest.mark.parametrize(
    ("name", "version", "inputs", "message", "status"),
    [
        ("other", "", None, "no model 'other'", "404"),
        ("part", "9", None, "Version '9' of model 'part' is not in use", "404"),
        ("part", "", [triton.InferInput("pixels", [1], "UINT8")], "image or image_bytes", "400"),
        ("part", "", [triton.InferInput("image", [1], "UINT8")], "expected the shape", "400"),
        ("part", "", [triton.InferInput("image", [1, 8, 8, 3], "FP32")], "datatype UINT8", "400"),
    ],
)
def test_triton_gets_errors_in_words(client, files, name, version, inputs, message, status):
    with pytest.raises(InferenceServerException, match=message) as error:
        client.infer(name, inputs or bytes_input(files[:1]), model_version=version)
    assert error.value.status() == status


def test_a_file_that_is_no_image_is_an_error_of_its_own(client):
    with pytest.raises(InferenceServerException, match="not an image of a known format") as error:
        client.infer("part", bytes_input([b"GIF, or so"]))
    assert error.value.status() == "422"


def test_an_image_file_alone_is_a_request(address, files, results):
    """`curl --data-binary @part.png -H 'Inference-Header-Content-Length: 0'`."""
    answer = httpx.post(
        f"{address}/v2/models/part/infer", content=files[1], headers={"Inference-Header-Content-Length": "0"}
    ).json()
    assert answer["outputs"][0] == {"name": "score", "datatype": "FP32", "shape": [1], "data": [results[1].score]}


def test_scores_in_json_are_all_of_their_digits(address, files, results):
    """Whoever reads them as float64 gets those of `predict`; as float32, those of the binary extension."""
    data = [_base64(each) for each in files]
    body = {"inputs": [{"name": "image_bytes", "shape": [3], "datatype": "BYTES", "data": data}]}
    answer = httpx.post(f"{address}/v2/models/part/infer", json=body).json()
    assert answer["outputs"][0]["data"] == [each.score for each in results]
    assert answer["outputs"][1]["data"] == [each.p_value for each in results]
    assert answer["parameters"]["sha256"] == results[0].made_by.sha256


@pytest.mark.parametrize("binary", [True, False])
def test_kserves_client(address, pictures, results, binary):
    """Skipped where kserve is not installed: it brings Kubernetes' client and 450 MB."""
    kserve = pytest.importorskip("kserve", reason="kserve is not installed (450 MB)")
    batch = np.stack(pictures)

    async def ask():
        async with kserve.InferenceRESTClient(kserve.inference_client.RESTConfig(protocol="v2")) as client:
            assert await client.is_server_live(address)
            assert await client.is_server_ready(address)
            assert await client.is_model_ready(address, "part")
            assert not await client.is_model_ready(address, "other")
            tensor = kserve.InferInput("image", list(batch.shape), "UINT8")
            tensor.set_data_from_numpy(batch, binary_data=binary)
            request = kserve.InferRequest("part", [tensor], request_id="7", parameters={"binary_data_output": binary})
            return await client.infer(address, request, model_name="part")

    answer = asyncio.run(ask())
    assert answer.id == "7"
    found = {each.name: each.as_numpy() for each in answer.outputs}
    np.testing.assert_array_equal(found["score"], np.float32([each.score for each in results]))
    np.testing.assert_array_equal(found["p_value"], np.float32([each.p_value for each in results]))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
