"""`patchbank drift`: have the images, or the parts, changed since the model was fitted?"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.options import check_page, command
from patchbank.cli.terminal import can_show, line_width, note, say, say_json, say_parts
from patchbank.errors import ConfigError, DatasetError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.calibration.thresholds import Calibration
    from patchbank.monitoring.drift import Drift, Shift
    from patchbank.monitoring.results_file import Reading
    from patchbank.reports.stream import Span

FOUND_DRIFT = 1
_SHOWN, _ON_PAGE = 5, 200  # images that show a shift, in the text and on the page
_WIDE = 100  # signs of the stream's chart in the text
_QUESTIONS = {
    ("level", "up", "calibration"): "score over the median of the calibration images",
    ("level", "down", "calibration"): "score under the median of the calibration images",
    ("level", "up", "start"): "score over the median of the first results",
    ("level", "down", "start"): "score under the median of the first results",
    ("flagged", "up", "calibration"): "score over the threshold",
    ("scene", "up", "calibration"): "are out of distribution",
}


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "drift")
    def drift(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        results: Annotated[
            str,
            typer.Argument(metavar="RESULTS", help="What 'patchbank predict --json' printed, in order; - for stdin."),
        ],
        confidence: Annotated[
            float, typer.Option("--confidence", metavar="P", help="How surely each test is silent without drift.")
        ] = 0.99,
        defects: Annotated[
            float, typer.Option("--defects", metavar="P", help="Share of defective images that is no drift.")
        ] = 0.1,
        reference: Annotated[
            int, typer.Option("--reference", metavar="N", help="Compare with the N first results too; 0 = do not.")
        ] = 100,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
        report: Annotated[
            str | None, typer.Option("--report", metavar="FILE", help="Write one page (.html) with the stream drawn.")
        ] = None,
        fail_on_drift: Annotated[bool, typer.Option("--fail-on-drift", help="Exit with 1 if there is drift.")] = False,
    ) -> None:
        """Test whether scores have shifted over a stream of predictions, and where it began. More flagged images alone
        are no drift, but may be defects."""
        from patchbank.model_file.contents import read
        from patchbank.monitoring.drift import find_drift
        from patchbank.monitoring.results_file import read_results, text_lines

        if report:
            check_page(report)
        stored = read(model)
        calibration = stored.state.calibration
        if calibration is None:
            raise ConfigError(
                f"{model} was fitted with calibration = 'none': it holds no normal scores to compare with"
            )
        try:
            with contextlib.nullcontext(sys.stdin.buffer) if results == "-" else Path(results).open("rb") as file:
                lines = text_lines(file, results)
                readings = read_results(lines, results, calibration.threshold, stored.file.sha256())
        except OSError as error:
            raise DatasetError(f"cannot read the results {results}: {error.strerror}") from error
        found = find_drift(
            [reading.score for reading in readings],
            calibration,
            in_scene=[reading.in_scene for reading in readings],
            scene=stored.state.scene,
            confidence=confidence,
            defects=defects,
            reference=reference,
        )
        if as_json:
            say_json(_as_json(found, readings))
        else:
            _print(found, readings)
        if report:
            _write(report, found, readings, calibration, f"Drift of {Path(results).name} under {Path(model).name}")
            note(f"report: {report}")
        if fail_on_drift and found.found:
            raise typer.Exit(FOUND_DRIFT)


def _as_json(found: Drift, readings: Sequence[Reading]) -> dict[str, Any]:
    return {
        "images": found.images,
        "drift": found.found,
        "tests": [_test_as_json(shift, readings) for shift in found.tests],
        "advice": list(found.advice),
    }


def _test_as_json(shift: Shift, readings: Sequence[Reading]) -> dict[str, Any]:
    """Places as lines and paths, which count for users; `showing` lists every image that shows the shift."""

    def place(number: int | None) -> dict[str, Any] | None:
        return None if number is None else {"line": readings[number].line, "path": readings[number].path}

    return {
        **{key: value for key, value in shift.to_dict().items() if key not in ("detected", "start", "stop")},
        "first": place(shift.start),
        "last": place(None if shift.stop is None else shift.stop - 1),
        "detected": place(shift.detected),
        "outside": dict(_outside(shift, readings)),
        "showing": [{**(place(n) or {}), "score": readings[n].score} for n in shift.showing],
    }


def _outside(shift: Shift, readings: Sequence[Reading]) -> list[tuple[str, int]]:
    """Returns which measures of the image check lie outside in the images that show the shift, and in how many, most
    first."""
    return Counter(name for n in shift.showing for name in readings[n].outside).most_common()


def _question(shift: Shift) -> str:
    share, bound = f"{100 * shift.share:.1f} %", f"{100 * shift.bound:.1f} %"
    return f"{share} {_QUESTIONS[shift.test, shift.direction, shift.reference]}; good images explain {bound}"


def _place(shift: Shift, readings: Sequence[Reading]) -> str:
    """Returns where the shift lies, in words; empty without one."""
    if shift.start is None or shift.stop is None or shift.detected is None:
        return ""
    first, last, alarm = (readings[n] for n in (shift.start, shift.stop - 1, shift.detected))
    return f"from line {first.line} ({first.path}) to {last.line} ({last.path}), seen by line {alarm.line}"


def _showing(found: Drift, readings: Sequence[Reading]) -> list[tuple[Reading, str]]:
    """The images that show any shift, each once with the tests that it shows, those that are farthest off first."""
    tests: dict[int, list[str]] = {}
    for shift in found.tests:
        for n in shift.showing:
            tests.setdefault(n, []).append(shift.test)
    down = found.level.found and found.level.direction == "down"
    order = sorted(tests, key=lambda n: readings[n].score, reverse=not down)
    return [(readings[n], ", ".join(tests[n])) for n in order]


def _spans(found: Drift) -> list[Span]:
    from patchbank.reports.stream import Span

    shifts = [shift for shift in found.tests if shift.start is not None and shift.stop is not None]
    return [Span(shift.test, shift.start or 0, shift.stop or 0) for shift in shifts]


def _write(path: str, found: Drift, readings: Sequence[Reading], calibration: Calibration, title: str) -> None:
    from patchbank.reports.stream import TestRow, stream_chart, write_drift

    scores, median = [reading.score for reading in readings], sorted(calibration.scores.tolist())
    write_drift(
        path,
        title=title,
        found=found.found,
        images=found.images,
        chart=stream_chart(scores, median[len(median) // 2], calibration.threshold, _spans(found)) if scores else None,
        tests=[TestRow(t.test, t.found, _question(t), _place(t, readings)) for t in found.tests],
        advice=found.advice,
        showing=((reading.score, reading.path, tests) for reading, tests in _showing(found, readings)[:_ON_PAGE]),
    )


def _print(found: Drift, readings: Sequence[Reading]) -> None:
    from patchbank.reports.stream import BLOCKS, PLAIN, text_chart

    drift, style = ("DRIFT", "bold red") if found.found else ("no drift", "green")
    if found.flagged.found and not found.found:
        drift, style = "no drift, but more images are flagged than good parts explain", "yellow"
    say_parts((f"{counted(found.images, 'image')}: ", ""), (drift, style))
    outside: dict[str, int] = {}
    for shift in found.tests:
        word, style = ("SHIFT", "bold red") if shift.found else ("ok", "green")
        say_parts((f"{shift.test:<8} ", ""), (f"{word:<6}", style), (f" {_question(shift)}", ""))
        if place := _place(shift, readings):
            say(f"         {place}")
            for name, count in _outside(shift, readings):
                outside[name] = max(count, outside.get(name, 0))
    for name, count in outside.items():
        say(f"         {name} is outside of its range in {counted(count, 'image')} of a shift")
    showing = _showing(found, readings)
    if showing:
        say(f"images   that show it: {len(showing)}" + (f", the first {_SHOWN}" if len(showing) > _SHOWN else ""))
    for reading, tests in showing[:_SHOWN]:
        say(f"         {reading.score:9.4f}  {reading.path}  ({tests})")
    for advice in found.advice:
        say(f"advice   {advice}")
    signs = BLOCKS if can_show(BLOCKS) else PLAIN
    chart = text_chart([reading.score for reading in readings], _spans(found), min(_WIDE, line_width() - 9), signs)
    for number, line in enumerate(chart):
        say(f"{'stream' if number == 0 else '':<9}{line}")
