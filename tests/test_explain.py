"""Explanations: the right patch, the right neighbours, the right yardstick, and pictures that show the right place."""

from __future__ import annotations

import dataclasses
import json
import pickle

import cv2
import numpy as np
import pytest

from patchbank import Config, PatchCore
from patchbank.backbones.base import Layer
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import ConfigError, ImageError, OutputError
from patchbank.imaging.boxes import cut, pixels_of
from patchbank.inspection.explain import CROP_SIDE, PICTURE_SIDE, nearest_of_distinct_images
from patchbank.model_file import archive as artifact
from patchbank.model_file.contents import packed
from patchbank.reports.explanation_pictures import decoded, inspected_crop, normal_crop, normal_whole

SQUARE = 8
# A patch is one square of 8 x 8 pixels, and nothing around it: distances between grey squares are differences of grey.
EXACT = Config(
    image_size=(64, 64),
    patch_size=1,
    sampler="identity",
    smoothing_sigma=0,
    image_score="max",
    thumbnail_size=64,
    distance_scaling=0,
)
NETWORK = FakeBackbone((Layer("stride8", 12, SQUARE),))


def squares(grey, changes=()):
    """An image of 8 x 8 squares of one grey, some of them changed: {(row, column): grey}."""
    image = np.full((64, 64, 3), grey, np.uint8)
    for (row, column), value in dict(changes).items():
        image[row * SQUARE : (row + 1) * SQUARE, column * SQUARE : (column + 1) * SQUARE] = value
    return image


def step() -> float:
    """The distance between squares whose greys differ by 1: the network is linear in (rgb - mean) / std."""
    planes = np.broadcast_to(1 / np.array(NETWORK.info.std, np.float32)[None, :, None, None], (1, 3, 8, 8))
    return float(np.linalg.norm(NETWORK.features(np.ascontiguousarray(planes))[0]))


def fit(images, **options):
    return PatchCore.fit(images, dataclasses.replace(EXACT, **options), backbone=NETWORK)


@pytest.fixture(scope="module")
def plain():
    """Three grey images, 100, 110 and 130; the third has odd squares."""
    return fit([squares(100), squares(110, {(1, 6): 180}), squares(130, {(6, 2): 200, (6, 3): 190, (0, 0): 198})])


@pytest.fixture(scope="module")
def why(plain):
    """An image with one square that nothing is like: grey 250 at row 4, column 5."""
    return plain.predict(squares(100, {(4, 5): 250})).explain(neighbours=3)


def test_the_most_anomalous_patch_and_its_distance(why):
    (finding,) = why.findings
    assert (finding.row, finding.column, finding.grid) == (4, 5, (8, 8))
    assert finding.score == pytest.approx(50 * step(), rel=1e-3)  # 250 against 200
    assert finding.mark == pytest.approx((5 / 8, 4 / 8, 1 / 8, 1 / 8))


def test_the_nearest_normal_patches_come_from_distinct_images(why, plain):
    """200, 198 and 190 are all of the third image: one of them stands for it, the others' best for them."""
    near = why.findings[0].neighbours
    assert [(n.image, n.row, n.column) for n in near[:2]] == [("image 2", 6, 2), ("image 1", 1, 6)]
    assert near[2].image == "image 0"
    assert [n.distance / step() for n in near] == pytest.approx([50, 70, 150], rel=1e-3)
    assert near[0].mark == pytest.approx((2 / 8, 6 / 8, 1 / 8, 1 / 8))


def test_neighbours_are_on_the_scale_of_the_score():
    """Scaled as the patch's own score: the nearest normal patch's distance is that score, not the plain distance."""
    rng = np.random.default_rng(0)
    images = [squares(100, {(r, c): rng.integers(90, 140) for r in range(8) for c in range(4)}) for _ in range(5)]
    result = fit(images, distance_scaling=1.0).predict(squares(100, {(4, 5): 250}))
    (finding,) = result.explain().findings
    assert finding.neighbours[0].distance == pytest.approx(finding.score, rel=1e-5)
    assert finding.score == result.patch_scores[4, 5]
    assert finding.score != pytest.approx(result.distances[4, 5], rel=0.01)


