"""Every choice of an option has code of its own, and what has none is an error: never scored as if it were another.

The choices come from `config.py`: a new one that nothing implements fails here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools

import numpy as np
import pytest

from parts import mottled
from patchbank import PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.bank import coreset
from patchbank.calibration import held_out
from patchbank.cli.history import MEANING
from patchbank.config import Config, Runtime, choices, options
from patchbank.errors import ConfigError, ModelFileError
from patchbank.features import embedding as patches
from patchbank.features.embedding import CalibrationPatches, ImageStatistics, Patches
from patchbank.fit.quantise import at_precision
from patchbank.fitted.versions import CALIBRATED
from patchbank.imaging.images import read_image
from patchbank.scoring import scores as scoring
from patchbank.search import searcher as search

SMALL = Config(
    image_size=64,
    coreset_size=40,
    projection_dim=4,
    pretrain_embed_dim=10,
    target_embed_dim=8,
    thumbnail_size=0,
    holdout_fraction=0.4,
    top_fraction=0.2,
)
CHOOSERS = {option.name for option in options(Config) if option.metadata["choices"]}


@pytest.fixture(scope="module")
def images():
    return mottled(np.random.default_rng(0), 10)


def outcome(images, **chosen):
    """What a fit with this choice has made: whatever tells it from a fit with another one."""
    network = None if "precision" in chosen else FakeBackbone()  # a network that is passed is taken as it is
    model = PatchCore.fit(images[:9], dataclasses.replace(SMALL, **chosen), backbone=network)
    held_out = model.calibration.scores.tobytes() if model.calibration else b""
    return model.bank.vectors.tobytes(), held_out, model.predict(images[9]).score


@pytest.mark.parametrize("name", sorted(CHOOSERS - {"search"}))
def test_each_choice_makes_another_model(images, name):
    """No choice is another one's code under a second name; 'auto' alone stands for one of the others."""
    made = {choice: outcome(images, **{name: choice}) for choice in choices(Config, name) if choice != "auto"}
    assert [pair for pair in itertools.combinations(made, 2) if made[pair[0]] == made[pair[1]]] == []


def test_each_search_is_an_index_of_its_own():
    """Their results may well be the same."""
    vectors = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    kinds = choices(Config, "search")
    if importlib.util.find_spec("faiss") is None:
        pytest.skip("the extra 'ann' is not installed")
    built = [search.build_searcher(vectors, Config(search=kind)) for kind in kinds]
    assert len({type(getattr(searcher, "_index", None)) for searcher in built}) == len(kinds)


def test_auto_is_the_backbones_embedding(images):
    for embedding in set(choices(Config, "embedding")) - {"auto"}:
        model = PatchCore.fit(images, SMALL, backbone=FakeBackbone(embedding=embedding))
        assert model.config.embedding == embedding


def asked_for_the_unknown():
    """For each option: the functions that choose by it, called with a choice that has no code."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 4)).astype(np.float32)
    some = Patches(features, np.arange(12, dtype=np.int32), (3, 4), (24, 32), ImageStatistics(1.0, 1.0, 3, 4))
    searcher = search.build_searcher(features, Config())
    maps = [rng.standard_normal((1, 3, 4, 4)).astype(np.float32)]
    scores, nearest, bank = np.ones(12, np.float32), np.zeros((12, 1), np.int64), object()
    held = [CalibrationPatches(0, some)]
    return {
        "image_score": [lambda config: scoring.image_score(scores, nearest, some, features, searcher, config)],
        "channel_order": [lambda config: read_image(np.zeros((8, 8, 3), np.uint8), config.image_format)],
        "sampler": [
            lambda config: coreset.sample(features, config),
            lambda config: coreset.continued(features, 3, features[:2], config),
        ],
        "search": [lambda config: search.build_searcher(features, config)],
        "embedding": [lambda config: patches.embed(maps, config)],
        "calibration": [
            lambda config: held_out.calibrate(held, bank, searcher, config, print),
            lambda config: held_out.summarised(held, bank, searcher, config, print),
        ],
        "precision": [lambda config: at_precision(FakeBackbone(), [], config, None, 0, False, print)],
    }


def test_a_choice_without_code_is_an_error():
    """As it would be after a choice was added to `config.py` and nowhere else."""
    asked = asked_for_the_unknown()
    assert set(asked) == CHOOSERS, "say here which functions choose by the new option"
    for name, calls in asked.items():
        config = Config(patch_size=3)
        object.__setattr__(config, name, "nothing")  # past the validation, which knows no such choice
        for call in calls:
            with pytest.raises(ConfigError, match=f"{name}: .*'nothing'"):
                call(config)


def test_an_unknown_choice_is_refused_with_the_known_ones():
    for name in sorted(CHOOSERS):
        with pytest.raises(ConfigError, match=f"{name}: expected one of {', '.join(choices(Config, name))}; got"):
            Config(**{name: "nothing"})
    assert [option.name for option in options(Runtime) if option.metadata["choices"]] == []


def test_a_file_cannot_name_a_calibration_that_there_is_not(images, tmp_path):
    """Drift and updates go by the method: an unknown one would be treated as none of those that they know."""
    from patchbank.model_file import archive
    from patchbank.model_file.contents import packed, read

    model = PatchCore.fit(images, SMALL, backbone=FakeBackbone())
    manifest, entries = packed(model)
    for method in ("nothing", "none"):
        manifest["calibration"] = {**manifest["calibration"], "method": method}
        archive.write(tmp_path / "m", manifest, entries)
        for reader in (PatchCore.load, read):
            with pytest.raises(ModelFileError, match=f"calibration: method: expected one of .*{method}"):
                reader(tmp_path / "m")


def test_every_state_of_a_calibration_is_put_in_words():
    assert set(MEANING) == set(CALIBRATED)
