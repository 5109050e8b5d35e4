"""From values to a page: the templates, what all pages show, and errors as pages."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from patchbank.reports.html import visible
from patchbank.server.access import caller_of
from patchbank.server.callers import identify
from patchbank.server.problems import Problem, as_problem
from patchbank.server.service import service_of
from patchbank.server.web import formats, messages
from patchbank.server.web.language import LANGUAGES, language_of, translate
from patchbank.server.web.menu import MENU, SETTINGS, Entry
from patchbank.server.web.static_files import folder
from patchbank.store import listing
from patchbank.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment
    from sqlalchemy import Connection

THEME = "patchbank-theme"
THEMES = ("light", "dark")
_MOST_WAITING = 99


async def page(
    request: Request, template: str, *, status: int = 200, problem: Exception | None = None, **values: Any
) -> HTMLResponse:
    """The page. problem: why a form was not carried out; it is shown above, and gives the status."""
    shown = as_problem(problem) if problem else None
    common = await _common(request)
    html = environment(common["language"]).get_template(template).render(common | values | {"problem": shown})
    headers = dict(shown.headers) if shown else {}
    return HTMLResponse(html, shown.status if shown else status, headers)


async def refusal(request: Request, problem: Problem) -> Response:
    """The page of an error; without a session, the one to sign in."""
    by_script = request.headers.get("hx-request") == "true"
    if problem.kind == "who":
        if by_script:  # a part of a page: the whole page asks to sign in
            return Response(status_code=problem.status, headers={"HX-Refresh": "true"})
        return await page(request, "sign_in.html", problem=problem, next=_next(request), asked=False)
    if by_script:
        language = language_of(request)
        html = environment(language).get_template("notice.html").render(problem=problem)
        return HTMLResponse(html, problem.status, {"HX-Retarget": "#notices", "HX-Reswap": "innerHTML"})
    return await page(request, "refused.html", problem=problem)


@cache
def environment(language: str) -> Environment:
    """The templates in a language: every value is escaped, and one that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from patchbank.server import web

    found = Environment(
        loader=PackageLoader(web.__name__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_told,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    found.install_gettext_callables(  # type: ignore[attr-defined]  # of the extension
        lambda text: translate(language, text), lambda one, many, n: translate(language, one if n == 1 else many),
        newstyle=True,
    )  # fmt: skip
    for name in ("when", "ago", "number", "percent", "size"):
        found.filters[name] = _in_language(getattr(formats, name), language)
    found.filters["local_input"] = formats.local_input
    found.globals |= {
        "version": __version__,
        "static": folder(),
        "languages": LANGUAGES,
        "done_texts": messages.DONE,
        "problem_texts": messages.PROBLEMS,
        "other_problem": messages.OTHER,
        "zone": formats.zone,
    }
    return found


async def _common(request: Request) -> dict[str, Any]:
    """What all pages show: who is signed in, the menu, how many parts wait for a review."""
    service = service_of(request)
    if not hasattr(request.state, "caller"):  # a page for everybody, or refused before it was known who asks
        with suppress(Problem):
            request.state.caller = await identify(request)
    caller = caller_of(request)
    known = caller.kind != "nobody"
    theme = request.cookies.get(THEME, "")
    return {
        "request_path": request.url.path,
        "query": request.query_params,
        "language": language_of(request),
        "theme": theme if theme in THEMES else "",
        "caller": caller,
        "menu": _allowed(MENU, caller) if known else [],
        "settings_menu": _allowed(SETTINGS, caller) if known else [],
        "waiting": await service.read(_waiting) if known else None,
        "site": service.preference("site") if known else "",
        "open_to_this_machine": caller.kind == "local",
        "done": request.query_params.get("done", ""),
    }


def _allowed(entries: Sequence[Entry], caller: Any) -> list[Entry]:
    return [each for each in entries if each.access.admits(caller)]


def _waiting(connection: Connection) -> listing.Count:
    return listing.count(connection, listing.Filter(needs_review=True), _MOST_WAITING)


def _next(request: Request) -> str:
    """Where to go after signing in: the page that was asked for."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.url.path}{query}" if request.method == "GET" else "/"


def _told(value: Any) -> Any:
    """Texts whose every sign shows (markup is made of such already); never None, which is a mistake of a template."""
    if value is None:
        raise TypeError("a page was about to show None")
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _in_language(function: Any, language: str) -> Any:
    def filtered(value: Any, *args: Any, **named: Any) -> Any:
        return function(value, language, *args, **named)

    return filtered
