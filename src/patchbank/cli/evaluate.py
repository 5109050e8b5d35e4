"""`patchbank evaluate`: how good a model is on a labelled data set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.fit import report_skipped
from patchbank.cli.options import check_page, command, progress_bar
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Runtime
from patchbank.errors import ImageError

if TYPE_CHECKING:
    from patchbank.evaluation.datasets import Sample
    from patchbank.evaluation.evaluate import Evaluation
    from patchbank.reports.evaluation import EvaluationReport
    from patchbank.results.result import Result


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "evaluate")
    def evaluate(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        data: Annotated[str, typer.Argument(metavar="DATASET", help="MVTec AD folder, or CSV file with test images.")],
        runtime: Runtime,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
        report: Annotated[
            str | None,
            typer.Option(
                "--report", metavar="FILE", help="Write one page (.html): figures, a table by kind, the mistakes."
            ),
        ] = None,
    ) -> None:
        """Measure a model on the labelled test images of a data set. Unreadable images are counted and named, and the
        exit code is 3."""
        from patchbank.evaluation.datasets import read_dataset
        from patchbank.evaluation.evaluate import KEYS
        from patchbank.evaluation.evaluate import evaluate as run
        from patchbank.model import PatchCore
        from patchbank.reports.evaluation import EvaluationReport

        if report:
            check_page(report)
        dataset = read_dataset(data)
        detector = PatchCore.load(model, runtime=runtime)
        with EvaluationReport(report) if report else nullcontext() as page:
            with progress_bar() as progress:
                each = None if page is None else _adder(page, dataset.root)
                evaluation = run(detector, dataset, progress, each=each)
            if page:
                page.write_evaluation(
                    title=f"Evaluation of {Path(model).name} on {dataset.root.name}",
                    figures=_figures(evaluation),
                    areas={name: kind.image_auroc for name, kind in evaluation.kinds.items()},
                    skipped=[each.reason for each in evaluation.skipped],
                    review=detector.calibration.review_above if detector.calibration else None,
                )
        values = evaluation.to_dict()
        if as_json:
            say_json(values)
        else:
            for name in KEYS:
                say(f"{name:<17} {show(values[name])}")
            say_verdicts(evaluation.verdicts)
            note("miss_rate counts the defective images that are not NG, those to be reviewed too")
        for name, of_them in (("good", GOOD_MISSING), ("defective", "no misses and no AUROC can be measured")):
            if not any(evaluation.verdicts[name].values()):
                note(f"there is no {name} test image: {of_them}")
        report_skipped([(str(s.path), s.reason) for s in evaluation.skipped])
        if report:
            note(f"report: {report}")
        if evaluation.skipped:
            raise typer.Exit(ImageError.exit_code)


def _adder(page: EvaluationReport, root: Path) -> Callable[[Sample, Result], None]:
    """Returns what puts each image on the page, under its path below the data set's folder."""

    def add(sample: Sample, result: Result) -> None:
        path = sample.path
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        page.add_result(result, name, sample.kind, sample.defective)

    return add


def _figures(evaluation: Evaluation) -> dict[str, str]:
    """The headline figures: what could be measured."""
    figures = {
        "images": f"{evaluation.n_test:,}",
        "threshold": None if evaluation.threshold is None else f"{evaluation.threshold:.4g}",
        "image AUROC": _share(evaluation.image_auroc),
        "image F1 (best)": _share(evaluation.image_f1),
        "pixel AUROC": _share(evaluation.pixel_auroc),
        "pixel AP": _share(evaluation.pixel_ap),
        "AUPRO": _share(evaluation.aupro),
        "ms an image": f"{evaluation.ms_per_image:.0f}",
    }
    return {name: value for name, value in figures.items() if value is not None}


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


GOOD_MISSING = (
    "no false alarms and no AUROC can be measured. In a CSV file, good images are training images where the column "
    "split does not say test"
)


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
