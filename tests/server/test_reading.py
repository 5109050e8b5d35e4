"""What is kept is found again: lists and their filters, one inspection, its pictures, exports."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pytest

from patchbank.store import inspections, retention, reviews
from patchbank.store.inspections import NewInspection
from patchbank.store.values import Actor
from patchbank.util.uuid7 import uuid7
from server.conftest import calling, deploy, service_of

PATH = "/api/v1/inspections"
BY = Actor("test")


@pytest.fixture(scope="module")
def call(model, files):
    """A service that has inspected seven parts."""
    service = service_of(model)
    deploy(service.store, model, "other line")
    with calling(service) as caller:
        for number, (picture, stream, serial) in enumerate(
            [(0, "part", "A1"), (1, "part", "A2"), (2, "part", "B1"), (1, "part", "B2"), (0, "other line", "A3")]
        ):
            headers = {"Content-Type": "image/png", "X-Stream": stream, "X-Serial": serial, "X-Batch": f"b{number % 2}"}
            assert caller.post(PATH, content=files[picture], headers=headers).status_code == 201
        yield caller


def listed(call, **filter):
    answer = call.get(PATH, params=filter)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def serials(call, **filter):
    return [each["serial"] for each in listed(call, **filter)]


def test_lists_and_their_filters(call):
    assert serials(call) == ["A3", "B2", "B1", "A2", "A1"]
    assert serials(call, order="oldest") == ["A1", "A2", "B1", "B2", "A3"]
    assert serials(call, stream="part") == ["B2", "B1", "A2", "A1"]
    assert serials(call, verdict="ng") == ["B2", "A2"]
    assert serials(call, serial="A", order="oldest") == ["A1", "A2", "A3"]
    assert serials(call, batch="b1") == ["B2", "A2"]
    assert serials(call, model="other line", version=1) == ["A3"]
    assert serials(call, labelled=True) == []
    middle = listed(call)[2]["at"]
    assert serials(call, since=middle) == ["A3", "B2", "B1"]
    assert serials(call, until=middle) == ["A2", "A1"]
    assert call.get(f"{PATH}/count", params={"verdict": "ng"}).json() == {"number": 2, "more": False}


def test_pages_follow_each_other_and_miss_nothing(call):
    found, cursor = [], None
    while True:
        page = call.get(PATH, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += [each["serial"] for each in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == serials(call)


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"verdict": "bad"}, 422),
        ({"since": "yesterday"}, 422),
        ({"since": "2026-01-01T00:00:00"}, 422),
        ({"cursor": "x"}, 422),
        ({"limit": 0}, 422),
        ({"limit": 201}, 422),
        ({"model": "part"}, 422),
        ({"stream": "nowhere"}, 404),
        ({"model": "part", "version": 7}, 404),
        ({"serial": "x" * 500}, 422),
        ({"serial": "\0"}, 422),
        ({"since": "9999-12-31T23:59:59+00:00"}, 200),
        ({"until": "0001-01-01T00:00:00+00:00"}, 422),
    ],
)
def test_filters_that_are_wrong(call, params, status):
    assert call.get(PATH, params=params).status_code == status
    assert call.get(f"{PATH}/count", params=params).status_code == (
        200 if "cursor" in params or "limit" in params else status
    )


def test_one_inspection_with_its_neighbours_and_reviews(call):
    first, second, third = listed(call, stream="part", order="oldest")[:3]
    store = call.app.state.service.store
    store.write(reviews.add, inspections.UUID(second["id"]), "defect", by=BY, kind="scratch", comment="deep")
    whole = call.get(f"{PATH}/{second['id']}").json()
    assert (whole["previous"], whole["following"]) == (first["id"], third["id"])
    assert whole["label"] == "defect"
    assert [(each["label"], each["kind"], each["by"]) for each in whole["reviews"]] == [("defect", "scratch", "test")]
    assert len(whole["regions"]) >= 1
    assert serials(call, label="defect") == ["A2"]


def test_what_is_not_there_is_404(call):
    for path in ("", "/image", "/thumb"):
        assert call.get(f"{PATH}/{uuid7()}{path}").status_code == 404
        assert call.get(f"{PATH}/7{path}").status_code == 422


def test_the_image_is_the_bytes_that_were_sent(call, files):
    (found,) = listed(call, serial="A2")
    answer = call.get(f"{PATH}/{found['id']}/image")
    assert answer.content == files[1]
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == f'inline; filename="{found["id"]}.png"'
    again = call.get(f"{PATH}/{found['id']}/image", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_the_thumb_is_small_and_made_once(call, pictures, monkeypatch):
    (found,) = listed(call, serial="A2")
    answer = call.get(f"{PATH}/{found['id']}/thumb")
    assert answer.headers["content-type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert picture.shape == (96, 128, 3)
    assert np.abs(picture.astype(int) - pictures[1]).mean() < 6
    import patchbank.imaging.images as images

    monkeypatch.setattr(images, "thumbnail", None)
    assert call.get(f"{PATH}/{found['id']}/thumb").content == answer.content


def test_browsers_get_a_png_of_what_they_cannot_show(call, pictures):
    tiff = cv2.imencode(".tiff", pictures[0][:, :, ::-1])[1].tobytes()
    said = call.post(PATH, content=tiff, headers={"Content-Type": "image/tiff", "X-Stream": "other line"}).json()
    raw = call.get(f"{PATH}/{said['id']}/image")
    assert (raw.headers["content-type"], raw.content) == ("image/tiff", tiff)
    shown = call.get(f"{PATH}/{said['id']}/image", params={"shown": True})
    assert shown.headers["content-type"] == "image/png"
    picture = cv2.imdecode(np.frombuffer(shown.content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    np.testing.assert_array_equal(picture, pictures[0])


def test_an_image_that_retention_has_removed_is_gone(call, files, pictures):
    service = call.app.state.service
    from server.conftest import png

    other = png(np.clip(pictures[0].astype(int) + 1, 0, 255).astype(np.uint8))
    said = call.post(PATH, content=other, headers={"Content-Type": "image/png", "X-Stream": "other line"}).json()
    later = datetime.now(UTC) + timedelta(days=4000)
    retention.run(service.store, now=later, grace=0)
    answer = call.get(f"{PATH}/{said['id']}/image")
    assert answer.status_code == 410
    assert "Retention removed" in answer.json()["detail"]
    assert call.get(f"{PATH}/{said['id']}").json()["image"]["gone_at"] is not None
    assert call.get(f"{PATH}/{said['id']}/thumb").status_code == 410


def rows(call, **filter):
    answer = call.get(f"{PATH}/export", params=filter)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_a_csv_has_all_that_the_filter_chooses(call):
    found = rows(call, stream="part")
    assert [each["serial"] for each in found] == ["A1", "A2", "B1", "B2"]
    expected = listed(call, stream="part", order="oldest")
    assert [float(each["score"]) for each in found] == [each["score"] for each in expected]
    assert [each["id"] for each in found] == [each["id"] for each in expected]
    assert found[0]["version"] == "1"
    assert rows(call, serial="nothing") == []


def test_a_csv_is_no_program(model):
    """A serial number that a spreadsheet would run as a formula."""
    service = service_of(model)
    at = datetime.now(UTC)
    with calling(service) as call:
        evil = '=HYPERLINK("http://evil.example";"Click")'
        new = NewInspection(id=uuid7(at), at=at, stream_id=1, verdict="ok", reason="r", serial=evil, batch="a\nb\x1b")
        service.store.write(inspections.insert_one, new)
        (row,) = rows(call)
    assert row["serial"] == f"'{evil}"
    assert row["batch"] == "a\nb\\x1b"


def test_an_export_is_longer_than_a_page(model):
    service = service_of(model)
    start = datetime.now(UTC)
    with calling(service) as call:
        for batch in range(5):
            new = []
            for n in range(100):
                at = start + timedelta(seconds=100 * batch + n)
                new.append(NewInspection(id=uuid7(at), at=at, stream_id=1, verdict="ok", reason="", serial=str(n)))
            service.store.write(inspections.insert_many, new)
        assert [each["serial"] for each in rows(call)] == [str(n) for n in range(100)] * 5


def test_a_parquet_file_has_types(call, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    answer = call.get(f"{PATH}/export", params={"format": "parquet", "stream": "part"})
    assert answer.headers["content-disposition"] == 'attachment; filename="inspections.parquet"'
    (tmp_path / "a.parquet").write_bytes(answer.content)
    found = duckdb.sql(f"SELECT serial, score, \"at\", in_scene, version FROM '{tmp_path}/a.parquet' ORDER BY id")
    assert [str(each) for each in found.types] == [
        "VARCHAR", "DOUBLE", "TIMESTAMP WITH TIME ZONE", "BOOLEAN", "INTEGER"
    ]  # fmt: skip
    expected = listed(call, stream="part", order="oldest")
    assert [(row[0], row[1]) for row in found.fetchall()] == [(each["serial"], each["score"]) for each in expected]


def test_without_duckdb_the_command_is_said(call, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    answer = call.get(f"{PATH}/export", params={"format": "parquet"})
    assert answer.status_code == 422
    assert "pip install 'patchbank[parquet]'" in json.dumps(answer.json())
