"""`patchbank fit`: good images in, a model file out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.options import command, progress_bar
from patchbank.cli.terminal import note, remarks_held, say
from patchbank.cli.threshold import PLANTED, say_both_sides, say_threshold
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError, ImageError, PatchbankError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.model import PatchCore


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "fit")
    def fit(
        data: Annotated[
            str, typer.Argument(metavar="DIR", help="Folder of good images, MVTec AD folder, or CSV file.")
        ],
        output: Annotated[
            str, typer.Option("-o", "--output", metavar="MODEL", help="Model file to write (.patchbank).")
        ],
        config: Config,
        runtime: Runtime,
        planted: Annotated[
            int,
            typer.Option(
                "--planted",
                metavar="N",
                min=0,
                max=1000,
                help="Defects to plant on training images, to show how many of them pass under which threshold; 0 = "
                "none.",
            ),
        ] = PLANTED,
        force: Annotated[
            bool, typer.Option("--force", help="Replace MODEL although it has a history, which is lost then.")
        ] = False,
    ) -> None:
        """Learn what good parts look like from a folder of images of good parts."""
        from patchbank.evaluation.datasets import read_dataset
        from patchbank.model import PatchCore
        from patchbank.model_file.contents import needs_trust
        from patchbank.util.files import check_writable, is_replaceable

        check_writable(output)
        if not force:
            _check_history(output)
        partial = f"{output}.partial" if is_replaceable(output) else None
        paths = read_dataset(data).train_paths
        start = time.perf_counter()
        with progress_bar() as progress, remarks_held() as remarks:
            model = PatchCore.fit(
                paths, config, runtime=runtime, skip_unreadable=True, checkpoint=partial, progress=progress
            )
        model.save(output)
        seconds = time.perf_counter() - start
        say(
            f"{output}: {counted(len(model.bank.images), 'image')}, {counted(len(model.bank), 'bank vector')}, "
            f"fitted in {seconds:.1f} s"
        )
        if model.calibration:
            say_threshold(model.calibration)
            _say_both_sides(model, paths, planted)
        for remark in remarks:
            note(remark)
        if model.config.search != "exact":
            unusable = {skipped.name for skipped in model.skipped}
            recall = model.search_recall([path for path in paths if str(path) not in unusable][:5])
            say(f"search {model.config.search} finds {100 * recall:.1f} % of the true neighbours (5 training images)")
        if why := needs_trust(model):
            note(f"whoever loads this model must vouch for it (--trusted): {why}")
        if model.suspects:
            note(
                f"look at them with 'patchbank audit {data} -o audit.html'; leave them out with --drop-outliers, or "
                "later with 'patchbank update --remove'"
            )


def _check_history(output: str) -> None:
    """Raises ConfigError where a fit would replace a model that people have taught and corrected."""
    from patchbank.model_file.contents import read

    if not Path(output).is_file():
        return
    try:
        versions = read(output).history.versions
    except PatchbankError:  # no model, or one that is of no use any more
        return
    if len(versions) > 1:
        last = versions[-1]
        raise ConfigError(
            f"{output} has {len(versions)} versions (the last: {last.action} of {last.time}); a new fit has none of "
            "what was taught, removed or decided in them: name another file, or replace it with --force"
        )


def _say_both_sides(model: PatchCore, paths: Sequence[Path], count: int) -> None:
    """The thresholds for a few rates, with the planted defects that pass under each."""
    from patchbank.evaluation.tradeoff import planted_scores
    from patchbank.fit.fit import relative_names

    assert model.calibration
    scores = None
    if count:
        with progress_bar() as progress:
            unusable = {skipped.name for skipped in model.skipped}
            files = [path for path in paths if str(path) not in unusable]
            named = dict(zip(relative_names([str(path) for path in files]), files, strict=True))
            try:
                scores = planted_scores(model, named, count, progress)
            except (ImageError, MemoryError) as error:  # the model is there all the same
                note(f"no defects were planted: {str(error) or 'not enough memory'}")
    say_both_sides(model.calibration, planted=scores)


def report_skipped(skipped: list[tuple[str, str]]) -> None:
    """Counts and names the images that were left out, on stderr."""
    if skipped:
        note(f"{counted(len(skipped), 'image')} could not be used:")
        for _, reason in skipped:
            note(f"  {reason}")
