"""Inspections: each is kept once, comes back as it was, and is found in lists."""

from __future__ import annotations

import random
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchbank import StoreConflictError, StoreNotFoundError, StoreValueError
from patchbank.store import heats, inspections, listing
from patchbank.store.engine import Store
from patchbank.store.inspections import Inspection, Kept, NewInspection, Region
from patchbank.store.listing import Filter, Page
from patchbank.util.uuid7 import uuid7
from store import made


def test_an_inspection_comes_back_as_it_was(store: Store) -> None:
    stream, version = store.write(made.stream), store.write(made.version)
    grid = np.linspace(0, 3, 12, dtype=np.float32).reshape(3, 4)
    regions = [Region(1, 2, 3, 4, 12, 2, 3, 2.5, [[1.0, 2.0, 4.0, 2.0, 4.0, 6.0]]), Region(0, 0, 1, 1, 1, 0, 0, 2.1)]
    new = made.inspection(
        stream,
        model_version_id=version,
        serial="SN-1 ä",
        batch="B7",
        verdict="ng",
        score=2.5,
        p_value=0.01,
        in_scene=True,
        scene_json=[{"name": "brightness", "value": 0.5}],
        latency_ms=42.5,
        image_sha256=made.digest("image"),
        image_format="png",
        image_size=1234,
        width=640,
        height=480,
        heat=heats.encode(grid, (96, 128), 4.0),
        regions=regions,
    )
    assert store.write(inspections.insert_one, new) == Kept(new.id, "new")
    back = store.read(inspections.get, new.id)
    for name in Inspection.__dataclass_fields__:
        if hasattr(new, name) and name != "needs_review":
            assert getattr(back, name) == getattr(new, name), name
    assert back.needs_review is False
    assert back.label is None
    assert back.has_image
    assert store.read(inspections.regions_of, new.id) == regions
    heat = store.read(inspections.heat_of, new.id)
    assert heat is not None
    np.testing.assert_allclose(heats.decode(heat)[0], grid, rtol=5e-4)
    with pytest.raises(StoreNotFoundError):
        store.read(inspections.get, uuid7())


def test_the_same_inspection_is_kept_once(store: Store) -> None:
    """`run` delivers again what it has no answer for: 0 lost, 0 twice."""
    stream = store.write(made.stream)
    new = made.inspection(stream, regions=[Region(0, 0, 1, 1, 1, 0, 0, 2.1)])
    assert store.write(inspections.insert_one, new).outcome == "new"
    assert store.write(inspections.insert_one, new) == Kept(new.id, "known")
    assert len(store.read(inspections.regions_of, new.id)) == 1
    with pytest.raises(StoreConflictError, match="another request"):
        store.write(inspections.insert_one, replace(new, request_sha256=made.digest("other")))
    others = [made.inspection(stream), replace(new, request_sha256=None), new, made.inspection(stream)]
    outcomes = [each.outcome for each in store.write(inspections.insert_many, others)]
    assert outcomes == ["new", "conflict", "known", "new"]


def test_a_key_makes_one_inspection(store: Store) -> None:
    stream = store.write(made.stream)
    key = inspections.idempotency("token/3", "part 17")
    first = made.inspection(stream, idempotency_sha256=key, request_sha256=made.digest("body"))
    again = made.inspection(stream, idempotency_sha256=key, request_sha256=made.digest("body"))
    other = made.inspection(stream, idempotency_sha256=key, request_sha256=made.digest("another body"))
    assert store.read(inspections.replayed, key, made.digest("body")) is None
    assert store.write(inspections.insert_one, first).outcome == "new"
    assert store.write(inspections.insert_one, again) == Kept(first.id, "known")
    found = store.read(inspections.replayed, key, made.digest("body"))
    assert found is not None
    assert found.id == first.id
    for call in (lambda: store.write(inspections.insert_one, other),):
        with pytest.raises(StoreConflictError):
            call()
    with pytest.raises(StoreConflictError):
        store.read(inspections.replayed, key, made.digest("another body"))
    assert inspections.idempotency("token/4", "part 17") != key


