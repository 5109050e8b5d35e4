"""A station: one answer for each trigger by its deadline, and no OK for anything that was not seen."""

from __future__ import annotations

import random
import shutil
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tests.line.conftest import NotedPlc, fake_line, plc_of, write

from parts import striped
from patchbank import ConfigError, ModelFileError, PatchCore, Runtime
from patchbank.line.cameras.base import Frame
from patchbank.line.cameras.fake import FAULTS, FakeCamera
from patchbank.line.decide import Rules, decide
from patchbank.line.frames import FrameCheck, stretched
from patchbank.line.plc.protocol import Answer, Reason, State
from patchbank.line.replay import replay
from patchbank.line.runner import Runner
from patchbank.line.telling import Telling


@pytest.fixture
def line(tmp_path, model_file, pictures):
    """Starts lines with a fake camera; ends them."""
    started = []

    def start(plan=None, hang_ms=1500, **station) -> Runner:
        runner = Runner(fake_line(tmp_path, model_file, pictures, **{"deadline_ms": 3000, **station}))
        grabber = runner.stations[0].grabber
        if plan is not None:
            grabber._camera = grabber._thread.camera = FakeCamera(pictures, plan=plan, hang_ms=hang_ms)
            grabber._make = lambda: FakeCamera(pictures)
        started.append(runner)
        runner.open()
        runner.start()
        return runner

    yield start
    for runner in started:
        runner.stop()


def test_a_trigger_is_answered_and_recorded_with_all_that_explains_it(line, model_file):
    runner = line()
    plc = plc_of(runner)
    shown = plc.ask(7, "P-7")
    assert (shown.verdict, shown.reason, shown.result_seq, shown.part_id) == (Answer.OK, Reason.ordinary, 7, "P-7")
    assert (shown.counters.triggers, shown.counters.ok) == (1, 1)
    runner.stop()
    (record,) = runner.reader().records()
    made_by = PatchCore.load(model_file).made_by
    assert (record.trigger, record.part_id, record.verdict, record.output) == (7, "P-7", "ok", "ok")
    assert (record.model_sha256, record.model_version) == (made_by.sha256, 1)
    assert record.score == shown.score
    assert record.image_format == "png"
    assert record.triggered_at <= record.frame_at <= record.answered_at
    assert plc.closed


def test_a_recorded_part_has_the_same_score_when_it_is_inspected_again(line):
    runner = line()
    plc_of(runner).ask(1)
    runner.stop()
    (record,) = runner.reader().records()
    again = replay(runner.config, record.id, Runtime())
    assert again.identical
    assert again.score == record.score
    with pytest.raises(ConfigError, match="which is none"):
        replay(runner.config, "no id", Runtime())


@pytest.mark.parametrize("fault", [each for each in FAULTS if each != "hang"])
def test_no_fault_is_ok_and_the_next_part_is_answered(line, fault):
    runner = line({1: fault}, hang_ms=50)
    plc = plc_of(runner)
    assert plc.ask(1).verdict == Answer.OK
    shown = plc.ask(2)
    assert (shown.verdict, shown.score) == (Answer.ERROR, None)
    end, seq = time.monotonic() + 20, 3
    while plc.ask(seq).verdict != Answer.OK and time.monotonic() < end:
        seq += 1
        time.sleep(0.1)
    assert plc.answers[seq].verdict == Answer.OK, "the camera is back"
    assert plc.shown[-1].counters.missed == 0


