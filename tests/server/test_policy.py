"""What a deployment makes of results: nothing passes that was not proven good, unless somebody has said so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from patchbank import Measurement
from patchbank.server.policy import Policy, decided, output_of, policy_of
from patchbank.store import streams
from patchbank.store.values import Actor
from server.conftest import calling, service_of

BY = Actor("test")


@pytest.fixture(scope="module")
def good(model, pictures):
    return replace(model.predict(pictures[0]), review_rate=0.0)


@pytest.fixture(scope="module")
def bad(model, pictures):
    return model.predict(pictures[1])


def strange(result):
    measured = Measurement("brightness", 9.0, 0.0, 1.0, "too bright")
    return replace(result, scene=(measured,))


@pytest.mark.parametrize("review", ["ng", "ok"])
@pytest.mark.parametrize("out_of_scene", ["ng", "review"])
def test_verdicts_and_outputs(good, bad, review, out_of_scene):
    policy = Policy(None, review, out_of_scene)
    of = {name: (said.verdict, said.output) for name, said in {
        "good": decided(good, policy),
        "bad": decided(bad, policy),
        "odd": decided(good, replace(policy, review_rate=1.0)),
        "strange": decided(strange(good), policy),
        "strange and bad": decided(strange(bad), policy),
        "no number": decided(replace(good, score=float("nan")), policy),
        "no threshold": decided(replace(good, threshold=None, p_value=None), policy),
    }.items()}  # fmt: skip
    assert of == {
        "good": ("ok", "ok"),
        "bad": ("ng", "ng"),
        "odd": ("review", review),
        "strange": ("ng", "ng") if out_of_scene == "ng" else ("review", review),
        "strange and bad": ("ng", "ng"),
        "no number": ("ng", "ng"),
        "no threshold": ("review", "ng"),
    }


def test_why_a_part_of_another_scene_is_ng(good):
    assert "too bright" in decided(strange(good), Policy(out_of_scene="ng")).reason


def test_an_error_never_passes():
    assert output_of("error", 1.0, Policy(review="ok")) == "ng"


@pytest.mark.parametrize(
    "given", [None, [], "ok", {"review": "yes"}, {"review": True}, {"out_of_scene": 1}, {"a": "ok"}]
)
def test_words_that_nobody_knows_let_nothing_pass(given):
    deployment = streams.Deployment(1, 1, "active", 1, None, given, None, "", "", None)
    assert policy_of(deployment) == Policy()
    assert policy_of(None) == Policy()


def test_the_answer_has_the_output_of_the_deployment_that_decided(model, files):
    service = service_of(model)

    def deploy(policy, rate=1.0):
        stream = service.store.read(streams.by_name, "part")
        version = service.store.read(streams.current, stream.id).model_version_id
        service.store.write(
            streams.deploy, stream.id, version, review_rate=rate, policy_json=policy, by=BY, reason="test"
        )
        call._runner.run(service.stations.refresh())

    def post(**headers):
        headers = {"Content-Type": "image/png", **headers}
        said = call.post("/api/v1/inspections", content=files[0], headers=headers).json()
        return said["verdict"], said["output"]

    with calling(service) as call:
        deploy(None, 0.0)
        assert post() == ("ok", "ok")
        deploy(None)
        assert post(**{"Idempotency-Key": "1"}) == ("review", "ng")
        deploy({"review": "ok"})
        assert post(**{"Idempotency-Key": "2"}) == ("review", "ok")
        assert post(**{"Idempotency-Key": "1"}) == ("review", "ng"), "as it was answered then"
        deploy({"review": "ng"})
        assert post(**{"Idempotency-Key": "2"}) == ("review", "ok"), "as it was answered then"


def test_a_policy_that_is_none_cannot_be_deployed(model):
    service = service_of(model)
    with calling(service) as call:
        for policy in ({"review": "yes"}, {"reviews": "ok"}, "ok", {"out_of_scene": "ok"}):
            given = {"version_id": 1, "reason": "r", "policy": policy}
            assert call.post("/api/v1/streams/part/deployments", json=given).status_code == 422
        given = {"version_id": 1, "reason": "r", "policy": {"review": "ok"}}
        said = call.post("/api/v1/streams/part/deployments", json=given)
        assert said.status_code == 201, said.text
        assert said.json()["policy"] == {"review": "ok", "out_of_scene": "review"}
