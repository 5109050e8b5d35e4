"""The application: its name, its version, its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from patchbank import __version__
from patchbank.cli import (
    audit,
    audit_log,
    backbones,
    backup,
    benchmark,
    demo,
    drift,
    evaluate,
    explain,
    export,
    fit,
    history,
    info,
    predict,
    run,
    serve,
    threshold,
    tokens,
    tune,
    update,
    users,
)
from patchbank.cli.examples import panel_of
from patchbank.cli.terminal import say

app = typer.Typer(
    name="patchbank",
    help="Show it good parts; it finds what is wrong with new ones. On an ordinary CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Begin with: patchbank fit good/ -o part.patchbank && patchbank predict part.patchbank new/ --out results/",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"patchbank {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Show it good parts; it finds what is wrong with new ones. On an ordinary CPU."""


for module in (
    fit,
    audit,
    tune,
    predict,
    explain,
    evaluate,
    threshold,
    drift,
    benchmark,
    info,
    update,
    history,
    export,
    demo,
    run,
    serve,
    backup,
):
    module.register(app)
for name, group in (
    ("users", users.app),
    ("tokens", tokens.app),
    ("audit-log", audit_log.app),
    ("backbones", backbones.app),
):
    app.add_typer(group, name=name, rich_help_panel=panel_of(name))
