"""`patchbank benchmark`: fit and evaluate every category of a benchmark."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from patchbank.cli.evaluate import show
from patchbank.cli.fit import report_skipped
from patchbank.cli.options import command, progress_bar
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Config, Runtime
from patchbank.errors import DatasetError
from patchbank.util.wording import counted


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "benchmark")
    def benchmark(
        root: Annotated[str, typer.Argument(metavar="ROOT", help="Folder of MVTec AD categories (or one of them).")],
        config: Config,
        runtime: Runtime,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Fit and evaluate every category of an MVTec-style folder; print a table with means. Categories that cannot be
        used are named at the end, and the exit code is 3."""
        from patchbank.evaluation.benchmark import benchmark as run

        with progress_bar() as progress:
            report = run(root, config, runtime=runtime, progress=progress)
        if as_json:
            say_json(report.to_dict())
        else:
            _print_table(report.rows())
        for category in report.categories:
            images = [*category.skipped, *(skipped.reason for skipped in category.evaluation.skipped)]
            report_skipped([(category.name, reason) for reason in images])
        if report.failed:
            note(f"{counted(len(report.failed), 'category', 'categories')} could not be used:")
            for name, reason in report.failed.items():
                note(f"  {name}: {reason}")
            raise typer.Exit(DatasetError.exit_code)


def _print_table(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    cells = [names, *([show(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        first, *rest = (
            cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        say("  ".join([first, *rest]).rstrip())
