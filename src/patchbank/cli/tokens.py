"""`patchbank tokens`: the machines that may ask a service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.options import command
from patchbank.cli.service_data import FOLDER, AsJson, Data, Database, Reason, change, reading
from patchbank.cli.terminal import note, say, say_json
from patchbank.errors import ConfigError

if TYPE_CHECKING:
    from patchbank.store.tokens import Token

app = typer.Typer(help="The machines that may ask a service: add, list, revoke.", no_args_is_help=True)

_SCOPES = "inspect|ingest|read|metrics"
_LONGEST_DAYS = 3650


@command(app, "tokens add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which machine it is for.")],
    scope: Annotated[
        list[str], typer.Option("--scope", metavar=_SCOPES, help="What it allows; may be given several times.")
    ],
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="NAME", help="For this stream only (default: for all).")
    ] = None,
    days: Annotated[
        int | None, typer.Option("--days", metavar="N", help="After how many days it expires (default: never).")
    ] = None,
    reason: Reason = "",
    data: Data = FOLDER,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Make a token, and print it: alone on stdout, this once. Only a digest of it is kept."""
    from patchbank.store.tokens import new_secret

    if days is not None and not 1 <= days <= _LONGEST_DAYS:
        raise ConfigError(f"--days: expected 1 to {_LONGEST_DAYS}; got {days}")
    expires_at = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat()
    secret = new_secret()
    arguments: dict[str, Any] = {"name": name, "scopes": scope, "stream": stream, "expires_at": expires_at}
    arguments |= {"prefix": secret.prefix, "secret_sha256": secret.sha256, "reason": reason}
    made = change(data, database, "add_token", arguments)
    if as_json:
        about = {"name": made, "prefix": secret.prefix, "scopes": scope, "stream": stream, "expires_at": expires_at}
        say_json({"token": secret.text, **about})
    else:
        note(f"token {made} ({secret.prefix}): keep it now, it cannot be shown again")
        say(secret.text)


@command(app, "tokens list")
def list_all(data: Data = FOLDER, database: Database = None, as_json: AsJson = False) -> None:
    """List the tokens, the newest first, without their secrets."""
    from patchbank.store import streams, tokens

    with reading(data, database) as store:
        found = store.read(tokens.listed)
        names = {each.id: each.name for each in store.read(streams.listed)}
    rows = [_facts(token, names) for token in found]
    if as_json:
        say_json({"tokens": rows})
        return
    for token, row in zip(found, rows, strict=True):
        used = f"last used {token.last_used_at:%Y-%m-%d %H:%M} UTC" if token.last_used_at else "never used"
        stream = f", stream {row['stream']}" if row["stream"] else ""
        say(f"{row['prefix']}  {token.name:<20} {token.scopes}{stream}, {used}{_end(token)}")


@command(app, "tokens revoke")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name, or its prefix.")],
    reason: Reason = "",
    data: Data = FOLDER,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Make a token worthless, from the next request on."""
    prefixes = change(data, database, "revoke_token", {"name": name, "reason": reason})
    if as_json:
        say_json({"name": name, "revoked": prefixes})
    else:
        say(f"token {name} revoked ({', '.join(prefixes)})")


def _facts(token: Token, streams: dict[int, str]) -> dict[str, Any]:
    times = ("created_at", "expires_at", "last_used_at", "revoked_at")
    return {
        "name": token.name,
        "prefix": token.prefix,
        "scopes": token.scopes.split(),
        "stream": None if token.stream_id is None else streams.get(token.stream_id),
        "created_by": token.created_by,
        **{each: at.isoformat() if (at := getattr(token, each)) else None for each in times},
    }


def _end(token: Token) -> str:
    if token.revoked_at:
        return ", revoked"
    if token.expires_at is None:
        return ""
    word = "expired" if token.expires_at <= datetime.now(UTC) else "expires"
    return f", {word} {token.expires_at:%Y-%m-%d}"