@pytest.mark.parametrize("given", ["part.png", None, np.zeros((8, 8, 3), np.uint8)])
def test_an_image_instead_of_a_result_is_told_what_to_do(plain, given):
    with pytest.raises(
        ConfigError, match=r"expected a result of predict; got .*model\.explain\(model\.predict\(image\)\)"
    ):
        plain.explain(given)


def test_where_there_are_too_few_images_others_fill_up(plain):
    more = plain.predict(squares(100, {(4, 5): 250})).explain(neighbours=6).findings[0].neighbours
    places = [(n.image, n.row, n.column) for n in more]
    assert len(set(places)) == 6
    assert {n.image for n in more} == {"image 0", "image 1", "image 2"}
    assert [n.distance for n in more] == sorted(n.distance for n in more)
    assert places[:3] == [("image 2", 6, 2), ("image 2", 0, 0), ("image 2", 6, 3)]
    assert len(nearest_of_distinct_images(plain, plain.bank.vectors[0], 10_000)) == len(plain.bank) == 192


def test_normal_distances_are_those_of_left_out_images():
    """Greys 100, 110, 130: left out, they are 10, 10 and 20 from the nearest other; the odd square 40."""
    model = fit([squares(100), squares(110), squares(130, {(0, 0): 150})])
    finding = model.predict(squares(100, {(0, 0): 185})).explain().findings[0]
    assert finding.score == pytest.approx(35 * step(), rel=1e-3)
    here, overall = finding.here, finding.overall
    assert (here.count, overall.count) == (3, 192)
    assert np.array([here.median, here.largest, overall.median, overall.largest]) / step() == pytest.approx(
        [10, 40, 10, 40], rel=1e-3
    )
    assert here.share_at_most(finding.score) < 1  # 35 is within the 40 that a good image had there
    elsewhere = model.predict(squares(100, {(5, 5): 185})).explain().findings[0]
    assert elsewhere.here.largest == pytest.approx(20 * step(), rel=1e-3)
    assert elsewhere.here.share_at_most(elsewhere.score) == 1


def test_the_normal_distances_travel_in_the_file(plain, tmp_path):
    plain.save(tmp_path / "m")
    loaded = PatchCore.load(tmp_path / "m")
    for name in ("levels", "overall", "cells", "counts"):
        np.testing.assert_array_equal(getattr(loaded.normal, name), getattr(plain.normal, name))
    assert loaded.normal.images == 3
    size = len(packed(loaded)[1]["normal.safetensors"])
    assert size < 40_000
    found = loaded.predict(squares(100, {(4, 5): 202})).explain().findings[0]
    assert [n.image for n in found.neighbours] == ["image 2", "image 1", "image 0"]
    assert found.neighbours[0].thumbnail == plain.thumbnails[2]


def test_each_region_is_explained_by_its_own_worst_patch(plain):
    image = squares(100, {(1, 1): 250, (1, 2): 240, (6, 6): 20, (5, 6): 60})
    why = plain.predict(image).explain()
    assert len(why.regions) == 2
    assert {(f.row, f.column) for f in why.findings} == {(1, 1), (6, 6)}
    assert why.notes == ()
    assert [f.region for f in why.findings] == list(why.regions)
    for finding in why.findings:
        x, y, width, height = finding.region.box
        assert x <= (finding.column + 0.5) * SQUARE < x + width
        assert y <= (finding.row + 0.5) * SQUARE < y + height
    one = plain.predict(image).explain(regions=1)
    assert [f.region.box for f in one.findings] == [why.regions[0].box]
    assert any("of 2" in note for note in one.notes)


