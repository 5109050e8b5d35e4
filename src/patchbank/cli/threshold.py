"""`patchbank threshold`: which false-alarm rates a model's held-out images support, and a threshold for another one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.history import MEANING
from patchbank.cli.options import command, login
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.calibration.thresholds import Calibration

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_HELP = {option.name: option.metadata["help"] for option in fields(Config)}


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "threshold")
    def threshold(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        runtime: Runtime,
        max_false_alarms: Annotated[
            float | None,
            typer.Option("--max-false-alarms", metavar="RATE", help=f"{_HELP['max_false_alarms']} (default: MODEL's)"),
        ] = None,
        confidence: Annotated[
            float | None, typer.Option("--confidence", metavar="C", help=f"{_HELP['confidence']} (default: MODEL's)")
        ] = None,
        output: Annotated[
            str | None,
            typer.Option("-o", "--output", metavar="MODEL2", help="Write the model with that threshold; may be MODEL."),
        ] = None,
        message: Annotated[
            str, typer.Option("--note", metavar="TEXT", help="Why; kept in the version that -o makes.")
        ] = "",
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Show the thresholds that a model's held-out good images support, and set another one without fitting again.
        Nothing is written without -o."""
        from patchbank.model import PatchCore
        from patchbank.model_file.contents import read
        from patchbank.util.files import check_writable, claimed

        stored = read(model)
        now = stored.state.calibration
        if now is None:
            raise ConfigError(f"{model} was fitted with calibration = 'none': it has no held-out scores; fit it again")
        calibrated = stored.history.versions[-1].calibrated
        config = Config(
            max_false_alarms=now.max_false_alarms if max_false_alarms is None else max_false_alarms,
            confidence=now.confidence if confidence is None else confidence,
        )
        wanted = replace(now, max_false_alarms=config.max_false_alarms, confidence=config.confidence)
        if output:
            check_writable(output)
            with claimed(model):
                new = PatchCore.load(model, runtime=runtime).with_threshold(
                    max_false_alarms=config.max_false_alarms,
                    confidence=config.confidence,
                    note=message,
                    author=login(),
                )
                new.save(output)
        if as_json:
            rows = [asdict(row) for row in _rows(wanted)]
            about = {"method": now.method, "calibrated": calibrated, "images": len(now.scores)}
            promised = {"max_false_alarms": now.max_false_alarms, "confidence": now.confidence}
            say_json({**about, **promised, "rows": rows})
        elif output:
            say(f"{output}: threshold was {now.threshold:.4f}, pixel threshold {now.pixel_threshold:.4f}")
            say_threshold(wanted)
            if not wanted.support.satisfied:
                note(f"{wanted.support}; the threshold is their largest score")
        else:
            _table(now, wanted)
        if calibrated in ("bound", "stale"):
            note(f"scores {MEANING[calibrated]}")


def described(calibration: Calibration) -> str:
    """The threshold, its promise and where it comes from, on one line."""
    method, support = calibration.method.replace("_", " "), calibration.support
    return f"{calibration.threshold:.4f} ({support.guarantee}; {method}, {counted(support.n, 'image')})"


def say_threshold(calibration: Calibration) -> None:
    """The threshold and its promise."""
    say(f"threshold {described(calibration)}")


@dataclass(frozen=True)
class _Row:
    """One rate. over: how many of the held-out images are over the threshold."""

    max_false_alarms: float
    confidence: float
    supported: bool
    images_needed: int | None
    threshold: float
    pixel_threshold: float
    over: int


def _rows(wanted: Calibration) -> list[_Row]:
    rates = {*RATES, wanted.max_false_alarms, wanted.support.rate}
    each = [replace(wanted, max_false_alarms=rate) for rate in sorted(rates) if rate <= 0.5]
    return [
        _Row(
            one.max_false_alarms,
            one.confidence,
            one.support.satisfied,
            one.support.needed,
            one.threshold,
            one.pixel_threshold,
            int((one.scores > one.threshold).sum()),
        )
        for one in each
    ]


def _table(now: Calibration, wanted: Calibration) -> None:
    from patchbank.calibration.thresholds import percent, percent_up

    scores, n = wanted.scores, len(wanted.scores)
    method = now.method.replace("_", " ")
    say(f"{counted(n, 'held-out good image')} ({method}), scores {scores.min():.4f} to {scores.max():.4f}")
    how = f"with {percent(wanted.confidence)} confidence" if wanted.confidence else "on average"
    say(f"{'':2}{'at most':>9}  {'threshold':>10}  {'pixel':>10}  {'over it':>12}  {how}")
    current, asked = ((each.max_false_alarms, each.confidence) for each in (now, wanted))
    for row in _rows(wanted):
        this, named = (row.max_false_alarms, row.confidence), {*RATES, wanted.max_false_alarms}
        rate = percent(row.max_false_alarms) if row.max_false_alarms in named else percent_up(row.max_false_alarms)
        mark = "*" if this == current else ">" if this == asked else ""
        needs = "no number supports it" if row.images_needed is None else f"needs {counted(row.images_needed, 'image')}"
        values = f"{row.threshold:>10.4f}  {row.pixel_threshold:>10.4f}  {f'{row.over} of {n}':>12}"
        say(f"{mark:2}{rate:>9}  {values}  {'supported' if row.supported else needs}")
    if current == asked:
        say("* what the model has; another: --max-false-alarms RATE [--confidence C] -o MODEL2")
    else:
        say("> what was asked for; -o MODEL2 writes a model that has it")
