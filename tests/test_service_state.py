"""What a service needs of a model and its results: identity, small representations, detached results, threads, fork."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import patchbank
from parts import striped
from patchbank import Config, ConfigError, ImageError, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.imaging.images import write_png
from patchbank.util import parallel

SMALL = Config(image_size=64, coreset_ratio=0.3, max_false_alarms=0.2, confidence=0, scene_false_alarms=0)


@pytest.fixture(scope="module")
def good():
    rng = np.random.default_rng(0)
    return [striped(rng) for _ in range(8)]


@pytest.fixture(scope="module")
def model(good):
    return PatchCore.fit(good, SMALL, backbone=FakeBackbone())


def test_a_result_says_which_model_made_it_and_when(model, good, tmp_path):
    """The digest is the file's, as any tool prints it: of the file that was loaded, or that `save` writes."""
    result = model.predict(good[0])
    model.save(tmp_path / "part.patchbank")
    digest = hashlib.sha256((tmp_path / "part.patchbank").read_bytes()).hexdigest()
    about = result.to_dict()
    assert about["model"] == {"sha256": digest, "version": 1, "patchbank": patchbank.__version__}
    assert abs(datetime.fromisoformat(about["time"]) - datetime.now(UTC)) < timedelta(minutes=5)
    loaded = PatchCore.load(tmp_path / "part.patchbank")
    assert loaded.predict(good[0]).made_by == result.made_by


def test_a_changed_model_has_another_identity(model, good):
    changed = model.with_threshold(max_false_alarms=0.3, time="2026-01-01T00:00:00+00:00")
    before, after = model.predict(good[0]).made_by, changed.predict(good[0]).made_by
    assert before.sha256 != after.sha256
    assert (before.version, after.version) == (1, 2)


def test_representations_fit_a_few_lines(model, good):
    """A model's was a million characters: a debugger, a log or a notebook chokes on it."""
    result = model.predict(good[0])
    things = [model, model.bank, model.calibration, model.normal, model.history, model.versions, model.roi, result]
    things += [result.regions, result.explain(), result.explain().findings, model.diff(1, 1)]
    for thing in things:
        assert len(repr(thing)) < 3000, type(thing)
    assert repr(model).startswith("PatchCore(config=Config(")
    assert "vectors=float32 (" in repr(model.bank)


def test_a_detached_result_is_small_and_answers_the_same(model):
    picture = np.full((600, 800), 90, np.uint8)
    picture[200:260, 300:420] = 255
    result = model.predict(picture)
    kept = result.detached()
    assert len(pickle.dumps(kept)) < 40_000 < result.anomaly_map.nbytes
    assert kept.to_dict() == result.to_dict()
    np.testing.assert_array_equal(kept.anomaly_map, result.anomaly_map)
    with pytest.raises(ImageError, match="detached"):
        kept.overlay()
    with pytest.raises(ConfigError, match="without its model"):
        kept.explain()


def test_a_detached_result_finds_its_file_again(model, good, tmp_path):
    write_png(tmp_path / "a.png", good[0])
    result = model.predict(tmp_path / "a.png")
    np.testing.assert_array_equal(result.detached().overlay(), result.overlay())


def test_images_under_way_share_the_workers_whoever_hands_them_over(model, good, monkeypatch):
    """Six threads that call `predict` on eight processors: one or two threads each, not eight."""
    monkeypatch.setattr(parallel, "workers", lambda: 8)
    seen, meeting = [], threading.Barrier(6, timeout=60)
    features = model.backbone.features

    def watched(images):
        meeting.wait()
        seen.append(parallel.share_of_workers())
        meeting.wait()
        return features(images)

    monkeypatch.setattr(FakeBackbone, "features", lambda _, images: watched(images))
    threads = [threading.Thread(target=model.predict, args=(image,)) for image in good[:6]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 6
    assert parallel.share_of_workers() == 8


def test_an_image_counts_once():
    with parallel.one_image(), parallel.one_image():
        assert parallel.share_of_workers() == parallel.workers()


def test_a_number_of_blas_threads_that_somebody_set_meanwhile_stays():
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    if not libraries:
        pytest.skip("NumPy's BLAS is not one that threadpoolctl knows")
    before = libraries[0].num_threads
    try:
        with parallel.one_blas_thread():
            libraries[0].set_num_threads(2)
        assert libraries[0].num_threads == 2
    finally:
        libraries[0].set_num_threads(before)


FORKED = """
import os, sys
from patchbank import PatchCore
model, image = PatchCore.load(sys.argv[1]), sys.argv[2]
score = model.predict(image).score
child = os.fork()
if child == 0:
    assert model.predict(image).score == score
    if sys.argv[3] == "drop":
        del model
    if sys.argv[3] == "load":
        model = PatchCore.load(sys.argv[1])
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert model.predict(image).score == score
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("how", ["exit", "drop", "load"])
def test_a_forked_child_predicts_and_ends(how, good, tmp_path):
    """gunicorn --preload, multiprocessing: ONNX Runtime's session hangs or crashes at the child's end."""
    PatchCore.fit(good, Config(image_size=64, calibration="none")).save(tmp_path / "m.patchbank")
    write_png(tmp_path / "a.png", good[0])
    command = [sys.executable, "-c", FORKED, str(tmp_path / "m.patchbank"), str(tmp_path / "a.png"), how]
    subprocess.run(command, check=True, timeout=120)


def test_the_library_says_what_the_command_line_prints_and_is_silent_by_default(good, tmp_path, caplog, capsys):
    """Too few images for the guarantee, an unreadable one: with `logging`, not on stderr."""
    (tmp_path / "bad.png").write_bytes(b"no image")
    wanted = Config(image_size=64, coreset_ratio=0.3, max_false_alarms=0.01, confidence=0.95)
    with caplog.at_level("WARNING", "patchbank"):
        PatchCore.fit([*good, tmp_path / "bad.png"], wanted, backbone=FakeBackbone(), skip_unreadable=True)
    said = [record.getMessage() for record in caplog.records if record.name == "patchbank"]
    assert any("8 good images support 32 % at 95 %; 1 % needs 299" in each for each in said)
    assert any("bad.png" in each for each in said)
    assert capsys.readouterr().err == ""


SILENT = """
import numpy as np
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
images = [np.full((64, 64, 3), value, np.uint8) for value in (90, 91, 92)]
PatchCore.fit(images, Config(image_size=64), backbone=FakeBackbone())
"""


def test_who_has_set_up_no_logging_sees_nothing():
    """Python itself prints warnings of loggers that nobody has set up."""
    done = subprocess.run([sys.executable, "-c", SILENT], check=True, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