def test_a_region_smaller_than_a_patch_is_explained_by_the_patch_under_it():
    """On a small grid over a large image a region may hold no patch's centre."""
    model = fit([squares(100), squares(110), squares(130)])
    result = model.predict(cv2.resize(squares(100, {(2, 3): 190}), (640, 640), interpolation=cv2.INTER_NEAREST))
    region = dataclasses.replace(result.regions[0], box=(244, 162, 2, 2), peak=(245, 163))
    tiny = dataclasses.replace(region, contour=np.array([[244, 162], [245, 162], [245, 163], [244, 163]], np.int32))
    result.__dict__["regions"] = (tiny,)
    finding = result.explain().findings[0]
    assert (finding.row, finding.column) == (2, 3)


def test_a_good_part_has_its_most_anomalous_patch_explained(plain):
    result = plain.predict(squares(100, {(7, 0): 104}))
    assert not result.is_anomalous
    why = result.explain()
    assert why.regions == ()
    assert why.findings[0].region is None
    assert (why.findings[0].row, why.findings[0].column) == (7, 0)
    assert any("No part of the image" in note for note in why.notes)
    assert why.good_at_least == 3


def test_a_region_in_an_image_that_is_judged_normal(plain):
    """Two thresholds, two answers: said, so that the page does not seem to contradict itself."""
    result = plain.predict(squares(100, {(4, 5): 250}))
    why = dataclasses.replace(result, threshold=result.score + 1).explain()
    assert why.is_anomalous is False
    assert why.regions
    assert any("thresholds of their own" in note for note in why.notes)


def test_facts_are_plain_json(why):
    facts = json.loads(json.dumps(why.to_dict(), allow_nan=False))
    assert list(facts) == [
        "path", "score", "threshold", "is_anomalous", "image_size", "good_images", "regions", "findings", "notes",
    ]  # fmt: skip
    (finding,) = facts["findings"]
    assert finding["kind"] == "region"
    assert finding["patch"]["box"] == [5 / 8, 4 / 8, 1 / 8, 1 / 8]
    assert finding["normal_overall"]["share_at_most"] == 1.0
    assert set(finding["normal_here"]) == {"count", "median", "q99", "largest", "share_at_most"}
    assert finding["nearest_normal"][0] | {"distance": 0} == {
        "image": "image 2", "row": 6, "column": 2, "grid": [8, 8], "box": [0.25, 0.75, 0.125, 0.125], "distance": 0,
    }  # fmt: skip
    assert facts["good_images"] == {"count": 3, "score_at_least": why.good_at_least}


# --- what cannot be told is said ---


def test_without_calibration_distances_have_nothing_to_be_compared_with():
    model = fit([squares(100), squares(110)], calibration="none")
    assert model.normal is None
    why = model.predict(squares(100, {(4, 5): 202})).explain()
    assert "without calibration" in why.notes[0]
    assert (why.findings[0].row, why.findings[0].column) == (4, 5)
    assert why.findings[0].here is why.findings[0].overall is None
    assert why.good_at_least is None
    assert why.to_dict()["findings"][0]["normal_here"] is None


def test_thumbnails_that_were_switched_off_are_missed_aloud():
    model = fit([squares(100), squares(110)], thumbnail_size=0)
    why = model.predict(squares(100, {(4, 5): 202})).explain()
    assert any("thumbnail_size = 0" in note for note in why.notes)
    assert normal_crop(why.findings[0].neighbours[0]) is None
    assert normal_whole(why.findings[0].neighbours[0]) is None


def test_a_file_of_version_1_explains_without_normal_distances(plain, tmp_path):
    manifest, entries = packed(plain)
    del entries["normal.safetensors"]
    tensors = dict(artifact.read_tensors(memoryview(entries["bank.safetensors"]), dict(_bank_tensors())))
    del tensors["grids"]
    del manifest["normal"]
    entries["bank.safetensors"] = artifact.tensor_bytes(tensors)
    options = manifest["config"]
    options["false_alarm_rate"] = options.pop("max_false_alarms")  # its name in version 1
    del options["confidence"]
    artifact.write(tmp_path / "m", manifest | {"format_version": 1}, entries)
    why = PatchCore.load(tmp_path / "m").predict(squares(100, {(4, 5): 202})).explain()
    assert any("older format" in note for note in why.notes)
    assert why.findings[0].here is None
    assert why.findings[0].neighbours[0].mark == pytest.approx((2 / 8, 6 / 8, 1 / 8, 1 / 8))


