"""What the commands about a service's data share: its folder and database, who asks, and how secrets come in."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.options import login
from patchbank.cli.terminal import note
from patchbank.config import options
from patchbank.errors import ConfigError
from patchbank.server.settings import Settings

if TYPE_CHECKING:
    from patchbank.store.engine import Reading
    from patchbank.store.values import Actor

FOLDER = str(next(each.default for each in options(Settings) if each.name == "data"))
_LONGEST = 16_384  # bytes of a password's line

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DIR",
        show_default=False,
        help=f"Data folder of the service, as for 'serve' (default: {FOLDER})",
    ),
]
Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="The service's PostgreSQL database, if it has one: as for 'serve'."),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the audit log.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PasswordStdin = Annotated[
    bool,
    typer.Option("--password-stdin", help="Read the password from standard input: one line. Else it is asked for."),
]


def change(data: str, database: str | None, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Makes a change (`store.operations`), also while a service has the data open, in the name of who is logged in."""
    from patchbank.store.administration import administer

    if not Path(data).exists():
        note(f"{data} is new: nothing was kept there before")
    return administer(data, database, who().name, operation, arguments)


def who() -> Actor:
    """Who uses the command, for the audit log."""
    from patchbank.store.values import Actor

    return Actor(f"command line: {login() or 'unknown'}")


def reading(data: str, database: str | None) -> Reading:
    """The store to read from, also while a service has it open."""
    from patchbank.store.administration import open_to_read

    return open_to_read(data, database)


def hash_of_new_password(from_stdin: bool) -> str:
    """The hash of a password: from standard input, or asked for twice on a terminal. Raises ConfigError if there is
    none, StoreValueError if it is too short."""
    from patchbank.store import passwords

    return passwords.hashed(_line() if from_stdin else _asked())


def _line() -> str:
    content = sys.stdin.buffer.read(_LONGEST + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ConfigError("--password-stdin: expected a line of UTF-8; got other bytes") from None
    line, _, rest = text.partition("\n")
    if rest or len(content) > _LONGEST:
        raise ConfigError("--password-stdin: expected one line; got more")
    return line.removesuffix("\r")


def _asked() -> str:
    if not sys.stdin.isatty():
        raise ConfigError("expected a terminal to ask for the password, or --password-stdin; got neither")
    try:
        first = getpass.getpass("Password: ")
        again = getpass.getpass("The same again: ")
    except EOFError:
        raise ConfigError("expected a password; got the end of the input") from None
    if first != again:
        raise ConfigError("expected the same password twice; got two different ones; nothing was changed")
    return first
