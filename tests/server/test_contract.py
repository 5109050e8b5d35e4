"""The description of the API is true: requests made from it, for every endpoint, get no answer that it does not have,
and no server error but 503 (which says when to come again).

PATCHBANK_CONTRACT=50 makes so many requests for each endpoint; without it, 2.
"""

from __future__ import annotations

import os

import pytest

from patchbank.server import events
from patchbank.server.app import openapi
from server.conftest import calling, service_of

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

EXAMPLES = int(os.environ.get("PATCHBANK_CONTRACT", "2"))
QUIET = {
    "database": None,
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(hypothesis.HealthCheck),
    "phases": (hypothesis.Phase.generate,),
}
SKIPPED = {
    ("POST", "/api/v1/session"): "a login computes a slow hash, and is limited",
    ("DELETE", "/api/v1/session"): "it ends the session",
}


def test_every_answer_is_described(model, files, monkeypatch):
    monkeypatch.setattr(events, "MOST_LISTENERS", 0)  # a stream of events has no end
    wrong = []
    with calling(service_of(model)) as call:
        call.post("/api/v1/inspections", content=files[1], headers={"Content-Type": "image/png"})
        document = openapi(call.app)
        for found in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = found.ok()
            about = (operation.method.upper(), operation.path)
            if about not in SKIPPED:
                described = {str(each) for each in document["paths"][operation.path][operation.method]["responses"]}
                _try(call, operation, described, wrong)
    assert wrong == []


def _try(call, operation, described, wrong) -> None:
    @hypothesis.settings(max_examples=EXAMPLES, **QUIET)
    @hypothesis.given(operation.as_strategy())
    def requests(case):
        sent = case.as_transport_kwargs(base_url="http://127.0.0.1")
        known = {
            name: sent[name] for name in ("params", "headers", "json", "data", "files") if sent.get(name) is not None
        }
        if isinstance(known.get("data"), (bytes, str)):
            known["content"] = known.pop("data")
        answer = call(sent["method"], sent["url"], **known)
        status = str(answer.status_code)
        if (answer.status_code >= 500 and status != "503") or status not in described:
            wrong.append(f"{operation.method.upper()} {sent['url']}: {status} {answer.text[:200]}")
        if status == "503" and "retry-after" not in answer.headers:
            wrong.append(f"{operation.method.upper()} {sent['url']}: 503 without Retry-After")

    requests()
