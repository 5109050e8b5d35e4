"""The command line. One module for each group of commands; `options.py` turns the config into flags."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `patchbank`."""
    from patchbank.cli.terminal import drop_stdout, note, open_streams

    open_streams()
    from patchbank.cli.app import app
    from patchbank.errors import OutputError

    try:
        app()
    except OSError as error:  # help, the version, a usage error: what the commands print, they see to themselves
        drop_stdout()
        said = error if isinstance(error, OutputError) else f"cannot print: {error.strerror or error}"
        note(f"patchbank: {said}")
        sys.exit(OutputError.exit_code)  # not 1, which says that an anomaly was found
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # the reader of a help page has seen enough
            sys.exit(0)
        raise
