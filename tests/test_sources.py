"""What an image may come as, and what it is called. However it comes, it is the same picture with the same score."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from parts import striped
from patchbank import Config, ConfigError, DatasetError, ImageError, Named, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.config import ImageFormat
from patchbank.imaging.images import Skipped, read_image, to_rgb, write_png
from patchbank.monitoring.audit import audit_images

SMALL = Config(image_size=64, coreset_ratio=0.3, max_false_alarms=0.2, confidence=0)
BGR = ImageFormat(channel_order="bgr")


class Tensor:
    """PyTorch's protocol: NumPy may not touch a tensor that lies on a GPU, or that gradients are computed of."""

    def __init__(self, array, ready=False):
        self._array, self._ready, self.shape = array, ready, array.shape

    def detach(self):
        return Tensor(self._array, "detached")

    def cpu(self):
        return Tensor(self._array, self._ready == "detached")

    def __array__(self, dtype=None, copy=None):
        if self._ready is not True:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return np.array(self._array, dtype)


class Cupy:
    """CuPy's protocol."""

    __cuda_array_interface__ = None

    def __init__(self, array):
        self._array = array

    def get(self):
        return self._array

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


class Jax:
    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self._array, dtype)


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(3).integers(0, 256, (24, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def png(rgb):
    return cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def good():
    rng = np.random.default_rng(0)
    return [striped(rng) for _ in range(8)]


@pytest.fixture(scope="module")
def model(good):
    return PatchCore.fit(good, SMALL, backbone=FakeBackbone())


def encoded(image):
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def temporary(data):
    file = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the test)
    file.write(data)
    file.seek(0)
    return file


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO, temporary])
def test_a_files_bytes_are_that_picture(png, rgb, kind):
    np.testing.assert_array_equal(read_image(kind(png)), rgb)


@pytest.mark.parametrize("kind", [Tensor, Cupy, Jax, memoryview, lambda array: Named("a", array)])
def test_arrays_of_other_libraries(rgb, kind):
    np.testing.assert_array_equal(read_image(kind(rgb)), rgb)


def test_a_pil_image(rgb):
    pil = pytest.importorskip("PIL.Image")
    np.testing.assert_array_equal(read_image(pil.fromarray(rgb)), rgb)
    np.testing.assert_array_equal(read_image(pil.fromarray(rgb), BGR), rgb)  # it says itself what is red


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"", "is empty"),
        (b"/data/part.png", "expected"),
        (io.BytesIO(b""), "is empty"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        ("abc", "abc: no such file"),
        (Named("part 7", b"\x89PNG\r\n\x1a\n"), "part 7: is truncated"),
        (Named("part 7", np.zeros((2, 2))), "part 7: is 2x2 pixels"),
        (object(), "expected a path, a file's bytes, an open file, an array"),
        ({"a": 1}, "got dict"),
        (3 + 4j, "shape"),
    ],
)
def test_what_is_no_image_is_an_image_error(source, expected):
    with pytest.raises(ImageError, match=expected):
        read_image(source)


def test_a_closed_file_is_an_image_error(png):
    file = io.BytesIO(png)
    file.close()
    with pytest.raises(ImageError, match="closed file"):
        read_image(file)


def test_a_file_is_not_read_beyond_what_an_image_can_be(monkeypatch):
    """An endless stream must not fill the memory."""

    class Endless:
        asked = 0

        def read(self, size):
            self.asked = size
            return bytes(size)

    monkeypatch.setattr("patchbank.imaging.sources.max_file_bytes", lambda: 1000)
    file = Endless()
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        read_image(file)
    assert file.asked == 1001


@pytest.mark.parametrize("kind", [np.asarray, Tensor])
def test_channels_first_says_how_to_turn_it(rgb, kind):
    with pytest.raises(ImageError, match=r"got \(3, 24, 32\), channels first: use image.transpose\(1, 2, 0\), in Py"):
        read_image(kind(np.ascontiguousarray(rgb.transpose(2, 0, 1))))


def test_a_batch_says_that_images_come_one_by_one(rgb):
    with pytest.raises(ImageError, match="one by one"):
        read_image(rgb[None])


# --- the order of colours ---


@pytest.mark.parametrize("channels", [3, 4])
def test_bgr_arrays_become_rgb(rgb, channels):
    alpha = np.full((*rgb.shape[:2], channels - 3), 9, np.uint8)
    np.testing.assert_array_equal(read_image(np.concatenate([rgb[:, :, ::-1], alpha], axis=2), BGR), rgb)


def test_grey_has_no_order(rgb):
    grey = rgb[:, :, :1]
    for image in (grey[:, :, 0], grey, np.concatenate([grey, grey], axis=2)):
        np.testing.assert_array_equal(read_image(image, BGR), to_rgb(grey))


