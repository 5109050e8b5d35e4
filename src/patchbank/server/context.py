"""What is known of the request that is being answered, wherever in the code that is."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_request_id: ContextVar[str] = ContextVar("request_id", default="")


def request_id() -> str:
    """Returns the id of the request that is being answered; empty outside of one."""
    return _request_id.get()


def begin(given: str | None) -> str:
    """Sets the id of a request: the caller's own, if it is a plain word, or a new one."""
    chosen = given if given and _GIVEN.fullmatch(given) else secrets.token_hex(8)
    _request_id.set(chosen)
    return chosen