def test_a_race_for_one_key_has_one_winner(store: Store) -> None:
    stream = store.write(made.stream)
    key = inspections.idempotency("token/3", "k")
    body = made.digest("body")
    many = [made.inspection(stream, idempotency_sha256=key, request_sha256=body) for _ in range(20)]
    futures: list[Future[Kept]] = [store.submit(inspections.insert_one, each) for each in many]
    kept = [future.result() for future in futures]
    assert [each.outcome for each in kept].count("new") == 1
    assert len({each.id for each in kept}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "fine"}, "verdict: expected one of ok, review, ng, error"),
        ({"id": uuid4()}, "version 7"),
        ({"id": uuid7(made.NOON + timedelta(seconds=1))}, "UUID of the time"),
        ({"serial": "x" * 201}, "at most 200 characters"),
        ({"serial": "a\0b"}, "NUL"),
        ({"reason": "\ud800"}, "halves"),
        ({"image_sha256": "../../etc/passwd"}, "SHA-256"),
        ({"scene_json": {"value": float("nan")}}, "JSON"),
        ({"scene_json": {"text": "\0"}}, "NUL"),
        ({"regions": [Region(0, 0, 1, 1, 1, 0, 0, float("inf"))]}, "numbers"),
        ({"regions": [Region(0, 0, 1, 1, 1, 0, 0, 1.0)] * 1001}, "at most 1000"),
    ],
)
def test_what_the_database_would_not_keep_is_refused(store: Store, changes: dict[str, Any], message: str) -> None:
    new = made.inspection(store.write(made.stream), **changes)
    with pytest.raises(StoreValueError, match=message):
        store.write(inspections.insert_one, new)
    assert store.read(listing.page, Filter()).items == []


def test_a_score_that_is_no_number_is_kept_as_none(store: Store) -> None:
    """SQLite makes NaN NULL, and PostgreSQL keeps it: both have NULL."""
    new = made.inspection(store.write(made.stream), score=float("nan"), verdict="ng")
    store.write(inspections.insert_one, new)
    assert store.read(inspections.get, new.id).score is None


def test_review_and_samples_wait_for_a_person(store: Store) -> None:
    stream = store.write(made.stream)
    many = [
        made.inspection(stream, after=0, verdict="review"),
        made.inspection(stream, after=1, sample=True),
        made.inspection(stream, after=2, verdict="ng", needs_review=True),
        made.inspection(stream, after=3, verdict="ng"),
        made.inspection(stream, after=4),
    ]
    store.write(made.kept, *many)
    assert [each.id for each in store.read(listing.queue).items] == [each.id for each in many[:3]]
    store.write(inspections.ask_for_review, many[3].id)
    assert [each.id for each in store.read(listing.queue).items] == [each.id for each in many[:4]]


def test_samples_are_a_share_and_the_same_for_a_repetition() -> None:
    ids = [uuid7() for _ in range(4000)]
    chosen = [each for each in ids if inspections.is_sample(each, 0.25)]
    assert 800 < len(chosen) < 1200  # 7 standard deviations
    assert chosen == [each for each in ids if inspections.is_sample(each, 0.25)]
    assert not any(inspections.is_sample(each, 0.0) for each in ids)
    assert all(inspections.is_sample(each, 1.0) for each in ids)


def fill(store: Store) -> list[NewInspection]:
    """300 inspections on two streams, of everything that a filter asks for."""
    rng = random.Random(0)
    streams = [store.write(made.stream, name) for name in ("cap", "can")]
    version = store.write(made.version)
    many = []
    for number in range(300):
        verdict = rng.choices(["ok", "ng", "review", "error"], [6, 2, 2, 1])[0]
        many.append(
            made.inspection(
                rng.choice(streams),
                after=number,
                verdict=verdict,
                model_version_id=None if verdict == "error" else version,
                serial=f"SN{number % 40:03d}" if number % 3 else None,
                batch=f"B{number // 50}",
                late=rng.random() < 0.1,
                in_scene=rng.choice([True, False, None]),
                sample=verdict == "ok" and rng.random() < 0.1,
            )
        )
    store.write(made.kept, *many)
    return many


