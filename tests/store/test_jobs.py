"""Jobs: each is done once, goes on after a crash, and ends when somebody wants it to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from patchbank import StoreConflictError, StoreNotFoundError, StoreValueError
from patchbank.store import audit_log, jobs, preferences
from patchbank.store.engine import Store
from patchbank.store.values import Actor

ANNA = Actor("anna")
PAST = timedelta(seconds=-1)


def fit(store: Store, **others: object) -> jobs.Job:
    return store.write(jobs.add, "fit", {"dataset": 3}, by=ANNA, reason="new part", **others)


def test_a_job_from_the_queue_to_its_end(store: Store) -> None:
    first, second = fit(store), fit(store)
    assert (first.state, first.args, first.attempts) == ("queued", {"dataset": 3}, 0)
    assert store.write(jobs.claim, "w1", ["backup"]) is None
    taken = store.write(jobs.claim, "w1", ["fit", "update"])
    assert taken is not None
    assert (taken.id, taken.state, taken.worker, taken.attempts) == (first.id, "running", "w1", 1)
    assert store.write(jobs.progress, first.id, "w1", stage="embed", done=3, total=9, eta=12.5, log="a\n") is False
    now = store.read(jobs.get, first.id)
    assert (now.stage, now.done, now.total, now.eta, now.log) == ("embed", 3, 9, 12.5, "a\n")
    assert [each.id for each in store.read(jobs.under_way)] == [first.id, second.id]
    ended = store.write(jobs.finish, first.id, "w1", {"version": 2}, log="b\n")
    assert (ended.state, ended.result, ended.log, ended.worker) == ("done", {"version": 2}, "a\nb\n", None)
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert [each.id for each in store.read(jobs.listed)] == [second.id, first.id]
    assert [each.id for each in store.read(jobs.listed, before=second.id)] == [first.id]
    assert [each.id for each in store.read(jobs.listed, model_id=7)] == []
    with pytest.raises(StoreNotFoundError):
        store.read(jobs.get, 999)


def test_a_job_has_one_worker(store: Store) -> None:
    for _ in range(10):
        fit(store)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(store.write, jobs.claim, f"w{number}", ["fit"]) for number in range(16)]
    taken = [job.id for call in calls if (job := call.result())]
    assert sorted(taken) == list(range(1, 11))


def test_a_job_whose_worker_was_killed_is_taken_back(store: Store) -> None:
    job = fit(store, most_attempts=2)
    store.write(jobs.claim, "w1", ["fit"], PAST)
    assert [each.state for each in store.write(jobs.take_back)] == ["queued"]
    with pytest.raises(StoreConflictError, match="somebody else"):
        store.write(jobs.progress, job.id, "w1")
    for end in (jobs.finish, jobs.cancelled, jobs.give_back):
        with pytest.raises(StoreConflictError, match="somebody else"):
            store.write(end, job.id, "w1")
    store.write(jobs.claim, "w2", ["fit"])
    assert store.write(jobs.take_back) == []  # its lease is not over
    assert [each.state for each in store.write(jobs.take_back, all_workers=True)] == ["failed"]
    failed = store.read(jobs.get, job.id)
    assert failed.error is not None
    assert "lost 2 times" in failed.error


def test_a_failure_is_tried_again_until_it_was_often_enough(store: Store) -> None:
    job = fit(store, most_attempts=2)
    store.write(jobs.claim, "w1", ["fit"])
    again = store.write(jobs.fail, job.id, "w1", "no memory\0", again_after=timedelta(hours=1))
    assert (again.state, again.error) == ("queued", "no memory")
    assert store.write(jobs.claim, "w1", ["fit"]) is None  # not before an hour has passed
    other = fit(store)
    store.write(jobs.claim, "w1", ["fit"])
    assert store.write(jobs.fail, other.id, "w1", "wrong image").state == "failed"
    third = fit(store, most_attempts=1)
    store.write(jobs.claim, "w1", ["fit"])
    assert store.write(jobs.fail, third.id, "w1", "x", again_after=timedelta(0)).state == "failed"


def test_a_job_ends_when_somebody_wants_it_to(store: Store) -> None:
    queued, running = fit(store), fit(store)
    assert store.write(jobs.cancel, queued.id, by=ANNA, reason="wrong images").state == "cancelled"
    store.write(jobs.claim, "w1", ["fit"])
    assert store.write(jobs.cancel, running.id, by=ANNA).state == "running"
    assert store.write(jobs.progress, running.id, "w1") is True
    assert store.write(jobs.cancelled, running.id, "w1").state == "cancelled"
    with pytest.raises(StoreConflictError, match="ended already"):
        store.write(jobs.cancel, running.id, by=ANNA)
    killed = fit(store)
    store.write(jobs.claim, "w2", ["fit"], PAST)
    store.write(jobs.cancel, killed.id, by=ANNA)
    assert [each.state for each in store.write(jobs.take_back)] == ["cancelled"]
    told = [each.action for each in store.read(audit_log.page)]
    assert told.count("job.cancel") == 3


def test_a_service_that_stops_gives_its_job_back(store: Store) -> None:
    job = fit(store, most_attempts=1)
    store.write(jobs.claim, "w1", ["fit"])
    assert store.write(jobs.give_back, job.id, "w1").attempts == 0
    assert store.write(jobs.claim, "w2", ["fit"]) is not None


def test_a_log_is_bounded(store: Store) -> None:
    job = fit(store)
    store.write(jobs.claim, "w1", ["fit"])
    for number in range(3):
        store.write(jobs.progress, job.id, "w1", log=f"{number}" * 100_000)
    log = store.read(jobs.get, job.id).log
    assert len(log) == 200_000
    assert log.endswith("2")


def test_settings_have_defaults_and_limits(store: Store) -> None:
    assert store.read(preferences.get, "retention.ok_days") == 7.0
    assert store.write(preferences.put, "retention.ok_days", 14, by=ANNA, reason="audit") == 14.0
    assert store.read(preferences.get, "retention.ok_days") == 14.0
    present = {each.preference.key: each for each in store.read(preferences.all_now)}
    assert list(present) == list(preferences.KNOWN)
    assert (present["retention.ok_days"].by, present["review.sample_rate"].by) == ("anna", "")
    store.write(preferences.reset, "retention.ok_days", by=ANNA)
    assert store.read(preferences.get, "retention.ok_days") == 7.0
    for key, value in (
        ("retention.ok_days", -1),
        ("retention.ok_days", True),
        ("retention.ok_days", float("nan")),
        ("review.sample_rate", 1.5),
        ("review.ng", 1),
        ("site", "x" * 501),
        ("unknown", 1),
    ):
        with pytest.raises(StoreValueError, match=key):
            store.write(preferences.put, key, value, by=ANNA)
    assert [(each.object, each.old, each.new) for each in store.read(audit_log.page)][-1] == (
        "setting/retention.ok_days",
        7.0,
        14.0,
    )
    assert all(preferences._checked(each, each.default) == each.default for each in preferences.KNOWN.values())