def _bank_tensors():
    from patchbank.model_file import contents as packing

    return packing._BANK


def test_outside_of_the_region_of_interest_nothing_is_explained():
    model = fit([squares(100), squares(110), squares(130)], include="0,0 0.5,0 0.5,1 0,1")
    finding = model.predict(squares(100, {(4, 5): 250, (2, 1): 140})).explain().findings[0]
    assert (finding.row, finding.column) == (2, 1)
    assert all(n.column < 4 for n in finding.neighbours)
    assert finding.overall.count == 3 * 32


# --- the result, and what has become of it ---


def test_a_result_that_was_pickled_has_lost_its_model(plain):
    result = plain.predict(squares(100, {(4, 5): 202}))
    copy = pickle.loads(pickle.dumps(result))
    assert copy.score == result.score
    with pytest.raises(ConfigError, match=r"model\.explain\(result\)"):
        copy.explain()
    assert plain.explain(copy).to_dict() == result.explain().to_dict()


def test_an_image_that_has_changed_is_not_explained(plain, tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), squares(100, {(4, 5): 202}))
    result = plain.predict(path)
    assert result.explain().findings[0].row == 4
    cv2.imwrite(str(path), squares(100, {(4, 5): 30}))
    with pytest.raises(ImageError, match="is another picture now"):
        result.explain()
    with pytest.raises(ImageError, match="does not score as it did"):  # as far as the scores tell
        dataclasses.replace(result, fingerprint=None).explain()
    cv2.imwrite(str(path), squares(100)[:32])
    with pytest.raises(ImageError, match="inspect it again"):
        result.explain()
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        result.explain()


def test_another_models_result_is_not_explained(plain):
    other = fit([squares(90), squares(20)], image_size=(96, 96))
    with pytest.raises(ImageError, match="does not score as it did"):
        other.explain(plain.predict(squares(100, {(4, 5): 202})))


@pytest.mark.parametrize("options", [{"regions": 0}, {"neighbours": 0}, {"neighbours": -1}])
def test_less_than_one_of_anything(plain, options):
    with pytest.raises(ConfigError, match="at least 1"):
        plain.predict(squares(100)).explain(**options)


def test_more_neighbours_in_the_score_than_are_shown():
    model = fit([squares(100), squares(110), squares(130, {(6, 2): 200})], num_neighbours=2)
    finding = model.predict(squares(100, {(4, 5): 202})).explain(neighbours=1).findings[0]
    assert finding.score == pytest.approx((2 + 72) / 2 * step(), rel=1e-3)
    assert finding.neighbours[0].distance == pytest.approx(2 * step(), rel=1e-3)


# --- pictures ---


