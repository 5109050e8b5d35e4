"""The audit: each kind of planted oddity is found and nothing else, from images and from a model; its page."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest

from pages import Page
from parts import noisy
from patchbank import Config, PatchCore, audit_images, audit_model, read_dataset
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import ConfigError
from patchbank.monitoring.audit import Portraits, judged
from patchbank.reports.audit import crop, whole

SMALL = Config(image_size=64, coreset_ratio=0.3, smoothing_sigma=0.5, thumbnail_size=96)
ODD = {3: "defect", 8: "sharpness", 12: "brightness", 17: "aspect_ratio", 21: "duplicate", 22: "duplicate"}


def part(rng):
    """A disc at a place and of a brightness that differ a little, as parts do."""
    image = np.full((96, 128, 3), 190 + rng.normal(0, 2))
    x, y = np.rint(64 * rng.normal((64, 48), 3)).astype(int).tolist()  # in parts of a pixel: no two are alike
    cv2.circle(image, (x, y), 64 * 30, (110, 120, 130), -1, cv2.LINE_AA, shift=6)
    return noisy(image, rng, 5)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(4)
    found = [part(rng) for _ in range(40)]
    found[3][40:56, 56:76] = (250, 40, 40)
    found[8] = cv2.GaussianBlur(found[8], (0, 0), 2.5)
    found[12] = (found[12] * 0.6).astype(np.uint8)
    found[17] = found[17][:, 20:108]
    found[22] = np.clip(found[21].astype(int) + rng.integers(-1, 2, found[21].shape), 0, 255).astype(np.uint8)
    return found


@pytest.fixture(scope="module")
def audit(images):
    return audit_images(images, SMALL, backbone=FakeBackbone())


@pytest.fixture(scope="module")
def model(images):
    return PatchCore.fit(images, SMALL, backbone=FakeBackbone())


def kinds(audit):
    return {int(image.name.split()[1]): {each.kind for each in image.oddities} for image in audit.odd}


def test_every_planted_oddity_is_found_and_nothing_else(audit, model):
    for found in (kinds(audit), kinds(audit_model(model))):
        assert {number: kind in found.get(number, ()) for number, kind in ODD.items()} == dict.fromkeys(ODD, True)
        assert set(found) == set(ODD)


def test_the_marked_place_is_the_defect(audit, model):
    for each in (audit, audit_model(model)):
        image = next(image for image in each.odd if image.name == "image 3")
        x, y, width, height = image.mark
        assert 50 / 128 < x + width / 2 < 82 / 128
        assert 34 / 96 < y + height / 2 < 62 / 96


def test_duplicates_name_each_other(audit):
    pair = {i.name: o.other for i in audit.odd for o in i.oddities if o.kind == "duplicate"}
    assert pair == {"image 21": "image 22", "image 22": "image 21"}


def test_images_are_ranked_and_plain(audit, images):
    severities = [image.severity for image in audit.images]
    assert severities == sorted(severities, reverse=True)
    assert len(audit.images) == len(images)
    assert all((image.severity > 1) == bool(image.oddities) for image in audit.images)
    values = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert values["images"][0]["name"] == audit.images[0].name
    assert {each["kind"] for image in values["images"] for each in image["oddities"]} >= set(ODD.values())


def test_the_same_images_give_the_same_audit(audit, images):
    assert audit_images(images, SMALL, backbone=FakeBackbone()).to_dict() == audit.to_dict()


def test_alike_images_of_no_variety_are_duplicates_and_nothing_else():
    audit = audit_images([np.full((64, 64, 3), 90, np.uint8)] * 9, SMALL, backbone=FakeBackbone())
    assert {each.kind for image in audit.images for each in image.oddities} == {"duplicate"}


def test_few_images_and_unknown_measures_are_said(images, model):
    audit = audit_images(images[:6], SMALL, backbone=FakeBackbone())
    assert audit.odd == ()
    assert "too few" in audit.notes[0]
    blind = audit_model(dataclasses.replace(model, scene=None, thumbnails={}))
    assert "framing are unknown" in blind.notes[0]
    assert "40 images have no thumbnail" in blind.notes[1]
    assert {each.kind for image in blind.odd for each in image.oddities} == {"defect"}


def test_a_good_set_is_left_in_peace():
    rng = np.random.default_rng(0)
    names = tuple(str(n) for n in range(60))
    alarms = 0
    for _ in range(40):
        measures = np.exp(rng.normal(0, 0.2, (60, 6))) * [120, 0.4, 1, 1e5, 9, 9]
        portraits = Portraits(
            names, np.exp(rng.normal(3, 0.1, 60)), measures, [b""] * 60, lambda n: None, lambda n: b""
        )
        alarms += len(judged(portraits).odd)
    assert alarms <= 0.005 * 60 * 40


def test_unreadable_images_are_listed(images, tmp_path):
    paths = []
    for number, image in enumerate(images[:12]):
        paths.append(tmp_path / f"{number}.png")
        assert cv2.imwrite(str(paths[-1]), image)
    paths[5].write_bytes(b"no image")
    audit = audit_images(paths, SMALL, backbone=FakeBackbone())
    assert [name for name, _ in audit.unreadable] == [str(paths[5])]
    assert len(audit.images) == 11
    with pytest.raises(ConfigError, match="a list"):
        audit_images(iter(paths), SMALL, backbone=FakeBackbone())


def test_a_model_without_scores_cannot_be_audited(images):
    config = dataclasses.replace(SMALL, calibration="none")
    with pytest.raises(ConfigError, match="audit its images"):
        audit_model(PatchCore.fit(images[:9], config, backbone=FakeBackbone()))


def test_the_page(audit, tmp_path):
    audit.save(tmp_path / "a.html", "<parts>")
    page = Page(tmp_path / "a.html")
    assert page.open == []
    assert "Audit of <parts>" in page.text["h1"]
    titles = page.text["h2"]
    assert all(f"image {number}" in titles for number in ODD)
    details = sum(1 + bool(i.mark) + (i.oddities[0].other is not None) for i in audit.odd)
    assert len(page.all("img")) == details + 12
    assert all(each["src"].startswith("data:image/jpeg;base64,") for each in page.all("img"))
    assert "script" not in {name for name, _ in page.elements}


def test_the_oddest_are_shown_whether_they_are_odd_or_not(audit, model, tmp_path):
    """Two grossly bad plates ranked third and fourth, under the limit, and were shown nowhere."""
    for found in (audit, audit_model(model)):
        assert found.oddest == found.images[:12]
        assert all(image.picture and image.mark and image.leading for image in found.oddest)
        assert not any(image.picture or image.mark for image in found.images[12:])
    audit.save(tmp_path / "a.html", "parts", [("forget", "patchbank update m --remove '<b>'")])
    page = Page(tmp_path / "a.html")
    captions = page.text["figcaption"]
    shown = [f"{rank}. {i.severity:.2f} · {i.leading.replace('_', ' ')}" for rank, i in enumerate(audit.oddest, 1)]
    assert all(caption in captions for caption in shown)
    links = [a["href"] for a in page.all("a")]
    assert links == [f"#image-{rank}" for rank in range(1, len(audit.odd) + 1)]
    assert {link[1:] for link in links} <= {section.get("id") for section in page.all("section")}
    assert page.text["code"] == "patchbank update m --remove '<b>'"


def test_images_that_are_too_few_to_judge_are_ranked_by_score(images):
    found = audit_images(images[:5], SMALL, backbone=FakeBackbone())
    scores = [image.score for image in found.oddest]
    assert found.oddest[0].name == "image 3"
    assert scores == sorted(scores, reverse=True)
    assert {image.leading for image in found.oddest} == {""}


def test_the_crop_shows_the_marked_patch():
    image = np.full((200, 300, 3), 80, np.uint8)
    image[100:110, 270:285] = (0, 255, 0)
    close = crop(image, (0.9, 0.5, 0.05, 0.05))
    assert max(close.shape) == 300
    green = (close[..., 1] > 200) & (close[..., 0] < 60)
    assert green.mean() > 4 * (image[..., 1] > 200).mean()
    assert whole(image, None).shape == (200, 300, 3)


@pytest.mark.realdata
def test_planted_bottles_are_found_and_dropped(data_root):
    """Of 6 broken or dirty bottles among 60 good ones nearly all are found, at the cost of at most 2 good ones."""
    data = read_dataset(data_root / "bottle")
    planted = [sample.path for sample in data.test if sample.defective][::11]
    images = [*data.train_paths[:60], *planted]
    config = Config(image_size=256, coreset_ratio=0.01, thumbnail_size=0, drop_outliers=True)
    model = PatchCore.fit(images, config)
    names = {f"{path.parent.parent.name}/{path.parent.name}/{path.name}" for path in planted}
    dropped = {each.name for each in model.dropped}
    assert len(dropped & names) >= len(planted) - 1
    assert len(dropped - names) <= 2
