"""`patchbank evaluate`: how good a model is on a labelled data set."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from patchbank.cli.fit import report_skipped
from patchbank.cli.options import command, progress_bar
from patchbank.cli.terminal import say, say_json
from patchbank.config import Runtime
from patchbank.errors import ImageError


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "evaluate")
    def evaluate(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        data: Annotated[str, typer.Argument(metavar="DATASET", help="MVTec AD folder, or CSV file with test images.")],
        runtime: Runtime,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Measure a model on the labelled test images of a data set. Unreadable images are counted and named, and the
        exit code is 3."""
        from patchbank.evaluation.datasets import read_dataset
        from patchbank.evaluation.evaluate import KEYS
        from patchbank.evaluation.evaluate import evaluate as run
        from patchbank.model import PatchCore

        dataset = read_dataset(data)
        detector = PatchCore.load(model, runtime=runtime)
        with progress_bar() as progress:
            evaluation = run(detector, dataset, progress)
        values = evaluation.to_dict()
        if as_json:
            say_json(values)
        else:
            for name in KEYS:
                say(f"{name:<17} {show(values[name])}")
            say_verdicts(evaluation.verdicts)
        report_skipped([(str(s.path), s.reason) for s in evaluation.skipped])
        if evaluation.skipped:
            raise typer.Exit(ImageError.exit_code)


def say_verdicts(verdicts: dict[str, dict[str, Any]]) -> None:
    """How many good images and defects of each kind got which verdict, as a table."""
    rows = {"good": verdicts["good"], "defective": verdicts["defective"]}
    rows |= {f"  {kind}": counts for kind, counts in verdicts["kinds"].items() if len(verdicts["kinds"]) > 1}
    width = max(17, *map(len, rows))
    say(f"{'verdicts':<{width}} {'OK':>6} {'REVIEW':>6} {'NG':>6}")
    for name, counts in rows.items():
        say(f"{name:<{width}} {counts['ok']:>6} {counts['review']:>6} {counts['ng']:>6}")


def show(value: Any) -> str:
    """A number for people: four significant decimals, a dash for what could not be measured."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