def test_the_order_of_files_is_their_own_but_for_npy(rgb, png, tmp_path):
    write_png(tmp_path / "a.png", rgb)
    np.save(tmp_path / "a.npy", rgb[:, :, ::-1])
    for source in (tmp_path / "a.png", png, io.BytesIO(png), tmp_path / "a.npy"):
        np.testing.assert_array_equal(read_image(source, BGR), rgb)


def test_sixteen_bits_and_white_are_turned_alike(rgb):
    deep = rgb.astype(np.uint16) * 16
    expected = read_image(deep, ImageFormat(white=4095.0))
    np.testing.assert_array_equal(
        read_image(deep[:, :, ::-1], ImageFormat(white=4095.0, channel_order="bgr")), expected
    )


def test_a_model_of_bgr_frames_is_the_model_of_the_same_files(good, tmp_path):
    """The option travels in the model file: what comes from a camera and what lies on a disk get one score."""
    tinted = [image * np.array([1.0, 0.6, 0.2]) for image in good]
    tinted = [image.astype(np.uint8) for image in tinted]
    rgb = PatchCore.fit(tinted, SMALL, backbone=FakeBackbone())
    config = Config(**{**SMALL.to_dict(), "channel_order": "bgr"})
    bgr = PatchCore.fit([image[:, :, ::-1] for image in tinted], config, backbone=FakeBackbone())
    np.testing.assert_array_equal(bgr.bank.vectors, rgb.bank.vectors)
    bgr.save(tmp_path / "m.patchbank")
    loaded = PatchCore.load(tmp_path / "m.patchbank")
    write_png(tmp_path / "a.png", tinted[0])
    frame = loaded.predict(np.ascontiguousarray(tinted[0][:, :, ::-1]))
    assert frame.score == loaded.predict(tmp_path / "a.png").score
    assert frame.score != loaded.predict(tinted[0]).score
    np.testing.assert_array_equal(frame.read_again(), tinted[0])


def test_tune_hands_planted_defects_over_as_the_model_reads_them(rgb):
    from patchbank.evaluation.tune import _source

    for format in (ImageFormat(), BGR, ImageFormat(white=4095.0, channel_order="bgr")):
        np.testing.assert_allclose(read_image(_source(rgb, format), format), rgb, atol=1e-4)


def test_channels_that_are_no_colours_have_no_order():
    with pytest.raises(ConfigError, match="no colours"):
        Config(channels=3, channel_order="bgr")
    with pytest.raises(ConfigError, match="expected one of rgb, bgr"):
        Config(channel_order="gbr")


# --- open files ---


def test_open_files_are_read_once_and_known_afterwards(model):
    """A result shows its picture later, when the file has been read, or is closed."""
    image = striped(np.random.default_rng(5), defect=True)
    expected = model.predict(image)
    file = io.BytesIO(encoded(image))
    result = model.predict(file)
    file.close()
    assert result.score == expected.score
    np.testing.assert_array_equal(result.read_again(), image)
    assert len(result.explain().findings) == len(expected.explain().findings)


def test_open_files_in_lists_and_iterators(model, good):
    expected = [model.predict(image).score for image in good]
    data = [encoded(image) for image in good]
    assert [result.score for result in model.predict([io.BytesIO(each) for each in data])] == expected
    assert [result.score for result in model.predict(io.BytesIO(each) for each in data)] == expected
    for result in model.predict_each([io.BytesIO(each) for each in data]):
        result.overlay()
    assert [result.score for result in model.predict(map(bytearray, data))] == expected


def test_an_open_file_that_fails_is_one_images_fault(model, good):
    closed = io.BytesIO(b"")
    closed.close()
    for images in ([closed, good[0]], iter([closed, good[0]]), iter([Named("a", closed), good[0]])):
        first, second = model.predict_each(images)
        assert isinstance(first, Skipped)
        assert "closed file" in first.reason
        assert second.score == model.predict(good[0]).score


def test_a_fit_that_reads_its_images_twice_takes_open_files(good):
    data = [encoded(image) for image in [*good, striped(np.random.default_rng(9), defect=True, stain=True)]]
    config = Config(**{**SMALL.to_dict(), "drop_outliers": True})
    opened = PatchCore.fit([io.BytesIO(each) for each in data], config, backbone=FakeBackbone())
    same = PatchCore.fit(data, config, backbone=FakeBackbone())
    np.testing.assert_array_equal(opened.bank.vectors, same.bank.vectors)
    assert opened.dropped == same.dropped
    audit = audit_images([io.BytesIO(each) for each in data], SMALL, backbone=FakeBackbone())
    assert len(audit.to_dict()["images"]) == len(data)