FILTERS: list[dict[str, Any]] = [
    {},
    {"stream_id": 1},
    {"model_version_id": 1},
    {"verdicts": ("ng",)},
    {"verdicts": ("ng", "review", "error")},
    {"verdicts": ("ok", "ng"), "stream_id": 2},
    {"verdicts": ("ng", "error"), "stream_id": 1},
    {"serial": "SN"},
    {"serial": "SN01"},
    {"serial": "SN017", "verdicts": ("ok",)},
    {"serial": "nothing"},
    {"batch": "B3"},
    {"batch": "B3", "stream_id": 1, "verdicts": ("ok",)},
    {"needs_review": True},
    {"needs_review": False, "stream_id": 1},
    {"late": True},
    {"in_scene": False, "verdicts": ("ng", "review")},
    {"sample": True, "stream_id": 2},
    {"labelled": False, "batch": "B2"},
    {"labelled": True},
    {"label": "good"},
    {"since": made.NOON + timedelta(seconds=100)},
    {"until": made.NOON + timedelta(seconds=100), "verdicts": ("ng", "review")},
    {"since": made.NOON + timedelta(seconds=50), "until": made.NOON + timedelta(seconds=90), "stream_id": 1},
    {"since": made.NOON + timedelta(seconds=50), "serial": "SN0"},
]


def fits(new: NewInspection, chosen: dict[str, Any]) -> bool:
    """What a filter means, said plainly."""
    waiting = new.verdict == "review" or new.sample
    answers = {
        "verdicts": lambda wanted: new.verdict in wanted,
        "serial": lambda wanted: (new.serial or "").startswith(wanted),
        "needs_review": lambda wanted: waiting == wanted,
        "labelled": lambda wanted: not wanted,
        "label": lambda wanted: False,
        "since": lambda wanted: new.at >= wanted,
        "until": lambda wanted: new.at < wanted,
    }
    return all(answers[key](value) if key in answers else getattr(new, key) == value for key, value in chosen.items())


@pytest.mark.parametrize("scanned", [5000, 7])
def test_every_list_has_exactly_what_its_filter_says(
    store: Store, monkeypatch: pytest.MonkeyPatch, scanned: int
) -> None:
    """Page by page, in both directions, also where a page ends because it has looked at enough rows."""
    monkeypatch.setattr(listing, "SCANNED", scanned)
    many = fill(store)
    for chosen in FILTERS:
        expected = [each.id for each in many if fits(each, chosen)]
        by_serial = {each.id: (each.serial or "", each.id) for each in many}
        expected.sort(key=lambda each: by_serial[each] if "serial" in chosen else ("", each))
        for oldest_first in (False, True):
            found, cursor, pages = [], None, 0
            while True:
                page: Page = store.read(
                    listing.page, Filter(**chosen), cursor=cursor, limit=20, oldest_first=oldest_first
                )
                found += [each.id for each in page.items]
                pages += 1
                assert len(page.items) <= 20
                if (cursor := page.next) is None:
                    break
            assert found == (expected if oldest_first else expected[::-1]), (chosen, oldest_first)
        count = store.read(listing.count, Filter(**chosen))
        assert count.number == len(expected) or (count.more and count.number < len(expected)), chosen


def test_counts_end(store: Store) -> None:
    stream = store.write(made.stream)
    store.write(made.kept, *(made.inspection(stream, after=n, verdict="ng") for n in range(12)))
    assert str(store.read(listing.count, Filter(), 9)) == "9+"
    assert str(store.read(listing.count, Filter(), 12)) == "12"
    assert str(store.read(listing.count, Filter(verdicts=("ng",)), 11)) == "11+"


def test_neighbours_are_of_the_same_stream(store: Store) -> None:
    first, second = (store.write(made.stream, name) for name in ("a", "b"))
    many = [made.inspection(each, after=n) for n, each in enumerate([first, second, first, second, first])]
    store.write(made.kept, *many)
    middle = store.read(inspections.get, many[2].id)
    assert store.read(listing.neighbours, middle) == (many[0].id, many[4].id)
    assert store.read(listing.neighbours, store.read(inspections.get, many[0].id)) == (None, many[2].id)
    assert [each.id for each in store.read(listing.latest, second)] == [many[3].id, many[1].id]


@given(cursor=st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.hex()))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_is_a_cursor_but_a_cursor(cursor: str) -> None:
    for by_serial in (False, True):
        with pytest.raises(StoreValueError, match="cursor"):
            listing._place_of(cursor, by_serial)


def test_a_cursor_of_another_list_is_refused(store: Store) -> None:
    many = fill(store)
    cursor = store.read(listing.page, Filter(), limit=5).next
    with pytest.raises(StoreValueError, match="same list"):
        store.read(listing.page, Filter(serial="SN"), cursor=cursor)
    assert len(many) == 300
