"""Updates on real images: confirmed false alarms are accepted, defects still found, planted ones forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from patchbank import Config, PatchCore, read_dataset
from patchbank.evaluation.metrics import auroc

pytestmark = pytest.mark.realdata
CONFIG = Config(image_size=192, coreset_ratio=0.02, max_false_alarms=0.1, confidence=0, thumbnail_size=0)


def scores_of(model, paths):
    return np.array([result.score for result in model.predict([str(path) for path in paths])])


@pytest.fixture(scope="module")
def tiles(data_root):
    """Magnetic tiles: 80 good ones to learn, 60 good and 90 defective ones to inspect."""
    data = read_dataset(data_root / "mtd")
    good = [sample.path for sample in data.test if not sample.defective][:60]
    bad = [sample.path for sample in data.test if sample.defective][::4][:90]
    train = list(data.train_paths)[:80]
    return train, PatchCore.fit(train, CONFIG), good, bad


@pytest.fixture(scope="module")
def before(tiles):
    """The scores of the good and of the defective ones."""
    _, model, good, bad = tiles
    return scores_of(model, good), scores_of(model, bad)


def test_confirmed_false_alarms_are_learned_and_defects_still_found(tiles, before):
    (train, model, good, bad), (before_good, before_bad) = tiles, before
    flagged = np.flatnonzero(before_good > model.calibration.threshold)
    assert len(flagged) >= 2, "there is nothing to learn"
    learned, rest = flagged[::2], np.setdiff1d(np.arange(len(good)), flagged[::2])
    new = model.update([good[n] for n in learned])
    after_good, after_bad = scores_of(new, good), scores_of(new, bad)
    assert after_good[learned].max() <= np.median(model.calibration.scores)
    assert (after_good <= before_good).all()
    labels = np.r_[np.zeros(len(rest), bool), np.ones(len(bad), bool)]
    figures = [auroc(np.r_[g[rest], b], labels) for g, b in ((before_good, before_bad), (after_good, after_bad))]
    assert figures[1] >= figures[0] - 0.005
    false_alarms = [(g[rest] > model.calibration.threshold).sum() for g in (before_good, after_good)]
    assert false_alarms[1] <= false_alarms[0]
    exact = new.update(images=dict(zip(model.bank.images, train, strict=True)))
    assert exact.calibration.threshold <= new.calibration.threshold
    assert (after_bad > exact.calibration.threshold).mean() >= (before_bad > model.calibration.threshold).mean() - 0.03
    assert scores_of(exact.rollback(1), good[:3]).tolist() == before_good[:3].tolist()


def test_planted_defects_are_forgotten(tiles, before):
    """Most of what they cost is won back; the model that never saw them is the measure."""
    (train, _, good, bad), (never_good, never_bad) = tiles, before
    stays = np.arange(len(bad)) % 15 != 0
    planted, bad = bad[::15], [path for path, kept in zip(bad, stays, strict=True) if kept]
    images = [*train, *planted]
    model = PatchCore.fit(images, CONFIG)
    gone = model.bank.images[len(train) :]
    new = model.update(remove=gone, images=dict(zip(model.bank.images, images, strict=True)))
    assert len(new.bank) == len(model.bank)
    assert new.versions[-1].calibrated == "exact"
    assert set(new.training_images) == set(model.bank.images[: len(train)])
    labels = np.r_[np.zeros(len(good), bool), np.ones(len(bad), bool)]
    figures = {
        name: auroc(np.r_[scores_of(m, good), scores_of(m, bad)], labels)
        for name, m in (("planted", model), ("forgotten", new))
    }
    figures["never"] = auroc(np.r_[never_good, never_bad[stays]], labels)
    assert figures["never"] > figures["planted"]
    assert figures["forgotten"] - figures["planted"] >= 0.6 * (figures["never"] - figures["planted"])
    assert new.calibration.threshold < model.calibration.threshold