@pytest.mark.parametrize("one", [b"abc", io.BytesIO(b"abc"), Named("a", "b.png"), np.zeros((8, 8)), "a.png", Path("a")])
def test_a_fit_needs_several_images(one):
    with pytest.raises(DatasetError, match="expected a sequence of images; got one"):
        PatchCore.fit(one, SMALL, backbone=FakeBackbone())


# --- names ---


def test_results_and_the_bank_have_the_names(good):
    named = [Named(f"shift 1/part {n}", image) for n, image in enumerate(good)]
    model = PatchCore.fit(named, SMALL, backbone=FakeBackbone())
    assert model.bank.images == tuple(f"shift 1/part {n}" for n in range(len(good)))
    assert model.calibration.images == model.bank.images
    result = model.predict(Named("serial 4711", good[0]))
    assert result.path == "serial 4711"
    assert result.to_dict()["path"] == "serial 4711"
    np.testing.assert_array_equal(result.read_again(), good[0])
    assert [r.path for r in model.predict_each([Named("x", good[0]), good[1]])] == ["x", "image 1"]


def test_a_name_changes_no_number(model, good):
    named = PatchCore.fit([Named(f"{n}", i) for n, i in enumerate(good)], SMALL, backbone=FakeBackbone())
    np.testing.assert_array_equal(named.bank.vectors, model.bank.vectors)
    assert named.predict(Named("x", good[0])).score == model.predict(good[0]).score


def test_a_named_path_is_read_and_shown_again(model, good, tmp_path):
    write_png(tmp_path / "a.png", good[0])
    result = model.predict(Named("serial 1", tmp_path / "a.png"))
    assert result.path == "serial 1"
    assert result.detached().overlay().shape == good[0].shape  # the file is still there


def test_an_unusable_image_is_listed_by_its_name(model, good):
    (skipped,) = model.predict_each([Named("serial 2", b"nothing")])
    assert skipped.name == "serial 2"
    assert skipped.reason.startswith("serial 2: ")
    images = [Named("bad", b"nothing"), *good]
    fitted = PatchCore.fit(images, SMALL, backbone=FakeBackbone(), skip_unreadable=True)
    assert [each.name for each in fitted.skipped] == ["bad"]


@pytest.mark.parametrize("second", ["plain", "named", "unreadable first"])
def test_two_training_images_of_one_name_are_refused(good, second, tmp_path):
    """`update` removes an image by its name: the wrong one would go."""
    path = tmp_path / "a.png"
    write_png(path, good[0])
    images = {
        "plain": [path, Named(str(path), good[1])],
        "named": [Named("a", good[0]), Named("a", good[1])],
        "unreadable first": [Named("a", b"nothing"), Named("a", good[1])],
    }[second]
    with pytest.raises(DatasetError, match="is the name of two images"):
        PatchCore.fit([*good, *images], SMALL, backbone=FakeBackbone(), skip_unreadable=True)


def test_updates_add_and_remove_by_name(good, tmp_path):
    named = [Named(f"part {n}", image) for n, image in enumerate(good)]
    model = PatchCore.fit(named, SMALL, backbone=FakeBackbone())
    new = striped(np.random.default_rng(11), stain=True)
    longer = model.update([Named("stained", io.BytesIO(encoded(new)))])
    assert longer.training_images[-1] == "stained"
    with pytest.raises(DatasetError, match=r"part 3: is a training image already; leave it out"):
        model.update([Named("part 3", new)])
    with pytest.raises(DatasetError, match=r"twin: is a training image already"):
        model.update([Named("twin", new), Named("twin", good[0])])
    shorter = longer.update(
        remove=["part 3"], images={each.name: io.BytesIO(encoded(each.image)) for each in named} | {"stained": new}
    )
    assert "part 3" not in shorter.training_images
    assert shorter.versions[-1].calibrated == "exact"


@pytest.mark.parametrize("name", ["", "  ", None, 7, "a" * 5000])
def test_a_name_is_a_text(name, good):
    with pytest.raises(ConfigError, match="expected an image's name"):
        Named(name, good[0])
    with pytest.raises(ConfigError, match="has a name already"):
        Named("a", Named("b", good[0]))


def test_a_buffer_that_is_used_again(model, good):
    """A camera's driver fills one tensor for every frame."""
    frame = np.empty_like(good[0])

    def frames():
        for image in good:
            frame[:] = image
            yield Named("frame", Tensor(frame))

    assert [r.score for r in model.predict(frames())] == [model.predict(image).score for image in good]
