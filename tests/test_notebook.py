"""What a notebook shows: small, safe whatever names and notes hold, and there even when the image is gone."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from parts import striped
from patchbank import Config, Named, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.imaging.images import Skipped, write_png

SMALL = Config(image_size=64, coreset_ratio=0.3, max_false_alarms=0.2, confidence=0)
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202egnp."
ALLOWED = {"div", "table", "tr", "th", "td", "b", "figure", "figcaption", "img", "wbr"}


class Reader(HTMLParser):
    """What a browser would make of it: elements that balance, and which attributes they have."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), set(), []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag not in ("img", "wbr"):
            self.open.append(tag)
        if tag == "img":
            assert dict(attributes)["src"].startswith("data:image/jpeg;base64,")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    return PatchCore.fit([Named(f"{n} {EVIL}", striped(rng)) for n in range(8)], SMALL, backbone=FakeBackbone())


@pytest.fixture(scope="module")
def bad():
    return striped(np.random.default_rng(5), defect=True)


def read(thing, most=200_000):
    html = thing._repr_html_()
    assert len(html.encode()) < most
    reader = Reader(html)
    assert reader.tags <= ALLOWED
    assert reader.attributes <= {"style", "src", "alt", "width", "height", "loading", "decoding"}
    assert not re.search(r"url\(|http|@import", html)
    return reader


def test_a_model_says_what_it_is_and_what_it_promises(model):
    text = read(model).text
    assert "fitted on 8 images" in text
    assert f"{len(model.bank):,} vectors" in text
    assert f"{model.threshold:.4g} (at most 20 % of good images flagged, on average)" in text
    assert f"{model.pixel_threshold:.4g}" in text
    assert "version 1, fit" in text
    assert model._repr_html_().count("<img ") == 6


def test_a_model_without_a_threshold_or_thumbnails():
    rng = np.random.default_rng(0)
    config = Config(image_size=(64, 96), coreset_ratio=0.3, calibration="none", thumbnail_size=0, scene_false_alarms=0)
    model = PatchCore.fit([striped(rng) for _ in range(2)], config, backbone=FakeBackbone())
    assert "none: the model was fitted without calibration" in read(model).text
    reader = read(model.predict(striped(rng, defect=True)))
    assert "REVIEW the model has no threshold" in reader.text
    read(model.predict(striped(rng)).explain())


def test_a_model_names_what_is_wrong_with_its_images(model):
    odd = tuple(Skipped(f"{n} {EVIL}" * 100, "why") for n in range(9))
    reader = read(dataclasses.replace(model, skipped=odd))
    assert "and 4 more" in reader.text


def test_a_result_shows_verdict_score_threshold_regions_and_the_heat_map(model, bad):
    result = model.predict(Named(EVIL, bad))
    reader = read(result)
    assert "anomalous" in reader.text or "NG" in reader.text
    assert f"score {result.score:.4g}" in reader.text
    assert f"threshold {result.threshold:.4g}" in reader.text
    assert "img" in reader.tags
    for region in result.regions[:5]:
        assert " ".join(map(str, region.box)) in reader.text
    assert "alert(1)</script>" in reader.text  # as words, not as elements: the reader has met no script


def test_a_large_noisy_image_stays_small(model):
    noise = np.random.default_rng(1).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    result = model.predict(noise)
    read(result)
    read(result.explain())


def test_many_regions_are_counted(model):
    image = striped(np.random.default_rng(3), size=(256, 384))
    for row in range(40, 256, 80):
        for column in range(40, 384, 80):
            image[row : row + 20, column : column + 20] = 250
    result = model.predict(image)
    if len(result.regions) > 5:
        assert f"and {len(result.regions) - 5} more region" in read(result).text
    read(result.explain())


def test_a_result_whose_image_is_gone_says_so(model, bad, tmp_path):
    path = tmp_path / "a.png"
    write_png(path, bad)
    result = model.predict(path)
    path.unlink()
    reader = read(result)
    assert "No picture:" in reader.text
    assert "no such file" in reader.text
    assert "img" not in reader.tags


def test_a_result_without_its_model_falls_back_to_its_repr(model, bad):
    assert model.predict(bad).detached()._repr_html_() is None


def test_an_explanation_shows_the_findings_beside_normal_patches(model, bad):
    explanation = model.predict(Named(EVIL, bad)).explain()
    reader = read(explanation)
    assert f"{explanation.score:.4g}" in reader.text
    assert "nearest normal, distance" in reader.text
    assert explanation._repr_html_().count("<img ") >= 3


def test_ipython_takes_them(model, bad):
    """The very call of a notebook."""
    formatters = pytest.importorskip("IPython.core.formatters")
    result = model.predict(bad)
    for thing in (model, result, result.explain()):
        assert "<div" in formatters.HTMLFormatter()(thing)
    assert formatters.HTMLFormatter()(result.detached()) is None