def test_places_are_found_in_thumbnails_of_any_shape():
    """Training images of two shapes, each with one coloured square: close-up and whole picture show it where marked."""
    options = {"image_size": 64, "sampler": "identity", "thumbnail_size": 256}

    def image(size, colour, at):
        picture = np.full((*size, 3), 120, np.uint8)
        picture[at[0] * SQUARE : (at[0] + 1) * SQUARE, at[1] * SQUARE : (at[1] + 1) * SQUARE] = colour
        return picture

    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    model = fit(
        [image((64, 64), red, (1, 6)), image((32, 128), green, (3, 12)), image((128, 32), blue, (14, 0))], **options
    )
    assert model.bank.grids.tolist() == [[8, 8], [4, 16], [16, 4]]
    for colour, channel, name in ((red, 0, "image 0"), (green, 1, "image 1"), (blue, 2, "image 2")):
        near = (
            model.predict(image((64, 64), np.array(colour) * 9 // 10, (4, 4)))
            .explain(neighbours=1)
            .findings[0]
            .neighbours[0]
        )
        assert near.image == name
        x, y, width, height = near.mark
        thumbnail = decoded(near.thumbnail)
        middle = thumbnail[int((y + height / 2) * thumbnail.shape[0]), int((x + width / 2) * thumbnail.shape[1])]
        assert middle.argmax() == channel
        assert middle[channel] > 200
        for picture in (normal_crop(near), normal_whole(near)):
            strong = picture[:, :, channel].astype(int) - picture.min(axis=2) > 180
            assert np.count_nonzero(_eroded(strong & ~_marker(picture))) > 20
    crop = normal_crop(near)
    assert crop.shape[0] > crop.shape[1]  # the third image is four patches wide, and no more is shown


def _marker(picture):
    return (np.abs(picture.astype(int) - (0, 110, 255)).sum(axis=2) < 60) | (picture.min(axis=2) > 240)


def _eroded(mask):
    return cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))


def test_the_close_up_is_centred_on_the_patch_and_outlined(plain):
    why = plain.predict(squares(100, {(4, 4): 202})).explain()
    picture = inspected_crop(why, why.findings[0])
    assert max(picture.shape) == 400
    bright = np.argwhere(np.abs(picture.astype(int) - 202).max(axis=2) < 3)
    assert bright.mean(axis=0) / 400 * 8 == pytest.approx((4.5, 4.5), abs=0.1)  # 8 squares, fewer than a close-up shows
    assert (picture == (0, 110, 255)).all(axis=2).sum() > 100


def test_pictures_are_bounded_whatever_the_image(plain, rng):
    """A camera's 12 million pixels do not travel in an explanation."""
    image = cv2.resize(squares(100, {(4, 5): 250}), (4000, 3000), interpolation=cv2.INTER_NEAREST)
    image[::2, ::2] ^= 1
    why = plain.predict(image).explain()
    assert why.picture.shape == why.overlay.shape == (900, PICTURE_SIDE, 3)
    for finding in why.findings:
        assert max(finding.close_picture.shape + finding.around_picture.shape) <= CROP_SIDE
    x, y, width, height = why.findings[0].region.box
    assert x <= 5.5 / 8 * 4000 <= x + width
    assert y <= 4.5 / 8 * 3000 <= y + height


def test_cutting():
    image = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
    np.testing.assert_array_equal(cut(image, (0.25, 0.5, 0.5, 0.3), 100), image[5:8, 5:15])
    assert pixels_of((10, 20), (0.999, 0.999, 1e-9, 1e-9)) == (19, 9, 20, 10)
    assert pixels_of((10, 20), (0.0, 0.0, 1.0, 1.0)) == (0, 0, 20, 10)
    assert cut(image, (0, 0, 1, 1), 5).shape == (2, 5, 3)
    whole = cut(image, (0, 0, 1, 1), 100)
    whole[:] = 0
    assert image.any()  # a copy


def test_a_damaged_thumbnail_is_a_missing_one(why):
    broken = dataclasses.replace(why.findings[0].neighbours[0], thumbnail=b"\xff\xd8 no")
    assert normal_crop(broken) is None
    enormous = cv2.imencode(".jpg", np.zeros((3000, 2000, 3), np.uint8))[1].tobytes()
    assert max(decoded(enormous).shape) == 1024


def test_saving_by_ending(why, tmp_path):
    why.save(tmp_path / "a.html", model="m.patchbank")
    why.save(str(tmp_path / "a.PNG"))
    assert (tmp_path / "a.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert cv2.imread(str(tmp_path / "a.PNG")).shape[1] == 1600
    with pytest.raises(ConfigError, match=r"\.html or \.png"):
        why.save(tmp_path / "a.pdf")
    for name in ("no/a.html", "no/a.png"):
        with pytest.raises(OutputError, match="folder does not exist"):
            why.save(tmp_path / name)
