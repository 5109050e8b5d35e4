"""What every request passes: ids, problems, headers that protect browsers, limits, numbers, and who is let in."""

from __future__ import annotations

import json
import logging
import threading

import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts
from starlette.requests import Request

from patchbank.server import edge
from patchbank.server.access import EVERYBODY, Access, GuardedRoute, access_of, needs
from patchbank.server.app import openapi
from patchbank.server.logs import JsonLines, TextLines
from patchbank.server.problems import MEDIA_TYPE, Problem
from server.conftest import LOCAL, calling, service_of


@pytest.fixture(scope="module")
def call(model):
    with calling(service_of(model)) as caller:
        add_test_routes(caller.app)
        yield caller


def add_test_routes(app) -> None:
    router = APIRouter(route_class=GuardedRoute, prefix="/test")

    @router.post("/echo")
    @needs("viewer")
    async def echo(body: dict[str, int]) -> dict[str, int]:
        return body

    @router.get("/bug")
    @needs(access=EVERYBODY)
    async def bug(request: Request) -> None:
        raise RuntimeError("secret insides")

    app.include_router(router)


def problem(answer, status):
    """The answer is a problem, with all of its members."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    found = answer.json()
    assert found["status"] == status
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["type"].startswith("urn:patchbank:problem:")
    assert found["title"]
    assert found["detail"]
    return found


def test_what_is_not_there_is_a_problem(call):
    problem(call.get("/nowhere"), 404)
    problem(call.get("/healthz/"), 404)
    answer = call.post("/healthz")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET"


def test_invalid_bodies_are_problems_that_say_where(call):
    found = problem(call.post("/test/echo", json={"a": "x"}), 422)
    assert found["errors"] == [{"pointer": "/body/a", "detail": found["errors"][0]["detail"]}]
    assert "/body/a" in found["detail"]
    problem(call.post("/test/echo", content=b"{", headers={"Content-Type": "application/json"}), 422)
    problem(call.post("/test/echo", content=b"a", headers={"Content-Type": "text/plain"}), 422)


def test_a_bug_says_nothing_of_the_insides_but_the_log_does(call, caplog):
    with caplog.at_level(logging.ERROR, "patchbank.server"):
        found = problem(call.get("/test/bug"), 500)
    assert "secret" not in json.dumps(found)
    assert found["request_id"] in found["detail"]
    assert "secret insides" in caplog.text


def test_a_request_has_an_id_which_may_be_the_callers(call):
    assert call.get("/healthz", headers={"X-Request-ID": "line-7.42"}).headers["x-request-id"] == "line-7.42"
    ids = {call.get("/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    for bad in ("", "a b", "x" * 65, "é".encode("latin-1"), "<script>"):
        got = call.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert got.isalnum()
        assert got != bad


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/test/bug", "/v2/models/part"])
def test_every_answer_has_the_headers_that_protect_a_browser(call, path):
    headers = call.get(path).headers
    assert "script-src 'self';" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert "strict-transport-security" not in headers


def test_a_small_body_is_small(call):
    """Endpoints of JSON take no 50 MB."""
    fits = b'{"a":' + b" " * 900_000 + b"1}"
    assert call.post("/test/echo", content=fits, headers={"Content-Type": "application/json"}).json() == {"a": 1}
    problem(call.post("/test/echo", content=fits * 2, headers={"Content-Type": "application/json"}), 413)

    async def unannounced():
        for _ in range(20):
            yield b" " * 100_000

    problem(call.post("/test/echo", content=unannounced(), headers={"Content-Type": "application/json"}), 413)


def test_bodies_in_memory_are_bounded_together(call):
    """Many large uploads at a time are refused, before they fill the memory; what has ended counts no more."""
    service = call.app.state.service
    service.hold(8 * service.settings.max_body)
    try:
        answer = call.post("/v2/models/part/infer", content=b"x")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
    finally:
        service.hold(-8 * service.settings.max_body)
    before = service._held
    call.post("/v2/models/part/infer", content=bytes(100_000))
    assert service._held == before == 0


def test_who_comes_from_elsewhere_sees_only_whether_it_is_alive(model):
    with calling(service_of(model), client="192.168.1.7") as call:
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert call.get(path).status_code == 200
        problem(call.get("/metrics"), 403)
        assert call.get("/v2/models/part").status_code == 403
        assert call.post("/v2/models/part/infer", content=b"x").status_code == 403


def test_a_proxy_on_this_machine_does_not_make_the_world_local(call):
    """Whoever it forwards is somebody else, unless the proxy is named and says who."""
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        problem(call.get("/metrics", headers={name: "203.0.113.5"}), 403)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::1", "", "[::2]:80"]
)
def test_a_name_that_leads_here_is_not_this_machine(call, host):
    """DNS rebinding: a page's own host name is pointed at 127.0.0.1."""
    problem(call.get("/metrics", headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1", "127.8.9.1:1", "[::1]:8080", "LOCALHOST"])
def test_names_of_this_machine(call, host):
    assert call.get("/metrics", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1234"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_changes_nothing(call, headers):
    problem(call.post("/test/echo", json={"a": 1}, headers=headers), 403)


def test_our_own_pages_may(call):
    headers = {"Origin": LOCAL, "Sec-Fetch-Site": "same-origin"}
    assert call.post("/test/echo", json={"a": 1}, headers=headers).status_code == 200


def test_every_route_says_who_may_use_it(call):
    """A new endpoint cannot be forgotten: one that says nothing cannot be declared."""
    found = [each.original_route for each in iter_route_contexts(call.app.routes)]
    assert len(found) > 10
    assert [each for each in found if not isinstance(each, GuardedRoute)] == []
    assert all(isinstance(access_of(each.endpoint), Access) for each in found)
    for path, operations in openapi(call.app)["paths"].items():
        assert all("x-access" in operation for operation in operations.values()), path


def test_an_endpoint_that_does_not_say_it_cannot_be_declared():
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(TypeError, match="does not say who may use it"):

        @router.get("/open")
        async def forgotten() -> None: ...


def test_numbers_are_counted(call, files):
    call.post("/v2/models/part/infer", content=files[1], headers={"Inference-Header-Content-Length": "0"})
    call.post("/v2/models/part/infer", content=b"no image", headers={"Inference-Header-Content-Length": "0"})
    call.get("/random/1")
    call.get("/random/2")
    text = call.get("/metrics").text
    lines = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert lines['patchbank_inspections_total{model="part",verdict="ng"}'] == 1
    assert lines['patchbank_refused_total{model="part",reason="image"}'] >= 1
    assert lines['patchbank_images_under_way{model="part"}'] == 0
    assert lines["patchbank_ready"] == 1
    assert lines["patchbank_requests_under_way"] == 1
    assert lines['patchbank_http_requests_total{method="POST",route="/v2/models/{name}/infer",status="200"}'] >= 1
    assert "random" not in text, "addresses that anybody makes up must not become series"


def test_a_full_queue_is_refused_with_a_time_to_wait(model, files, monkeypatch):
    """Back-pressure: two are inspected, one waits, the next is told to come again; nothing is lost."""
    go, begun, answers = threading.Event(), threading.Semaphore(0), []
    inspect = type(model)._inspect

    def slow(self, image, name):
        begun.release()
        assert go.wait(60)
        return inspect(self, image, name)

    monkeypatch.setattr(type(model), "_inspect", slow)
    service = service_of(model, workers=2, queue=1)
    from server.conftest import running

    with running(service) as address:
        threads = [threading.Thread(target=lambda: answers.append(post(address, files[0]))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert begun.acquire(timeout=60)
        assert begun.acquire(timeout=60)
        wait_until(lambda: service.stations.model("part").waiting == 3)
        refused = post(address, files[0])
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "busy" in refused.json()["error"]
        go.set()
        for thread in threads:
            thread.join(60)
    assert [each.status_code for each in answers] == [200, 200, 200]


def test_an_inspection_that_takes_too_long_is_a_refusal_and_not_a_verdict(model, files, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(type(model), "_inspect", lambda *_: go.wait(60))
    with calling(service_of(model)) as call:
        tensor = {"name": "image", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
        answer = call.post("/v2/models/part/infer", json={"inputs": [tensor], "parameters": {"timeout": 20_000}})
        go.set()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["error"] == "There was no result within 0.02 s"


def test_logs_cannot_be_forged():
    """A path with a line break, or a colour of the terminal, stays on its line."""
    record = logging.LogRecord("patchbank.access", logging.INFO, "", 0, "request", (), None)
    record.facts = {"path": "/a\n2026 ERROR all is lost\x1b[31m", "status": 404, "who": ""}
    text, line = TextLines().format(record), JsonLines().format(record)
    assert "\n" not in text
    assert "\x1b" not in text
    assert "who" not in text
    assert "\n" not in line
    assert json.loads(line)["path"] == record.facts["path"]
    assert json.loads(line)["level"] == "info"


def test_a_problem_is_on_one_line_and_short():
    detail = Problem(400, "bad", "a\nb\x1b" + "x" * 10_000).to_dict()["detail"]
    assert detail.startswith("a\\nb\\x1b")
    assert len(detail) == 2000


def test_the_policy_allows_nothing_inline():
    assert "unsafe" not in edge.POLICY
    assert "http" not in edge.POLICY


def post(address: str, content: bytes):
    import httpx

    headers = {"Inference-Header-Content-Length": "0"}
    return httpx.post(f"{address}/v2/models/part/infer", content=content, headers=headers, timeout=60)


def wait_until(true) -> None:
    import time

    for _ in range(3000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it did not become true within a minute")
