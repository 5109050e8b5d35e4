"""The ONNX Runtime session: which graphs it takes, which devices, and that batches change nothing."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patchbank.backbones import BackboneInfo, Layer, load_backbone, restore_backbone
from patchbank.backbones.fake import FakeBackbone
from patchbank.backbones.onnx_safety import read_model
from patchbank.backbones.session import CPU, DEVICES, OnnxBackbone, available_cpus
from patchbank.config import Runtime
from patchbank.errors import BackboneError


@pytest.fixture(scope="module")
def lite0() -> Any:
    return load_backbone("efficientnet_lite0")


def changed(change: Any) -> bytes:
    """The fake network's file after `change(model)`."""
    model = onnx.load_model_from_string(FakeBackbone().to_onnx())
    change(model)
    return bytes(model.SerializeToString())


def test_a_batch_gives_the_bits_of_its_single_images(lite0: OnnxBackbone, rng: np.random.Generator) -> None:
    """predict on one image and on a batch must agree."""
    images = rng.standard_normal((3, 3, 96, 130), dtype=np.float32)
    batch = lite0.features(images)
    for i in range(3):
        for whole, one in zip(batch, lite0.features(images[i : i + 1]), strict=True):
            np.testing.assert_array_equal(whole[i], one[0])


def test_images_in_any_memory_layout_are_taken(lite0: OnnxBackbone, rng: np.random.Generator) -> None:
    """A transposed view (H, W, 3 -> 3, H, W) is what decoding gives."""
    image = rng.standard_normal((64, 96, 3), dtype=np.float32).transpose(2, 0, 1)[None]  # (1, 3, H, W), not contiguous
    for view, copy in zip(lite0.features(image), lite0.features(np.ascontiguousarray(image)), strict=True):
        np.testing.assert_array_equal(view, copy)


def test_threads_may_share_a_backbone(lite0: OnnxBackbone, rng: np.random.Generator) -> None:
    """The server calls one model from many threads."""
    images = rng.standard_normal((4, 3, 64, 64), dtype=np.float32)
    expected = [lite0.features(images[i : i + 1])[0] for i in range(4)]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: lite0.features(images[i : i + 1])[0]})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_array_equal(found[i], expected[i])


def test_a_restored_backbone_gives_the_same_bits(lite0: OnnxBackbone, rng: np.random.Generator) -> None:
    """What was saved in a model file is what predicts after loading."""
    images = rng.standard_normal((1, 3, 96, 64), dtype=np.float32)
    restored = restore_backbone(lite0.to_onnx(), lite0.info)
    assert restored.info == lite0.info
    for a, b in zip(lite0.features(images), restored.features(images), strict=True):
        np.testing.assert_array_equal(a, b)


def test_building_twice_gives_the_same_bytes(lite0: OnnxBackbone) -> None:
    """Two fits with one seed give the same model file."""
    assert load_backbone("efficientnet_lite0").to_onnx() == lite0.to_onnx()


def test_the_graph_stops_at_the_deepest_layer(lite0: OnnxBackbone) -> None:
    """No time and no space for layers that nobody asked for."""
    shallow = load_backbone("efficientnet_lite0", ("blocks.1",)).to_onnx()
    assert len(shallow) < 100_000 < len(lite0.to_onnx()) < 3_000_000
    names = [node.name for node in onnx.load_model_from_string(shallow).graph.node]
    assert names[-1] == "blocks.1"


def test_a_built_graph_is_valid_onnx(lite0: OnnxBackbone) -> None:
    """Other runtimes read it too."""
    onnx.checker.check_model(onnx.load_model_from_string(lite0.to_onnx()), full_check=True)


