"""No question of the service makes SQLite read all inspections: each is answered by an index. benchmarks/store.py
measures them with millions of rows, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from patchbank.store import audit_log, inspections, listing, retention, reviews, statistics
from patchbank.store.engine import Store, open_store
from patchbank.store.listing import Filter
from patchbank.util.uuid7 import uuid7
from store import made

HOUR = {"since": made.NOON, "until": made.NOON + timedelta(hours=1)}
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "stream": {"stream_id": 1},
    "version": {"model_version_id": 1},
    "verdicts": {"verdicts": ("review", "ng")},
    "verdict of a stream": {"verdicts": ("ng",), "stream_id": 1},
    "serial": {"serial": "SN1"},
    "batch": {"batch": "B1"},
    "queue": {"needs_review": True},
    "queue of a stream": {"needs_review": True, "stream_id": 1},
    "label": {"label": "good"},
    "labelled": {"labelled": True},
    "the rest": {"late": True, "in_scene": False, "sample": True, "labelled": False, "verdicts": ("ok",)},
}
LARGE = ("inspections", "hours", "shadow_results", "reviews", "regions", "heats", "dataset_images", "audit_log")
ID = uuid7(made.NOON)
QUESTIONS: dict[str, Callable[[Connection], object]] = {
    "neighbours": lambda c: listing.neighbours(c, inspections.Inspection(ID, made.NOON, made.NOON, 1, *[None] * 22)),  # type: ignore[arg-type]
    "one": lambda c: inspections.get_many(c, [ID]),
    "its parts": lambda c: (inspections.regions_of(c, ID), inspections.heat_of(c, ID), reviews.of(c, ID)),
    "a key": lambda c: inspections.replayed(c, "a", "b"),
    "hours": lambda c: statistics.by_hour(c, made.NOON),
    "hours of a stream": lambda c: statistics.by_hour(c, made.NOON, stream_id=1),
    "scores": lambda c: statistics.scores(c, 1, model_version_id=1, **HOUR),
    "a watching version": lambda c: (statistics.shadow_changes(c, 1), statistics.shadow_summary(c, 1)),
    "the basket": lambda c: reviews.basket(c, 1),
    "the regression set": lambda c: reviews.regression_set(c, 1),
    "labels": lambda c: reviews.label_counts(c, 1),
    "samples": lambda c: reviews.sampled(c, 1, made.NOON),
    "the audit log": lambda c: audit_log.page(c, action="user.add"),
    "what a person did": lambda c: audit_log.page(c, actor="anna"),
    "which files are named": lambda c: retention.images_named(c, [made.digest("a")]),
    "all files": lambda c: list(retention.all_images(c)),
    "which images may go": lambda c: c.execute(retention.may_go("ok", made.NOON)).all(),
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with open_store(tmp_path_factory.mktemp("plans") / "data") as store:
        yield store


def plans(store: Store, question: Callable[[Connection], object]) -> list[str]:
    """The lines of SQLite's plans of all that is asked."""
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        store.read(question)
    finally:
        event.remove(store.engine, "before_cursor_execute", note)
    chosen = [each for each in asked if each[0].startswith("SELECT")]
    assert chosen

    def explained(connection: Connection) -> list[str]:
        return [
            str(row[-1])
            for statement, parameters in chosen
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]

    return store.read(explained)


def reads_all(store: Store, question: Callable[[Connection], object]) -> list[str]:
    """The lines that say that a large table is read without an index that ends early."""
    lines = [line for line in plans(store, question) if line.startswith("SCAN") and "INDEX" not in line]
    return [line for line in lines if line.split()[1] in LARGE]


@pytest.mark.parametrize("times", [{}, HOUR], ids=["ever", "an hour"])
@pytest.mark.parametrize("name", FILTERS)
def test_lists_and_counts(empty: Store, name: str, times: dict[str, Any]) -> None:
    chosen = Filter(**FILTERS[name], **times)
    assert reads_all(empty, lambda c: listing.page(c, chosen)) == []
    assert reads_all(empty, lambda c: listing.count(c, chosen)) == []


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("stream", "ix_inspections_stream_id_id"),
        ("version", "ix_inspections_model_version_id_id"),
        ("verdicts", "ix_inspections_not_ok"),
        ("verdict of a stream", "ix_inspections_not_ok_by_stream"),
        ("serial", "ix_inspections_serial_id"),
        ("batch", "ix_inspections_batch_id"),
        ("queue", "ix_inspections_queue"),
        ("queue of a stream", "ix_inspections_queue_by_stream"),
        ("label", "ix_inspections_labelled"),
        ("labelled", "ix_inspections_labelled"),
    ],
)
def test_each_filter_has_its_index(empty: Store, name: str, index: str) -> None:
    """A partial index is used only if the condition is in its words, and a database that finds none says nothing."""
    chosen = Filter(**FILTERS[name])
    lines = plans(empty, lambda c: listing.page(c, chosen)) + plans(empty, lambda c: listing.count(c, chosen))
    used = [line for line in lines if " inspections " in line]
    assert used
    assert [line for line in used if f"INDEX {index} " not in f"{line} "] == []


def test_questions_have_theirs(empty: Store) -> None:
    for name, index in (
        ("samples", "ix_inspections_sample"),
        ("labels", "ix_inspections_labelled"),
        ("which images may go", "ix_inspections_may_go"),
    ):
        assert any(f"INDEX {index} " in line for line in plans(empty, QUESTIONS[name]))


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions(empty: Store, name: str) -> None:
    assert reads_all(empty, QUESTIONS[name]) == []


def test_a_whole_reading_is_seen(empty: Store) -> None:
    """The test of the tests above."""
    assert reads_all(empty, lambda c: c.execute(text("SELECT * FROM inspections WHERE source = 'x'")).all()) != []


def test_a_range_of_time_is_a_range_of_identifiers(empty: Store) -> None:
    """With a filter that has an index, the times narrow the same index: what lies outside is not looked at."""
    for name, index in (("stream", "stream_id=?"), ("version", "model_version_id=?"), ("batch", "batch=?")):
        chosen = Filter(**FILTERS[name], **HOUR)
        (line,) = plans(empty, lambda c, chosen=chosen: listing.page(c, chosen))  # type: ignore[misc]
        assert f"({index} AND id>? AND id<?)" in line
