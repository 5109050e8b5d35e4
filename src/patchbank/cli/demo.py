"""`patchbank demo`: the main job on real images of solar cells, in a minute."""

from __future__ import annotations

import csv
import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.options import command, progress_bar
from patchbank.cli.terminal import say
from patchbank.config import Config, Runtime
from patchbank.errors import MissingExtraError
from patchbank.util.log import quiet

if TYPE_CHECKING:
    from patchbank.results.result import Result
    from patchbank.results.verdict import Verdict

TRAIN, TEST = 200, 40


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "demo")
    def demo(
        config: Config,
        runtime: Runtime,
        out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where to write.")] = "patchbank-demo",
    ) -> None:
        """Learn functional solar cells, inspect unseen functional and defective ones, write overlays and a report."""
        import numpy as np

        from patchbank.cli.output_folder import MOST_EXPLAINED
        from patchbank.evaluation.metrics import auroc
        from patchbank.imaging.images import write_png
        from patchbank.model import PatchCore
        from patchbank.reports.inspection import ReportRow, write_report
        from patchbank.results.verdict import Verdict
        from patchbank.util.files import make_folder

        train, good, defective = solar_cells()
        folder = make_folder(out)
        say(f"learning {len(train)} functional solar cells (ELPV dataset, monocrystalline)")
        start = time.perf_counter()
        with progress_bar() as progress, quiet():
            model = PatchCore.fit(train, config, runtime=runtime, progress=progress)
        fit_s = time.perf_counter() - start
        model.save(folder / "solar.patchbank")
        results: list[Result] = []
        rows: list[ReportRow] = []
        with progress_bar() as progress:
            for number, path in enumerate([*good, *defective]):
                progress("inspect", number, len(good) + len(defective))
                result = model.predict(path)
                label = "functional" if number < len(good) else "defective"
                picture = result.overlay()
                write_png(folder / "overlays" / label / f"{path.stem}.png", picture)
                bad = number >= len(good)
                explained = sum(row.why is not None for row in rows)
                asked = result.verdict != Verdict.OK and explained < MOST_EXPLAINED
                why = result.explain(regions=1) if asked else None
                seen = ReportRow.of(result, name=path.name, overlay=picture, label=label, defective=bad, why=why)
                rows.append(seen)
                results.append(result)
        unseen, broken = results[: len(good)], results[len(good) :]
        labels = np.array([False] * len(unseen) + [True] * len(broken))
        area = auroc(np.array([result.score for result in results]), labels)
        milliseconds = 1000 * float(np.median([sum(result.timings.values()) for result in results]))
        summary = {"image AUROC": f"{area:.3f}", "fitted in": f"{fit_s:.1f} s", "per image": f"{milliseconds:.0f} ms"}
        held = model.calibration
        write_report(folder / "report.html", rows, title="Solar cells", summary=summary, calibration=held)
        say(f"{'':<18} images  {'OK':>6}  {'REVIEW':>6}  {'NG':>6}  median score")
        for name, part in (("functional, unseen", unseen), ("defective", broken)):
            counts = "".join(f"  {_count(part, verdict):>6}" for verdict in (Verdict.OK, Verdict.REVIEW, Verdict.NG))
            say(f"{name:<18} {len(part):>6}{counts}  {np.median([r.score for r in part]):>12.3f}")
        threshold = f"threshold {held.threshold:.3f} ({held.support.guarantee}); " if held else ""
        say(threshold + ", ".join(f"{name} {value}" for name, value in summary.items()))
        if passed := sorted(Path(result.path).name for result in broken if result.verdict == Verdict.OK):
            say(f"defective, but OK: {', '.join(passed)}")
        say(f"report    {folder / 'report.html'}")
        say(f"overlays  {folder / 'overlays'}")
        say(f"model     {folder / 'solar.patchbank'}")


def _count(results: list[Result], verdict: Verdict) -> int:
    return sum(result.verdict == verdict for result in results)


def solar_cells() -> tuple[list[Path], list[Path], list[Path]]:
    """Monocrystalline cells: functional ones to learn, unseen functional ones, and certainly defective ones.

    Raises MissingExtraError without the package `elpv-dataset`.
    """
    import numpy as np

    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the demo's images are not installed; run: pip install 'patchbank[demo]'")
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    with (data / "labels.csv").open(newline="") as file:
        rows = [line for line in csv.reader(file, delimiter=" ", skipinitialspace=True) if line]
    cells = [(data / row[0], float(row[1])) for row in rows if row[2].strip() == "mono"]
    shuffled = np.random.default_rng(0).permutation(len(cells))
    functional = [cells[i][0] for i in shuffled if cells[i][1] == 0.0]
    defective = [cells[i][0] for i in shuffled if cells[i][1] == 1.0]
    return functional[:TRAIN], functional[TRAIN : TRAIN + TEST], defective[:TEST]
