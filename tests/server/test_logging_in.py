"""Signing in: sessions, their cookies, what guessing costs, and that another site's page gains nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from patchbank.server.logins import MOST_ALONE, MOST_PAIR, Attempts
from patchbank.server.problems import Problem
from patchbank.store import audit_log, passwords, tokens, users
from server.conftest import calling, service_of
from server.people import ORIGIN, PASSWORD, add_person, signed_in, token


@pytest.fixture
def service(model):
    service = service_of(model)
    add_person(service, "anna", "admin")
    add_person(service, "otto", "operator")
    return service


@pytest.fixture
def call(service):
    with calling(service, client="192.168.1.7") as caller:
        yield caller


def sign_in(call, name="anna", password=PASSWORD, **headers):
    return call.post("/api/v1/session", json={"name": name, "password": password}, headers={**ORIGIN, **headers})


def cookie_of(answer) -> dict[str, str]:
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0], **ORIGIN}


def who(call, headers):
    return call.get("/api/v1/session", headers=headers)


def test_a_person_signs_in_and_out(call):
    answer = sign_in(call)
    assert answer.status_code == 201
    assert answer.json() == {"kind": "person", "name": "anna", "role": "admin", "scopes": [], "locale": ""}
    cookie = answer.headers["set-cookie"]
    assert re.match(r"patchbank=[0-9A-Za-z]{43}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict$", cookie), cookie
    call.http.cookies.clear()
    headers = cookie_of(answer)
    assert who(call, headers).json()["name"] == "anna"
    assert call("DELETE", "/api/v1/session", headers=headers).status_code == 204
    assert who(call, headers).status_code == 401


def test_with_https_the_cookie_is_bound_to_this_host(service):
    with calling(service, base="https://127.0.0.1") as call:
        cookie = sign_in(call, Origin="https://127.0.0.1").headers["set-cookie"]
    assert cookie.startswith("__Host-patchbank=")
    assert cookie.endswith("; Secure")


@pytest.mark.parametrize("name", ["anna", "nobody"])
def test_a_wrong_password_and_a_wrong_name_are_told_alike(call, name):
    answer = sign_in(call, name, "wrong password")
    assert answer.status_code == 401
    assert answer.json()["detail"] == "The name or the password is wrong"
    assert "set-cookie" not in answer.headers


def test_a_disabled_person_is_out_at_once(call, service):
    headers = signed_in(service, "otto")
    assert who(call, headers).status_code == 200
    otto = service.store.read(users.by_name, "otto")
    anna = signed_in(service, "anna")
    assert call("PATCH", f"/api/v1/users/{otto.id}", json={"disabled": True}, headers=anna).status_code == 200
    assert who(call, headers).status_code == 401
    assert sign_in(call, "otto").status_code == 401


def test_a_session_that_somebody_planted_is_not_the_one_after_the_login(call, service):
    """Session fixation: a cookie that was there before the login is worth nothing after it."""
    planted = signed_in(service, "otto")
    answer = sign_in(call, "anna", Cookie=planted["Cookie"])
    assert answer.status_code == 201
    assert cookie_of(answer)["Cookie"] != planted["Cookie"]
    call.http.cookies.clear()
    assert who(call, planted).status_code == 401
    made_up = {"Cookie": f"patchbank={'a' * 43}", **ORIGIN}
    after = cookie_of(sign_in(call, "anna", Cookie=made_up["Cookie"]))
    assert after["Cookie"] != made_up["Cookie"]
    call.http.cookies.clear()
    assert who(call, made_up).status_code == 401


def test_a_session_ends_by_itself_and_goes_on_while_it_is_used(call, service):
    user = service.store.read(users.by_name, "otto")
    over, soon = passwords.new_secret(), passwords.new_secret()
    now = datetime.now(UTC)
    service.store.write(users.begin_session, user.id, over, now - timedelta(seconds=1), "")
    service.store.write(users.begin_session, user.id, soon, now + timedelta(seconds=60), "")
    assert who(call, {"Cookie": f"patchbank={over}"}).status_code == 401
    assert who(call, {"Cookie": f"patchbank={soon}"}).status_code == 200
    service.store.write(lambda connection: None)  # what was written aside is written now
    from sqlalchemy import text

    ends = service.store.read(
        lambda c: c.execute(
            text("SELECT expires_at FROM sessions WHERE token_sha256 = :d"), {"d": passwords.digest(soon)}
        ).scalar_one()
    )
    assert datetime.fromisoformat(ends) > now + timedelta(hours=11)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8081"},
        {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "cross-site"},
        {},
    ],
)
def test_another_sites_page_cannot_use_a_session(call, service, headers):
    """CSRF: a browser sends the cookie by itself; the header says which page has asked."""
    session = {"Cookie": signed_in(service, "anna")["Cookie"]}
    new = {"name": "eve", "role": "admin", "password": PASSWORD}
    answer = call.post("/api/v1/users", json=new, headers=session | headers)
    assert answer.status_code == 403
    assert [each.name for each in service.store.read(users.listed)] == ["anna", "otto"]
    assert call.get("/api/v1/users", headers=session | headers).status_code == 200, "reading is not changing"


def test_another_sites_page_cannot_sign_somebody_in(call):
    """Login CSRF: the victim would work in the attacker's account."""
    assert sign_in(call, Origin="http://evil.example").status_code == 403


