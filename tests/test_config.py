"""The config: one source of truth for options. Protects its validation and its round trips."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbank.config import MAX_TOML_BYTES, Config, Runtime, options
from patchbank.errors import ConfigError
from patchbank.validation import parse_image_size


def test_defaults_round_trip_through_plain_values():
    config = Config(image_size=256, layers=["blocks.2"], coreset_size=7)
    assert Config.from_dict(config.to_dict()) == config
    assert config.to_dict()["image_size"] == [256]


def test_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


@pytest.mark.parametrize(
    ("value", "size"),
    [(320, (320,)), ("240x320", (240, 320)), ([240, 320], (240, 320)), ("64", (64,)), ((64, 96), (64, 96))],
)
def test_image_size_in_every_guise(value, size):
    assert parse_image_size(value) == size


@pytest.mark.parametrize("value", ["abc", "1x2x3", [1.5, 2], True, None, []])
def test_impossible_image_size(value):
    with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
        parse_image_size(value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("sampler", "greedy", "approx_greedy_coreset"),
        ("coreset_ratio", 0, "more than 0"),
        ("coreset_ratio", 1.5, "at most 1"),
        ("coreset_ratio", float("nan"), "more than 0"),
        ("patch_size", 2.5, "expected int"),
        ("patch_size", True, "expected int"),
        ("num_neighbours", 0, "at least 1"),
        ("layers", "blocks.2", "list of names"),
        ("layers", 3, "list of names"),
        ("image_size", 8, "at least 32"),
        ("max_false_alarms", 0.9, "at most 0.5"),
        ("max_false_alarms", float("nan"), "at least 0"),
        ("confidence", 1.0, "at most 0.999999"),
        ("confidence", -0.1, "at least 0"),
        ("folds", 1, "at least 2"),
        ("seed", -1, "at least 0"),
    ],
)
def test_impossible_values_are_named_with_what_is_possible(name, value, says):
    with pytest.raises(ConfigError, match=says) as error:
        Config(**{name: value})
    assert name in str(error.value)


def test_unknown_option_names_the_valid_ones():
    with pytest.raises(ConfigError, match=r"unknown option 'corset_ratio'.*coreset_ratio"):
        Config.from_dict({"corset_ratio": 0.1})


def test_an_option_that_has_been_renamed_says_its_name():
    with pytest.raises(ConfigError, match="'false_alarm_rate'; it is called max_false_alarms now"):
        Config.from_dict({"false_alarm_rate": 0.01})


def test_toml(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('image_size = [64, 96]\nsampler = "random"\ncoreset_ratio = 1\n')
    assert Config.from_toml(path) == Config(image_size=(64, 96), sampler="random", coreset_ratio=1.0)
    path.write_text("image_size = = 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        Config.from_toml(path)
    path.write_bytes(b"seed = 1 # \xff")
    with pytest.raises(ConfigError, match="not valid TOML"):
        Config.from_toml(path)
    with pytest.raises(ConfigError, match="No such file"):
        Config.from_toml(tmp_path / "none.toml")


def test_toml_as_windows_editors_write_it(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfimage_size = 64\r\n")
    assert Config.from_toml(path) == Config(image_size=64)
    for encoding in ("utf-16", "latin-1"):
        path.write_text("image_size = 64 # \u00e9", encoding=encoding)
        with pytest.raises(ConfigError, match=r"a\.toml is not valid TOML: it is not UTF-8 text; save it as UTF-8"):
            Config.from_toml(path)


@pytest.mark.parametrize(
    "text",
    [
        "seed = " + "[" * 100_000,
        "seed = " + "[" * 50_000 + "]" * 50_000,
        "a." * 30_000 + "b = 1",
        "[" + "a." * 30_000 + "b]",
        'x = {y = """a"""", ' + '"=". ' * 10_000 + 'b = 1, z = "c"}',
        "x = {y = '''a'''', " + "'='. " * 10_000 + "b = 1, z = 'c'}",
        'x = """\\""" . ' + "a." * 10_000 + '\n"""\n' + "a." * 10_000 + "b = 1",
        '\\"""' * 15_000,
        "a" * 60_000,
        "seed = " + "9" * 5000,
        "#" * (MAX_TOML_BYTES + 1),
        "seed = 1" + "0" * 400,
        "smoothing_sigma = 1" + "0" * 400,
        "smoothing_sigma = inf",
        "image_size = inf",
        "image_size = [nan, 64]",
        "image_size = 1" + "0" * 400,
        "ignore = [[[1" + "0" * 400 + ", 0], [0, 1], [1, 1]]]",
        "preset = []",
        "preset = {}",
        "layers = [[]]",
        "seed = 2020-01-01",
        'backbone = "a\\u0000b"\nseed = {}',
    ],
    ids=lambda text: text[:24],
)
def test_hostile_toml_is_a_config_error(tmp_path, text):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError):
        Config.from_toml(tmp_path / "a.toml")


def test_strings_and_comments_of_toml_may_hold_dots(tmp_path):
    (tmp_path / "a.toml").write_text(
        "# ........................ it's\n"
        "ignore = [[[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]], [[0.2, 0.2], [0.3, 0.2], [0.3, 0.4]]]\n"
        'backbone = """../../../../../../../../../../../../a.onnx"""\n'
    )
    assert Config.from_toml(tmp_path / "a.toml").backbone.endswith("a.onnx")


def test_memory_beyond_all_machines_is_a_config_error():
    with pytest.raises(ConfigError, match="memory: expected at most"):
        Runtime(memory="9" * 400)


@pytest.mark.parametrize("cls", [Config, Runtime])
def test_every_option_documents_itself(cls):
    for option in options(cls):
        assert len(option.metadata["help"]) > 10, option.name
        assert option.metadata["group"], option.name


@given(st.floats(min_value=1e-6, max_value=1.0), st.integers(1, 1000))
def test_any_value_within_the_limits_is_taken(ratio, neighbours):
    config = Config(coreset_ratio=ratio, num_neighbours=neighbours)
    assert (config.coreset_ratio, config.num_neighbours) == (ratio, neighbours)
