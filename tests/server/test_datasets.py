"""Images are put together for a model: what is no image is refused, what a person leaves out is known, and nothing
outside of the dataset is shown."""

from __future__ import annotations

import hashlib

import pytest

from patchbank.server.api.datasets import plain_name
from patchbank.store import datasets
from server.conftest import calling, service_of
from server.people import add_person, signed_in

PATH = "/api/v1/datasets"
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def service():
    service = service_of()
    for name, role in (("anna", "admin"), ("eva", "engineer")):
        add_person(service, name, role)
    return service


@pytest.fixture
def call(service):
    with calling(service) as caller:
        yield caller


@pytest.fixture
def eva(service):
    return signed_in(service, "eva")


@pytest.fixture
def dataset(call, eva) -> str:
    """The path of an empty dataset."""
    return f"{PATH}/{call.post(PATH, json={'name': 'caps'}, headers=eva).json()['id']}"


def test_a_dataset_is_made_once(call, eva):
    made = call.post(PATH, json={"name": "caps"}, headers=eva)
    assert (made.status_code, made.json()["images"], made.json()["created_by"]) == (201, 0, "eva")
    assert call.post(PATH, json={"name": "caps"}, headers=eva).status_code == 409
    assert call.post(PATH, json={"name": "../etc"}, headers=eva).status_code == 422
    assert [each["name"] for each in call.get(PATH, headers=eva).json()] == ["caps"]


def test_images_come_alone_and_in_forms(call, dataset, files, eva):
    alone = call.post(f"{dataset}/images?name=C:\\good\\a.png", content=files[0], headers=eva | PNG)
    digest = hashlib.sha256(files[0]).hexdigest()
    assert alone.json() == [{"sha256": digest, "name": "a.png", "is_new": True}]
    again = call.post(f"{dataset}/images", content=files[0], headers=eva | PNG)
    assert [each["is_new"] for each in again.json()] == [False]
    form = [("image", ("../b.png", files[1])), ("image", ("c.png", files[2]))]
    both = call.post(f"{dataset}/images", files=form, data={"role": "defect"}, headers=eva)
    assert [each["name"] for each in both.json()] == ["b.png", "c.png"]
    assert call.get(dataset, headers=eva).json()["images"] == 3
    first = call.get(f"{dataset}/images?limit=2", headers=eva).json()
    rest = call.get(f"{dataset}/images", params={"after": first["next"], "limit": 2}, headers=eva).json()
    assert rest["next"] is None
    roles = {each["name"]: each["role"] for each in first["items"] + rest["items"]}
    assert roles == {"a.png": "train", "b.png": "defect", "c.png": "defect"}
    assert call.get(f"{dataset}/images/{digest}/image", headers=eva).content == files[0]
    assert call.get(f"{dataset}/images/{digest}/thumb", headers=eva).content.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"content": b"no image", "headers": PNG}, 422),
        ({"content": b"", "headers": PNG}, 422),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"files": {"picture": b"x"}}, 422),
        ({"files": {"image": ("a.png", b"")}}, 422),
        ({"files": {"image": ("a.png", b"x")}, "data": {"role": "bad"}}, 422),
        ({"files": [("image", (f"{number}.png", b"x")) for number in range(101)]}, 400),
    ],
)
def test_what_is_no_image_is_refused(call, dataset, eva, sent, status):
    sent = sent | {"headers": eva | sent.get("headers", {})}
    assert call.post(f"{dataset}/images", **sent).status_code == status
    assert call.get(dataset, headers=eva).json()["images"] == 0


def test_one_bad_file_of_a_form_is_named_and_nothing_is_added(call, dataset, files, eva):
    form = [("image", ("a.png", files[0])), ("image", ("b.png", files[1][:200]))]
    refused = call.post(f"{dataset}/images", files=form, headers=eva)
    assert (refused.status_code, "b.png" in refused.json()["detail"]) == (422, True)
    assert call.get(dataset, headers=eva).json()["images"] == 0


def test_images_are_left_out_taken_in_again_and_dropped(call, dataset, files, eva):
    for data in files:
        call.post(f"{dataset}/images", content=data, headers=eva | PNG)
    digest = hashlib.sha256(files[0]).hexdigest()
    out = {"sha256": [digest, "0" * 64]}
    assert call.post(f"{dataset}/images:leave-out", json=out, headers=eva).json() == {"images": 1}
    items = call.get(f"{dataset}/images", headers=eva).json()["items"]
    assert [each["sha256"] for each in items if each["left_out"]] == [digest]
    back = out | {"left_out": False}
    assert call.post(f"{dataset}/images:leave-out", json=back, headers=eva).json() == {"images": 1}
    assert call("DELETE", f"{dataset}/images/{digest}", headers=eva).status_code == 204
    assert call("DELETE", f"{dataset}/images/{digest}", headers=eva).status_code == 404
    assert call.get(dataset, headers=eva).json()["images"] == 2
    for shown in ("image", "thumb"):  # its file may still be there
        assert call.get(f"{dataset}/images/{digest}/{shown}", headers=eva).status_code == 404


def test_what_a_model_was_made_from_stays(call, service, files, eva):
    number = call.post(PATH, json={"name": "caps"}, headers=eva).json()["id"]
    call.post(f"{PATH}/{number}/images", content=files[0], headers=eva | PNG)
    service.store.write(datasets.freeze, number)
    digest = hashlib.sha256(files[0]).hexdigest()
    for method, path, body in (
        ("POST", "images", {"content": files[1], "headers": eva | PNG}),
        ("POST", "images:leave-out", {"json": {"sha256": [digest]}, "headers": eva}),
        ("DELETE", f"images/{digest}", {"headers": eva}),
    ):
        assert call(method, f"{PATH}/{number}/{path}", **body).status_code == 409
    assert call("DELETE", f"{PATH}/{number}?reason=old", headers=eva).status_code == 409


def test_a_dataset_is_removed_with_a_reason(call, eva):
    number = call.post(PATH, json={"name": "caps"}, headers=eva).json()["id"]
    assert call("DELETE", f"{PATH}/{number}", headers=eva).status_code == 422
    assert call("DELETE", f"{PATH}/{number}?reason=trial", headers=eva).status_code == 204
    assert call.get(f"{PATH}/{number}", headers=eva).status_code == 404


def test_names_of_files_are_plain():
    assert plain_name("C:\\good\\a.png") == "a.png"
    assert plain_name("a\n\x1b.png") == "a__.png"
    assert plain_name("good/") == "good"
    assert plain_name("\0" * 1000) == "_" * 500
