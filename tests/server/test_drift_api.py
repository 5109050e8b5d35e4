"""Drift over HTTP: what a service counts is what the library finds, once each, also after a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from patchbank import DriftMonitor
from patchbank.server import drifting
from patchbank.store import inspections, statistics, streams
from patchbank.store.inspections import NewInspection
from patchbank.store.values import Actor
from patchbank.util.uuid7 import uuid7
from server.conftest import calling, service_of

PATH = "/api/v1/drift"
BY = Actor("test")
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def in_our_hands(monkeypatch):
    """Nothing is counted but by `step`."""
    monkeypatch.setattr(drifting, "PAUSE_S", 1e6)


@pytest.fixture
def service(model):
    return service_of(model)


def keep(service, scores, first=0, at=START):
    """Parts with these scores, a minute apart."""
    version = service.store.read(streams.current, 1).model_version_id
    parts = []
    for number, score in enumerate(scores, start=first):
        time = at + timedelta(minutes=number)
        about = {"score": score, "verdict": "ok", "reason": "r", "model_version_id": version}
        parts.append(NewInspection(id=uuid7(time), at=time, stream_id=1, **about))
    for begin in range(0, len(parts), 100):
        service.store.write(inspections.insert_many, parts[begin : begin + 100])


def count(call, service):
    """Has all that is there counted."""

    async def steps():
        service.drifts._note(None)
        while await service.drifts.step():
            pass

    call._runner.run(steps())


def normal(model, number, seed=0):
    return [float(each) for each in np.random.default_rng(seed).choice(model.calibration.scores, number)]


def found(call):
    answer = call.get(PATH, params={"stream": "part"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def as_library(model, scores):
    return DriftMonitor(model.calibration, scene=model.scene).extend((each, None) for each in scores)


def test_what_is_counted_is_what_the_library_finds(service, model):
    scores = [*normal(model, 150), *(each * 3 for each in normal(model, 100, 1))]
    with calling(service) as call:
        assert (found(call)["images"], found(call)["tests"]) == (0, [])
        keep(service, scores)
        count(call, service)
        said, wanted = found(call), as_library(model, scores)
    assert wanted.found, "the test needs a shift"
    assert (said["images"], said["found"], said["advice"]) == (250, True, list(wanted.advice))
    assert said["model"] == {"name": "part", "version": 1}
    for test, shift in zip(said["tests"], wanted.tests, strict=True):
        assert {name: test[name] for name in shift.to_dict()} == shift.to_dict()
    level = said["tests"][0]
    for name in ("detected", "start", "stop"):
        at = datetime.fromisoformat(level[f"{name}_at"])
        assert abs(at - (START + timedelta(minutes=level[name]))) <= timedelta(minutes=2), "as near as marks are"


def test_it_goes_on_after_a_restart(service, model, tmp_path):
    scores = normal(model, 60)
    with calling(service) as call:
        keep(service, scores[:25])
        count(call, service)
    again = service_of(data=service.store.folder.path)
    with calling(again) as call:
        assert found(call)["images"] == 25
        keep(again, scores[25:], 25)
        count(call, again)
        assert found(call)["images"] == 60
        said = found(call)["tests"]
    wanted = [shift.to_dict() for shift in as_library(model, scores).tests]
    assert [{name: test[name] for name in shift} for test, shift in zip(said, wanted, strict=True)] == wanted


def test_another_process_that_counts_too_counts_nothing_twice(service, model):
    """Two services share a database: whoever is behind goes on from what the other one has kept."""
    with calling(service) as call:
        keep(service, normal(model, 30))
        count(call, service)
        other = drifting.Drifts(service.store, service.stations)
        keep(service, normal(model, 10), 30)
        other._note(None)
        call._runner.run(other.step())
        keep(service, normal(model, 5), 40)
        count(call, service)
        assert found(call)["images"] == 45


def test_what_is_still_on_its_way_is_counted_later(service, model):
    """An inspection that was made earlier may be written a moment later."""
    now = datetime.now(UTC)
    with calling(service) as call:
        keep(service, normal(model, 3))
        keep(service, normal(model, 1), at=now)
        service.drifts._note(None)
        assert call._runner.run(service.drifts.step()) is True
        assert found(call)["images"] == 3


def test_parts_without_a_score_do_not_count(service, model):
    with calling(service) as call:
        keep(service, [None, 1.0, None])
        count(call, service)
        assert found(call)["images"] == 1


def test_it_is_followed_by_itself(service, model, files, monkeypatch):
    """Without anybody asking: an inspection is counted a moment after it was kept."""
    import asyncio

    monkeypatch.setattr(drifting, "PAUSE_S", 0.01)
    monkeypatch.setattr(drifting, "SETTLED", timedelta(seconds=0.02))
    with calling(service) as call:
        call.post("/api/v1/inspections", content=files[0], headers={"Content-Type": "image/png"})
        for _ in range(1500):
            if found(call)["images"]:
                break
            call._runner.run(asyncio.sleep(0.02))
        assert found(call)["images"] == 1


def test_a_state_that_cannot_be_read_begins_anew(service, model):
    with calling(service) as call:
        version = service.store.read(streams.current, 1).model_version_id
        service.store.write(statistics.keep_drift, 1, version, {"last": "x", "findings": {}})
        keep(service, normal(model, 4))
        count(call, service)
        assert found(call)["images"] == 4


def test_the_marks_do_not_grow_with_the_stream(model):
    followed = drifting.followed(model, None)
    ids = [uuid7(START + timedelta(seconds=number)) for number in range(3000)]
    followed.take([statistics.Score(each, START, 1.0, "ok", None) for each in ids])
    assert len(followed.marks) <= 128
    assert ids[2999 - followed.stride] < followed._at(2999) <= ids[2999]


def test_a_found_shift_is_told_once(service, model):
    told = []
    with calling(service) as call:
        service.store.events.subscribe(lambda event: told.append(event) if event.kind == "drift" else None)
        scores = [*normal(model, 150), *(each * 3 for each in normal(model, 150, 1))]
        keep(service, scores[:250])
        count(call, service)
        keep(service, scores[250:], 250)
        count(call, service)
    assert [each.about["stream_id"] for each in told] == [1]


def test_the_chart(service, model):
    scores = [*normal(model, 150), *(each * 3 for each in normal(model, 100, 1))]
    with calling(service) as call:
        empty = call.get(f"{PATH}/series", params={"stream": "part"}).json()
        assert (empty["points"], empty["shifts"]) == ([], [])
        keep(service, scores)
        keep(service, [None], 250)
        count(call, service)
        said = call.get(f"{PATH}/series", params={"stream": "part", "points": 25}).json()
        assert [each["n"] for each in said["points"]] == [10] * 25
        assert [each["median"] for each in said["points"]] == pytest.approx(
            [float(np.median(scores[number : number + 10])) for number in range(0, 250, 10)]
        )
        assert said["points"][0]["low"] <= said["points"][0]["median"] <= said["points"][0]["high"]
        assert "level" in [each["test"] for each in said["shifts"]]
        late = call.get(
            f"{PATH}/series", params={"stream": "part", "since": (START + timedelta(minutes=200)).isoformat()}
        )
        assert sum(each["n"] for each in late.json()["points"]) == 50


def test_deployments_are_in_the_chart(service, model):
    """Those of the time shown, with their thresholds, and the one that held at its beginning."""
    with calling(service) as call:
        keep(service, normal(model, 2), at=datetime.now(UTC))
        version = service.store.read(streams.current, 1).model_version_id
        service.store.write(streams.deploy, 1, None, by=BY, reason="pause")
        service.store.write(streams.deploy, 1, version, by=BY, reason="on")
        keep(service, normal(model, 1), at=datetime.now(UTC) + timedelta(minutes=1))
        said = call.get(f"{PATH}/series", params={"stream": "part"}).json()["deployments"]
    assert [each["threshold"] for each in said] == [model.threshold, None, model.threshold]
    assert [each["at"] for each in said] == sorted(each["at"] for each in said)


def test_questions_that_are_wrong(service):
    wrong = [
        ("", {}, 422),
        ("", {"stream": "none"}, 404),
        ("/series", {"stream": "none"}, 404),
        ("/series", {"stream": "part", "since": "2026-01-01T00:00:00"}, 422),
        ("/series", {"stream": "part", "points": 0}, 422),
    ]
    with calling(service) as call:
        assert [call.get(PATH + path, params=params).status_code for path, params, _ in wrong] == [
            status for *_, status in wrong
        ]
