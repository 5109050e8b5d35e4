"""How many defects may pass: the bound is Clopper and Pearson's, and only sampled parts count."""

from __future__ import annotations

import pytest

from patchbank.server.escapes import upper_bound
from patchbank.store import preferences
from patchbank.store.values import Actor
from server.conftest import calling, service_of
from server.test_inspections import wait


def test_a_sample_without_defects_is_the_rule_of_three():
    """(1 - p)^n = 1 - c, in closed form."""
    for n in (1, 10, 59, 300, 100_000):
        assert upper_bound(n, 0, 0.95) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)
    assert upper_bound(0, 0, 0.95) == 1.0
    assert upper_bound(7, 7, 0.95) == 1.0


def test_the_bound_is_the_quantile_of_the_beta_distribution():
    scipy = pytest.importorskip("scipy.stats")
    for n, k, confidence in ((10, 1, 0.95), (300, 2, 0.99), (5000, 40, 0.9), (12, 11, 0.95)):
        assert upper_bound(n, k, confidence) == pytest.approx(scipy.beta.ppf(confidence, k + 1, n - k), rel=1e-7)


@pytest.mark.parametrize(("n", "k", "confidence"), [(1, 2, 0.9), (3, -1, 0.9), (3, 1, 1.0), (3, 1, 0.0)])
def test_impossible_numbers(n, k, confidence):
    with pytest.raises(ValueError, match="expected"):
        upper_bound(n, k, confidence)


def test_only_sampled_parts_that_people_have_judged_count(model, files):
    service = service_of(model)
    service.store.write(preferences.put, "review.sample_rate", 1.0, by=Actor("anna"))
    with calling(service) as call:
        wait(call, lambda: service.preference("review.sample_rate") == 1.0)

        def part(data: bytes, label: str | None) -> dict:
            said = call.post("/api/v1/inspections", content=data, headers={"Content-Type": "image/png"}).json()
            if label:
                call.post(f"/api/v1/inspections/{said['id']}/reviews", json={"label": label})
            return said

        assert call.get("/api/v1/streams/part/quality").json()["bound"] == 1.0
        assert part(files[0], "good")["sample"] is True
        for label in ("good", "good", "defect", "unsure", None):
            part(files[0], label)
        part(files[1], "defect")  # it was NG: it has not passed
        found = call.get("/api/v1/streams/part/quality", params={"confidence": 0.9}).json()
        assert (found["reviewed"], found["defects"], found["waiting"], found["rate"]) == (4, 1, 1, 0.25)
        assert found["bound"] == pytest.approx(upper_bound(4, 1, 0.9))
        later = call.get("/api/v1/streams/part/quality", params={"since": "2100-01-01T00:00:00Z"}).json()
        assert (later["reviewed"], later["bound"], later["rate"]) == (0, 1.0, None)
        assert call.get("/api/v1/streams/part/quality", params={"since": "2026-01-01"}).status_code == 422
        assert call.get("/api/v1/streams/none/quality").status_code == 404
