"""`patchbank tune`: choose settings for these parts, this machine and a time budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.options import command, progress_bar
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError, MissingExtraError, OutputError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.evaluation.tune import TuneReport


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "tune")
    def tune(
        data: Annotated[
            str, typer.Argument(metavar="DIR", help="Folder of good images, MVTec AD folder, or CSV file.")
        ],
        config: Config,
        runtime: Runtime,
        budget_ms: Annotated[float, typer.Option("--budget-ms", metavar="MS", help="Time for one image.")] = 50.0,
        output: Annotated[
            str | None, typer.Option("-o", "--output", metavar="TOML", help="Write the chosen options there.")
        ] = None,
        plot: Annotated[
            str | None, typer.Option("--plot", metavar="PNG", help="Draw time against quality there.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Try the presets and a few image sizes on your parts and this machine; show what each costs and finds, and
        choose the best within a time budget. Defects are the labelled ones of test/KIND or, without any, planted on
        good images: good enough to compare settings, no forecast of what will be found. Settings that these images
        cannot tell apart are named; then the options that were given stay, or else the cheapest is taken."""
        if not budget_ms > 0:
            raise ConfigError(f"--budget-ms: expected more than 0; got {budget_ms:g}")
        if plot:
            _import_matplotlib()
        from patchbank.evaluation.datasets import read_dataset
        from patchbank.evaluation.tune import tune as run
        from patchbank.util.files import check_writable

        for path in (output, plot):
            if path:
                check_writable(path)
        with progress_bar() as progress:
            report = run(read_dataset(data), config, runtime, budget_ms, progress)
        if as_json:
            say_json(report.to_dict())
        else:
            for line in _table(report):
                say(line)
        if not report.chosen.within_budget:
            note(f"no candidate is within {budget_ms:g} ms; the fastest takes {report.chosen.ms:.1f} ms")
        if output:
            _write_toml(Path(output), report.chosen.config)
            note(f"use it: patchbank fit {data} --config {output} -o MODEL")
        if plot:
            _draw(Path(plot), report)


def _table(report: TuneReport) -> list[str]:
    lines = [
        f"{counted(report.n_good, 'held-out good image')}, {report.n_defective} with {report.defects} defects; "
        f"budget {report.budget_ms:g} ms",
        f"  {'setting':<12}{'ms an image':>12}{'image AUROC':>14}{'+-':>7}",
    ]
    for trial in report.trials:
        mark = "*" if trial is report.chosen else " "
        over = "" if trial.within_budget else "  over budget"
        lines.append(
            f"{mark} {trial.name:<12}{trial.ms:>12.1f}{100 * trial.image_auroc:>14.1f}"
            f"{100 * trial.standard_error:>7.1f}{over}"
        )
    lines += [f"  {name:<12}not tried: {reason}" for name, reason in report.missing.items()]
    if len(report.tied) > 1:
        why = "the options that were given stay" if report.chosen.name == report.default else "the cheapest is taken"
        lines.append(f"{', '.join(report.tied)}: these images cannot tell them apart (95 %); {why}")
    return [*lines, f"* chosen: {report.chosen.name}"]


def _write_toml(path: Path, config: Config) -> None:
    """The options that differ from the defaults."""
    from patchbank.util.files import atomic_write

    default, values = Config().to_dict(), config.to_dict()
    changed = {name: value for name, value in values.items() if value != default[name]}
    try:
        data = "".join(f"{name} = {_literal(value)}\n" for name, value in changed.items()).encode()
    except UnicodeEncodeError as error:
        raise OutputError(
            f"cannot write {path}: an option names a file whose name is no UTF-8, which TOML cannot hold; rename it"
        ) from error
    with atomic_write(path) as file:
        file.write(data)


def _literal(value: Any) -> str:
    """A TOML value: JSON's strings, numbers and lists are TOML's, which wants DEL escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _import_matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError("--plot needs matplotlib; run: pip install 'patchbank[plot]'") from error
    return matplotlib.figure


def _draw(path: Path, report: TuneReport) -> None:
    from patchbank.util.files import atomic_write

    figure = _import_matplotlib().Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for trial in report.trials:
        chosen = trial is report.chosen
        axes.errorbar(
            trial.ms,
            100 * trial.image_auroc,
            yerr=100 * trial.standard_error,
            fmt="o",
            color="#c2410c" if chosen else "#475569",
            markersize=9 if chosen else 6,
            capsize=3,
        )
        label = f"{trial.name} (chosen)" if chosen else trial.name
        axes.annotate(label, (trial.ms, 100 * trial.image_auroc), xytext=(7, 7), textcoords="offset points")
    axes.axvline(report.budget_ms, color="#94a3b8", linestyle="--", label=f"budget {report.budget_ms:g} ms")
    axes.set_xlabel("ms an image, file to anomaly map, on this machine")
    axes.set_ylabel(f"image AUROC, % ({report.defects} defects)")
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lstrip(".").lower() or "png", dpi=120)
