"""`patchbank info`: what a model file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank.cli.fit import promise
from patchbank.cli.options import command


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "info")
    def info(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
    ) -> None:
        """Show what a model was made of: options, backbone, bank, threshold. Checks the file's integrity."""
        from patchbank.artifact import ModelFile

        manifest = ModelFile(model).manifest
        if as_json:
            typer.echo(json.dumps(manifest, indent=1, allow_nan=False))
            return
        backbone, bank, calibration = manifest["backbone"], manifest["bank"], manifest["calibration"]
        layers = [
            f"{each['name']} ({each['channels']} channels, stride {each['stride']})" for each in backbone["layers"]
        ]
        rows = {
            "file": f"{model} ({Path(model).stat().st_size / 1e6:.1f} MB, format {manifest['format_version']})",
            "written by": f"patchbank {manifest['patchbank_version']}",
            "backbone": f"{backbone['name']} ({backbone['licence']})",
            "layers": ", ".join(layers),
            "bank": f"{bank['size']} vectors of {len(bank['images'])} images",
            "radius": f"{bank['covering_radius']:.4f} (no training patch is farther from the bank)",
            "threshold": _threshold(calibration) if calibration else "none",
        }
        for name, value in rows.items():
            typer.echo(f"{name:<12} {value}")
        typer.echo("options")
        for name, value in manifest["config"].items():
            typer.echo(f"  {name:<20} {value}")


def _threshold(calibration: dict[str, Any]) -> str:
    from patchbank.calibration import support

    rate = calibration["max_false_alarms" if "max_false_alarms" in calibration else "false_alarm_rate"]  # format 1
    about = support(len(calibration["images"]), rate, calibration.get("confidence", 0.0))
    method = calibration["method"].replace("_", " ")
    enough = "" if about.kept else f"; {about}"
    return f"{calibration['threshold']:.4f} ({promise(about)}; {method}, {about.n} images{enough})"
