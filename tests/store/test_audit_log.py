"""The audit log: its rows cannot be changed, and a check finds whoever changes them all the same."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, text, update

from patchbank.store import audit_log
from patchbank.store.audit_log import Head
from patchbank.store.engine import Store
from patchbank.store.schema import audit_log as table
from patchbank.store.values import Actor

ANNA = Actor("anna")


def fill(store: Store, rows: int = 12) -> None:
    for number in range(rows):
        new = {"threshold": number / 7, "text": "ä\u2028\U0001f600", "large": 1e20, "small": 1e-7, "b": [1, None, True]}
        store.write(audit_log.append, ANNA, "model.approve", f"model/{number}", old=None, new=new, reason="fine")


def without_triggers(store: Store, change: object) -> None:
    """Changes the log as who has all rights in the database."""

    def forced(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            for name in ("audit_log_no_update", "audit_log_no_delete", "audit_log_no_replace"):
                connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(change)  # type: ignore[call-overload]

    store.write(forced)


@pytest.mark.parametrize(
    "change",
    [
        update(table).values(reason="forged"),
        delete(table),
        delete(table).where(table.c.n == 1),
        insert(table).prefix_with("OR REPLACE").values(n=3, actor="x", action="x", object="x", reason="", at=None),
    ],
)
def test_rows_cannot_be_changed(store: Store, change: object) -> None:
    fill(store, 3)
    if "OR REPLACE" in str(change) and not store.is_embedded:
        pytest.skip("PostgreSQL has no INSERT OR REPLACE")
    with pytest.raises(Exception, match="never changed or removed"):
        store.write(lambda connection: connection.execute(change))  # type: ignore[call-overload]
    assert store.read(audit_log.verify).problems == ()
    if not store.is_embedded:
        with pytest.raises(Exception, match="never changed or removed"):
            store.write(lambda connection: connection.execute(text("TRUNCATE audit_log")))


def test_a_whole_log_is_verified(store: Store) -> None:
    assert store.read(audit_log.verify) == audit_log.Verified(0, (), Head(0, audit_log.FIRST))
    fill(store)
    head = store.read(audit_log.head)
    assert head.n == 12
    fill(store, 3)
    found = store.read(audit_log.verify, (head, Head(0, audit_log.FIRST)))
    assert (found.rows, found.problems, found.head) == (15, (), store.read(audit_log.head))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (update(table).where(table.c.n == 5).values(reason="forged"), "row 5 was changed"),
        (update(table).where(table.c.n == 5).values(actor="bert"), "row 5 was changed"),
        (update(table).where(table.c.n == 5).values(new={"threshold": 9}), "row 5 was changed"),
        (update(table).where(table.c.n == 5).values(hash="0" * 64), "row 6 does not follow from row 5"),
        (delete(table).where(table.c.n == 5), "rows 5 to 5 are missing"),
        (delete(table).where(table.c.n <= 5), "rows 1 to 5 are missing"),
        (delete(table).where(table.c.n > 5), "ends at row 5; the anchor names row 12"),
        (delete(table), "ends at row 0"),
    ],
)
def test_a_manipulated_log_is_found(store: Store, change: object, message: str) -> None:
    fill(store)
    head = store.read(audit_log.head)
    without_triggers(store, change)
    assert message in "; ".join(store.read(audit_log.verify, (head,)).problems)


def test_a_log_that_was_computed_anew_does_not_fit_its_anchor(store: Store) -> None:
    """Whoever computes all hashes anew makes a log without a fault: only a head that was kept elsewhere tells."""
    fill(store)
    head = store.read(audit_log.head)
    without_triggers(store, delete(table).where(table.c.n >= 4))
    for number in range(3, 12):
        store.write(audit_log.append, ANNA, "model.approve", f"model/{number}", reason="forged")
    assert store.read(audit_log.verify).problems == ()
    (problem,) = store.read(audit_log.verify, (head,)).problems
    assert "row 12 is not the one that the anchor names" in problem


def test_many_problems_end(store: Store) -> None:
    fill(store, 130)
    without_triggers(store, update(table).values(reason="forged"))
    problems = store.read(audit_log.verify).problems
    assert len(problems) == 101
    assert "not read" in problems[-1]


def test_rows_of_many_processes_are_one_chain(store: Store, reopen: Callable[[], Store]) -> None:
    writers = [store] if store.is_embedded else [store, reopen()]
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(writers[number % len(writers)].write, audit_log.append, ANNA, "x", str(number))
            for number in range(60)
        ]
    assert sorted(call.result() for call in calls) == list(range(1, 61))
    assert store.read(audit_log.verify).problems == ()


def test_pages_of_the_log(store: Store) -> None:
    fill(store, 5)
    store.write(audit_log.append, Actor("bert"), "user.add", "user/carl")
    assert [each.n for each in store.read(audit_log.page, limit=2)] == [6, 5]
    assert [each.n for each in store.read(audit_log.page, before=3)] == [2, 1]
    assert [each.n for each in store.read(audit_log.page, about="model/2")] == [3]
    assert [each.n for each in store.read(audit_log.page, actor="bert")] == [6]
    assert [each.n for each in store.read(audit_log.page, action="user.add", actor="anna")] == []


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    # PostgreSQL keeps no NUL, and no half of a character
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=3),
    max_leaves=8,
)


@given(old=json_values, new=json_values)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_json_is_kept_keeps_its_hash(store: Store, old: object, new: object) -> None:
    store.write(audit_log.append, ANNA, "x", "y", old=old, new=new)
    (entry,) = store.read(audit_log.page, limit=1)
    assert (entry.old, entry.new) == (old, new)
    assert store.read(audit_log.verify).problems == ()
