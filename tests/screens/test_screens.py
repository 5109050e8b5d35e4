"""Every screen, used for its purpose in Chromium: with a finger and with the keyboard, wide and narrow, light and dark,
with and without JavaScript, in English and German."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update

from patchbank.server.web.menu import SETTINGS
from patchbank.server.web.pages.line import bars_of
from patchbank.store import inspections, listing, preferences, reviews, streams, users
from patchbank.store.schema import inspections as table
from patchbank.store.schema import streams as streams_table
from patchbank.store.statistics import Hour
from patchbank.store.values import Actor
from screens.conftest import Visitor
from screens.sites import HOSTILE, PHONE, Site, serious
from server.conftest import running, service_of
from server.people import PASSWORD, add_person, signed_in
from store import made

WIDTH = "image => image.decode().then(() => image.naturalWidth)"


@contextmanager
def empty_site(chromium) -> Iterator[Visitor]:
    """A service that was never used, visited from its own machine."""
    with running(service_of()) as address:
        visitor = Visitor(chromium, address)
        yield visitor
        visitor.close()


def told(tab, text: str, where: str = "#notices") -> None:
    """Waits until the page says it."""
    tab.locator(where, has_text=text).first.wait_for()


# --- the way in ---


def test_the_first_start_makes_an_administrator(chromium):
    with empty_site(chromium) as visitor:
        tab = visitor.open("/")
        assert tab.url.endswith("/start")
        tab.fill("[name=name]", "Anna")
        tab.fill("[name=password]", PASSWORD)
        tab.fill("[name=again]", PASSWORD + "!")
        tab.click("main button")
        told(tab, "not the same")
        assert tab.input_value("[name=name]") == "Anna"
        tab.fill("[name=password]", PASSWORD)
        tab.fill("[name=again]", PASSWORD)
        tab.click("main button")
        told(tab, "Anna", ".who summary")
        assert tab.locator(".empty").count() == 1  # nothing was inspected yet
        visitor.context.clear_cookies()
        assert tab.goto("/start").status == 401
        told(tab, "Sign in", "h1")


def test_signing_in_leads_to_the_page_that_was_asked_for(visit, site):
    visitor = visit()
    tab = visitor.open("/inspections?verdict=ng")
    for password in ("wrong password", PASSWORD):
        tab.fill("[name=name]", "viewer")
        tab.fill("[name=password]", password)
        tab.click("main button")
        if password != PASSWORD:
            told(tab, "name or the password is wrong")
    told(tab, "Inspections", "h1")
    assert tab.url.endswith("/inspections?verdict=ng")
    tab.click(".who summary")
    tab.click("text=Sign out")
    told(tab, "signed out")
    assert tab.goto("/inspections").status == 401


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_nobody_is_sent_elsewhere_after_signing_in(site, target):
    fields = {"name": "viewer", "password": PASSWORD, "next": target}
    answer = httpx.post(f"{site.address}/sign-in", data=fields, headers={"Origin": site.address})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_password_is_changed_and_other_sessions_end(visit, site):
    add_person(site.service, "paula", "viewer")
    here, other = (signed_in(site.service, "paula")["Cookie"].partition("=")[2] for _ in range(2))
    site.cookies |= {"here": here, "other": other}
    tab = visit("here").open("/account")
    for field, value in (("password", PASSWORD), ("new_password", "another long one"), ("again", "another long one")):
        tab.fill(f"[name={field}]", value)
    tab.click("main button")
    told(tab, "password is changed")
    told(visit("other").open("/inspections"), "Sign in", "h1")


def test_language_and_appearance_are_kept(visit, site):
    visitor = visit("viewer", locale="de-DE", color_scheme="light")
    tab = visitor.open("/inspections?verdict=ng")
    told(tab, "Prüfungen", "h1")
    tab.click(".who summary")
    tab.click("button[value=dark]")
    tab.wait_for_selector("[data-theme=dark]")
    assert tab.url.endswith("verdict=ng")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 25)"
    tab.click(".who summary")
    tab.click("button[value=en]")
    told(tab, "Inspections", "h1")
    assert tab.get_attribute("html", "lang") == "en"
    tab.click(".who summary")
    tab.click("button[value=device]")
    tab.wait_for_selector("html:not([data-theme])")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 248)"


# --- inspections ---


def test_filters_are_in_the_address_and_in_the_export(visit, site):
    visitor = visit("viewer")
    tab = visitor.open("/inspections")
    assert re.search("[0-9]+ parts", tab.inner_text(".head"))
    tab.click("summary:has-text('Filters')")
    tab.locator("label:has([value=ng])").tap()
    tab.fill("[name=serial]", "A00")
    tab.fill("[name=since]", "2020-01-31T10:00")
    tab.select_option("[name=version_of]", "part/1")
    tab.click("button:has-text('Show')")
    tab.wait_for_url("**/inspections?*model=part*")
    assert "verdict=ng&serial=A00&model=part&version=1&since=2020-01-31T10%3A00%3A00" in tab.url
    serials = [text.split()[1] for text in tab.locator(".part .about").all_inner_texts()]
    assert serials == ["A007", "A004", "A001"]
    assert tab.input_value("[name=since]") == "2020-01-31T10:00"
    with tab.expect_download() as download:
        tab.click("a:has-text('CSV')")
    rows = Path(download.value.path()).read_text("utf-8").splitlines()
    assert len(rows) == 4
    tab.click("a:has-text('Table')")
    tab.wait_for_selector("tbody tr")
    assert tab.locator("tbody tr").count() == 3
    assert "verdict=ng" in tab.url
    tab.click("text=Without filters")
    tab.wait_for_url("**/inspections")
    assert tab.locator("[name=serial]").input_value() == ""


@pytest.mark.parametrize("view", ["gallery", "table"])
def test_the_list_goes_on_and_the_arrow_keys_go_through_it(visit, view):
    visitor = visit("viewer")
    tab = visitor.open(f"/inspections?serial=A&view={view}")
    parts = tab.locator("[data-part]")
    assert parts.count() == 48
    tab.click("text=Show more")
    parts.nth(53).wait_for()
    assert parts.count() == 54
    assert tab.locator("text=Show more").count() == 0
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    columns = 6 if view == "gallery" else 1
    focused = "[...document.querySelectorAll('[data-part]')].indexOf(document.activeElement)"
    assert tab.evaluate(focused) == 1 + columns


def test_reading_works_without_javascript(visit, site):
    visitor = visit("viewer", java_script_enabled=False)
    tab = visitor.open("/inspections?serial=A")
    seen = tab.locator("[data-part]").count()
    tab.click("text=Show more")
    tab.wait_for_selector("text=To the beginning")
    assert seen + tab.locator("[data-part]").count() == 54
    tab.click("text=To the beginning")
    tab.wait_for_selector("text=Show more")
    assert tab.locator("[data-part]").count() == 48


# --- one inspection ---


def test_an_inspection_says_what_and_why_and_takes_a_label(visit, site):
    visitor = visit("operator")
    part = site.inspect(site.files[1], "L1", "B7")
    site.inspect(site.files[0], "L2")
    tab = visitor.open(f"/inspections/{part}")
    assert tab.inner_text("h1") == "L1"
    assert "NG" in tab.inner_text(".decision")
    assert tab.locator(".contours polygon").count() > 0
    tab.locator("[data-look]").first.tap()  # the region nearly fills the image
    tab.tap("[data-zoom='1']")
    assert float(tab.get_attribute(".viewer", "data-scale")) > 1
    tab.tap("text=Whole image")
    assert tab.get_attribute(".viewer", "data-scale") == "1.00"
    tab.wait_for_selector("#why figure img")
    layer = tab.evaluate(
        "document.querySelector('.heat').decode().then(() => document.querySelector('.heat').naturalWidth)"
    )
    assert layer == 128
    tab.tap("text=Inspect the image again")
    told(tab, "Identical", "#replay")
    tab.tap("summary:has-text('Kind')")
    tab.fill("[name=kind]", HOSTILE)
    tab.fill("[name=comment]", "seen by hand " + HOSTILE)
    button = tab.locator("button:has-text('Defect')")
    assert button.bounding_box()["height"] >= 64
    button.tap()
    told(tab, "review is saved")
    assert "seen by hand <img" in tab.inner_text(".said")
    assert site.read(inspections.get, UUID(part)).label == "defect"
    tab.tap("text=Take the last one back")
    told(tab, "taken back")
    assert site.read(inspections.get, UUID(part)).label is None
    tab.keyboard.press("ArrowRight")
    tab.wait_for_selector("h1:has-text('L2')")
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_selector("h1:has-text('L1')")


def test_the_image_check_is_shown_with_its_ranges(visit, site):
    scene = {
        "brightness": {"value": 19.8, "low": 29.3, "high": 64.4, "reason": "darker: lens cap?"},
        "sharpness": {"value": 0.4, "low": 0.3, "high": 0.5, "reason": None},
    }
    stream = site.read(streams.by_name, "part")
    row = made.inspection(stream.id, at=datetime.now(UTC), verdict="review", in_scene=False, scene_json=scene)
    site.service.store.write(inspections.insert_one, row)
    visitor = visit("engineer", locale="de")
    tab = visitor.open(f"/inspections/{row.id}")
    said = tab.locator(".measures tbody tr").all_inner_texts()
    assert "Helligkeit" in said[0]
    assert "darker: lens cap?" in said[0]
    assert "19,8" in said[0]
    assert "29,3 – 64,4" in said[0]
    assert "Schärfe" in said[1]
    assert "zuerst nach Kamera" in tab.inner_text(".decision")


def test_who_may_only_look_has_no_buttons_and_no_other_way(visit, site):
    tab = visit("viewer").open(f"/inspections/{site.ids[1]}")
    assert tab.locator("button:has-text('Defect')").count() == 0
    answer = site.post("viewer", f"/inspections/{site.ids[1]}/reviews", label="good")
    assert answer.status_code == 403
    assert "role does not allow" in answer.text
    assert site.read(inspections.get, UUID(site.ids[1])).label is None


def test_nobody_overrules_what_they_have_not_seen(site):
    path = f"/inspections/{site.ids[2]}/reviews"
    assert site.post("operator", path, label="good", supersedes="").status_code == 303
    answer = site.post("engineer", path, label="defect", supersedes="")
    assert answer.status_code == 409
    assert "does not fit" in answer.text
    assert site.read(inspections.get, UUID(site.ids[2])).label == "good"


def test_an_image_that_is_gone_leaves_the_result(visit, site):
    part = site.inspect(site.files[1], "gone")
    gone = update(table).where(table.c.id == UUID(part)).values(image_gone_at=datetime.now(UTC))
    site.service.store.write(lambda connection: connection.execute(gone) and None)
    tab = visit("viewer").open(f"/inspections/{part}")
    told(tab, "The image is gone", "main")
    assert (
        tab.locator(".base").evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
    )  # the heat map
    assert "NG" in tab.inner_text(".decision")


# --- the review queue ---


@pytest.fixture
def waiting(site) -> list[str]:
    """31 parts that wait, the first in the queue."""
    for each in site.read(listing.queue, limit=50).items:
        site.service.store.write(reviews.add, each.id, "good", by=Actor("test"))
    return [site.keep(n, f"Q{n:02d}", needs_review=True) for n in range(31)]


def press(tab, key: str) -> None:
    """A key, once the part is there; returns when the next one is."""
    before = tab.get_attribute("#work[data-ready]", "data-ready")
    tab.keyboard.press(key)
    tab.wait_for_selector(f"#work[data-ready]:not([data-ready='{before}'])")


def test_thirty_labels_by_keyboard_alone(visit, site, waiting):
    visitor = visit("operator")
    tab = visitor.open("/review")
    assert tab.inner_text(".badge").strip().startswith("31")
    assert tab.locator(".verdict, .contours, .heat").count() == 0  # nobody is to be influenced
    tab.wait_for_selector("#work[data-ready]")
    for number in range(30):
        press(tab, "gdu"[number % 3])
    labels = [each.label for each in site.read(inspections.get_many, [UUID(each) for each in waiting])]
    assert labels == ["good", "defect", "unsure"] * 10 + [None]
    assert "Q29" in tab.inner_text(".last")
    assert tab.locator(".last .verdict").count() == 1
    assert tab.inner_text(".badge").strip().startswith("1")
    press(tab, "z")
    told(tab, "Q29", "#work h2")
    assert site.read(inspections.get, UUID(waiting[29])).label is None
    press(tab, "d")
    press(tab, "g")
    told(tab, "Nothing waits", "#work")


def test_a_part_is_left_for_later_and_two_people_do_not_overrule_each_other(visit, site, waiting):
    visitor = visit("operator", size=PHONE)
    tab = visitor.open("/review")
    tab.wait_for_selector("#work[data-ready]")
    tab.keyboard.press("l")
    tab.wait_for_selector("#work h2:has-text('Q01')")
    site.service.store.write(reviews.add, UUID(waiting[1]), "good", by=Actor("somebody else"))
    tab.wait_for_selector("#work[data-ready]")
    button = tab.locator("button:has-text('Defect')")
    assert button.bounding_box()["height"] >= 64
    button.tap()
    tab.wait_for_selector("#work h2:has-text('Q02')")
    told(tab, "does not fit")
    assert site.read(inspections.get, UUID(waiting[1])).label == "good"


def test_the_queue_works_without_javascript_and_shows_scores_if_it_may(visit, site, waiting):
    site.service.store.write(preferences.put, "review.hide_scores", False, by=Actor("test"))
    visitor = visit("operator", java_script_enabled=False)
    tab = visitor.open("/review")
    assert tab.locator("#work .verdict").count() == 1
    tab.click("button:has-text('Good')")
    told(tab, "Q01", "#work h2")
    tab.click("button:has-text('Take back')")
    told(tab, "Q00", "#work h2")
    site.service.store.write(preferences.reset, "review.hide_scores", by=Actor("test"))


# --- the line ---


def test_the_line_shows_the_newest_part_and_greys_when_nothing_is_heard(visit, site):
    visitor = visit("operator")
    tab = visitor.open("/line")
    site.inspect(site.files[1], "N1")
    told(tab, "N1", ".band.ng")
    site.inspect(site.files[0], "N2")
    told(tab, "N2", ".band.ok")
    assert tab.locator(".strip li").count() == 20
    width = tab.evaluate("document.querySelector('.station').clientWidth")
    assert tab.locator(".band.ok").bounding_box()["width"] >= width - 2
    visitor.context.set_offline(True)
    told(tab, "No connection. The verdicts are unknown.", ".lost")
    assert tab.locator(".band.ok").is_hidden()
    assert tab.locator(".lostband").is_visible()
    visitor.context.set_offline(False)
    tab.locator(".band.ok").wait_for()
    assert tab.locator(".lost").is_hidden()
    visitor.complaints[:] = [each for each in visitor.complaints if "net::ERR" not in each]


def test_a_station_is_paused_and_goes_on(visit, site):
    visitor = visit("operator", size=PHONE)
    tab = visitor.open("/line")
    button = tab.locator(".pausing summary")
    assert button.bounding_box()["height"] >= 64
    button.tap()
    tab.fill("[name=reason]", HOSTILE)
    tab.tap(".pausing form button")
    told(tab, "PAUSED", ".band.none")
    told(tab, "is paused")
    assert site.read(streams.by_name, "part").state == "paused"
    tab.locator(".pausing summary").tap()
    tab.fill("[name=reason]", "done")
    tab.tap(".pausing form button")
    told(tab, "inspects again")
    assert tab.locator(".band.none").count() == 0
    assert visit("viewer").open("/line").locator(".pausing").count() == 0


def test_a_line_that_does_not_report_has_no_verdict(visit, site):
    stream = site.service.store.write(streams.add, "silent")
    seen = update(streams_table).where(streams_table.c.id == stream.id)
    before = datetime.now(UTC) - timedelta(seconds=60)
    site.service.store.write(lambda connection: connection.execute(seen.values(last_seen_at=before)) and None)
    row = made.inspection(stream.id, at=datetime.now(UTC))
    site.service.store.write(inspections.insert_one, row)
    tab = visit("viewer", java_script_enabled=False).open("/line")
    section = tab.locator(f"[data-station='{stream.id}']")
    assert "NO WORD" in section.inner_text()
    assert section.locator(".band.ok").count() == 0
    site.service.store.write(streams.archive, stream.id, by=Actor("test"), reason="test")


def test_hours_without_parts_are_drawn_too():
    since = datetime(2026, 3, 1, 6, tzinfo=UTC)
    bars = bars_of([Hour(since + timedelta(hours=2), 6, 2, 1, 1)], since, 4)
    assert [(bar.ok, bar.review, bar.ng) for bar in bars] == [(0, 0, 0), (0, 0, 0), (36, 12, 12), (0, 0, 0)]
    assert bars[2].rejected == 2


# --- settings ---


def test_people_are_added_and_changed(visit, site):
    tab = visit("admin").open("/settings/users")
    form = tab.locator("form[action='/settings/users/add']")
    form.locator("[name=name]").fill("<b>Nina</b>")
    form.locator("[name=password]").fill(PASSWORD)
    form.locator("button").click()
    told(tab, "not possible")  # no such name
    form.locator("[name=name]").fill("Nina")
    form.locator("[name=password]").fill(PASSWORD)
    form.locator("[name=role]").select_option("engineer")
    form.locator("button").click()
    told(tab, "person is added")
    row = tab.locator("tr:has-text('Nina')")
    row.locator("summary").click()
    row.locator("[name=disabled]").select_option("true")
    row.locator("[name=reason]").fill(HOSTILE)
    row.locator("form button").click()
    told(tab, "may not sign in", "tr:has-text('Nina')")
    assert site.read(users.by_name, "Nina").disabled_at is not None


def test_a_token_is_shown_once_works_and_is_revoked(visit, site):
    tab = visit("admin").open("/settings/tokens")
    form = tab.locator("form[action='/settings/tokens/add']")
    form.locator("[name=name]").fill("cell 7")
    form.locator("label:has-text('read')").tap()
    form.locator("button").click()
    text = tab.inner_text("#token")
    headers = {"Authorization": f"Bearer {text}"}
    assert httpx.get(f"{site.address}/api/v1/streams", headers=headers).status_code == 200
    tab = visit("admin").open("/settings/tokens")
    assert text not in tab.content()
    tab.locator("tr:has-text('cell 7') button").click()
    told(tab, "token is revoked")
    assert httpx.get(f"{site.address}/api/v1/streams", headers=headers).status_code == 401


def test_settings_are_changed_and_the_audit_log_says_by_whom(visit, site):
    tab = visit("admin").open("/settings")
    row = "form[action='/settings/retention.ok_days']"
    assert tab.locator("form.setting").count() == len(preferences.KNOWN)  # whatever is declared is here
    tab.fill(f"{row} input", "soon")
    tab.click(f"{row} button:has-text('Save')")
    told(tab, "not possible")
    tab.fill(f"{row} input", "14")
    tab.click(f"{row} button:has-text('Save')")
    told(tab, "Saved")
    assert site.read(preferences.get, "retention.ok_days") == 14
    tab.click(f"{row} button:has-text('Default')")
    told(tab, "the default", row)
    tab.goto("/settings/audit?action=setting.put")
    rows = tab.locator("tbody tr").all_inner_texts()
    assert "setting/retention.ok_days" in rows[0]
    assert "admin" in rows[0]
    tab.click("text=Check the whole log")
    told(tab, "The log is whole", "main")
    assert site.post("viewer", "/settings/retention.ok_days", value="1").status_code == 403
    assert visit("viewer").open("/settings").locator("button:has-text('Save')").count() == 0


def test_streams_are_added_and_backups_are_made(visit, site):
    tab = visit("admin").open("/settings/streams")
    form = tab.locator("form[action='/settings/streams/add']")
    form.locator("[name=name]").fill("second")
    form.locator("[name=site]").fill(HOSTILE)
    form.locator("button").click()
    told(tab, "second", "tbody")
    assert tab.locator("main img[src=x]").count() == 0
    site.service.store.write(streams.archive, site.read(streams.by_name, "second").id, by=Actor("test"), reason="test")
    tab.goto("/settings/backup")
    tab.click("text=Make a backup now")
    told(tab, "done", "tbody")
    with tab.expect_download() as download:
        tab.click("a:has-text('Fetch')")
    assert Path(download.value.path()).stat().st_size > 10_000
    tab.click("button:has-text('Remove')")
    told(tab, "No backup yet", "main")


# --- all pages ---


def pages_of(site: Site) -> list[str]:
    site.service.store.write(inspections.ask_for_review, UUID(site.ids[4]))
    return [
        "/sign-in",
        "/account",
        "/inspections?serial=A00",
        "/inspections?view=table&verdict=ng&verdict=review&batch=B1",
        f"/inspections/{site.hostile}",
        "/review",
        "/line",
        *(entry.path for entry in SETTINGS),
    ]


def test_axe_finds_nothing_serious(visit, site):
    assert serious(visit("admin", color_scheme="light"), pages_of(site)) == []


def test_dark_and_narrow_pages_have_contrast_and_room(visit, site):
    visitor = visit("admin", color_scheme="dark", size=PHONE)
    assert serious(visitor, pages_of(site), ("color-contrast",)) == []  # the rest is as in the light


def test_nothing_that_people_write_is_markup(visit, site):
    site.post("operator", f"/inspections/{site.hostile}/reviews", label="defect", kind=HOSTILE, comment=HOSTILE)
    site.post("operator", f"/inspections/{site.hostile}/reviews/undo")
    visitor = visit("admin")
    shown = HOSTILE.replace("\u202e", "�")
    lists = [f"/inspections?serial=<&view={view}" for view in ("gallery", "table")]
    for path in (*lists, f"/inspections/{site.hostile}", f"/review?part={site.hostile}"):
        tab = visitor.open(path)
        assert tab.locator(f"text={shown}").count() > 0 or shown in tab.inner_text("main"), path
        assert tab.locator("main img[src=x]").count() == 0


def test_other_kinds_of_errors_are_pages(visit, site):
    visitor = visit("viewer")
    tab = visitor.open("/inspections?cursor=none")
    told(tab, "not possible")
    assert visitor.tab.goto("/inspections?stream=none").status == 404
    assert visitor.tab.goto("/nowhere").status == 404
    told(tab, "nothing at this address")
    assert httpx.get(f"{site.address}/nowhere").headers["content-type"] == "application/problem+json"


def test_there_is_enough_to_page_through(site):
    """The test of the tests above."""
    assert site.read(listing.count, listing.Filter(serial="A")).number == 54