def test_a_camera_that_hangs_is_answered_by_the_deadline_and_left_behind(line, monkeypatch):
    monkeypatch.setattr("patchbank.line.grabber.HANGS", 0.5)
    runner = line({1: "hang"}, hang_ms=3000, deadline_ms=400)
    plc = plc_of(runner)
    assert plc.ask(1).verdict == Answer.OK
    shown = plc.ask(2)
    assert (shown.verdict, shown.reason) == (Answer.ERROR, Reason.deadline)
    assert shown.latency_ms >= 400
    end, seq = time.monotonic() + 20, 3
    while plc.ask(seq).verdict != Answer.OK and time.monotonic() < end:
        seq += 1
        time.sleep(0.1)
    assert plc.answers[seq].verdict == Answer.OK, "a new camera is there"
    assert plc.beats, "the line lived all the time"


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_there_is_one_answer_each_and_no_ok_for_a_fault(line, pictures, seed):
    """Random faults of every kind, and triggers that do not wait for their answers."""
    chosen = random.Random(seed)
    plan = {number: chosen.choice(FAULTS) for number in range(1, 60) if chosen.random() < 0.6}
    runner = line(plan, hang_ms=150, deadline_ms=100)
    camera, plc = runner.stations[0].grabber.camera, plc_of(runner)
    seen: dict[int, str] = {}
    grab = camera.grab

    def watched(timeout):
        part = runner.stations[0]._unanswered
        before = len(camera.happened)
        try:
            return grab(timeout)
        finally:
            seen[part.seq] = camera.happened[before]

    camera.grab = watched
    for seq in range(1, 60):
        plc.commands.trigger(seq)
        if chosen.random() < 0.7:
            with plc.changed:
                assert plc.changed.wait_for(lambda seq=seq: seq in plc.answers, 20)
    runner.stop()
    assert sorted(plc.answers) == list(range(1, 60))
    bad = [seq for seq, shown in plc.answers.items() if shown.verdict == Answer.OK and seen.get(seq)]
    assert bad == [], [(seq, seen[seq]) for seq in bad]
    last = plc.shown[-1].counters
    assert last.ok + last.ng + last.review + last.error == last.triggers == 59
    answered = [each for each in runner.reader().records() if not each.late]
    assert sorted(each.trigger for each in answered) == list(range(1, 60))
    assert not [each for each in runner.reader().records() if each.late and each.output == "ok"]


def test_triggers_are_answered_and_recorded_until_the_plc_is_closed(line, monkeypatch):
    monkeypatch.setattr(NotedPlc, "close", lambda plc: plc.commands.trigger(2))
    runner = line()
    plc = plc_of(runner)
    plc.ask(1)
    runner.stop()
    assert (plc.answers[2].verdict, plc.answers[2].reason) == (Answer.ERROR, Reason.stopping)
    assert [each.trigger for each in runner.reader().records()] == [1, 2]
    plc.commands.trigger(3)  # a PLC whose thread is late: nothing breaks
    assert plc.answers[3].verdict == Answer.ERROR


def test_a_result_after_the_deadline_is_recorded_as_late_and_never_sent(line, monkeypatch):
    runner = line()
    plc, station = plc_of(runner), runner.stations[0]
    assert plc.ask(1).verdict == Answer.OK
    inspector = station.loaded.inspector
    submit, go = inspector.submit, threading.Event()

    def slow(image):
        go.wait(20)
        return submit(image)

    monkeypatch.setattr(inspector, "submit", slow)
    monkeypatch.setattr("patchbank.line.config.StationConfig.deadline", 0.2)
    shown = plc.ask(2)
    assert (shown.verdict, shown.reason) == (Answer.ERROR, Reason.deadline)
    monkeypatch.undo()
    go.set()
    assert plc.ask(3).verdict == Answer.OK
    runner.stop()
    of_two = [each for each in runner.reader().records() if each.trigger == 2]
    assert [(each.verdict, each.late, each.output) for each in of_two] == [("error", False, "ng"), ("ok", True, "ng")]
    assert plc.shown[-1].counters.late == 1
    assert plc.answers[2].verdict == Answer.ERROR
    assert not [shown for shown in plc.shown if shown.result_seq == 2 and shown.verdict == Answer.OK]


def test_a_trigger_before_the_answer_is_counted_as_missed(line):
    runner = line({0: "hang"}, hang_ms=300)
    plc = plc_of(runner)
    plc.commands.trigger(1)
    shown = plc.ask(2)
    assert plc.answers[1].reason == Reason.busy
    assert shown.result_seq == 2
    assert plc.shown[-1].counters.missed == 1


def test_numbers_that_left_a_gap_are_missed_and_the_same_number_again_is_ignored(line):
    runner = line()
    plc = plc_of(runner)
    plc.ask(1)
    plc.ask(4)
    plc.commands.trigger(4)
    assert runner.view().stations[0].shown.counters.triggers == 2
    assert runner.view().stations[0].shown.counters.missed == 2
    plc.ask(65_535)
    plc.ask(0 + 1)
    assert runner.view().stations[0].shown.counters.missed == 3


def test_a_pause_and_a_lost_plc_and_an_unknown_recipe_reject(line):
    runner = line()
    plc = plc_of(runner)
    for seq, (command, reason) in enumerate(
        ((plc.commands.pause, Reason.paused), (plc.commands.plc_lost, Reason.plc_lost)), start=1
    ):
        command(True)
        assert plc.ask(seq).reason == reason
        command(False)
    plc.commands.recipe(9)
    assert plc.shown[-1].state == State.FAULT
    assert plc.ask(3).reason == Reason.model
    plc.commands.recipe(0)
    assert plc.ask(4).verdict == Answer.OK
    assert runner.alarms.now == {}


