"""Every endpoint with every caller. The table below is made by hand: an endpoint that is not in it fails the test, and
so does one that lets in somebody else than the table says."""

from __future__ import annotations

from uuid import UUID

import pytest
from fastapi.routing import iter_route_contexts

from patchbank.server import events
from patchbank.store.schema import ROLES
from server.conftest import calling, service_of
from server.people import everybody, signed_in

# Who may: "all"; "known" = whoever is signed in or has a token; a role = that one and those above; "token x" = a
# machine with that scope; "machine" = this machine.
TABLE = """
GET    /healthz                                      all
GET    /readyz                                       all
GET    /metrics                                      admin, token metrics, machine
GET    /api/v1/openapi.json                          all
GET    /api/v1/session                               known
POST   /api/v1/session                               all
PATCH  /api/v1/session                               viewer
DELETE /api/v1/session                               known
POST   /api/v1/session/password                      viewer
POST   /api/v1/inspections                           engineer, token inspect
POST   /api/v1/inspections:ingest                    token ingest
GET    /api/v1/inspections                           viewer, token read
GET    /api/v1/inspections/count                     viewer, token read
GET    /api/v1/inspections/export                    viewer, token read
GET    /api/v1/inspections/{inspection_id}           viewer, token read
GET    /api/v1/inspections/{inspection_id}/image     viewer, token read
GET    /api/v1/inspections/{inspection_id}/thumb     viewer, token read
GET    /api/v1/inspections/{inspection_id}/heat.png  viewer, token read
GET    /api/v1/inspections/{inspection_id}/explain   viewer, token read
GET    /api/v1/inspections/{inspection_id}/explain/{finding}/part.png   viewer, token read
GET    /api/v1/inspections/{inspection_id}/explain/{finding}/region.png   viewer, token read
GET    /api/v1/inspections/{inspection_id}/explain/{finding}/normal/{rank}.png   viewer, token read
POST   /api/v1/inspections/{inspection_id}:replay    operator
POST   /api/v1/inspections/{inspection_id}/reviews   operator
POST   /api/v1/inspections/{inspection_id}/reviews:undo   operator
GET    /api/v1/reviews/queue                         viewer, token read
GET    /api/v1/streams                               viewer, token read, token ingest
POST   /api/v1/streams                               engineer
GET    /api/v1/streams/{stream}                      viewer, token read, token ingest
GET    /api/v1/streams/{stream}/deployments          viewer, token read
GET    /api/v1/streams/{stream}/hours                viewer, token read
POST   /api/v1/streams/{stream}:pause                operator
POST   /api/v1/streams/{stream}:resume               operator
POST   /api/v1/streams/{stream}:report               token ingest
POST   /api/v1/streams/{stream}/deployments          engineer
GET    /api/v1/versions/{version_id}                 viewer, token read
POST   /api/v1/versions/{version_id}:approve         engineer
POST   /api/v1/versions/{version_id}:retire          engineer
GET    /api/v1/datasets                              viewer, token read
POST   /api/v1/datasets                              engineer
GET    /api/v1/datasets/{dataset_id}                 viewer, token read
DELETE /api/v1/datasets/{dataset_id}                 engineer
GET    /api/v1/datasets/{dataset_id}/images          viewer, token read
POST   /api/v1/datasets/{dataset_id}/images          engineer
POST   /api/v1/datasets/{dataset_id}/images:leave-out   engineer
DELETE /api/v1/datasets/{dataset_id}/images/{sha256}    engineer
GET    /api/v1/datasets/{dataset_id}/images/{sha256}/image   viewer, token read
GET    /api/v1/datasets/{dataset_id}/images/{sha256}/thumb   viewer, token read
GET    /api/v1/models                                viewer, token read
POST   /api/v1/models                                engineer
GET    /api/v1/models/{model}                        viewer, token read
GET    /api/v1/models/{model}/versions               viewer, token read
GET    /api/v1/models/{model}/diff                   viewer, token read
GET    /api/v1/models/{model}/thresholds             viewer, token read
GET    /api/v1/models/{model}/versions/{number}/file   viewer, token read
POST   /api/v1/datasets/{dataset_id}:audit           engineer
POST   /api/v1/datasets/{dataset_id}/server-folder   engineer
GET    /api/v1/server-folders                        engineer
POST   /api/v1/models/{model}/fit                    engineer
POST   /api/v1/models/{model}/update                 engineer
POST   /api/v1/models/{model}/threshold              engineer
POST   /api/v1/models/{model}/rollback               engineer
GET    /api/v1/models/{model}/basket                 viewer, token read
POST   /api/v1/versions/{version_id}:gate            engineer
GET    /api/v1/streams/{stream}/quality              viewer, token read
GET    /api/v1/jobs                                  viewer, token read
GET    /api/v1/jobs/{job_id}                         viewer, token read
POST   /api/v1/jobs/{job_id}:cancel                  engineer
GET    /api/v1/versions/{version_id}/shadow          viewer, token read
GET    /api/v1/drift                                 viewer, token read
GET    /api/v1/drift/series                          viewer, token read
GET    /api/v1/settings                              viewer
PUT    /api/v1/settings/{key}                        admin
DELETE /api/v1/settings/{key}                        admin
GET    /api/v1/events                                viewer, token read
GET    /api/v1/users                                 admin
POST   /api/v1/users                                 admin
PATCH  /api/v1/users/{user_id}                       admin
GET    /api/v1/tokens                                admin
POST   /api/v1/tokens                                admin
DELETE /api/v1/tokens/{token_id}                     admin
GET    /api/v1/audit                                 admin
GET    /api/v1/audit/verified                        admin
GET    /api/v1/backup                                admin
POST   /api/v1/backup                                admin
GET    /api/v1/backup/{name}                         admin
DELETE /api/v1/backup/{name}                         admin
GET    /v2                                           viewer, token inspect, token read
GET    /v2/health/live                               all
GET    /v2/health/ready                              all
POST   /v2/repository/index                          viewer, token inspect, token read
GET    /v2/models/{name}                             viewer, token inspect, token read
GET    /v2/models/{name}/versions/{version}          viewer, token inspect, token read
GET    /v2/models/{name}/ready                       viewer, token inspect, token read
GET    /v2/models/{name}/versions/{version}/ready    viewer, token inspect, token read
GET    /                                             all
GET    /static/{digest}/{name}                       all
GET    /start                                        admin
POST   /start                                        admin
GET    /sign-in                                      all
POST   /sign-in                                      all
POST   /sign-out                                     known
POST   /appearance                                   all
GET    /account                                      viewer
POST   /account/password                             viewer
GET    /drift                                        viewer, token read
GET    /train                                        viewer, token read
POST   /train/datasets                               engineer
GET    /train/models/{model}                         viewer, token read
POST   /train/models/{model}/update                  engineer
GET    /train/datasets/{dataset_id}                  viewer, token read
POST   /train/datasets/{dataset_id}/images           engineer
POST   /train/datasets/{dataset_id}/leave-out        engineer
POST   /train/datasets/{dataset_id}/folder           engineer
POST   /train/datasets/{dataset_id}/audit            engineer
POST   /train/datasets/{dataset_id}/fit              engineer
POST   /train/datasets/{dataset_id}/remove           engineer
GET    /train/jobs/{job_id}                          viewer, token read
POST   /train/jobs/{job_id}/cancel                   engineer
GET    /models                                       viewer, token read
POST   /models                                       engineer
GET    /models/{model}                               viewer, token read
POST   /models/{model}/versions/{number}/approve     engineer
POST   /models/{model}/versions/{number}/retire      engineer
POST   /models/{model}/versions/{number}/deploy      engineer
POST   /models/{model}/versions/{number}/gate        engineer
POST   /models/{model}/versions/{number}/threshold   engineer
POST   /models/{model}/watching/end                  engineer
GET    /inspections                                  viewer, token read
GET    /inspections/{inspection_id}                  viewer, token read
GET    /inspections/{inspection_id}/why              viewer, token read
POST   /inspections/{inspection_id}/replay           operator
POST   /inspections/{inspection_id}/reviews          operator
POST   /inspections/{inspection_id}/reviews/undo     operator
GET    /line                                         viewer, token read
GET    /line/pulse                                   viewer, token read
GET    /line/{stream_id}                             viewer, token read
POST   /line/{stream_id}/pause                       operator
POST   /line/{stream_id}/resume                      operator
GET    /settings                                     viewer
POST   /settings/{key}                               admin
GET    /settings/streams                             viewer, token read, token ingest
POST   /settings/streams/add                         engineer
GET    /settings/audit                               admin
GET    /settings/audit/verified                      admin
GET    /settings/backup                              admin
POST   /settings/backup/make                         admin
POST   /settings/backup/{name}/remove                admin
GET    /settings/users                               admin
POST   /settings/users/add                           admin
POST   /settings/users/{user_id}                     admin
GET    /settings/tokens                              admin
POST   /settings/tokens/add                          admin
POST   /settings/tokens/{token_id}/revoke            admin
GET    /review                                       viewer, token read
POST   /review/{inspection_id}                       operator
POST   /review/{inspection_id}/undo                  operator
POST   /v2/models/{name}/infer                       engineer, token inspect
POST   /v2/models/{name}/versions/{version}/infer    engineer, token inspect
"""
WANTED = {tuple(line.split()[:2]): line.split(maxsplit=2)[2].split(", ") for line in TABLE.strip().splitlines()}

