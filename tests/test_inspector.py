"""Images handed over for futures: the same results, as soon as they are there, in bounded queues that nobody can
poison."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import striped
from patchbank import Busy, Config, ConfigError, ImageError, Named, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.inspection.inspector import Inspector
from patchbank.util import parallel

SMALL = Config(image_size=64, coreset_ratio=0.3, thumbnail_size=0)
PATIENCE = 60  # seconds until a test gives up; none is meant to wait


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    return PatchCore.fit([striped(rng) for _ in range(8)], SMALL, backbone=FakeBackbone())


class Gate:
    """Takes the place of an inspection: each waits until it is let through, and then returns its image."""

    def __init__(self) -> None:
        self.started, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, source, name):
        self.started.release()
        assert self.open.acquire(timeout=PATIENCE)
        return source, name

    def let(self, count):
        for _ in range(count):
            self.open.release()


def gated(workers=1, queue=1):
    gate = Gate()
    return gate, Inspector(gate, workers, queue)


# --- results ---


def test_results_are_those_of_predict_to_the_bit(model, rng):
    """Whatever the number of threads."""
    images = [striped(rng, defect=number % 3 == 0) for number in range(12)]
    expected = [model.predict(image) for image in images]
    for workers in (1, 3):
        with model.inspector(workers=workers, queue=12) as inspector:
            futures = [inspector.submit(image) for image in images]
            for number, (future, one) in enumerate(zip(futures, expected, strict=True)):
                result = future.result(PATIENCE)
                assert (result.score, result.p_value, result.verdict) == (one.score, one.p_value, one.verdict)
                np.testing.assert_array_equal(result.distances, one.distances)
                np.testing.assert_array_equal(result.anomaly_map, one.anomaly_map)
                assert result.path == f"image {number}"
                assert result.made_by == model.made_by


def test_a_result_does_not_wait_for_the_next_image(model, rng):
    """`predict_each` does."""
    with model.inspector() as inspector:
        assert inspector.submit(striped(rng)).result(PATIENCE).score > 0


def test_a_buffer_may_be_written_to_as_soon_as_it_was_handed_over(rng):
    gate, inspector = gated(queue=3)
    with inspector:
        frame = np.zeros((16, 16, 3), np.uint8)
        futures = []
        for number in range(3):
            frame[...] = number
            futures.append(inspector.submit(frame))
        futures.append(inspector.submit(Named("bytes", bytearray(b"\1\2"))))
        frame[...] = 99
        gate.let(4)
        assert [int(future.result(PATIENCE)[0].max()) for future in futures[:3]] == [0, 1, 2]
        source, name = futures[3].result(PATIENCE)
        assert (source.image, name) == (b"\1\2", "bytes")


def test_images_are_inspected_in_the_order_in_which_they_came():
    gate, inspector = gated(queue=20)
    with inspector:
        futures = [inspector.submit(f"{number}.png") for number in range(20)]
        gate.let(20)
        assert [future.result(PATIENCE)[1] for future in futures] == [f"{number}.png" for number in range(20)]


def test_the_fault_of_one_image_is_its_own(model, rng, tmp_path):
    good = striped(rng)
    with model.inspector(queue=9) as inspector:
        futures = [inspector.submit(image) for image in (good, b"no image", tmp_path / "gone.png", None, good)]
        assert futures[0].result(PATIENCE).score == futures[4].result(PATIENCE).score
        for future in futures[1:4]:
            with pytest.raises(ImageError):
                future.result(PATIENCE)


def test_whatever_an_inspection_raises_reaches_its_future_and_the_thread_goes_on():
    def inspect(source, name):
        raise {"a": MemoryError, "b": SystemExit, "c": KeyboardInterrupt}[source]

    with Inspector(inspect, 1, 9) as inspector:
        for name, kind in (("a", MemoryError), ("b", SystemExit), ("c", KeyboardInterrupt), ("a", MemoryError)):
            with pytest.raises(kind):
                inspector.submit(name).result(PATIENCE)


# --- bounds ---


@pytest.mark.parametrize("queue", [0, 1, 5])
def test_more_than_may_wait_is_busy(queue):
    gate, inspector = gated(workers=2, queue=queue)
    with inspector:
        futures = [inspector.submit("x.png") for _ in range(2 + queue)]
        for _ in range(2):
            assert gate.started.acquire(timeout=PATIENCE)
        assert (inspector.running, inspector.waiting) == (2, queue)
        with pytest.raises(Busy, match=f"{2 + queue} images"):
            inspector.submit("y.png")
        with pytest.raises(Busy):
            inspector.submit("y.png", timeout=0.01)
        gate.let(1)
        wait(futures, PATIENCE, "FIRST_COMPLETED")
        futures.append(inspector.submit("z.png"))  # at once: who has a result may submit the next image
        gate.let(2 + queue)
        assert [future.result(PATIENCE)[1] for future in futures][-1] == "z.png"
        assert inspector.drain(PATIENCE)
        assert (inspector.running, inspector.waiting) == (0, 0)


def test_who_waits_for_a_place_gets_it():
    gate, inspector = gated(queue=0)
    with inspector:
        inspector.submit("a.png")
        threading.Timer(0.05, gate.let, [2]).start()
        assert inspector.submit("b.png", timeout=PATIENCE).result(PATIENCE)[1] == "b.png"


def test_one_client_after_the_other_never_meets_busy_without_a_queue(model, rng):
    image = striped(rng)
    with model.inspector(workers=1, queue=0) as inspector:
        for _ in range(50):
            inspector.submit(image).result(PATIENCE)


def test_a_cancelled_image_frees_its_place_and_its_memory():
    gate, inspector = gated(queue=1)
    with inspector:
        first = inspector.submit("a.png")
        assert gate.started.acquire(timeout=PATIENCE)
        for _ in range(100):  # a client that gives up again and again, while the only thread is stuck
            future = inspector.submit(np.zeros((8, 8, 3), np.uint8))
            assert future.cancel()
            with pytest.raises(CancelledError):
                future.result(PATIENCE)
            assert inspector.waiting == 0
        assert not first.cancel()  # it is being inspected
        last = inspector.submit("b.png")
        gate.let(2)
        assert (first.result(PATIENCE)[1], last.result(PATIENCE)[1]) == ("a.png", "b.png")


def test_waiting_for_cancelled_futures_ends():
    gate, inspector = gated(queue=3)
    with inspector:
        futures = [inspector.submit("a.png") for _ in range(4)]
        assert gate.started.acquire(timeout=PATIENCE)
        for future in futures[1:]:
            assert future.cancel()
        gate.let(1)
        assert not wait(futures, PATIENCE).not_done
        assert inspector.drain(PATIENCE)


@settings(max_examples=30)
@given(acts=st.lists(st.sampled_from(["submit", "cancel", "let"]), max_size=40), workers=st.integers(1, 3))
def test_nothing_is_lost_whatever_is_submitted_and_cancelled(acts, workers):
    """Every future that was handed out ends, and the bound holds all the time."""
    gate, inspector = gated(workers, 3)
    futures, let = [], 0
    with inspector:
        for act in acts:
            if act == "submit":
                try:
                    futures.append(inspector.submit("x.png"))
                except Busy:
                    assert inspector.running + inspector.waiting <= workers + 3
            elif act == "cancel" and futures:
                futures[len(futures) // 2].cancel()
            elif act == "let":
                gate.let(1)
                let += 1
        gate.let(len(futures))
        assert inspector.drain(PATIENCE)
    assert all(future.done() for future in futures)
    assert {future.result()[1] for future in futures if not future.cancelled()} <= {"x.png"}


@pytest.mark.parametrize(("workers", "queue"), [(0, 1), (-1, 1), (1, -1), (1.5, 1), (1, None), (10**6, 1), (1, 10**9)])
def test_impossible_numbers_are_refused(model, workers, queue):
    with pytest.raises(ConfigError, match="expected a whole number"):
        model.inspector(workers=workers, queue=queue)


@pytest.mark.parametrize("timeout", [-1, None, "3", float("nan"), float("inf"), 1e12])
def test_a_timeout_that_is_no_time_is_refused_and_takes_no_place(timeout):
    gate, inspector = gated(queue=0)
    with inspector:
        with pytest.raises(ConfigError, match=r"timeout: expected 0 to .* seconds"):
            inspector.submit("a.png", timeout=timeout)
        future = inspector.submit("b.png")
        gate.let(1)
        assert future.result(PATIENCE) == ("b.png", "b.png")


# --- the processors ---


def test_images_at_the_same_time_share_the_processors(monkeypatch):
    """With two workers, each image has half of them for its search; alone it has all."""
    monkeypatch.setattr(parallel, "workers", lambda: 8)
    meeting, seen = threading.Barrier(2, timeout=PATIENCE), []

    def inspect(source, name):
        if source == "both.png":
            meeting.wait()
        seen.append(parallel.share_of_workers())
        if source == "both.png":
            meeting.wait()

    with Inspector(inspect, 2, 2) as inspector:
        inspector.submit("alone.png").result(PATIENCE)
        wait([inspector.submit("both.png"), inspector.submit("both.png")], PATIENCE)
    assert seen == [8, 4, 4]


# --- the end ---


def test_closing_waits_for_all_and_then_takes_none(model, rng):
    inspector = model.inspector(queue=20)
    futures = [inspector.submit(striped(rng)) for _ in range(10)]
    inspector.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(ConfigError, match="closed"):
        inspector.submit(striped(rng))
    inspector.close()  # again changes nothing


def test_closing_in_a_hurry_cancels_what_waits_and_finishes_what_runs():
    gate, inspector = gated(queue=5)
    first, *others = [inspector.submit("x.png") for _ in range(4)]
    assert gate.started.acquire(timeout=PATIENCE)
    gate.let(1)
    inspector.close(cancel=True)
    assert first.result(PATIENCE)[1] == "x.png"
    assert all(future.cancelled() for future in others)


def test_an_exception_in_the_block_does_not_wait_for_the_queue():
    gate, inspector = gated(queue=5)
    futures = [inspector.submit("x.png") for _ in range(3)]
    assert gate.started.acquire(timeout=PATIENCE)
    gate.let(1)
    with pytest.raises(ZeroDivisionError), inspector:
        _ = 1 / 0
    assert futures[2].cancelled()


def test_closing_wakes_who_waits_for_a_place():
    gate, inspector = gated(queue=0)
    inspector.submit("a.png")
    assert gate.started.acquire(timeout=PATIENCE)
    threading.Timer(0.05, lambda: (gate.let(1), inspector.close())).start()
    try:
        inspector.submit("b.png", timeout=PATIENCE)  # the place that gets free, or the end
        gate.let(1)
    except ConfigError:
        pass
    inspector.close()


def test_a_callback_may_submit_and_close():
    gate, inspector = gated(queue=1)
    gate.let(2)
    done, seen = threading.Event(), []

    def second(future):
        seen.append(future.result())
        inspector.close()
        done.set()

    def first(future):
        seen.append(future.result())
        inspector.submit("b.png").add_done_callback(second)

    inspector.submit("a.png").add_done_callback(first)
    assert done.wait(PATIENCE)
    assert [name for _, name in seen] == ["a.png", "b.png"]


def test_a_callback_that_drains_is_an_error_and_no_deadlock():
    gate, inspector = gated()
    done, said = threading.Event(), []

    def drain(_):
        try:
            inspector.drain(PATIENCE)
        except ConfigError as error:
            said.append(str(error))
        done.set()

    with inspector:
        inspector.submit("a.png").add_done_callback(drain)
        gate.let(1)
        assert done.wait(PATIENCE)
    assert "would wait for itself" in said[0]


def test_draining_says_when_it_takes_too_long():
    gate, inspector = gated()
    with inspector:
        inspector.submit("a.png")
        assert not inspector.drain(0.01)
        gate.let(1)
        assert inspector.drain(PATIENCE)


def test_an_inspector_that_is_forgotten_ends_its_threads(model):
    inspector = model.inspector(workers=2)
    threads, gone = inspector._crew.threads, weakref.ref(inspector)
    del inspector
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
import os
import numpy as np
from parts import striped
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
rng = np.random.default_rng(0)
path = {path!r}
good, config = [striped(rng) for _ in range(6)], Config(image_size=64, thumbnail_size=0)
PatchCore.fit(good, config, backbone=FakeBackbone()).save(path)
model = PatchCore.load(path)
image = striped(rng)
expected = model.predict(image).score
inspector = model.inspector(workers=2, queue=50)
"""


def run(script, tmp_path):
    tests = os.path.dirname(__file__)  # noqa: PTH120  (a text, for the script)
    whole = SCRIPT.format(tests=tests, path=str(tmp_path / "m")) + script
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=300, check=False)


def test_python_ends_while_images_wait(tmp_path):
    """Nobody closed it: no crash, no hang, nothing on stderr."""
    done = run("futures = [inspector.submit(image) for _ in range(40)]\nfutures[0].result()\nprint('end')", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_gets_threads_of_its_own(tmp_path):
    """Also if it was forked while its parent's threads worked."""
    script = """
futures = [inspector.submit(image) for _ in range(20)]
child = os.fork()
if child == 0:
    assert inspector.submit(image).result(120).score == expected
    inspector.close()
    print("child", flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert {future.result(120).score for future in futures} == {expected}
inspector.close()
print("parent")
"""
    done = run(script, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "child\nparent\n", "")