def test_sinks_are_told_the_states(line):
    runner = line()
    told: list[tuple[str, dict]] = []
    runner.relays.tell = lambda station, state: told.append((station, state))
    telling = Telling(runner.view, runner.relays.tell, "plant", "L1")
    plc_of(runner).ask(1)
    telling.close()
    station, state = told[-1]
    assert (station, state["state"], state["opc_state"], state["site"]) == ("cap", "ready", "Ready", "plant")
    assert (state["last"]["trigger"], state["counters"]["ok"]) == (1, 1)


def test_recipes_choose_the_model(line, tmp_path, model_file, pictures):
    other = tmp_path / "other.patchbank"
    PatchCore.load(model_file).with_threshold(max_false_alarms=0.45).save(other)
    runner = line(recipes={"2": str(other)})
    plc = plc_of(runner)
    plc.ask(1)
    plc.commands.recipe(2)
    assert plc.ask(2).recipe == 2
    runner.stop()
    assert [each.model_name for each in runner.reader().records()] == ["part", "other"]


def test_a_new_file_of_a_model_is_taken_between_two_parts_and_a_bad_one_is_not(tmp_path, model_file, pictures):
    path = tmp_path / "cap.patchbank"
    shutil.copy(model_file, path)
    runner = Runner(fake_line(tmp_path, path, pictures))
    with runner:
        plc = plc_of(runner)
        plc.ask(1)
        path.with_suffix(".new").write_bytes(b"damaged")
        path.with_suffix(".new").replace(path)
        runner.models.look_now()
        assert plc.ask(2).verdict == Answer.OK, "the model before stays"
        assert "cannot be used" in runner.alarms.now["model cap.patchbank"]
        new = PatchCore.load(model_file).with_threshold(max_false_alarms=0.45)
        new.save(path)
        runner.models.look_now()
        assert runner.alarms.now == {}
        assert plc.ask(3).verdict in (Answer.OK, Answer.NG, Answer.REVIEW)
    found = [each.model_sha256 for each in runner.reader().records()]
    assert found[0] == found[1] != found[2] == PatchCore.load(path).made_by.sha256


def test_with_require_record_no_part_is_ok_that_is_not_on_the_disk(line, monkeypatch):
    runner = line(require_record=True, deadline_ms=1000)
    plc = plc_of(runner)
    assert plc.ask(1).verdict == Answer.OK

    class Broken:
        def __init__(self, connection):
            self.connection = connection

        def execute(self, query, *values):
            import sqlite3

            if query.startswith("INSERT"):
                raise sqlite3.OperationalError("disk full")
            return self.connection.execute(query, *values)

        def __getattr__(self, name):
            return getattr(self.connection, name)

    sound = runner.journal._writing
    runner.journal._writing = Broken(sound)
    shown = plc.ask(2)
    assert shown.verdict == Answer.ERROR
    assert shown.reason in (Reason.journal, Reason.deadline)
    runner.journal._writing = sound
    assert plc.ask(3).verdict == Answer.OK
    runner.stop()
    assert [each.trigger for each in runner.reader().records() if each.output == "ok"] == [1, 3]


def test_an_interval_triggers_without_a_plc(tmp_path, model_file, pictures):
    runner = Runner(fake_line(tmp_path, model_file, pictures, plc=False, interval_ms=20))
    with runner:
        end = time.monotonic() + 20
        while runner.view().stations[0].shown.counters.triggers < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert len(list(runner.reader().records())) >= 3


def test_a_station_without_its_camera_starts_in_fault_and_comes_back(tmp_path, model_file, pictures):
    runner = Runner(fake_line(tmp_path, model_file, pictures))
    shutil.rmtree(tmp_path / "parts")
    with runner:
        plc = plc_of(runner)
        assert plc.ask(1).reason == Reason.camera
        assert plc.shown[-1].state == State.FAULT
        for number, each in enumerate(pictures):
            write(tmp_path / "parts" / f"{number}.png", each)
        end = time.monotonic() + 20
        while plc.shown[-1].state != State.READY and time.monotonic() < end:
            time.sleep(0.05)
        assert plc.ask(2).verdict == Answer.OK


