"""`patchbank update` and `patchbank rollback`: the bank's next version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.fit import report_skipped
from patchbank.cli.history import MEANING, arrow, sides
from patchbank.cli.options import command, login, progress_bar
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Runtime
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.calibration.thresholds import Calibration
    from patchbank.fitted.versions import Version
    from patchbank.model import PatchCore

_MODEL = typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")
_NOTE = typer.Option("--note", metavar="TEXT", help="Why; kept in the version.")
_AUTHOR = typer.Option("--author", metavar="NAME", help="Who; kept in the version (default: the login name).")
_OUTPUT = typer.Option("-o", "--output", metavar="NEW", help="Model file to write (default: MODEL itself).")
_JSON = typer.Option("--json", help="Print one JSON object.")


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""

    @command(app, "update")
    def update(
        model: Annotated[str, _MODEL],
        runtime: Runtime,
        add: Annotated[
            list[str] | None,
            typer.Option("--add", metavar="DIR", help="Good images to learn: a folder or a file. Can be repeated."),
        ] = None,
        remove: Annotated[
            list[str] | None,
            typer.Option("--remove", metavar="IMAGE", help="Training image to forget, by name. Can be repeated."),
        ] = None,
        images: Annotated[
            list[str] | None,
            typer.Option(
                "--images",
                metavar="DIR",
                help="The training images, to measure the threshold again: the folder of the fit. Can be repeated.",
            ),
        ] = None,
        random_sample: Annotated[
            bool,
            typer.Option(
                "--random-sample",
                "--representative",
                help="The added images are a sample of good parts, not picked by score: calibrate with them too.",
            ),
        ] = False,
        recalibrate: Annotated[
            bool,
            typer.Option(
                "--recalibrate/--no-recalibrate",
                "--certify/--no-certify",
                help="Refuse, or accept, that a removal without --images leaves the threshold without its guarantee.",
            ),
        ] = True,
        message: Annotated[str, _NOTE] = "",
        author: Annotated[str | None, _AUTHOR] = None,
        output: Annotated[str | None, _OUTPUT] = None,
        as_json: Annotated[bool, _JSON] = False,
    ) -> None:
        """Learn good images that were flagged, forget bad training images. A new version in the same file; 'patchbank
        rollback' undoes it."""
        from patchbank.cli.output_folder import without_outputs
        from patchbank.evaluation.datasets import find_images, training_files
        from patchbank.model import PatchCore
        from patchbank.update.image_names import files_by_name, folders_of
        from patchbank.util.files import check_writable, claimed

        target = output or model
        check_writable(target)
        good = without_outputs(find_images(add), add) if add else []
        with claimed(model):
            old = PatchCore.load(model, runtime=runtime)
            inferred = folders_of(remove or [], old.training_images) if recalibrate else []
            folders = [Path(folder) for folder in images or inferred]
            files = [path for folder in folders for path in training_files(folder)]
            found = files_by_name(old.training_images, files, folders) if folders else None
            with progress_bar() as progress:
                new = old.update(
                    good,
                    remove or [],
                    images=found,
                    random_sample=random_sample,
                    recalibrate=recalibrate,
                    note=message,
                    author=login() if author is None else author,
                    skip_unreadable=True,
                    progress=progress,
                )
            new.save(target)
        _report(target, new, as_json)

    @command(app, "rollback")
    def rollback(
        model: Annotated[str, _MODEL],
        runtime: Runtime,
        to: Annotated[
            int | None, typer.Option("--to", metavar="V", help="Version to go back to (default: the one before).")
        ] = None,
        message: Annotated[str, _NOTE] = "",
        author: Annotated[str | None, _AUTHOR] = None,
        output: Annotated[str | None, _OUTPUT] = None,
        as_json: Annotated[bool, _JSON] = False,
    ) -> None:
        """Go back to an earlier version of the bank: the same scores and threshold, bit for bit. That is a version too,
        so it can be undone."""
        from patchbank.model import PatchCore
        from patchbank.util.files import check_writable, claimed

        target = output or model
        check_writable(target)
        with claimed(model):
            old = PatchCore.load(model, runtime=runtime)
            new = old.rollback(to, note=message, author=login() if author is None else author)
            new.save(target)
        _report(target, new, as_json)


def _report(path: str, model: PatchCore, as_json: bool) -> None:
    """Prints what the model's last version changed; what calls for action goes to stderr as well."""
    diff, version = model.diff(), model.versions[-1]
    if as_json:
        values = diff.to_dict() | {"skipped": [{"name": s.name, "reason": s.reason} for s in model.skipped]}
        say_json(values)
    else:
        images, vectors = counted(version.images, "image"), counted(version.size, "bank vector")
        say(f"{path}: version {version.number}, {images}, {vectors}")
        if version.restored:
            say(f"back to version {version.restored}")
        for each in version.added:
            score = arrow(each.score_before, each.score_after)
            new = f"{each.patches - each.covered} of {counted(each.patches, 'patch', 'patches')}"
            say(f"added      {each.name}: {new} were new, {each.vectors} joined the bank, score {score}")
        for gone in version.removed:
            say(
                f"removed    {gone.name}: {counted(gone.vectors, 'vector')}, {gone.uncovered} of them unlike all others"
            )
        if version.removed:
            lost = sum(each.vectors for each in version.removed)
            say(f"refilled   {version.refilled} of {counted(lost, 'vector')}")
        before = diff.before
        if model.calibration:
            promise = _promise(model.calibration, version)
            say(f"threshold  {arrow(before.threshold, version.threshold)} ({promise})")
            say(f"pixel threshold {arrow(before.pixel_threshold, version.pixel_threshold)}")
            for line in sides(diff):
                say(line)
    _warn(model)
    report_skipped([(each.name, each.reason) for each in model.skipped])


def _promise(calibration: Calibration, version: Version) -> str:
    meaning = MEANING[version.calibrated]
    return meaning if version.calibrated == "stale" else f"{calibration.support.guarantee}, {meaning}"


def _warn(model: PatchCore) -> None:
    version = model.versions[-1]
    for each in version.added:
        if each.covered < each.patches / 2:
            share = 100 * (1 - each.covered / each.patches)
            note(f"{each.name}: {share:.0f} % of its patches were unlike the bank; is it an image of this scene?")
        if version.threshold is not None and each.score_after > version.threshold:
            note(f"{each.name}: is still over the threshold")
    for gone in version.removed:
        if gone.uncovered:
            note(f"{gone.name}: what looks like {gone.uncovered} of its patches is unknown to the bank now")
    if version.refilled < (lost := sum(each.vectors for each in version.removed)):
        missing = counted(lost - version.refilled, "vector was", "vectors were")
        note(f"{missing} not replaced: no spares are left (--images gives more choice)")
    if version.calibrated == "stale":
        note("the threshold has lost its guarantee: run 'patchbank update MODEL --images DIR' with the training images")
