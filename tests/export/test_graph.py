"""An exported graph says what the library says: for every option, size and region, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from exported import SIZE, assert_same, fitted, graph_of, pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import striped
from patchbank import BackboneError, Config, ConfigError, PatchCore
from patchbank.backbones import load_backbone
from patchbank.backbones.base import BackboneInfo, Layer
from patchbank.backbones.fake import FakeBackbone
from patchbank.backbones.session import OnnxBackbone, make_session
from patchbank.calibration.thresholds import Calibration
from patchbank.config import Runtime
from patchbank.export import onnx_graph, preprocessing, verdict
from patchbank.export.graph import Graph
from patchbank.export.onnx_graph import inspection_graph, plan_for
from patchbank.export.thinning import thinned
from patchbank.imaging.images import resize

OK, NG, REVIEW = 1, 2, 3


def run_graph(g: Graph, inputs, outputs, values):
    """What a graph of some operators gives for these values."""
    session = make_session(g.build(inputs, outputs, {}), Runtime(threads=1))
    return session.run([name for name, *_ in outputs], values)


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(8, 150), st.integers(8, 150)),
    target=st.tuples(st.integers(8, 100), st.integers(8, 100)),
    seed=st.integers(0, 2**32 - 1),
)
def test_images_are_resized_to_the_same_pixels(size, target, seed):
    """To the bit: a pixel that is rounded to the other side changes features."""
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    check_resize(image, target)


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((128, 128), (64, 64)),  # halves, which OpenCV rounds up
        ((128, 64), (64, 64)),  # and along one axis, which it does not
        ((96, 128), (32, 32)),  # whole pixels
        ((192, 192), (32, 32)),
        ((96, 160), (64, 90)),  # sums that are often close to a half
        ((120, 160), (80, 112)),
        ((40, 120), (64, 64)),  # one axis grows, one shrinks
        ((40, 50), (64, 90)),
        ((64, 64), (64, 64)),
    ],
)
def test_images_of_usual_sizes_are_resized_to_the_same_pixels(rng, size, target):
    check_resize(cv2.GaussianBlur(rng.integers(0, 256, (*size, 3), dtype=np.uint8), (0, 0), 1.5), target)


def check_resize(image, target):
    g, size = Graph(13), image.shape[:2]
    g.node("Identity", preprocessing.resized(g, "image", size, target), name="out")
    inputs, outputs = [("image", np.uint8, image.shape)], [("out", np.float32, (3, *target))]
    (got,) = run_graph(g, inputs, outputs, {"image": image})
    np.testing.assert_array_equal(got, resize(image, target).transpose(2, 0, 1).astype(np.float32))


def test_all_verdicts_come_out_the_same(rng):
    model = fitted(rng, count=60, review_rate=0.5)
    verdicts = assert_same(model, graph_of(model), [*pictures(rng), *(pictures(rng)[0] for _ in range(10))])
    assert set(verdicts) == {OK, NG, REVIEW}


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "hugging_face"])
def test_vision_transformers_come_out_the_same(rng, name):
    """Their tokens become maps inside the network, and they compute sizes for themselves."""
    network = load_backbone(str(Path(__file__).parents[1] / "backbones" / "golden" / f"{name}.onnx"))
    model = fitted(rng, backbone=network, image_size=(112,))
    assert_same(model, graph_of(model), pictures(rng), scores=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"embedding": "reference", "pretrain_embed_dim": 50, "target_embed_dim": 33},
        {"embedding": "reference", "pretrain_embed_dim": 12, "target_embed_dim": 6, "patch_stride": 2},
        {"patch_size": 1},
        {"patch_size": 2, "patch_stride": 2},
        {"patch_size": 5},
        {"num_neighbours": 3},
        {"image_score": "max"},
        {"image_score": "reweighted", "reweight_neighbours": 4},
        {"image_score": "reweighted", "num_neighbours": 2, "coreset_size": 5},
        {"score_smoothing": 0.0, "top_fraction": 0.2},
        {"distance_scaling": 0.0},
        {"distance_scaling": 1.0},
        {"smoothing_sigma": 0.0},
        {"calibration": "none"},
        {"review_rate": 0.0},
        {"scene_false_alarms": 0.0},
        {"image_size": (64, 96)},
        {"include": "0.1,0.1 0.9,0.1 0.9,0.6 0.1,0.6"},
        {"ignore": "0.5,0.5 0.9,0.5 0.9,0.9 0.5,0.9", "image_score": "reweighted", "num_neighbours": 2},
        {"include": "0.2,0.2 0.8,0.2 0.8,0.8 0.2,0.8", "score_smoothing": 0.0, "smoothing_sigma": 1.5},
        {"search": "flat"},
    ],
    ids=lambda options: ",".join(f"{name}={value}"[:30] for name, value in options.items()),
)
def test_every_option_that_changes_an_inspection_is_in_the_graph(rng, options):
    if options.get("search") == "flat":
        pytest.importorskip("faiss")
    model = fitted(rng, **options)
    assert_same(model, graph_of(model), pictures(rng))


@pytest.mark.parametrize("size", [(192, 256), (48, 64), (97, 131), (64, 64), (300, 100)])
def test_images_of_other_sizes_come_out_the_same(rng, size):
    """The graph's size need not be the training images'."""
    model = fitted(rng, include="0.1,0.1 0.9,0.1 0.9,0.8 0.1,0.8")
    assert_same(model, graph_of(model, size), pictures(rng, size))


def test_the_mask_is_where_the_map_is_over_its_threshold(rng):
    model = fitted(rng)
    image = pictures(rng)[1]
    onnx_file = inspection_graph(model, plan_for(model, SIZE), {})
    (mask,) = make_session(onnx_file, Runtime()).run(["mask"], {"image": image})
    result = model.predict(image)
    assert result.mask.any()
    assert set(np.unique(mask)) == {0, 255}
    assert ((mask > 0) != result.mask).mean() < 1e-3  # a pixel on the threshold may fall to either side


def test_a_thinner_bank_can_only_raise_scores(rng):
    model = fitted(rng)
    smaller = thinned(model, 10)
    assert len(smaller.bank) == 10
    assert {tuple(vector) for vector in smaller.bank.vectors} <= {tuple(vector) for vector in model.bank.vectors}
    run, images = graph_of(smaller), pictures(rng)
    assert_same(smaller, run, images)
    for image in images:
        assert run(image).score >= model.predict(image).score * (1 - 1e-6)
    for impossible in (0, 41):
        with pytest.raises(ConfigError, match="bank_size: expected 1 to 40"):
            thinned(model, impossible)


def calibrated(scores, **about):
    scores = np.array(scores, np.float32)
    names = tuple(f"{n}.png" for n in range(len(scores)))
    return Calibration(scores, scores, names, "leave_one_out", **{"max_false_alarms": 0.1, **about})


@pytest.mark.parametrize(
    ("score", "p_value", "number"),
    [
        (0.5, 10 / 10, OK),
        (3.0, 8 / 10, OK),  # as large as one of them counts as one of them
        (8.5, 2 / 10, REVIEW),
        (8.0, 3 / 10, OK),
        (9.0, 2 / 10, REVIEW),  # the threshold itself is not over it
        (9.5, 1 / 10, NG),
        (np.nan, 1 / 10, NG),
        (np.inf, 1 / 10, NG),
    ],
)
@pytest.mark.parametrize("unlike", [False, True])
def test_p_values_and_verdicts_of_known_scores(score, p_value, number, unlike):
    """Nine good images scored 1 to 9; review from 20 %."""
    g, calibration = Graph(13), calibrated(range(1, 10), review_rate=0.2, max_false_alarms=0.1)
    assert calibration.threshold == 9.0
    odds, above = verdict.p_value(g, "score", calibration)
    g.node("Identity", odds, name="p")
    g.node("Identity", verdict.verdict(g, "score", above, calibration, "unlike"), name="v")
    inputs, outputs = (
        [("score", np.float32, ()), ("unlike", np.bool_, ())],
        [("p", np.float32, ()), ("v", np.int32, ())],
    )
    values = {"score": np.array(score, np.float32), "unlike": np.array(unlike)}
    p, v = run_graph(g, inputs, outputs, values)
    assert p == pytest.approx(p_value)
    assert v == (REVIEW if unlike and number == OK else number)


@pytest.mark.parametrize(("score", "number"), [(1.0, REVIEW), (np.nan, NG), (np.inf, NG)])
def test_without_calibration_nothing_is_ok(score, number):
    g = Graph(13)
    odds, above = verdict.p_value(g, "score", None)
    g.node("Identity", odds, name="p")
    g.node("Identity", verdict.verdict(g, "score", above, None, None), name="v")
    values = {"score": np.array(score, np.float32)}
    p, v = run_graph(g, [("score", np.float32, ())], [("p", np.float32, ()), ("v", np.int32, ())], values)
    assert np.isnan(p)
    assert v == number


def rebuilt(opset: int, domain: str = "") -> OnnxBackbone:
    """The network for tests in another opset, or with an operator of another domain."""
    fake = FakeBackbone()
    model = onnx.load_model_from_string(fake.to_onnx())
    model.opset_import[0].version = opset
    if domain:
        model.opset_import.add(domain=domain, version=1)
        model.graph.node.append(onnx.helper.make_node("Gelu", ["stride8"], ["more"], domain=domain))
        model.graph.output.append(
            onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1, 12, None, None])
        )
    info = BackboneInfo("other", fake.info.layers, fake.info.mean, fake.info.std, "MIT", "mean")
    if domain:
        info = BackboneInfo("other", (*fake.info.layers, Layer("more", 12, 8)), info.mean, info.std, "MIT", "mean")
    return OnnxBackbone(model.SerializeToString(), info)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_networks_of_any_opset(rng, opset):
    """From opset 18 on, the axes of most reductions stand elsewhere; networks before 13 are converted."""
    model = fitted(rng, backbone=rebuilt(opset))
    plan = plan_for(model, SIZE)
    file = inspection_graph(model, plan, {})
    assert onnx.load_model_from_string(file).opset_import[0].version == max(opset, 13)
    assert_same(model, graph_of(model), pictures(rng)[:2])


def test_the_graph_is_a_valid_one_of_standard_operators(rng):
    """Other runtimes know no others."""
    model = fitted(rng, include="0.1,0.1 0.9,0.1 0.9,0.6 0.1,0.6", image_score="reweighted", embedding="reference")
    file = onnx.load_model_from_string(inspection_graph(model, plan_for(model, SIZE), {"patchbank.threshold": "1"}))
    onnx.checker.check_model(file, full_check=True)
    assert {node.domain for node in file.graph.node} == {""}
    assert [(each.domain, each.version) for each in file.opset_import] == [("", 13)]
    assert {each.key: each.value for each in file.metadata_props} == {"patchbank.threshold": "1"}
    names = [each.name for each in file.graph.output]
    assert names == ["score", "p_value", "verdict", "anomaly_map", "mask", "image_check"]


@pytest.mark.parametrize("options", [{}, {"calibration": "none"}])
def test_no_constant_is_left_over(rng, options):
    """ONNX Runtime warns of each at every start of the programs."""
    model = fitted(rng, **options)
    graph = onnx.load_model_from_string(inspection_graph(model, plan_for(model, SIZE), {})).graph
    used = {name for node in graph.node for name in node.input}
    assert {each.name for each in graph.initializer} <= used


def test_the_same_model_gives_the_same_bytes(rng):
    model = fitted(rng)
    plan = plan_for(model, SIZE)
    assert inspection_graph(model, plan, {}) == inspection_graph(model, plan, {})


def test_networks_with_operators_of_others_are_refused(rng):
    model = fitted(rng, backbone=rebuilt(13, "com.microsoft"))
    with pytest.raises(BackboneError, match=r"standard ONNX operators; got operators of com\.microsoft"):
        inspection_graph(model, plan_for(model, SIZE), {})


@pytest.mark.parametrize(
    ("options", "size", "words"),
    [
        ({"white": 200.0}, SIZE, "expected a model of 8-bit images; got one whose white is 200"),
        ({"image_size": (256,), "tile_size": 128, "tile_overlap": 32}, SIZE, "in tiles of 128"),
        ({}, (4, 96), "input_size: expected sides of at least 8 pixels"),
        ({}, (30_000, 30_000), "pixels at most; got 30000x30000"),
    ],
)
def test_what_no_graph_can_do_is_refused(rng, options, size, words):
    with pytest.raises(ConfigError, match=words):
        plan_for(fitted(rng, **options), size)


def test_a_bank_that_no_onnx_file_holds_is_refused(rng, monkeypatch):
    model = fitted(rng)
    monkeypatch.setattr(onnx_graph, "_MOST_BYTES", 5000)
    with pytest.raises(ConfigError, match="thin the bank"):
        inspection_graph(model, plan_for(model, SIZE), {})


def test_images_of_many_channels_and_approximate_search_are_refused(rng):
    images = [rng.integers(0, 256, (64, 64, 5), dtype=np.uint8) for _ in range(6)]
    config = {"channels": 5, "image_size": (64,), "coreset_size": 20}
    model = PatchCore.fit(images, Config(**config), backbone=FakeBackbone())
    with pytest.raises(ConfigError, match="got one of 5 channels"):
        plan_for(model, (64, 64))
    pytest.importorskip("faiss")
    with pytest.raises(ConfigError, match="search = 'ivf'"):
        plan_for(fitted(rng, search="ivf"), SIZE)


def test_a_network_in_8_bits(rng):
    """What is merged is the quantised graph; its scores are to the bit those of the session that the library runs."""
    images = [striped(rng) for _ in range(12)]
    model = PatchCore.fit(images, Config(image_size=(64,), coreset_size=40, precision="int8"))
    operators = {node.op_type for node in onnx.load_model_from_string(model.backbone.to_onnx()).graph.node}
    assert "QuantizeLinear" in operators
    assert_same(model, graph_of(model), pictures(rng))


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "hugging_face"])
def test_vision_transformers(rng, name):
    """Sides are whole patches of 14 or 16 pixels, and tokens become maps inside the network's graph."""
    path = Path(__file__).parents[1] / "backbones" / "golden" / f"{name}.onnx"
    images = [striped(rng) for _ in range(8)]
    model = PatchCore.fit(images, Config(backbone=str(path), image_size=(112,), coreset_size=40))
    assert_same(model, graph_of(model), pictures(rng))
