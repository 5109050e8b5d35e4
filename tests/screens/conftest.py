"""A service over a small model with people, and Debian's Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from screens.sites import Site
from server.conftest import files, model, model_file, pictures, running, service_of  # noqa: F401  (fixtures)

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)


@pytest.fixture(scope="module")  # no longer: while it is open, an event loop runs, and nothing else can run one
def chromium() -> Iterator[object]:
    """Debian's Chromium, or a skip that says what is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=[f"--{flag}" for flag in QUIET], timeout=180_000
        )
        yield browser
        browser.close()


class Visitor:
    """A person at a browser. Whatever the browser asks of another host, or complains of, is noted."""

    def __init__(self, chromium, address: str, cookie: str = "", size=(1280, 800), **options) -> None:
        touch = {"has_touch": True, "viewport": {"width": size[0], "height": size[1]}}
        self.address = address
        self.context = chromium.new_context(base_url=address, **({"locale": "en-GB"} | touch | options))
        if cookie:
            self.context.add_cookies([{"name": "patchbank", "value": cookie, "url": address}])
        self.context.set_default_timeout(60_000)
        self.strangers: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", self._asked)
        self.tab = self.context.new_page()
        self.tab.on("console", self._said)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))

    def open(self, path: str):
        self.tab.goto(path)
        return self.tab

    def fits(self) -> bool:
        """Says whether nothing sticks out at the right."""
        return self.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def close(self) -> None:
        self.context.close()
        assert self.strangers == []
        assert self.complaints == []

    def _asked(self, request) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.strangers.append(request.url)

    def _said(self, message) -> None:
        refused = ("the server responded with a status of 4", "Response Status Error Code 4")  # tests look at these
        if message.type in ("error", "warning") and not any(each in message.text for each in refused):
            self.complaints.append(message.text)


@pytest.fixture(scope="module")
def site(chromium, model, files) -> Iterator[Site]:  # noqa: F811
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
