"""The way in: the first administrator, signing in and out, language and appearance, one's own password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from patchbank.server.access import EVERYBODY, check_origin, needs
from patchbank.server.api import session, users
from patchbank.server.callers import from_this_machine, has_admin, identify
from patchbank.server.problems import Problem
from patchbank.server.service import service_of
from patchbank.server.web.language import COOKIE, LANGUAGES
from patchbank.server.web.menu import MENU
from patchbank.server.web.rendering import THEME, THEMES, page
from patchbank.server.web.routing import Refused, back, form, given, like, pages
from patchbank.store.passwords import SHORTEST

routes = pages()
_A_YEAR = 365 * 86400


@routes.get("/")
@needs(access=EVERYBODY)
async def home(request: Request) -> Response:
    """To the first page that is of use."""
    if from_this_machine(request) and not await has_admin(service_of(request)):
        return back("/start")
    return back(MENU[0].path)


@routes.get("/start")
@like(users.add)
async def start(request: Request) -> Response:
    """The page that makes the first administrator."""
    if await has_admin(service_of(request)):
        return back("/")
    return await page(request, "start.html", shortest=SHORTEST)


@routes.post("/start")
@like(users.add)
async def make_administrator(request: Request) -> Response:
    """Makes the first administrator, who is signed in then."""
    if await has_admin(service_of(request)):
        return back("/")
    fields = await form(request)
    name = fields.get("name", "")
    try:
        password = _same(fields, "password")
        await users.add(request, given(users.NewUser, name=name, role="admin", password=password))
        done = await session.sign_in(request, given(session.Login, name=name, password=password))
    except Refused as error:
        return await page(request, "start.html", problem=error, shortest=SHORTEST, name=name)
    return _with_cookies(back("/"), done)


@routes.get("/sign-in")
@needs(access=EVERYBODY)
async def sign_in_page(request: Request) -> Response:
    """The page to sign in."""
    return await page(request, "sign_in.html", next="/")


@routes.post("/sign-in")
@like(session.sign_in)
async def sign_in(request: Request) -> Response:
    """Begins a session."""
    fields = await form(request)
    name, target = fields.get("name", ""), _own_path(fields.get("next", ""))
    try:
        done = await session.sign_in(request, given(session.Login, name=name, password=fields.get("password", "")))
    except Refused as error:
        return await page(request, "sign_in.html", problem=error, next=target, name=name)
    return _with_cookies(RedirectResponse(target, 303), done)


@routes.post("/sign-out")
@like(session.sign_out)
async def sign_out(request: Request) -> Response:
    """Ends the session."""
    return _with_cookies(back("/sign-in", "signed-out"), await session.sign_out(request))


@routes.post("/appearance")
@needs(access=EVERYBODY)
async def appearance(request: Request) -> Response:
    """Language and light or dark: for this browser; the language for the person, too."""
    caller = request.state.caller = await identify(request)
    check_origin(request, caller)
    fields = await form(request)
    answer = RedirectResponse(_own_path(fields.get("next", "")), 303)
    language, theme = fields.get("language"), fields.get("theme")
    if language in LANGUAGES:
        _remember(answer, COOKIE, language)
        if caller.user:
            await session.choose(request, given(session.Choice, locale=language))
    if theme in THEMES:
        _remember(answer, THEME, theme)
    elif theme:
        answer.delete_cookie(THEME, path="/")
    return answer


@routes.get("/account")
@like(session.change_password)
async def account(request: Request) -> Response:
    """The page to change one's password."""
    return await page(request, "account.html", shortest=SHORTEST)


@routes.post("/account/password")
@like(session.change_password)
async def change_password(request: Request) -> Response:
    """Changes one's password."""
    fields = await form(request)
    try:
        new = given(
            session.NewPassword, password=fields.get("password") or None, new_password=_same(fields, "new_password")
        )
        done = await session.change_password(request, new)
    except Refused as error:
        return await page(request, "account.html", problem=error, shortest=SHORTEST)
    return _with_cookies(back("/account", "password"), done)


def _same(fields: Mapping[str, str], name: str) -> str:
    """The password that was given twice. Raises Problem."""
    if fields.get(name, "") != fields.get("again", ""):
        raise Problem(422, "passwords-differ", "expected the same password twice; got two")
    return fields.get(name, "")


def _own_path(target: str) -> str:
    """A path of this service: nobody is sent elsewhere after signing in."""
    plain = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if plain else "/"


def _with_cookies(answer: Response, done: Response) -> Response:
    """The answer with the cookies of what the API has answered."""
    answer.raw_headers += [(name, value) for name, value in done.raw_headers if name == b"set-cookie"]
    return answer


def _remember(answer: Response, name: str, value: Any) -> None:
    answer.set_cookie(name, value, max_age=_A_YEAR, path="/", httponly=True, samesite="lax")
