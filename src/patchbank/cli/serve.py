"""`patchbank serve`: the service."""

from __future__ import annotations

from typing import Annotated

import typer

from patchbank.cli.options import command
from patchbank.cli.terminal import say
from patchbank.config import Runtime
from patchbank.errors import MissingExtraError
from patchbank.server.settings import Settings


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "serve")
    def serve(
        settings: Settings,
        runtime: Runtime,
        models: Annotated[
            list[str] | None,
            typer.Argument(metavar="[MODEL...]", help="Model files; each is served under its name without the ending."),
        ] = None,
    ) -> None:
        """Answer inspection requests over HTTP until SIGTERM or Ctrl-C. Prints its address on stdout once it is ready.
        Logs go to stderr."""
        try:
            from patchbank.server.run import serve as run
        except ImportError as error:
            raise MissingExtraError(
                f"'patchbank serve' needs packages that are not installed ({error.name}); run: "
                "pip install 'patchbank[serve]'"
            ) from error
        run(models or [], settings, runtime, say)