# Identifiers that nothing has.
NOBODYS = {
    "user_id": 10**9,
    "token_id": 10**9,
    "version_id": 10**9,
    "dataset_id": 10**9,
    "job_id": 10**9,
    "sha256": "0" * 64,
    "inspection_id": UUID(int=7),
    "stream": "none",
    "key": "none",
    "name": "none",
    "version": "7",
    "digest": "none",
    "stream_id": 10**9,
    "model": "none",
    "number": 7,
    "finding": 0,
    "rank": 0,
}
SIGN_OUT = (("DELETE", "/api/v1/session"), ("POST", "/sign-out"))


@pytest.fixture(scope="module")
def call(model):
    with calling(service_of(model), client="192.168.1.7") as caller:
        yield caller


@pytest.fixture(scope="module")
def callers(call):
    return everybody(call.app.state.service)


def endpoints(app) -> set[tuple[str, str]]:
    return {(method, each.path) for each in iter_route_contexts(app.routes) for method in each.methods}


def may(caller: str, who: list[str]) -> bool:
    """What the table says; written anew here, so that it does not agree with the code by being the code."""
    if "all" in who or caller in who:
        return True
    if caller == "nobody":
        return False
    roles = [ROLES.index(each) for each in who if each in ROLES]
    return "known" in who or (caller in ROLES and any(ROLES.index(caller) >= each for each in roles))


