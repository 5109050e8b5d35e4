"""The pages of models: versions are read, compared, approved, deployed, retired; a model file is uploaded."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from patchbank import PatchCore
from patchbank.server.registering import described
from patchbank.server.web.charts import Axis, apart, axis, ticks
from patchbank.store import inspections, jobs, models, reviews, streams
from patchbank.store.values import Actor
from screens.sites import HOSTILE, PHONE, serious
from server.people import PASSWORD
from store import made


def saved(model: PatchCore, name: str = "part") -> Path:
    path = Path(tempfile.mkdtemp(prefix="patchbank-test-")) / f"{name}.patchbank"
    model.save(path)
    return path


def add_version(site, model: PatchCore, rate: float, note: str = "") -> models.ModelVersion:
    """A candidate of the model `part` with another threshold."""
    file = saved(model.with_threshold(max_false_alarms=rate, note=note, author=note))
    store = site.service.store
    new = described(model, store.models.put_file(file), file.stat().st_size, action="threshold")
    new = described(PatchCore.load(file), new.file_sha256, new.file_size, action="threshold")
    return store.write(models.add_version, site.read(models.by_name, "part").id, new, by=Actor("eve"))


def send(tab, selector: str) -> None:
    """Taps, and returns once the next page is there."""
    with tab.expect_navigation():
        tab.tap(selector)


def gate(lost: str) -> dict[str, object]:
    """As the service keeps it. lost: the id of a defect."""
    none = {"number": 0, "first": []}
    part = {"id": lost, "before": {"verdict": "ng", "score": 9.5}, "after": {"verdict": "ok", "score": 4.5}}
    image = {"id": HOSTILE, "before": None, "after": {"verdict": "ok", "score": 1.0}}
    return {
        "passed": False,
        "thresholds": [5.0, 6.0],
        "changed_sides": {"number": 1, "first": [made_side()]},
        "defects": {
            "inspected": 9, "found": 7, "found_before": 8, "unreadable": 0,
            "lost": {"number": 1, "first": [part]}, "missed": {"number": 2, "first": [part, image]},
            "weaker": none, "gained": none,
        },
        "goods": {"inspected": 4, "flagged": 0, "flagged_before": 1, "cleared": none, "newly_flagged": none},
        "warnings": [f"the threshold rises {HOSTILE}"],
    }  # fmt: skip


def made_side() -> dict[str, object]:
    return {"image": HOSTILE, "before": 4.0, "after": 7.0, "over_before": False, "over_after": True}


@pytest.fixture(scope="module")
def versions(site, model):
    """Two candidates beside the version that decides: 2 was uploaded, 3 loses a defect, and has a hostile note."""
    second, third = add_version(site, model, 0.3), add_version(site, model, 0.4, HOSTILE)
    site.service.store.write(models.set_gate, third.id, gate(site.ids[1]))
    return second, third


def test_a_version_is_approved_watches_decides_and_the_way_back_is_one_step(visit, site, versions):
    tab = visit("engineer").open("/models")
    assert tab.locator(".tiles .card").count() == 1
    assert "part" in tab.inner_text(".tiles li ul")
    send(tab, ".tiles h2 a")
    send(tab, "a:text-is('Version 2')")
    tab.tap("#deploy summary")
    assert tab.locator("#deploy [value=active]").is_disabled()  # only an approved one may decide
    tab.fill("#deploy [name=reason]", "to see what it says")
    tab.fill("#deploy [name=password]", "wrong password")
    send(tab, "#deploy button")
    assert "password is wrong" in tab.inner_text("#notices")
    assert tab.input_value("#deploy [name=reason]") == "to see what it says"
    assert tab.input_value("#deploy [name=password]") == ""
    tab.fill("#deploy [name=password]", PASSWORD)
    send(tab, "#deploy button")
    assert "It decides nothing" in tab.inner_text("#notices")
    tab.tap("#approve summary")
    for field, value in (("reason", "the gate is fine"), ("password", PASSWORD)):
        tab.fill(f"#approve [name={field}]", value)
    send(tab, "#approve button")
    assert "is approved" in tab.inner_text("#notices")
    tab.tap("#deploy summary")
    for field, value in (("reason", "fewer false alarms"), ("password", PASSWORD), ("review_rate", "0,05")):
        tab.fill(f"#deploy [name={field}]", value)
    send(tab, "#deploy button")
    assert "decides from the next part on" in tab.inner_text("#notices")
    stream = site.read(streams.by_name, "part").id
    now = site.read(streams.current, stream)
    assert (now.model_version_id, now.review_rate, now.by) == (versions[0].id, 0.05, "engineer")
    assert now.reason == "fewer false alarms"

    send(tab, "a:has-text('Back to version 1')")
    assert tab.locator("#deploy").get_attribute("open") is not None
    for field, value in (("reason", "it lets scratches pass"), ("password", PASSWORD)):
        tab.fill(f"#deploy [name={field}]", value)
    send(tab, "#deploy button")
    assert site.read(streams.current, stream).model_version_id == site.known.model_version_id
    tab.tap("summary:has-text('Stop watching')")
    for field, value in (("reason", "seen enough"), ("password", PASSWORD)):
        tab.fill(f".act [name={field}]", value)
    send(tab, ".act button")
    assert site.read(streams.current, stream, "shadow").model_version_id is None


def test_the_gate_says_what_is_lost_and_blocks(visit, site, versions):
    tab = visit("engineer").open("/models/part?version=3")
    said = tab.inner_text("#gate")
    assert all(words in said for words in ("not passed", "7 / 9", "before: 8", "the threshold rises"))
    assert tab.locator("#gate details[open] a.part").get_attribute("href") == f"/inspections/{site.ids[1]}"
    tab.tap("#gate summary:has-text('Missed')")
    assert tab.locator("#gate details:has(summary:has-text('Missed')) .part").count() == 2
    tab.tap("#approve summary")
    for field, value in (("reason", "never mind"), ("password", PASSWORD)):
        tab.fill(f"#approve [name={field}]", value)
    send(tab, "#approve button")
    assert "does not fit" in tab.inner_text("#notices")
    assert "loses a defect" in tab.inner_text("#notices")
    assert site.read(models.version, versions[1].id).status == "candidate"


def test_thresholds_say_what_the_images_support_and_what_labels_say(visit, site):
    scores = {"defect": (0.001, 1e9), "good": (1e9,)}
    for label, values in scores.items():
        for score in values:
            version = site.known.model_version_id
            row = made.inspection(site.known.stream_id, at=datetime.now(UTC), score=score, model_version_id=version)
            site.service.store.write(inspections.insert_one, row)
            site.service.store.write(reviews.add, row.id, label, by=Actor("test"))
    tab = visit("viewer").open("/models/part?version=1")
    assert "2 defects and 1 good parts" in tab.inner_text("#thresholds")
    own = tab.inner_text("#thresholds .own")  # 20 % on average, which 12 images support
    assert "1 of 2 defects pass" in own
    assert "1 of 1 good flagged" in own
    assert "needs" not in own
    assert "needs 999 images" in tab.inner_text("#thresholds .matrix")
    assert tab.locator(".chart .dot.open").count() > 0
    assert tab.locator(".chart .dot.kept").count() > 0
    assert tab.locator(".chart .now").count() == 1


def test_another_promise_and_the_gate_are_jobs(visit, site, versions):
    tab = visit("engineer").open("/models/part?version=3")
    tab.tap("summary:has-text('Promise something else')")
    tab.fill("#promise [name=max_false_alarms]", "7")
    tab.fill("#promise [name=reason]", "fewer stops")
    send(tab, "#promise button")
    assert tab.locator("#notices .bad").count() == 1
    assert tab.input_value("#promise [name=reason]") == "fewer stops"
    tab.fill("#promise [name=max_false_alarms]", "0,1")
    send(tab, "#promise button")
    job = site.read(jobs.listed, limit=1)[0]
    assert (job.kind, job.args["options"], job.reason) == ("threshold", {"max_false_alarms": 0.1}, "fewer stops")
    tab.goto("/models/part?version=3")
    send(tab, "#gate button:has-text('Ask the gate')")
    asked = site.read(jobs.listed, limit=1)[0]
    assert (asked.kind, asked.args["version_id"]) == ("gate", versions[1].id)
    for each in (asked, job):
        site.post("engineer", f"/train/jobs/{each.id}/cancel")


def test_two_versions_are_compared(visit, site, versions):
    tab = visit("viewer", java_script_enabled=False).open("/models/part?version=3")
    tab.select_option("[name=with]", "1")
    send(tab, "#difference button")
    said = tab.inner_text("#difference")
    assert "20 %" in said
    assert "40 %" in said
    assert "0 vectors joined, 0 left" in said
    assert visit("viewer").open("/models/part?version=1&with=9").locator("h1").count() == 0


def test_a_model_file_is_uploaded_and_what_is_none_is_refused(visit, site, model, tmp_path):
    visitor = visit("engineer", locale="de-DE")
    tab = visitor.open("/models")
    wrong = tmp_path / "wrong.patchbank"
    wrong.write_bytes(b"no model")
    for path, name in ((wrong, "cap"), (saved(model.with_threshold(max_false_alarms=0.25)), "cap")):
        if path == wrong:
            tab.tap("summary:has-text('Modelldatei')")
        tab.set_input_files("[name=file]", path)
        tab.fill("[name=name]", name)
        tab.fill("[name=reason]", "vom Prüfstand")
        send(tab, "main button")
        if path == wrong:
            assert "nicht als Modell zu gebrauchen" in tab.inner_text("#notices")
    assert tab.inner_text("h1") == "cap"
    assert "ist ein Kandidat" in tab.inner_text("#notices")
    found = site.read(models.versions, site.read(models.by_name, "cap").id)
    assert [(each.number, each.status, each.status_by) for each in found] == [(1, "candidate", "engineer")]
    tab.tap("summary:has-text('Zurückziehen')")
    tab.fill("#retire [name=reason]", "ein Versuch")
    send(tab, "#retire button")
    assert site.read(models.version, found[0].id).status == "retired"
    assert site.post("engineer", "/models", name="../x", reason="").status_code == 422


def test_who_may_only_look_has_no_forms_and_no_other_way(visit, site, versions):
    tab = visit("operator").open("/models/part")
    assert tab.locator("main form[method=post]").count() == 0
    for action in ("approve", "retire", "deploy"):
        answer = site.post("operator", f"/models/part/versions/2/{action}", reason="x", password=PASSWORD)
        assert answer.status_code == 403


def test_nothing_that_people_write_is_markup(visit, site, versions):
    tab = visit("admin").open("/models/part?version=3&with=1")
    assert HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}") in tab.inner_text("main")
    assert tab.locator("main img[src=x]").count() == 0


@pytest.mark.parametrize(("scheme", "size"), [("light", (1280, 800)), ("dark", PHONE)])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(visit, site, versions, scheme, size):
    visitor = visit("admin", color_scheme=scheme, size=size)
    assert serious(visitor, ["/models", "/models/part?version=3&with=1"]) == []


def test_places_on_an_axis():
    assert Axis(1, 100, 0, 10, logarithmic=True).at(10) == 5
    assert [Axis(0, 10, 100, 0).at(value) for value in (-5, 0, 5, 99)] == [100, 100, 50, 0]
    assert [tick.value for tick in ticks(Axis(-0.3, 1.2, 0, 1))] == [0, 0.5, 1]
    assert ticks(axis([7.0, 7.0], 0, 1))
    assert ticks(axis([], 0, 1))
    assert apart([10, 0, 1], 5) == [10, 0, 5]
