"""Every screen, used for its purpose in Chromium: with a finger and with the keyboard, wide and narrow, light and dark,
with and without JavaScript, in English and German."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from patchbank.store import listing
from server.conftest import running, service_of
from server.people import PASSWORD, add_person, signed_in, token
from web.conftest import Visitor

HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e"  # as a serial, a batch, a comment, a kind
PHONE = (390, 844)


class Site:
    """A service with three parts a dozen times, and people."""

    def __init__(self, service, address: str, files) -> None:
        self.service, self.address = service, address
        self.machine = token(service, "inspect", "read")
        self.cookies = {}
        for name in ("viewer", "operator", "engineer", "admin"):
            add_person(service, name, name)
            self.cookies[name] = signed_in(service, name)["Cookie"].partition("=")[2]
        self.ids = [self.inspect(files[n % 3], f"A{n:03d}", f"B{n // 20}") for n in range(54)]
        self.hostile = self.inspect(files[1], HOSTILE, HOSTILE)

    def inspect(self, file: bytes, serial: str = "", batch: str = "") -> str:
        fields = {name: value for name, value in (("serial", serial), ("batch", batch)) if value}
        answer = httpx.post(
            f"{self.address}/api/v1/inspections",
            files={"image": ("part.png", file, "image/png")},
            data=fields,
            headers=self.machine,
            timeout=60,
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def read(self, function, *args, **named):
        return self.service.store.read(function, *args, **named)


@pytest.fixture(scope="module")
def site(chromium, model, files) -> Iterator[Site]:
    service = service_of(model)
    with running(service) as address:
        yield Site(service, address, files)


@pytest.fixture
def visit(chromium, site):
    """Opens the site for a person: `visit("operator", size=..., ...)`. All are looked through at the end."""
    visitors = []

    def begin(who: str = "", **options) -> Visitor:
        visitors.append(Visitor(chromium, site.address, site.cookies.get(who, ""), **options))
        return visitors[-1]

    yield begin
    for each in visitors:
        each.close()


@contextmanager
def empty_site(chromium) -> Iterator[Visitor]:
    """A service that was never used, visited from its own machine."""
    with running(service_of()) as address:
        visitor = Visitor(chromium, address)
        yield visitor
        visitor.close()


def axe() -> str:
    folder = Path(os.environ.get("PATCHBANK_NODE", Path.home() / ".cache" / "patchbank" / "node"))
    path = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        pytest.skip("no axe-core: run tools/node_packages.sh")
    return path.read_text("utf-8")


# --- the way in ---


def test_the_first_start_makes_an_administrator(chromium):
    with empty_site(chromium) as visitor:
        tab = visitor.open("/")
        assert tab.url.endswith("/start")
        tab.fill("[name=name]", "Anna")
        tab.fill("[name=password]", PASSWORD)
        tab.fill("[name=again]", PASSWORD + "!")
        tab.click("main button")
        assert "not the same" in tab.inner_text("#notices")
        assert tab.input_value("[name=name]") == "Anna"
        tab.fill("[name=password]", PASSWORD)
        tab.fill("[name=again]", PASSWORD)
        tab.click("main button")
        assert tab.inner_text(".who summary").strip() == "Anna"
        assert tab.locator(".empty").count() == 1  # nothing was inspected yet
        visitor.context.clear_cookies()
        assert tab.goto("/start").status == 401
        assert tab.locator("h1").inner_text() == "Sign in"


def test_signing_in_leads_to_the_page_that_was_asked_for(visit, site):
    visitor = visit()
    tab = visitor.open("/inspections?verdict=ng")
    for password in ("wrong password", PASSWORD):
        tab.fill("[name=name]", "viewer")
        tab.fill("[name=password]", password)
        tab.click("main button")
        if password != PASSWORD:
            assert "name or the password is wrong" in tab.inner_text("#notices")
    assert tab.url.endswith("/inspections?verdict=ng")
    assert tab.locator("h1").inner_text() == "Inspections"
    tab.click(".who summary")
    tab.click("text=Sign out")
    assert "signed out" in tab.inner_text("#notices")
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
    assert "password is changed" in tab.inner_text("#notices")
    assert visit("other").open("/inspections").locator("h1").inner_text() == "Sign in"


def test_language_and_appearance_are_kept(visit, site):
    visitor = visit("viewer", locale="de-DE", color_scheme="light")
    tab = visitor.open("/inspections?verdict=ng")
    assert tab.locator("h1").inner_text() == "Prüfungen"
    tab.click(".who summary")
    tab.click("button[value=dark]")
    assert tab.url.endswith("verdict=ng")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 25)"
    tab.click(".who summary")
    tab.click("button[value=en]")
    assert tab.locator("h1").inner_text() == "Inspections"
    assert tab.get_attribute("html", "lang") == "en"
    tab.click(".who summary")
    tab.click("button[value=device]")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 248)"


# --- inspections ---


def test_filters_are_in_the_address_and_in_the_export(visit, site):
    visitor = visit("viewer")
    tab = visitor.open("/inspections")
    assert "55 parts" in tab.inner_text(".head")
    tab.click("summary:has-text('Filters')")
    tab.locator("label:has([value=ng])").tap()
    tab.fill("[name=serial]", "A00")
    tab.fill("[name=since]", "2020-01-31T10:00")
    tab.select_option("[name=version_of]", "part/1")
    tab.click("button:has-text('Show')")
    assert "verdict=ng&serial=A00&model=part&version=1&since=2020-01-31T10%3A00%3A00" in tab.url
    serials = [text.split()[1] for text in tab.locator(".part .about").all_inner_texts()]
    assert serials == ["A007", "A004", "A001"]
    assert tab.input_value("[name=since]") == "2020-01-31T10:00"
    with tab.expect_download() as download:
        tab.click("a:has-text('CSV')")
    rows = Path(download.value.path()).read_text("utf-8").splitlines()
    assert len(rows) == 4
    tab.click("a:has-text('Table')")
    assert tab.locator("tbody tr").count() == 3
    assert "verdict=ng" in tab.url
    tab.click("text=Without filters")
    assert tab.locator("[name=serial]").input_value() == ""


@pytest.mark.parametrize("view", ["gallery", "table"])
def test_the_list_goes_on_and_the_arrow_keys_go_through_it(visit, view):
    visitor = visit("viewer")
    tab = visitor.open(f"/inspections?view={view}")
    parts = tab.locator("[data-part]")
    assert parts.count() == 48
    tab.click("text=Show more")
    tab.wait_for_function("document.querySelectorAll('[data-part]').length === 55")
    assert tab.locator("text=Show more").count() == 0
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    columns = 6 if view == "gallery" else 1
    focused = "[...document.querySelectorAll('[data-part]')].indexOf(document.activeElement)"
    assert tab.evaluate(focused) == 1 + columns


def test_reading_works_without_javascript(visit, site):
    visitor = visit("viewer", java_script_enabled=False)
    tab = visitor.open("/inspections")
    seen = tab.locator("[data-part]").count()
    tab.click("text=Show more")
    assert seen + tab.locator("[data-part]").count() == 55
    tab.click("text=To the beginning")
    assert tab.locator("[data-part]").count() == 48


# --- all pages ---


def pages_of(site: Site) -> list[str]:
    return ["/sign-in", "/account", "/inspections", "/inspections?view=table&verdict=ng&verdict=review"]


@pytest.mark.parametrize(("scheme", "size"), [("light", (1280, 800)), ("dark", PHONE)])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(visit, site, scheme, size):
    script, found = axe(), []
    visitor = visit("admin", color_scheme=scheme, size=size)
    for path in pages_of(site):
        tab = visitor.open(path)
        assert visitor.fits(), path
        tab.evaluate(script)
        run = "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa'], resultTypes: ['violations']})"
        found += [
            (path, each["id"], [node["html"][:150] for node in each["nodes"]][:3])
            for each in tab.evaluate(run)["violations"]
            if each["impact"] in ("serious", "critical")
        ]
    assert found == []


def test_nothing_that_people_write_is_markup(visit, site):
    visitor = visit("admin")
    shown = HOSTILE.replace("\u202e", "�")
    for path in ("/inspections?limit=1", "/inspections?view=table"):
        tab = visitor.open(path)
        assert tab.locator(f"text={shown}").count() > 0 or shown in tab.inner_text("main"), path
        assert tab.locator("main img[src=x]").count() == 0


def test_other_kinds_of_errors_are_pages(visit, site):
    visitor = visit("viewer")
    tab = visitor.open("/inspections?cursor=none")
    assert "not possible" in tab.inner_text("#notices")
    assert visitor.tab.goto("/inspections?stream=none").status == 404


def test_there_is_enough_to_page_through(site):
    """The test of the tests above."""
    assert site.read(listing.count, listing.Filter()).number == 55
