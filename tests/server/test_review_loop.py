"""From a flagged good part to a better model, over HTTP: label, update, gate, approve, deploy; and what is blocked on
the way."""

from __future__ import annotations

import httpx
import numpy as np

from parts import noisy, striped
from patchbank import PatchCore
from server.conftest import png, service_of
from server.test_jobs import CONFIG, PNG, begun, client, dataset_of, over
from server.test_run import wait_until


def inspected(http: httpx.Client, data: bytes) -> dict:
    said = http.post("/inspections", content=data, headers=PNG | {"X-Stream": "part"})
    assert said.status_code == 201, said.text
    return said.json()


def labelled(http: httpx.Client, data: bytes, label: str) -> str:
    part = inspected(http, data)
    assert http.post(f"/inspections/{part['id']}/reviews", json={"label": label}).status_code == 201
    return part["id"]


def updated(http: httpx.Client, **rest) -> dict:
    """The candidate that an update has made."""
    job = over(http, begun(http.post("/models/part/update", json={"reason": "false alarms", **rest})))
    assert job["state"] == "done", job
    return http.get(f"/versions/{job['result']['version_id']}").json()


def test_the_loop(model):
    rng = np.random.default_rng(11)
    stain, defect = striped(rng, stain=True), striped(rng, defect=True)
    stained = [png(noisy(stain, rng, 2)) for _ in range(3)]  # the same kind of stain, as the camera sees it
    defects = [png(noisy(defect, rng, 2)) for _ in range(2)]
    service = service_of(model)
    with client(service) as http:
        first = {"version_id": 1, "review_rate": 0, "reason": "NG or OK"}
        assert http.post("/streams/part/deployments", json=first).status_code == 201
        wait_until(lambda: service.stations.all()[0].deployment.review_rate == 0)
        assert [inspected(http, each)["verdict"] for each in stained] == ["ng"] * 3  # good, and yet flagged
        empty = http.post("/models/part/update", json={"reason": "x"})
        assert (empty.status_code, "basket is empty" in empty.json()["detail"]) == (409, True)
        good = labelled(http, stained[0], "good")
        bad = labelled(http, defects[0], "defect")
        mistake = labelled(http, defects[1], "good")  # somebody has pressed the wrong key
        basket = [each["id"] for each in http.get("/models/part/basket").json()["items"]]
        assert basket == [good, mistake]

        blocked = updated(http)
        assert blocked["gate"]["passed"] is False
        assert [each["id"] for each in blocked["gate"]["defects"]["lost"]["first"]] == [bad]
        refused = http.post(f"/versions/{blocked['id']}:approve", json={"reason": "now"})
        assert (refused.status_code, "gate" in refused.json()["detail"]) == (409, True)
        assert http.get("/models/part/basket").json()["items"] == []

        http.post(f"/inspections/{mistake}/reviews", json={"label": "defect"})
        wrong = {"inspections": [mistake], "reason": "x"}
        assert http.post("/models/part/update", json=wrong).status_code == 422
        sampled = {"inspections": [good], "random_sample": True, "reason": "x"}
        assert "chance has chosen" in http.post("/models/part/update", json=sampled).json()["detail"]
        better = updated(http, inspections=[good], note="oil stains are good")
        gate = better["gate"]
        assert gate["passed"] is True
        assert (gate["defects"]["inspected"], gate["defects"]["found"], gate["defects"]["lost"]["number"]) == (2, 2, 0)
        assert (gate["goods"]["flagged_before"], gate["goods"]["flagged"]) == (1, 0)
        assert [each["id"] for each in gate["goods"]["cleared"]["first"]] == [good]
        assert (better["action"], better["note"], better["images"]) == ("update", "oil stains are good", 13)

        assert http.post(f"/versions/{better['id']}:approve", json={"reason": "stains"}).status_code == 200
        deployment = {"version_id": better["id"], "review_rate": 0, "reason": "stains"}
        assert http.post("/streams/part/deployments", json=deployment).status_code == 201
        wait_until(lambda: inspected(http, stained[2])["model"]["version"] == better["number"])
        assert inspected(http, stained[1])["verdict"] == "ok"  # one that it has not seen
        assert inspected(http, defects[0])["verdict"] == "ng"

        told = {"reason": "as before", "to": 1}
        job = over(http, begun(http.post("/models/part/rollback", json=told)))
        back = http.get(f"/versions/{job['result']['version_id']}").json()
        after = PatchCore.load(service.store.models.path(back["file_sha256"]))
        scores = [(each.predict(stained[0]).score, each.threshold) for each in (model, after)]
        assert scores[0] == scores[1]
        assert back["gate"]["goods"]["newly_flagged"]["number"] == 1


def test_a_model_of_the_service_is_measured_again_with_its_training_images():
    """They are known by name from the dataset that it was fitted on; a random sample joins the calibration."""
    rng = np.random.default_rng(12)
    with client(service_of()) as http:
        http.put("/settings/review.sample_rate", json={"value": 1.0})
        dataset = dataset_of(http, [png(striped(rng)) for _ in range(12)])
        told = {"dataset_id": dataset, "config": CONFIG | {"review_rate": 0}, "reason": "new part"}
        fitted = over(http, begun(http.post("/models/part/fit", json=told)))["result"]["version_id"]
        http.post(f"/versions/{fitted}:approve", json={"reason": "trial"})
        http.post("/streams", json={"name": "part"})
        http.post("/streams/part/deployments", json={"version_id": fitted, "reason": "trial"})
        wait_until(lambda: http.get("/streams/part").json()["active"])
        parts: list[str] = []

        def an_ok_part_was_sampled() -> bool:
            said = http.post("/inspections", content=png(striped(rng)), headers=PNG | {"X-Stream": "part"})
            parts.extend([said.json()["id"]] if said.status_code == 201 and said.json()["sample"] else [])
            return bool(parts)

        wait_until(an_ok_part_was_sampled)
        http.post(f"/inspections/{parts[0]}/reviews", json={"label": "good"})
        after = updated(http, inspections=parts, random_sample=True)
        assert (after["calibrated"], after["images"], after["parent_id"]) == ("exact", 13, fitted)
        assert after["gate"]["changed_sides"] is not None