def test_behind_a_proxy_the_public_address_is_ours(model):
    service = service_of(model, public_url="https://quality.example/")
    add_person(service, "anna", "admin")
    with calling(service, client="10.0.0.9") as call:
        assert sign_in(call, Origin="https://quality.example").status_code == 201
        assert sign_in(call, Origin="https://quality.example.evil").status_code == 403


def test_guessing_is_slow(call):
    """Five failures a minute; then the right password does not help either, but elsewhere it does."""
    for _ in range(MOST_PAIR):
        assert sign_in(call, password="wrong password").status_code == 401
    answer = sign_in(call)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert sign_in(call, "otto").status_code == 201, "another person at the same panel"
    assert sign_in(call.elsewhere("192.168.1.8")).status_code == 201, "nobody is locked out by others' guesses"


def test_attempts_are_counted_for_a_minute():
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for n in range(MOST_PAIR):
        now[0] = float(n)
        attempts.check("anna", "a")
        attempts.failed("Anna", "a")
    with pytest.raises(Problem) as error:
        attempts.check("ANNA", "a")
    assert error.value.headers == {"Retry-After": "57"}
    attempts.check("anna", "b")
    attempts.check("otto", "a")
    now[0] = 60.5
    attempts.check("anna", "a")
    attempts.succeeded("anna", "a")


def test_many_names_at_an_address_and_many_addresses_of_a_name_are_bounded_too():
    attempts = Attempts(lambda: 0.0)
    for n in range(MOST_ALONE):
        attempts.failed(f"user {n}", "a")
        attempts.failed("anna", f"address {n}")
    for name, address in (("new", "a"), ("anna", "new")):
        with pytest.raises(Problem):
            attempts.check(name, address)


def test_the_memory_of_attempts_is_bounded():
    attempts = Attempts(lambda: 0.0)
    for n in range(20_000):
        attempts.failed(f"user {n}", f"address {n}")
    assert len(attempts._failed) <= 10_000


def test_a_person_changes_the_password_and_other_sessions_end(call, service):
    here, there = signed_in(service, "otto"), signed_in(service, "otto")
    body = {"password": PASSWORD, "new_password": "another long one"}
    wrong = call.post("/api/v1/session/password", json=body | {"password": "no"}, headers=here)
    assert wrong.status_code == 401
    short = call.post("/api/v1/session/password", json=body | {"new_password": "short"}, headers=here)
    assert short.status_code == 422
    answer = call.post("/api/v1/session/password", json=body, headers=here)
    assert answer.status_code == 204
    call.http.cookies.clear()
    assert [who(call, each).status_code for each in (here, there)] == [401, 401]
    assert who(call, cookie_of(answer)).status_code == 200
    call.http.cookies.clear()
    assert sign_in(call, "otto", "another long one").status_code == 201


