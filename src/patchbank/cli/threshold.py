"""`patchbank threshold`: which false-alarm rates a model's held-out images support, what passes under each threshold,
and a threshold for another rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.history import MEANING
from patchbank.cli.options import command, login, progress_bar
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError, DatasetError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.arrays import FloatArray
    from patchbank.calibration.thresholds import Calibration
    from patchbank.evaluation.tradeoff import Choice
    from patchbank.model import PatchCore

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
PLANTED = 30  # defects that `fit` plants, five of each kind: some seconds
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
        review_rate: Annotated[
            float | None,
            typer.Option("--review-rate", metavar="RATE", help=f"{_HELP['review_rate']} (default: MODEL's)"),
        ] = None,
        calibrate_on_suspects: Annotated[
            bool | None,
            typer.Option(
                "--calibrate-on-suspects/--no-calibrate-on-suspects",
                help=f"{_HELP['calibrate_on_suspects']} (default: MODEL's)",
                show_default=False,
            ),
        ] = None,
        defects: Annotated[
            str | None,
            typer.Option(
                "--defects", metavar="DIR", help="Images of defective parts: how many pass under each threshold."
            ),
        ] = None,
        planted: Annotated[
            str | None,
            typer.Option(
                "--planted",
                metavar="DIR",
                help="Folder of the training images: plants defects on some of them, and shows how many pass.",
            ),
        ] = None,
        max_misses: Annotated[
            float | None,
            typer.Option(
                "--max-misses",
                metavar="RATE",
                min=0,
                max=1,
                help="Choose the rate of the table with the fewest false alarms under which at most this share of such "
                "defects passes, with 95 % confidence. Needs --defects.",
            ),
        ] = None,
        cost_miss: Annotated[
            float | None,
            typer.Option(
                "--cost-miss",
                metavar="COST",
                min=0,
                help="Choose the rate of the table that costs least: what a defect that passes costs. Needs --defects.",
            ),
        ] = None,
        cost_false_alarm: Annotated[
            float | None,
            typer.Option("--cost-false-alarm", metavar="COST", min=0, help="What a flagged good part costs."),
        ] = None,
        defect_rate: Annotated[
            float,
            typer.Option(
                "--defect-rate",
                metavar="RATE",
                min=0,
                max=1,
                help="For the costs: the share of parts that are defective.",
            ),
        ] = 0.01,
        output: Annotated[
            str | None,
            typer.Option("-o", "--output", metavar="MODEL2", help="Write the model with that threshold; may be MODEL."),
        ] = None,
        message: Annotated[
            str, typer.Option("--note", metavar="TEXT", help="Why; kept in the version that -o makes.")
        ] = "",
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Show the thresholds that a model's held-out good images support, what passes under each, and set another one
        without fitting again. Nothing is written without -o."""
        from patchbank.calibration.thresholds import promising
        from patchbank.model import PatchCore
        from patchbank.model_file.contents import read
        from patchbank.util.files import check_writable, claimed

        _check_wishes(max_false_alarms, defects, max_misses, cost_miss, cost_false_alarm)
        stored = read(model)
        now = stored.state.calibration
        if now is None:
            raise ConfigError(f"{model} was fitted with calibration = 'none': it has no held-out scores; fit it again")
        if output:
            check_writable(output)
        calibrated = stored.history.versions[-1].calibrated
        given: dict[str, Any] = {
            "max_false_alarms": max_false_alarms,
            "confidence": confidence,
            "review_rate": review_rate,
            "calibrate_on_suspects": calibrate_on_suspects,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        wanted = promising(now, replace(stored.config, **changes))
        scores: dict[str, FloatArray | None] = {"labelled": None, "planted": None}
        if defects or planted:
            detector = PatchCore.load(model, runtime=runtime)
            scores["labelled"] = _labelled(detector, defects) if defects else None
            scores["planted"] = _planted(detector, planted) if planted else None
        rows = _rows(wanted, **scores)
        if max_misses is not None or cost_miss is not None:
            chosen = _choose(rows, max_misses, cost_miss, cost_false_alarm, defect_rate)
            changes["max_false_alarms"] = chosen.calibration.max_false_alarms
            wanted = promising(now, replace(stored.config, **changes))
        if output:
            with claimed(model):
                new = PatchCore.load(model, runtime=runtime).with_threshold(**changes, note=message, author=login())
                new.save(output)
        if as_json:
            about = {"method": now.method, "calibrated": calibrated, "images": len(now.scores)}
            promised = {"max_false_alarms": now.max_false_alarms, "confidence": now.confidence}
            say_json({**about, **promised, "rows": [row.to_dict() for row in rows], **_further(wanted, scores)})
        elif output:
            say(f"{output}: threshold was {now.threshold:.4f}, pixel threshold {now.pixel_threshold:.4f}")
            say_threshold(wanted)
            if wanted.bounds.suspects:
                note(wanted.bounds.sentence)
            if not wanted.support.satisfied:
                note(f"{wanted.support}; the threshold is their largest score")
        else:
            _table(now, wanted, rows)
            _say_passing(wanted, scores)
        if calibrated in ("bound", "stale"):
            note(f"scores {MEANING[calibrated]}")


def _check_wishes(
    max_false_alarms: float | None,
    defects: str | None,
    max_misses: float | None,
    cost_miss: float | None,
    cost_false_alarm: float | None,
) -> None:
    """Raises ConfigError for a choice that contradicts itself, or has nothing to choose by."""
    if (cost_miss is None) != (cost_false_alarm is None):
        raise ConfigError("expected --cost-miss and --cost-false-alarm together; got one of them")
    ways = {"--max-false-alarms": max_false_alarms, "--max-misses": max_misses, "--cost-miss": cost_miss}
    if len(told := [name for name, value in ways.items() if value is not None]) > 1:
        raise ConfigError(f"expected one way to choose a threshold; got {' and '.join(told)}")
    if (max_misses is not None or cost_miss is not None) and not defects:
        raise ConfigError(
            f"{told[0]} chooses by labelled defects: give a folder of some (--defects DIR); planted ones say nothing "
            "about real ones"
        )


def _choose(
    rows: Sequence[Choice], max_misses: float | None, miss: float | None, false_alarm: float | None, defect_rate: float
) -> Choice:
    from patchbank.calibration.thresholds import percent
    from patchbank.evaluation.tradeoff import cheapest, cost, with_few_misses

    if max_misses is not None:
        return with_few_misses(rows, max_misses)
    assert miss is not None
    assert false_alarm is not None
    chosen = cheapest(rows, miss, false_alarm, defect_rate)
    least = cost(chosen, miss, false_alarm, defect_rate)
    note(f"costs {least:.4g} an image on average, if {percent(defect_rate)} of the parts are defective (--defect-rate)")
    return chosen


def _labelled(model: PatchCore, folder: str) -> FloatArray:
    """(m,) image scores of the defective images of a folder: those that a data set's labels call defective, or all but
    those in folders that are called good. Names on stderr what cannot be read."""
    import numpy as np

    from patchbank.evaluation.datasets import find_images, read_dataset
    from patchbank.imaging.images import Skipped

    if (Path(folder) / "test").is_dir():
        images = [sample.path for sample in read_dataset(folder).test if sample.defective]
    else:
        images = [path for path in find_images(folder) if "good" not in path.relative_to(folder).parts[:-1]]
    if not images:
        raise DatasetError(f"{folder}: expected images of defective parts; got none")
    scores = []
    with progress_bar() as progress:
        for number, result in enumerate(model.predict_each(images)):
            progress("inspect", number, len(images))
            if isinstance(result, Skipped):
                note(f"left out: {result.reason}")
            else:
                scores.append(result.score)
    if not scores:
        raise DatasetError(f"{folder}: none of {counted(len(images), 'image')} can be read")
    return np.array(scores, np.float32)


def _planted(model: PatchCore, folder: str) -> FloatArray:
    """(m,) image scores of planted defects on training images, which the folder holds."""
    from patchbank.evaluation.datasets import training_files
    from patchbank.evaluation.tradeoff import planted_scores
    from patchbank.update.image_names import files_by_name

    found = files_by_name(model.training_images, training_files(Path(folder)), [Path(folder)])
    if not found:
        raise DatasetError(f"{folder}: expected the folder of the fit; it holds none of the training images")
    with progress_bar() as progress:
        return planted_scores(model, found, PLANTED, progress)


def described(calibration: Calibration) -> str:
    """The threshold, its promise and where it comes from, on one line."""
    method, support = calibration.method.replace("_", " "), calibration.support
    return f"{calibration.threshold:.4f} ({support.guarantee}; {method}, {counted(support.n, 'image')})"


def say_threshold(calibration: Calibration) -> None:
    """The threshold and its promise."""
    say(f"threshold {described(calibration)}")


def say_both_sides(calibration: Calibration, *, planted: FloatArray | None = None) -> None:
    """A short table of rates, thresholds and planted defects that pass; then which images set the threshold."""
    from patchbank.evaluation.tradeoff import RATES as FEW
    from patchbank.evaluation.tradeoff import choices

    _say_rows(choices(calibration, FEW, planted=planted), calibration, calibration)
    _say_passing(calibration, {"planted": planted})
    few = ", ".join(calibration.setters)
    image, it = ("image", "it is") if len(calibration.setters) == 1 else ("images", "one of them is")
    note(
        f"the threshold rests on the oddest {image} among the good: {few}. Look there first: if {it} defective, "
        "'patchbank update --remove' takes it out, and the threshold falls"
    )


def _rows(wanted: Calibration, *, labelled: FloatArray | None, planted: FloatArray | None) -> list[Choice]:
    from patchbank.evaluation.tradeoff import choices

    rates = {*RATES, wanted.max_false_alarms, wanted.support.rate}
    return choices(wanted, [rate for rate in rates if rate <= 0.5], labelled=labelled, planted=planted)


def _further(wanted: Calibration, scores: dict[str, FloatArray | None]) -> dict[str, Any]:
    """Returns what JSON says beside the rows: of the threshold that was asked for."""
    from patchbank.evaluation.tradeoff import passing

    told: dict[str, Any] = {
        "chosen": wanted.max_false_alarms,
        "review_rate": wanted.review_rate,
        "review_above": wanted.review_above,
        "with_suspects": wanted.with_suspects,
        **asdict(wanted.bounds),
        "set_by": list(wanted.setters),
    }
    for name, key in (("planted", "planted"), ("labelled", "defects")):
        found = scores[name]
        told[key] = None if found is None else {"n": len(found), "ok": passing(wanted, found)}
    return told


def _say_passing(calibration: Calibration, scores: dict[str, FloatArray | None]) -> None:
    """How many defects come out OK, when review is counted in."""
    from patchbank.calibration.thresholds import percent
    from patchbank.evaluation.tradeoff import passing

    above = calibration.review_above
    if above is None:
        say("review: none for an odd score" + ("" if calibration.review_rate == 0 else "; too few images support it"))
    elif above >= calibration.threshold:
        say("review: none, because all scores that are so odd are over the threshold: they are NG")
    else:
        say(f"review: {percent(calibration.review_rate)} of good images, over {above:.4f}")
    for name, what in (("labelled", "labelled defects"), ("planted", "planted defects")):
        if (found := scores.get(name)) is not None and len(found):
            say(f"{what} that come out OK: {passing(calibration, found)} of {len(found)}")
    if scores.get("planted") is not None:
        say("planted defects are stand-ins: they compare thresholds, and do not forecast how many real ones pass")


def _table(now: Calibration, wanted: Calibration, rows: Sequence[Choice]) -> None:
    scores, n = wanted.scores, len(wanted.scores)
    method = now.method.replace("_", " ")
    say(f"{counted(n, 'held-out good image')} ({method}), scores {scores.min():.4f} to {scores.max():.4f}")
    _say_rows(rows, now, wanted)
    if wanted.bounds.suspects:
        say(wanted.bounds.sentence)
    if _wish(now) == _wish(wanted):
        say("* what the model has; another: --max-false-alarms RATE [--confidence C] -o MODEL2")
    else:
        say("> what was asked for; -o MODEL2 writes a model that has it")


def _wish(calibration: Calibration) -> tuple[object, ...]:
    return (
        *(calibration.max_false_alarms, calibration.confidence),
        *(calibration.review_rate, calibration.with_suspects),
    )


def _say_rows(rows: Sequence[Choice], now: Calibration, wanted: Calibration) -> None:
    """The table. now: what the model has, marked with *; wanted: what was asked for, marked with >."""
    from patchbank.calibration.thresholds import percent, percent_up

    n = len(wanted.scores)
    how = f"with {percent(wanted.confidence)} confidence" if wanted.confidence else "on average"
    shown = {name for row in rows for name in ("labelled", "planted") if getattr(row, name)}
    titles = "".join(
        f"  {title:>{width}}"
        for name, title, width in (("labelled", "defects not over it", 25), ("planted", "planted not over it", 19))
        if name in shown
    )
    say(f"{'':2}{'at most':>9}  {'threshold':>10}  {'pixel':>10}  {'over it':>12}{titles}  {how}")
    named = {*RATES, wanted.max_false_alarms}
    for row in rows:
        held, support = row.calibration, row.calibration.support
        rate = percent(held.max_false_alarms) if held.max_false_alarms in named else percent_up(held.max_false_alarms)
        mark = "*" if _wish(held) == _wish(now) else ">" if _wish(held) == _wish(wanted) else ""
        needs = "no number supports it" if support.needed is None else f"needs {counted(support.needed, 'image')}"
        over = f"{int((held.scores > held.threshold).sum())} of {n}"
        values = f"{held.threshold:>10.4f}  {held.pixel_threshold:>10.4f}  {over:>12}"
        if row.labelled:
            told = f"{row.labelled} (at most {percent_up(row.labelled.at_most)})"
            values += f"  {told:>25}"
        if row.planted:
            values += f"  {row.planted!s:>19}"
        say(f"{mark:2}{rate:>9}  {values}  {'supported' if support.satisfied else needs}")
    if suspects := wanted.bounds.suspects:
        whose = "the suspected outlier" if suspects == 1 else f"the {suspects:,} suspected outliers"
        say(f"over it: of all held-out images, {whose} among them")