def test_restoring_imports_neither_onnx_nor_torch() -> None:
    """onnx costs 0.2 s of every start of `predict`."""
    code = (
        "import sys\n"
        "from patchbank.backbones import BackboneInfo, Layer, restore_backbone\n"
        "info = BackboneInfo('fake', (Layer('stride8', 12, 8),), (0,)*3, (1,)*3, '', 'mean')\n"
        "restore_backbone(sys.stdin.buffer.read(), info)\n"
        "assert 'onnxruntime' in sys.modules\n"
        "bad = {'onnx', 'torch', 'cv2', 'faiss'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    run = subprocess.run([sys.executable, "-c", code], input=FakeBackbone().to_onnx(), capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr.decode()


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import patchbank.backbones` and its zoo are free."""
    code = (
        "import sys, patchbank.backbones as b; b.zoo()\n"
        "bad = {'onnx', 'onnxruntime', 'torch', 'cv2', 'faiss'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr.decode()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 1, 64, 64), np.float32),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
        np.zeros((0, 3, 64, 64), np.float32),
        np.zeros((1, 3, 0, 64), np.float32),
    ],
    ids=lambda images: f"{images.dtype}{images.shape}",
)
def test_other_arrays_are_refused(lite0: OnnxBackbone, images: Any) -> None:
    """The message names what was expected and what came; the fake backbone is as strict as the real one."""
    for backbone in (lite0, FakeBackbone()):
        with pytest.raises(BackboneError, match=re.escape(str(images.shape))):
            backbone.features(images)


# --- devices ---


def fake(**runtime: Any) -> Any:
    backbone = FakeBackbone()
    return restore_backbone(backbone.to_onnx(), backbone.info, Runtime(**runtime))


def test_a_missing_device_names_what_is_there_and_how_to_get_it() -> None:
    """Never a silent fall back to the CPU."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    missing = [device for device, (provider, _) in DEVICES.items() if provider not in available]
    assert missing, "no machine has every execution provider"
    for device in missing:
        with pytest.raises(BackboneError, match=r"available here: .*cpu.*pip ") as caught:
            fake(device=device)
        assert device in str(caught.value)


def test_an_unknown_device_names_the_valid_ones() -> None:
    """A typing error is no device."""
    with pytest.raises(BackboneError, match=r"unknown device 'gpu'.*cuda.*tensorrt.*available here: .*cpu"):
        fake(device="gpu")


def test_an_execution_provider_can_be_named_itself() -> None:
    """For those that have no short name."""
    assert fake(device="CPUExecutionProvider").provider == "CPUExecutionProvider"
    assert fake(device="CPU").provider == "CPUExecutionProvider"
    with pytest.raises(BackboneError, match=r"QNNExecutionProvider.*not available"):
        fake(device="QNNExecutionProvider")


def test_a_provider_that_calls_a_service_is_no_device() -> None:
    """It is in every build, and the network would silently run on the CPU."""
    with pytest.raises(BackboneError, match=r"not available; available here: [^A]*$"):
        fake(device="AzureExecutionProvider")


def test_a_device_that_is_installed_but_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu without a driver logs a line and runs on the CPU; we do not."""
    import onnxruntime

    class Session:
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            assert [p[0] if isinstance(p, tuple) else p for p in keywords["providers"]] == [
                "CUDAExecutionProvider",
                CPU,
            ]

        def disable_fallback(self) -> None:
            pass

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(BackboneError, match="does not start here"):
        fake(device="cuda")


def test_cuda_computes_as_the_cpu_does_and_finds_the_libraries_that_pip_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thresholds may come from a CPU: no TF32. And what the preparation prints must not get among JSON lines."""
    import onnxruntime

    given: dict[str, Any] = {}

    def session(*arguments: Any, **keywords: Any) -> Any:
        given.update(dict(p for p in keywords["providers"] if isinstance(p, tuple)))
        raise RuntimeError("no driver")

    def preload() -> None:
        print("Failed to load libcudart.so")
        given["preloaded"] = True

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    with pytest.raises(BackboneError, match="no driver"):
        fake(device="cuda")
    assert given["preloaded"]
    assert given["CUDAExecutionProvider"]["use_tf32"] == "0"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("threads", "expected"), [(0, available_cpus()), (1, 1), (3, 3)])
def test_threads_reach_the_session(threads: int, expected: int) -> None:
    """0 = the processors this process may use, not those the machine has."""
    assert fake(threads=threads)._session.get_session_options().intra_op_num_threads == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no processor affinity")
def test_processors_are_counted_by_affinity() -> None:
    """taskset and containers give fewer than the machine has."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert available_cpus() == len(before)


# --- untrusted graphs ---


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\xff" * 64, b"PK\x03\x04" + bytes(64), FakeBackbone().to_onnx()[:-100], bytes(10)]
)
def test_bytes_that_are_no_onnx_file_are_refused(content: bytes) -> None:
    """With our error, not ONNX Runtime's."""
    with pytest.raises(BackboneError):
        restore_backbone(content, FakeBackbone().info)


def test_onnx_runtimes_own_format_is_refused() -> None:
    """It holds no protobuf, so nothing of it could be checked."""
    with pytest.raises(BackboneError, match=r"\.ort"):
        restore_backbone(b"\x10\0\0\0ORTM" + bytes(100), FakeBackbone().info)


def _external(tensor: Any) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def _in_initializer(model: Any) -> None:
    _external(model.graph.initializer[0])


def _in_constant(model: Any) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "t")
    _external(tensor)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _in_subgraph(model: Any) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "t")
    _external(tensor)
    inner = helper.make_graph([helper.make_node("Identity", ["t"], ["o"])], "inner", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner))


def _in_function(model: Any) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "t")
    _external(tensor)
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(helper.make_function("local", "f", [], ["c"], [node], [helper.make_opsetid("", 13)]))


def _in_sparse(model: Any) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    sparse = helper.make_sparse_tensor(values, indices, [3])
    _external(sparse.values)
    model.graph.sparse_initializer.append(sparse)


def _only_marked(model: Any) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _only_named(model: Any) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


@pytest.mark.parametrize(
    "place", [_only_marked, _only_named, _in_initializer, _in_constant, _in_subgraph, _in_function, _in_sparse]
)
def test_weights_in_other_files_are_refused_wherever_they_hide(place: Any) -> None:
    """A model file must not read other files of the machine that opens it."""
    with pytest.raises(BackboneError, match="another file"):
        restore_backbone(changed(place), FakeBackbone().info)


@pytest.mark.parametrize("location", ["weights.bin", "../here/weights.bin", "{here}/weights.bin", "link.bin"])
def test_other_files_are_out_of_reach_even_for_a_graph_that_passes_the_scan(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second lock: ONNX Runtime's parser could see external data where ours sees none."""
    here = tmp_path / "here"
    here.mkdir()
    weights = np.zeros((12, 3, 8, 8), np.float32)
    (here / "weights.bin").write_bytes(weights.tobytes())
    (tmp_path / "outside.bin").write_bytes(weights.tobytes())
    (here / "link.bin").symlink_to(tmp_path / "outside.bin")
    monkeypatch.chdir(here)

    def elsewhere(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location.format(here=here))

    monkeypatch.setattr("patchbank.backbones.session.read_model", lambda onnx: None)
    with pytest.raises(BackboneError, match="cannot load the network"):
        restore_backbone(changed(elsewhere), FakeBackbone().info, Runtime(trusted=True))


def test_deep_nesting_is_refused() -> None:
    """Instead of running out of stack."""
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["d"], then_branch=graph)], "g", [], [])
    with pytest.raises(BackboneError, match="nested"):
        read_model(helper.make_model(graph).SerializeToString())


def test_a_valid_file_passes_the_scan(lite0: OnnxBackbone) -> None:
    """The scan refuses nothing that we write."""
    read_model(lite0.to_onnx())


WRONG_INFOS = {
    "unknown output": (Layer("stride8", 12, 8), Layer("other", 20, 16)),
    "other channels": (Layer("stride8", 13, 8), Layer("stride16", 20, 16)),
}


@pytest.mark.parametrize("case", WRONG_INFOS)
def test_a_graph_that_is_not_as_described_is_refused(case: str) -> None:
    """Manifest and graph come from the same untrusted file and may disagree."""
    backbone = FakeBackbone()
    with pytest.raises(BackboneError, match="expected"):
        restore_backbone(backbone.to_onnx(), dataclasses.replace(backbone.info, layers=WRONG_INFOS[case]))


def _two_inputs(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _grey_input(model: Any) -> None:
    del model.graph.node[:], model.graph.output[:], model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 1, "h", "w"]))
    model.graph.node.append(helper.make_node("Relu", ["image"], ["stride8"]))
    model.graph.output.append(helper.make_tensor_value_info("stride8", TensorProto.FLOAT, None))


@pytest.mark.parametrize("change", [_two_inputs, _grey_input])
def test_other_inputs_are_refused(change: Any) -> None:
    """One float32 image batch of three channels."""
    info = BackboneInfo("x", (Layer("stride8", 12, 8),), (0, 0, 0), (1, 1, 1), "", "mean")
    with pytest.raises(BackboneError, match="one float32 input"):
        restore_backbone(changed(change), info)


def test_channels_that_only_running_reveals_are_checked() -> None:
    """A graph may leave its shapes open and then give other maps than described."""

    def blur(model: Any) -> None:
        del model.graph.node[:], model.graph.output[:], model.graph.initializer[:]
        shape = numpy_helper.from_array(np.array([1, 6, -1, 8], np.int64), "shape")
        model.graph.node.append(helper.make_node("Identity", ["shape"], ["dynamic"]))
        model.graph.node.append(helper.make_node("Reshape", ["image", "dynamic"], ["stride8"]))
        model.graph.initializer.append(shape)
        model.graph.output.append(helper.make_tensor_value_info("stride8", TensorProto.FLOAT, None))

    info = BackboneInfo("x", (Layer("stride8", 12, 8),), (0, 0, 0), (1, 1, 1), "", "mean")
    with pytest.raises(BackboneError, match="stride8"):
        restore_backbone(changed(blur), info).features(np.zeros((1, 3, 16, 16), np.float32))


def test_a_graph_of_one_image_size_says_so() -> None:
    """The message names the size that the graph wants and the option that sets it."""

    def fix(model: Any) -> None:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        dims[2].dim_value, dims[3].dim_value = 64, 96

    backbone = restore_backbone(changed(fix), FakeBackbone().info)
    assert backbone.features(np.zeros((2, 3, 64, 96), np.float32))[0].shape == (2, 12, 8, 12)
    with pytest.raises(BackboneError, match=r"64x96.*got 96x64.*image_size"):
        backbone.features(np.zeros((1, 3, 96, 64), np.float32))


def test_a_graph_of_batch_one_takes_batches() -> None:
    """Exports often fix the batch to 1."""

    def fix(model: Any) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    backbone = restore_backbone(changed(fix), FakeBackbone().info)
    assert backbone.features(np.zeros((3, 3, 32, 32), np.float32))[0].shape == (3, 12, 4, 4)


# --- the fake ---


def test_the_fake_backbone_and_its_graph_agree(rng: np.random.Generator) -> None:
    """Engine tests with the fake say something about the engine with a network; odd sizes lose their rest in both."""
    backbone = FakeBackbone()
    images = rng.standard_normal((2, 3, 70, 95), dtype=np.float32)
    restored = restore_backbone(backbone.to_onnx(), backbone.info).features(images)
    for ours, theirs, layer in zip(backbone.features(images), restored, backbone.info.layers, strict=True):
        assert ours.shape == (2, layer.channels, 70 // layer.stride, 95 // layer.stride)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_fake_backbone_is_local_and_seeded(rng: np.random.Generator) -> None:
    """A changed pixel changes one position of each map; another seed is another network."""
    image = rng.standard_normal((1, 3, 64, 64), dtype=np.float32)
    other = image.copy()
    other[0, :, 40, 20] += 5
    for a, b, layer in zip(
        FakeBackbone().features(image), FakeBackbone().features(other), FakeBackbone().info.layers, strict=True
    ):
        changed_at = np.argwhere((a != b).any(axis=(0, 1)))
        assert changed_at.tolist() == [[40 // layer.stride, 20 // layer.stride]]
    assert not np.array_equal(FakeBackbone(seed=1).features(image)[0], FakeBackbone().features(image)[0])
    assert FakeBackbone().to_onnx() == FakeBackbone().to_onnx()


def test_a_size_whose_name_is_no_text_is_a_damaged_file():
    """Found by the fuzzer: the runtime hands names on as they are."""
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 3, 2, 2], [0.0] * 48)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "w"], ["out"], strides=[2, 2])],
        "g",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["batch", 4, "abcde", "w2"])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    data = model.SerializeToString().replace(b"abcde", b"abc\xab\xac")
    info = BackboneInfo("any", (Layer("out", 4, 2),), (0.0,) * 3, (1.0,) * 3, "none", "mean")
    with pytest.raises(BackboneError, match=r"damaged ONNX file|UTF-8"):
        OnnxBackbone(data, info)
