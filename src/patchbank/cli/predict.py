"""`patchbank predict`: inspect images with a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.fit import report_skipped
from patchbank.cli.options import command, debugging
from patchbank.cli.terminal import note, note_trace, say_json, say_parts, say_row
from patchbank.config import Runtime
from patchbank.errors import ConfigError, OutputError, PatchbankError
from patchbank.util.wording import counted, plural

if TYPE_CHECKING:
    from patchbank.imaging.images import Skipped
    from patchbank.results.result import Result

FOUND_ANOMALY = 1
FAIL_ON = ("ng", "review")
_STYLES = {"OK": "green", "REVIEW": "bold yellow", "NG": "bold red"}
_COLUMNS = (
    *("path", "score", "threshold", "is_anomalous", "p_value", "regions", "in_scene", "scene"),
    *("verdict", "reason", "model", "version", "software", "time"),
)


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
        pictures: Annotated[
            str | None,
            typer.Option(
                "--pictures",
                metavar="flagged|all",
                help="With --out, pictures of which images, as files and in the report (default: files of all, in the "
                "report of what is not OK).",
            ),
        ] = None,
        colours: Annotated[
            str,
            typer.Option(
                "--colours",
                metavar="orange|blue",
                help="With --out, the heat map's colours; blue shows better on orange parts (rust, copper, wood).",
            ),
        ] = "orange",
        coco: Annotated[
            str | None, typer.Option("--coco", metavar="FILE", help="Write the regions there as COCO's JSON.")
        ] = None,
        labelme: Annotated[
            str | None,
            typer.Option("--labelme", metavar="DIR", help="Write the regions there, one LabelMe JSON an image."),
        ] = None,
        fail_on: Annotated[
            str | None,
            typer.Option(
                "--fail-on",
                metavar="|".join(FAIL_ON),
                help="Exit with 1 if any image is NG (ng), or if any is NG or REVIEW (review).",
            ),
        ] = None,
        fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="The same as --fail-on ng.")] = False,
    ) -> None:
        """Inspect images: verdict (OK, REVIEW or NG), score and regions of each, and whether it is the part and the
        picture that the model knows. OK is only what was proven ordinary; a person decides about REVIEW.
        Every image gets a verdict or is named at the end with the reason why not; then the exit code is that of the
        gravest reason, 3 for an unreadable image (docs/operate/batches.md)."""
        if as_json and as_csv:
            raise ConfigError("expected one of --json and --csv; got both")
        if not out and (pictures or colours != "orange"):
            raise ConfigError("--pictures and --colours say what --out DIR writes; got no --out")
        if fail_on not in (None, *FAIL_ON):
            raise ConfigError(f"--fail-on: expected {' or '.join(FAIL_ON)}; got {fail_on!r}")
        from patchbank.cli.exports import Exports
        from patchbank.cli.output_folder import OutputFolder, without_outputs
        from patchbank.evaluation.datasets import find_images
        from patchbank.imaging.images import Skipped
        from patchbank.model import PatchCore

        images = without_outputs(find_images(paths), paths, out)
        detector = PatchCore.load(model, runtime=runtime)
        output = OutputFolder(out, images, pictures, colours) if out else None
        exports = Exports(coco, labelme)
        show = _as_json if as_json else _as_csv if as_csv else _as_text
        strange = 0
        words: Counter[str] = Counter()  # how often each verdict was given
        refused: list[Skipped] = []  # images without a verdict, or whose verdict could not be shown or drawn
        unwritten: list[str] = []
        if as_csv:
            try:
                say_row(_COLUMNS)
            except OutputError as error:
                unwritten.append(str(error))
        for result in detector.predict_each(images):
            if isinstance(result, Skipped):
                refused.append(result)
                continue
            if show is _as_text and not words:
                _explain_columns(result)
            words[_word(result)] += 1
            strange += result.in_distribution is False
            try:
                show(result)  # printed before its pictures are drawn: whatever happens to these, the verdict is out
            except OutputError as error:
                unwritten.append(str(error))
            except Exception as error:  # noqa: BLE001  (a batch goes on, whatever one image is)
                refused.append(Skipped.of(result.path, error))
                continue
            if output or coco or labelme:
                try:
                    unwritten += exports.add(result)
                    unwritten += output.add(result) if output else []
                except Exception as error:  # noqa: BLE001  (the file has gone or changed since, or drawing failed)
                    refused.append(Skipped.of(result.path, error))
        if output:
            unwritten += output.finish(Path(model).name, detector.calibration, refused)
        unwritten += exports.finish(refused)
        if show is _as_text or output:
            _summarise(words, len(images), output.report if output and output.is_written else None)
        _conclude(refused, unwritten, strange)
        if (fail_on or fail_on_anomaly) and (words["NG"] or (fail_on == "review" and words["REVIEW"])):
            raise typer.Exit(FOUND_ANOMALY)
        if codes := [_code(each) for each in refused] + [OutputError.exit_code] * bool(unwritten):
            raise typer.Exit(max(codes))


def _as_json(result: Result) -> None:
    say_json(result.to_dict())


def _as_csv(result: Result) -> None:
    threshold = "" if result.threshold is None else result.threshold
    p_value = "" if result.p_value is None else result.p_value
    verdict, known = ("" if v is None else str(v).lower() for v in (result.is_anomalous, result.in_distribution))
    why = "; ".join(result.distribution_reasons)
    made = result.made_by
    maker = (made.sha256, made.version, made.software) if made else ("", "", "")
    facts = (result.path, result.score, threshold, verdict, p_value, len(result.regions), known, why)
    say_row((*facts, str(result.verdict), result.reason, *maker, result.time))


def _as_text(result: Result) -> None:
    score = f"score {result.score:.4f}"
    if result.threshold is not None:
        ratio = f"{result.score / result.threshold:5.2f}x" if result.threshold > 0 else f"{'':6}"
        score = f"{ratio}  {score}  p {result.p_value:.3f}"
    regions = len(result.regions)
    where = f", {counted(regions, 'region')}" if regions else ""
    word = _word(result)
    parts = [(f"{word:<6}", _STYLES[word]), (f" {score}  ", ""), (f"{result.path}{where}", "")]
    if result.in_distribution is False:
        why = "; ".join(result.distribution_reasons)
        parts.append((f"; not the part or the picture that the model knows: {why}", "yellow"))
    say_parts(*parts)


def _word(result: Result) -> str:
    return result.verdict.upper()


def _explain_columns(result: Result) -> None:
    """What all lines share, once, on stderr: the threshold, and what the numbers mean."""
    if result.threshold is None:
        note("the model has no threshold: scores are distances, higher is more anomalous", "dim")
    else:
        note(f"threshold {result.threshold:.4f}; 1.00x = a score that equals it", "dim")
        note("p = share of good images that look at least this odd, by the calibration", "dim")


def _summarise(words: Counter[str], images: int, report: Path | None) -> None:
    """The last line, on stderr: how many images got which verdict, and where the report is."""
    counts = [f"{words[word]} {word}" for word in _STYLES]
    note(f"{counted(images, 'image')}: {', '.join([*counts, f'{images - words.total()} refused'])}", "bold")
    if report:
        note(f"report: {report}")


def _conclude(refused: Sequence[Skipped], unwritten: Sequence[str], strange: int) -> None:
    """Says on stderr what is missing, and why."""
    report_skipped([(each.name, each.reason) for each in refused])
    for reason in unwritten:
        note(f"patchbank: {reason}")
    if strange:
        are = counted(strange, "image is", "images are")
        note(f"{are} out of distribution: not the part or the picture that the model knows")
    if unforeseen := [each for each in refused if each.trace]:
        if debugging():
            for each in unforeseen:
                note(each.name)
                note_trace(each.trace)
        lines = "with the lines above" if debugging() else "with what --debug says"
        met = counted(len(unforeseen), "image")
        note(f"patchbank: {met} met an internal error; please report {plural(len(unforeseen), 'it', 'them')} {lines}")


def _code(refused: Skipped) -> int:
    return refused.kind.exit_code if issubclass(refused.kind, PatchbankError) else PatchbankError.exit_code
