"""`patchbank history` and `patchbank diff`: the bank's versions, and what differs between two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.options import command
from patchbank.cli.terminal import say, say_json
from patchbank.config import Runtime
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.fitted.versions import Version
    from patchbank.update.compare import Diff

MEANING = {
    "exact": "valid: measured with this bank",
    "bound": "conservative: the bank has grown since the scores were measured",
    "stale": "INVALID: the bank has lost vectors since the scores were measured",
    "none": "fitted without calibration",
}
STATES = {"exact": "valid", "bound": "conservative", "stale": "invalid", "none": "none"}  # of the calibration scores
_MODEL = typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""

    @command(app, "history")
    def history(
        model: Annotated[str, _MODEL],
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """List the versions of a model's bank: when, who, why, and what changed."""
        from patchbank.model_file.contents import read

        versions = read(model).history.versions
        if as_json:
            say_json({"versions": [version.to_dict() for version in versions]})
            return
        for version in versions:
            say(_line(version))

    @command(app, "diff")
    def diff(
        model: Annotated[str, _MODEL],
        runtime: Runtime,
        before: Annotated[
            int | None, typer.Argument(metavar="V1", help="Version (default: the one before the last).")
        ] = None,
        after: Annotated[int | None, typer.Argument(metavar="V2", help="Version (default: the last).")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all scores.")] = False,
    ) -> None:
        """Show what differs between two versions: images, vectors, threshold, and which calibration images changed
        sides of it."""
        from patchbank.model import PatchCore

        found = PatchCore.load(model, runtime=runtime).diff(before, after)
        if as_json:
            say_json(found.to_dict())
            return
        say(f"version    {found.before.number} -> {found.after.number}")
        for word, names in (("added", found.images_added), ("removed", found.images_removed)):
            for name in names:
                say(f"{word:<10} {name}")
        size = f"{found.before.size} -> {found.after.size}"
        say(f"vectors    {size} ({found.vectors_added} came, {found.vectors_removed} left)")
        say(f"threshold  {arrow(found.before.threshold, found.after.threshold)}")
        say(f"pixel threshold {arrow(found.before.pixel_threshold, found.after.pixel_threshold)}")
        say(f"scores     {MEANING[found.after.calibrated]}")
        for line in sides(found):
            say(line)


def arrow(before: float | None, after: float | None) -> str:
    """Two numbers for people: before -> after."""
    return " -> ".join("none" if value is None else f"{value:.4f}" for value in (before, after))


def sides(diff: Diff) -> list[str]:
    """Returns how many calibration images changed sides of the threshold, and which."""
    changes = diff.changed_sides
    lines = [f"verdicts   {counted(len(changes), 'calibration image')} changed sides of the threshold"]
    for change in changes:
        way = "over it now" if change.over_after else "no longer over it"
        lines.append(f"  {change.image}: {way}, score {arrow(change.before, change.after)}")
    return lines


def _line(version: Version) -> str:
    what = {"fit": "fit", "rollback": f"back to {version.restored}", "threshold": "another threshold"}
    parts = [what[version.action]] if version.action in what else []
    if version.added:
        gained = counted(sum(each.vectors for each in version.added), "vector")
        parts.append(f"added {counted(len(version.added), 'image')} (+{gained})")
    if version.removed:
        lost = counted(sum(each.vectors for each in version.removed), "vector")
        parts.append(f"removed {counted(len(version.removed), 'image')} (-{lost}, +{version.refilled} in their place)")
    if not parts:
        parts.append("certified again")
    images, vectors = counted(version.images, "image"), counted(version.size, "vector")
    threshold = "-" if version.threshold is None else f"{version.threshold:.4f}"
    about = " ".join(text for text in (version.time, version.author) if text)
    note = f": {_quoted(version.note)}" if version.note else ""
    return (
        f"{version.number:>4}  {images}, {vectors}, threshold {threshold} "
        f"({STATES[version.calibrated]})  {', '.join(parts)}{note}" + (f"  [{about}]" if about else "")
    )


def _quoted(text: str) -> str:
    """On one line, in quotes that nothing within it can end: what follows them is not the author's word."""
    return '"' + " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"') + '"'
