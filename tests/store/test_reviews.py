"""Reviews: added, never changed; and what a model learns from them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import delete, update

from patchbank import StoreConflictError, StoreNotFoundError, StoreValueError
from patchbank.store import datasets, inspections, listing, reviews, schema, statistics
from patchbank.store.datasets import NewImage
from patchbank.store.engine import Store
from patchbank.store.listing import Filter
from patchbank.store.reviews import Sampled
from patchbank.store.values import Actor
from patchbank.util.uuid7 import uuid7
from store import made

ANNA, BERT = Actor("anna"), Actor("bert")


@pytest.fixture
def parts(store: Store) -> list[UUID]:
    """Five flagged parts with images, in the queue."""
    stream, version = store.write(made.stream), store.write(made.version)
    many = [
        made.inspection(
            stream,
            after=number,
            verdict="review" if number % 2 else "ng",
            needs_review=True,
            model_version_id=version,
            image_sha256=made.digest(f"image {number}"),
        )
        for number in range(5)
    ]
    store.write(made.kept, *many)
    return [each.id for each in many]


def test_the_newest_review_holds(store: Store, parts: list[UUID]) -> None:
    first = store.write(reviews.add, parts[0], "good", by=ANNA, comment="dust")
    assert store.read(inspections.get, parts[0]).label == "good"
    assert [each.id for each in store.read(listing.queue).items] == parts[1:]
    second = store.write(reviews.add, parts[0], "defect", by=BERT, kind="scratch", supersedes=first.id, check=True)
    assert store.read(inspections.get, parts[0]).label == "defect"
    assert [each.label for each in store.read(reviews.of, parts[0])] == ["defect", "good"]
    assert second.supersedes_id == first.id
    for seen in (first.id, None):
        with pytest.raises(StoreConflictError, match="somebody else"):
            store.write(reviews.add, parts[0], "good", by=ANNA, supersedes=seen, check=True)
    found = store.read(listing.page, Filter(label="defect")).items
    assert [each.id for each in found] == [parts[0]]
    with pytest.raises(StoreValueError, match="good, defect, unsure"):
        store.write(reviews.add, parts[1], "withdrawn", by=ANNA)
    with pytest.raises(StoreNotFoundError):
        store.write(reviews.add, uuid7(), "good", by=ANNA)


def test_undo_brings_back_what_was_said_before(store: Store, parts: list[UUID]) -> None:
    store.write(reviews.add, parts[0], "good", by=ANNA)
    store.write(reviews.add, parts[0], "defect", by=ANNA)
    assert store.write(reviews.undo, parts[0], by=ANNA).label == "good"
    assert store.read(inspections.get, parts[0]).label == "good"
    store.write(reviews.add, parts[1], "unsure", by=ANNA)
    assert store.write(reviews.undo, parts[1], by=ANNA).label == "withdrawn"
    back = store.read(inspections.get, parts[1])
    assert (back.label, back.needs_review) == (None, True)
    for part in parts[1:3]:
        with pytest.raises(StoreConflictError, match="no review"):
            store.write(reviews.undo, part, by=ANNA)
    assert len(store.read(reviews.of, parts[0])) == 3


@pytest.mark.parametrize("change", [update(schema.reviews).values(label="good"), delete(schema.reviews)])
def test_reviews_are_never_changed(store: Store, parts: list[UUID], change: object) -> None:
    store.write(reviews.add, parts[0], "defect", by=ANNA)
    with pytest.raises(Exception, match="never changed or removed"):
        store.write(lambda connection: connection.execute(change))  # type: ignore[call-overload]
    assert store.read(reviews.of, parts[0])[0].label == "defect"


def test_two_people_at_once(store: Store, parts: list[UUID]) -> None:
    """Of two that have both seen no review, one is told that it was too late."""
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(store.write, reviews.add, parts[0], "good", by=by, check=True) for by in (ANNA, BERT)]
    assert sorted(call.exception() is None for call in calls) == [False, True]
    assert len(store.read(reviews.of, parts[0])) == 1


def test_the_basket_and_the_regression_set(store: Store, parts: list[UUID]) -> None:
    model = 1
    for part, label in zip(parts, ("good", "defect", "good", "unsure", "good"), strict=True):
        store.write(reviews.add, part, label, by=ANNA)
    assert [each.id for each in store.read(reviews.basket, model)] == [parts[0], parts[2], parts[4]]
    assert [each.id for each in store.read(reviews.basket, model, after=parts[0], limit=1)] == [parts[2]]
    assert [each.id for each in store.read(reviews.regression_set, model)] == [parts[1]]
    assert [each.id for each in store.read(reviews.good_set, model)] == [parts[0], parts[2], parts[4]]
    assert store.read(reviews.label_counts, model) == {"good": 3, "defect": 1, "unsure": 1}
    assert store.read(reviews.basket, model + 1) == []
    dataset = store.write(datasets.add, "learn", by=ANNA)
    learned = NewImage(made.digest("image 0"), "0.png", "train", 10, parts[0])
    store.write(datasets.add_images, dataset.id, [learned])
    assert [each.id for each in store.read(reviews.basket, model)] == [parts[2], parts[4]]
    gone = update(schema.inspections).where(schema.inspections.c.id == parts[2]).values(image_gone_at=made.NOON)
    store.write(lambda connection: connection.execute(gone) and None)
    assert [each.id for each in store.read(reviews.basket, model)] == [parts[4]]


def test_samples_say_how_many_defects_escape(store: Store) -> None:
    stream = store.write(made.stream)
    many = [made.inspection(stream, after=number, sample=number < 6) for number in range(10)]
    store.write(made.kept, *many)
    for number, label in enumerate(("good", "good", "defect", "unsure")):
        store.write(reviews.add, many[number].id, label, by=ANNA)
    store.write(reviews.add, many[9].id, "defect", by=ANNA)  # no sample: it must not count
    assert store.read(reviews.sampled, stream) == Sampled(reviewed=3, defects=1, waiting=2)
    assert store.read(reviews.sampled, stream, made.NOON + timedelta(seconds=2)) == Sampled(1, 1, 2)


def test_datasets_are_frozen_and_have_a_digest(store: Store) -> None:
    dataset = store.write(datasets.add, "first", by=ANNA)
    new = [NewImage(made.digest(str(number)), f"{number}.png", "train", 10) for number in range(3)]
    assert store.write(datasets.add_images, dataset.id, new) == [True, True, True]
    assert store.write(datasets.add_images, dataset.id, new[:1]) == [False]
    assert store.write(datasets.leave_out, dataset.id, [new[0].sha256]) == 1
    assert [each.left_out for each in store.read(datasets.all_images, dataset.id)] == [True, False, False]
    frozen = store.write(datasets.freeze, dataset.id)
    assert frozen.images == 3
    assert frozen.sha256 is not None
    assert store.write(datasets.freeze, dataset.id) == frozen
    for call in (
        lambda: store.write(datasets.add_images, dataset.id, new),
        lambda: store.write(datasets.leave_out, dataset.id, [new[0].sha256], False),
        lambda: store.write(datasets.remove, dataset.id, by=ANNA, reason="x"),
    ):
        with pytest.raises(StoreConflictError, match="frozen"):
            call()
    same = store.write(datasets.add, "same", by=ANNA)
    store.write(datasets.add_images, same.id, new[::-1])
    store.write(datasets.leave_out, same.id, [new[0].sha256])
    assert store.write(datasets.freeze, same.id).sha256 == frozen.sha256
    other = store.write(datasets.add, "other", by=ANNA)
    store.write(datasets.add_images, other.id, new)
    digests = [each.sha256 for each in store.read(datasets.images, other.id)]
    assert digests == sorted(digests)
    assert [each.sha256 for each in store.read(datasets.images, other.id, after=digests[0], limit=1)] == [digests[1]]
    store.write(datasets.remove, other.id, by=ANNA, reason="a mistake")
    assert [each.name for each in store.read(datasets.listed)] == ["same", "first"]
    assert store.read(datasets.images, other.id) == []
    third = store.write(datasets.add, "third", by=ANNA)
    with pytest.raises(StoreValueError, match="role"):
        store.write(datasets.add_images, third.id, [NewImage(made.digest("x"), "x", "unknown", 1)])


def test_hours_count_what_was_written_once(store: Store) -> None:
    stream, version = store.write(made.stream), store.write(made.version)
    many = [
        made.inspection(stream, after=600 * number, verdict="ng" if number % 4 == 0 else "ok", model_version_id=version)
        for number in range(12)
    ]
    store.write(made.kept, *many)
    store.write(made.kept, *many)  # delivered twice
    found = store.read(statistics.by_hour, made.NOON, stream_id=stream)
    assert [(each.at, each.ok, each.ng, each.review) for each in found] == [
        (made.NOON, 4, 2, 0),
        (made.NOON + timedelta(hours=1), 5, 1, 0),
    ]
    assert (
        store.read(statistics.by_hour, made.NOON, made.NOON + timedelta(hours=1), model_version_id=version) == found[:1]
    )
    assert store.read(statistics.by_hour, made.NOON, stream_id=stream + 1) == []


def test_scores_in_their_order(store: Store) -> None:
    stream, version = store.write(made.stream), store.write(made.version)
    many = [
        made.inspection(stream, after=n, score=float(n), model_version_id=version if n % 2 else None) for n in range(6)
    ]
    store.write(made.kept, *many)
    assert [each.score for each in store.read(statistics.scores, stream)] == [0, 1, 2, 3, 4, 5]
    assert [each.score for each in store.read(statistics.scores, stream, limit=2)] == [4, 5]
    assert [each.score for each in store.read(statistics.scores, stream, model_version_id=version)] == [1, 3, 5]
    since, until = made.NOON + timedelta(seconds=1), made.NOON + timedelta(seconds=4)
    assert [each.score for each in store.read(statistics.scores, stream, since=since, until=until)] == [1, 2, 3]


def test_a_watching_version_lists_what_would_change(store: Store) -> None:
    stream, version = store.write(made.stream), store.write(made.version)
    many = [made.inspection(stream, after=n, verdict="ng" if n < 2 else "ok") for n in range(5)]
    store.write(made.kept, *many)
    said = ["ok", "ng", "ok", "review", "ok"]
    results = [
        statistics.ShadowResult(each.id, version, verdict, 1.0, 2.0, float("nan"), verdict != each.verdict)
        for each, verdict in zip(many, said, strict=True)
    ]
    store.write(statistics.keep_shadow, results)
    store.write(statistics.keep_shadow, results)
    summary = store.read(statistics.shadow_summary, version)
    assert (summary.inspections, summary.changes) == (5, {("ng", "ok"): 1, ("ok", "review"): 1})
    changes = store.read(statistics.shadow_changes, version)
    assert [each.inspection_id for each in changes] == [many[3].id, many[0].id]
    assert store.read(statistics.shadow_changes, version, after=many[3].id) == changes[1:]


def test_drift_goes_on_after_a_restart(store: Store) -> None:
    stream, version = store.write(made.stream), store.write(made.version)
    assert store.read(statistics.drift_of, stream, version) is None
    for state in ({"capital": [1.5, 2.0]}, {"capital": [3.0]}):
        store.write(statistics.keep_drift, stream, version, state)
        assert store.read(statistics.drift_of, stream, version) == state