def test_a_person_chooses_a_language(call, service):
    headers = signed_in(service, "otto")
    assert call("PATCH", "/api/v1/session", json={"locale": "de"}, headers=headers).json()["locale"] == "de"
    assert who(call, headers).json()["locale"] == "de"


def test_administrators_manage_people(call, service):
    anna = signed_in(service, "anna")
    new = {"name": "eva", "role": "viewer", "password": "a long password", "reason": "new shift"}
    made = call.post("/api/v1/users", json=new, headers=anna)
    assert made.status_code == 201
    assert "argon2" not in made.text
    eva = made.json()["id"]
    assert call.post("/api/v1/users", json=new | {"name": "EVA"}, headers=anna).status_code == 409
    change = call("PATCH", f"/api/v1/users/{eva}", json={"role": "engineer", "reason": "trained"}, headers=anna)
    assert change.json()["role"] == "engineer"
    assert call("PATCH", f"/api/v1/users/{eva}", json={}, headers=anna).status_code == 422
    assert call("PATCH", "/api/v1/users/99", json={"role": "admin"}, headers=anna).status_code == 404
    me = service.store.read(users.by_name, "anna").id
    last = call("PATCH", f"/api/v1/users/{me}", json={"disabled": True}, headers=anna)
    assert last.status_code == 409
    assert "last administrator" in last.json()["detail"]
    log = call.get("/api/v1/audit", params={"object": "user/eva"}, headers=anna).json()["items"]
    assert [(each["actor"], each["action"], each["reason"]) for each in log] == [
        ("anna", "user.role", "trained"),
        ("anna", "user.add", "new shift"),
    ]


def test_tokens_are_shown_once_and_end_when_they_are_revoked(call, service):
    anna = signed_in(service, "anna")
    made = call.post("/api/v1/tokens", json={"name": "line 3", "scopes": ["inspect"], "days": 30}, headers=anna).json()
    machine = {"Authorization": f"Bearer {made['token']}"}
    assert call.get("/v2/models/part", headers=machine).status_code == 200
    listed = call.get("/api/v1/tokens", headers=anna)
    assert made["token"].split("_")[2] not in listed.text
    assert listed.json()[0]["prefix"] == made["about"]["prefix"]
    gone = call("DELETE", f"/api/v1/tokens/{made['about']['id']}", params={"reason": "lost"}, headers=anna)
    assert gone.status_code == 204
    answer = call.get("/v2/models/part", headers=machine)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_when_a_token_was_used_is_noted(call, service):
    machine = token(service, "inspect")
    call.get("/v2/models/part", headers=machine)
    service.store.write(lambda connection: None)
    (row,) = service.store.read(tokens.listed)
    assert datetime.now(UTC) - row.last_used_at < timedelta(minutes=1)


@pytest.mark.parametrize(
    "text", ["", "Bearer", "Bearer x", "Basic YTpi", f"Bearer pb_{'a' * 8}_{'b' * 43}", "Bearer " + "x" * 5000]
)
def test_tokens_that_are_none(call, text):
    expected = 401
    assert call.get("/v2/models/part", headers={"Authorization": text}).status_code == expected


def test_logins_stand_in_the_audit_log_refused_ones_too(call, service):
    sign_in(call, password="wrong password")
    sign_in(call)
    found = service.store.read(audit_log.page, about="user/anna", limit=2)
    assert [each.action for each in found] == ["session.begin", "session.refuse"]
    assert found[0].new == {"address": "192.168.1.7"}
    checked = call.get("/api/v1/audit/verified", headers=signed_in(service, "anna")).json()
    assert checked["problems"] == []
    assert checked["rows"] == checked["head"]["n"] >= 4


def test_the_audit_log_has_pages(call, service):
    anna = signed_in(service, "anna")
    for n in range(5):
        token(service, "read", name=f"t{n}")
    first = call.get("/api/v1/audit", params={"action": "token.add", "limit": 3}, headers=anna).json()
    rest = call.get("/api/v1/audit", params={"action": "token.add", "before": first["next"]}, headers=anna).json()
    assert [each["object"] for each in first["items"] + rest["items"]] == [f"token/t{n}" for n in (4, 3, 2, 1, 0)]
    assert rest["next"] is None
