"""`patchbank predict`: inspect images with a model."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.fit import report_skipped
from patchbank.cli.options import command, note
from patchbank.config import Runtime
from patchbank.errors import ConfigError, ImageError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    import numpy.typing as npt

    from patchbank.results.result import Result

FOUND_ANOMALY = 1
_COLUMNS = ("path", "score", "threshold", "is_anomalous", "p_value", "regions", "in_scene", "scene")


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "predict")
    def predict(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, or folders of images.")],
        runtime: Runtime,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
        as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header; regions are counted.")] = False,
        out: Annotated[
            str | None, typer.Option("--out", metavar="DIR", help="Write overlays, masks and report.html there.")
        ] = None,
        fail_on_anomaly: Annotated[
            bool, typer.Option("--fail-on-anomaly", help="Exit with 1 if any image is anomalous.")
        ] = False,
    ) -> None:
        """Inspect images: score, verdict and regions of each, and whether it is of the scene that the model knows.
        Unreadable images are named at the end, and the exit code is 3."""
        if as_json and as_csv:
            raise ConfigError("expected one of --json and --csv; got both")
        from patchbank.evaluation.datasets import find_images
        from patchbank.imaging.images import Skipped
        from patchbank.model import PatchCore

        images = find_images(paths)
        detector = PatchCore.load(model, runtime=runtime)
        output = _Output(out, images) if out else None
        found, strange, skipped = 0, 0, []
        if as_csv:
            typer.echo(_csv_line(_COLUMNS))
        for result in detector.predict_each(images):
            if isinstance(result, Skipped):
                skipped.append((result.name, result.reason))
                continue
            if output:
                try:
                    output.add(result)
                except ImageError as error:  # the file has gone, or changed, since it was inspected
                    skipped.append((result.path, str(error)))
            found += bool(result.is_anomalous)
            strange += result.in_scene is False
            typer.echo(_line(result, as_json=as_json, as_csv=as_csv))
        if output:
            output.finish(Path(model).name, detector.calibration.scores if detector.calibration else None, skipped)
        report_skipped(skipped)
        if strange:
            note(f"{counted(strange, 'image is', 'images are')} not of the scene that the model knows")
        if fail_on_anomaly and found:
            raise typer.Exit(FOUND_ANOMALY)
        if skipped:
            raise typer.Exit(ImageError.exit_code)


class _Output:
    """The folder that `--out` names: an overlay and a mask for each image, and one report."""

    def __init__(self, folder: str, images: list[Path]) -> None:
        from patchbank.fit.collect import relative_names
        from patchbank.reports.inspection import InspectionReport
        from patchbank.util.files import make_folder

        self._folder = make_folder(folder)
        self._names = dict(zip(map(str, images), relative_names([str(path) for path in images]), strict=True))
        self._report = InspectionReport(self._folder / "report.html")

    def add(self, result: Result) -> None:
        from patchbank.imaging.images import write_png
        from patchbank.reports.inspection import ReportRow

        name = self._names[result.path]
        try:
            picture = result.overlay()
        except ImageError:
            self._report.add(ReportRow.without_pictures(result, name=name))
            raise
        stem = self._folder / name
        write_png(stem.with_name(stem.name + ".overlay.png"), picture)
        write_png(stem.with_name(stem.name + ".mask.png"), result.mask)
        self._report.add(ReportRow.of(result, name=name, overlay=picture))

    def finish(self, model: str, scores: npt.ArrayLike | None, skipped: list[tuple[str, str]]) -> None:
        reasons = [reason for _, reason in skipped]
        with self._report as report:
            report.write(title=f"Inspection with {model}", calibration_scores=scores, skipped=reasons)


def _line(result: Result, *, as_json: bool, as_csv: bool) -> str:
    if as_json:
        return json.dumps(result.to_dict(), allow_nan=False)
    if as_csv:
        threshold = "" if result.threshold is None else result.threshold
        p_value = "" if result.p_value is None else result.p_value
        verdict, known = ("" if v is None else str(v).lower() for v in (result.is_anomalous, result.in_scene))
        why = "; ".join(result.scene_reasons)
        return _csv_line((result.path, result.score, threshold, verdict, p_value, len(result.regions), known, why))
    verdict = {True: "ANOMALOUS", False: "ok", None: "-"}[result.is_anomalous]
    against = "" if result.threshold is None else f" (threshold {result.threshold:.4f}, p {result.p_value:.3f})"
    regions = len(result.regions)
    where = f", {counted(regions, 'region')}" if regions else ""
    scene = f"; NOT THE SCENE: {'; '.join(result.scene_reasons)}" if result.in_scene is False else ""
    return f"{verdict:<10} {result.score:9.4f}{against}  {result.path}{where}{scene}"


def _csv_line(values: tuple[object, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()