def test_the_table_has_every_endpoint(call):
    """Who adds an endpoint says here, once more, who may use it."""
    assert endpoints(call.app) == set(WANTED)


def test_every_endpoint_admits_whom_the_table_says_and_nobody_else(call, callers, monkeypatch):
    monkeypatch.setattr(events, "MOST_LISTENERS", 0)  # a stream of events has no end
    wrong = []
    for (method, path), who in WANTED.items():
        for caller, headers in callers.items():
            if (method, path) in SIGN_OUT and caller in ROLES:
                headers = signed_in(call.app.state.service, caller)  # it ends
            address = path.format_map(NOBODYS)
            status = call(method, address, headers=headers).status_code
            refused = status in (401, 403)
            if refused == may(caller, who) and (path, caller) != ("/api/v1/session", "nobody"):
                wrong.append(f"{caller}: {method} {path}: {status}")
            if refused and status != (401 if caller == "nobody" else 403):
                wrong.append(f"{caller}: {method} {path}: {status}, the wrong refusal")
    assert wrong == []


def test_this_machine_may_everything_until_there_is_an_administrator(model):
    """One command to a working page. From then on it is a caller as any other, but for /metrics."""
    from server.people import add_person

    service = service_of(model)
    with calling(service) as local:
        assert local.get("/api/v1/users").json() == []
        assert local.get("/api/v1/session").json()["kind"] == "local"
        add_person(service, "anna", "engineer")
        assert local.get("/api/v1/users").status_code == 200
        add_person(service, "berta", "admin")
        assert local.get("/api/v1/users").status_code == 401
        assert local.get("/v2/models/part").status_code == 401
        assert local.get("/metrics").status_code == 200


def test_before_the_first_administrator_others_are_told_what_is_missing(model):
    service = service_of(model)
    with calling(service, client="192.168.1.7") as call:
        for method, path in (("GET", "/api/v1/users"), ("GET", "/v2/models/part"), ("POST", "/api/v1/session")):
            answer = call(method, path, json={"name": "a", "password": "b"} if method == "POST" else None)
            assert answer.status_code == 403
        assert "patchbank users add NAME --role admin" in call.get("/api/v1/users").json()["detail"]
