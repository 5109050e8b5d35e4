"""The command line. One module for each group of commands; `options.py` turns the config into flags."""

from __future__ import annotations


def main() -> None:
    """Entry point of `patchbank`."""
    from patchbank.cli.terminal import open_streams

    open_streams()
    from patchbank.cli.app import app

    app()