def test_a_model_that_is_missing_stops_the_start(tmp_path, pictures):
    for _ in range(2):  # the first one has let go of the journal
        with pytest.raises(ModelFileError, match=r"none\.patchbank"):
            Runner(fake_line(tmp_path, tmp_path / "none.patchbank", pictures))


def test_decisions_follow_the_table(model_file):
    rng = np.random.default_rng(0)
    model = PatchCore.load(model_file)
    good = replace(model.predict(striped(rng)), p_value=0.5, score=1.0, threshold=2.0)
    rules = Rules()
    assert decide(good, rules).output == "ok"
    told = partial(replace, good)
    assert decide(told(score=2.5), rules).reason is Reason.over_threshold
    assert decide(told(score=float("nan")), rules).reason is Reason.no_number
    assert decide(told(score=float("inf")), rules).output == "ng"
    none = decide(told(threshold=None, p_value=None), rules)
    assert (none.verdict, none.output, none.reason) == ("review", "ng", Reason.no_calibration)
    assert decide(told(threshold=None, p_value=None), Rules(review="ok")).output == "ng", "nothing was proven"
    odd = decide(told(p_value=0.04), Rules(review_rate=0.05))
    assert (odd.verdict, odd.output, odd.reason) == ("review", "ng", Reason.review_rate)
    assert decide(told(p_value=0.04), Rules(review_rate=0.05, review="ok")).output == "ok"
    assert decide(told(p_value=0.04), Rules(review_rate=0.0)).output == "ok"
    assert decide(told(p_value=0.04), Rules(review_rate=0.03)).output == "ok"


def test_another_scene_is_a_reject_and_never_ok(model_file):
    class Strange:
        reason = "darker than normal"

    rng = np.random.default_rng(0)
    result = PatchCore.load(model_file).predict(striped(rng))
    strange = replace(result, scene=(Strange(),), score=1.0, threshold=2.0, p_value=0.9)
    assert decide(strange, Rules()).reason is Reason.out_of_scene
    assert decide(strange, Rules()).verdict == "ng"
    review = decide(strange, Rules(out_of_scene="review", review="ok"))
    assert (review.verdict, review.output, review.reason) == ("review", "ng", Reason.out_of_scene)
    over = decide(replace(strange, score=3.0), Rules(out_of_scene="review"))
    assert over.verdict == "ng", "the score counts, too"


def frame(number: int, image, taken: float = 100.0, **more) -> Frame:
    from datetime import UTC, datetime

    return Frame(number, datetime.now(UTC), taken, image, **more)


def test_frames_that_prove_nothing_are_found(pictures):
    check = FrameCheck(0.1, True)
    first, second = pictures[:2]
    assert check.fault(frame(1, first), 99.0, 100.0) is None
    assert check.fault(frame(2, first), 99.0, 100.0).reason is Reason.bad_frame, "frozen"
    assert check.fault(frame(2, second), 99.0, 100.0).reason is Reason.stale_frame, "no new number"
    assert check.fault(frame(3, first, taken=98.0), 99.0, 100.0).reason is Reason.stale_frame, "before the trigger"
    assert check.fault(frame(4, second, taken=99.95), None, 100.0) is None
    assert check.fault(frame(5, first, taken=99.8), None, 100.0).reason is Reason.stale_frame, "too old"
    assert check.fault(frame(6, first, complete=False), 99.0, 100.0).reason is Reason.bad_frame
    for number, grey in enumerate((0, 77, 255)):
        flat = np.full_like(first, grey)
        assert check.fault(frame(7 + number, flat), 99.0, 100.0).reason is Reason.bad_frame, grey
    torn = first.copy()
    torn[-20:] = 128
    assert check.fault(frame(20, torn), 99.0, 100.0).reason is Reason.bad_frame
    torn[-20:] = 255
    assert check.fault(frame(21, torn), 99.0, 100.0) is None, "light that is too bright is no cut"
    blind = FrameCheck(0.1, False)
    assert blind.fault(frame(1, np.zeros_like(first)), 99.0, 100.0) is None


def test_twelve_bits_are_stretched_to_the_types_full_brightness():
    image = np.array([[0, 1, 2048, 4095]], np.uint16)
    assert stretched(image, 4095, None).tolist() == [[0, 16, 32776, 65535]]
    assert stretched(image, 4095, 4095.0) is image
    assert stretched(image, None, None) is image
    with pytest.raises(ValueError, match="expects full brightness at 1023"):
        stretched(image, 4095, 1023.0)
