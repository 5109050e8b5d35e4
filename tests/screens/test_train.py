"""The pages of training: from images to a model, from reviews to a candidate, and the jobs between."""

from __future__ import annotations

import time
from uuid import UUID

import numpy as np
import pytest

from parts import striped
from patchbank.config import Config, options
from patchbank.server.web import options_form
from patchbank.store import datasets, inspections, jobs, models, reviews
from patchbank.store.values import Actor
from screens.sites import HOSTILE, PHONE, serious
from server.conftest import png

SMALL = {"backbone": "efficientnet_lite0", "image_size": "64", "coreset_ratio": "0.3", "confidence": "0"}


@pytest.fixture(scope="module")
def parts() -> list[dict[str, object]]:
    """Files of good parts, as a browser uploads them; the last one has a name that is hostile."""
    rng = np.random.default_rng(5)
    names = [f"{number:02}.png" for number in range(11)] + [HOSTILE.replace("/", "") + ".png"]
    return [{"name": name, "mimeType": "image/png", "buffer": png(striped(rng))} for name in names]


def send(tab, selector: str) -> None:
    """Taps, and returns once the next page is there."""
    with tab.expect_navigation():
        tab.locator(selector).first.tap()


def ended(site, job_id: int) -> jobs.Job:
    end = time.monotonic() + 300
    while (found := site.read(jobs.get, job_id)).state in ("queued", "running") and time.monotonic() < end:
        time.sleep(0.1)
    return found


def newest(site) -> jobs.Job:
    return site.read(jobs.listed, limit=1)[0]


def test_from_images_to_a_candidate(visit, site, parts):
    tab = visit("engineer").open("/train")
    tab.fill("[name=name]", "caps of May")
    send(tab, "button:has-text('Make it')")
    assert tab.inner_text("h1") == "caps of May"
    tab.set_input_files("[name=image]", parts)
    send(tab, "button:has-text('Add')")
    assert tab.locator("main li.part").count() == 12
    assert "<img src=x onerror=alert(1)>" in tab.inner_text("main")
    tab.set_input_files("[name=image]", {"name": "no.png", "mimeType": "image/png", "buffer": b"no image"})
    send(tab, "button:has-text('Add')")
    assert "None was added" in tab.inner_text("#notices")
    tab.goto(tab.url.removesuffix("/images"))
    tab.locator("label.check:has-text('00.png')").tap()
    send(tab, "button:has-text('Leave the marked out')")
    assert tab.locator("li.part.out").count() == 1
    tab.fill("[name=model]", "cap")
    tab.fill("#fit [name=reason]", "new part")
    tab.locator("#fit summary").tap()
    for name, value in SMALL.items():
        tab.fill(f"#f-{name}", value)
    tab.fill("#f-max_false_alarms", "7")
    send(tab, "button:has-text('Make the model')")
    assert "options is not possible" in tab.inner_text("#notices")
    assert tab.input_value("#f-image_size") == "64"
    tab.locator("#fit summary").tap()
    tab.fill("#f-max_false_alarms", "0,2")
    send(tab, "button:has-text('Make the model')")
    tab.locator("a:has-text('To version 1')").wait_for(timeout=300_000)  # the page looks again by itself
    send(tab, "a:has-text('To version 1')")
    assert tab.inner_text("h1") == "cap"
    (made,) = site.read(models.versions, site.read(models.by_name, "cap").id)
    assert (made.status, made.action, made.images, made.max_false_alarms) == ("candidate", "fit", 11, 0.2)


def test_an_audit_shows_what_is_odd_and_what_is_marked_is_left_out(visit, site, parts):
    store = site.service.store
    made = store.write(datasets.add, "audited", by=Actor("test"))
    files = [(each["name"], each["buffer"]) for each in parts[:8]]
    files.append(("again.png", files[0][1]))
    new = [datasets.NewImage(store.blobs.put(data), name, "train", len(data)) for name, data in files]
    store.write(datasets.add_images, made.id, new)
    path = f"/train/datasets/{made.id}"
    fields = {f"option.{name}": value for name, value in SMALL.items()}
    assert site.post("engineer", f"{path}/audit", **fields).status_code == 303
    assert ended(site, newest(site).id).state == "done"
    tab = visit("engineer", java_script_enabled=False).open(path)
    assert tab.locator("#audit li.part").count() == 8
    tab.locator("#audit label.check").first.tap()
    send(tab, "#audit button:has-text('Leave the marked out')")
    assert tab.locator("#audit li.part.out").count() == 1
    assert sum(each.left_out for each in site.read(datasets.all_images, made.id)) == 1


def test_the_basket_is_learned_but_nothing_is_not_everything(visit, site):
    part = site.inspect(site.files[1], "Q1")
    site.service.store.write(reviews.add, site.read(inspections.get, UUID(part)).id, "good", by=Actor("x"))
    tab = visit("engineer", locale="de").open("/train")
    send(tab, ".rows a:has-text('part')")
    tab.locator("input[name=part]").first.uncheck()
    tab.fill("[name=reason]", "gute Teile")
    send(tab, "button:has-text('Lernen')")
    assert tab.locator("#notices .bad").count() == 1
    tab.fill("[name=reason]", "gute Teile")
    send(tab, "button:has-text('Lernen')")
    job = newest(site)
    assert (job.kind, job.reason, job.by) == ("update", "gute Teile", "engineer")
    if tab.locator("button:has-text('Abbrechen')").count():
        send(tab, "button:has-text('Abbrechen')")
    assert ended(site, job.id).state in ("cancelled", "done", "failed")
    tab.goto(f"/train/jobs/{job.id}")
    assert tab.locator("main .label").count() == 1


def test_every_option_of_the_config_is_in_the_form_and_has_its_type():
    shown = [each.name for group in options_form.groups().values() for each in group]
    assert sorted(shown) == sorted(each.name for each in options(Config))
    fields = {"option.image_size": "64x96", "option.seed": "7", "option.drop_outliers": "true", "option.white": "4095",
              "option.layers": "a, b", "option.coreset_ratio": "", "reason": "x"}  # fmt: skip
    wanted = {"image_size": "64x96", "seed": 7, "drop_outliers": True, "white": 4095.0, "layers": ["a", "b"]}
    assert options_form.chosen(fields) == wanted
    assert Config.from_dict(wanted).image_size == (64, 96)


@pytest.mark.parametrize(("scheme", "size"), [("light", (1280, 800)), ("dark", PHONE)])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(visit, site, scheme, size):
    site.service.store.write(datasets.add, f"empty {scheme}", by=Actor("test"))
    found = site.read(datasets.listed)
    full = next(each for each in found if each.images)
    visitor = visit("engineer", color_scheme=scheme, size=size)
    pages = ["/train", f"/train/datasets/{full.id}", f"/train/jobs/{newest(site).id}", "/train/models/part"]
    assert serious(visitor, pages) == []


def test_who_may_only_look_has_no_forms(visit, site):
    full = next(each for each in site.read(datasets.listed) if each.images)
    for path in ("/train", f"/train/datasets/{full.id}", "/train/models/part"):
        assert visit("operator").open(path).locator("main button").count() == 0, path
