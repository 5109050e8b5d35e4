"""`patchbank benchmark`: fit and evaluate every category of a benchmark."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from patchbank.cli.evaluate import show
from patchbank.cli.options import command, progress_bar
from patchbank.config import Config, Runtime


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "benchmark")
    def benchmark(
        root: Annotated[str, typer.Argument(metavar="ROOT", help="Folder of MVTec AD categories (or one of them).")],
        config: Config,
        runtime: Runtime,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Fit and evaluate every category of an MVTec-style folder; print a table with means."""
        from patchbank.evaluation.benchmark import benchmark as run

        with progress_bar() as progress:
            report = run(root, config, runtime=runtime, progress=progress)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), allow_nan=False))
            return
        rows = report.rows()
        names = list(rows[0])
        cells = [names, *([show(row[name]) for name in names] for row in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
        for line in cells:
            first, *rest = (
                cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            typer.echo("  ".join([first, *rest]).rstrip())
