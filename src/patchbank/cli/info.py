"""`patchbank info`: what a model file holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.history import MEANING
from patchbank.cli.options import command
from patchbank.cli.terminal import say, say_json
from patchbank.cli.threshold import described
from patchbank.config import Runtime
from patchbank.errors import ConfigError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.calibration.image_check import ImageCheck
    from patchbank.calibration.thresholds import Calibration
    from patchbank.results.self_test import SelfTest


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "info")
    def info(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        runtime: Runtime,
        as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
        self_test: Annotated[
            bool,
            typer.Option(
                "--self-test",
                help="Score the training images that the model keeps for it once more, here: exit code 9 where they do "
                "not score as they did when it was made. The runtime's options say on which device.",
            ),
        ] = False,
    ) -> None:
        """Show what a model was made of: options, backbone, bank, threshold. Checks the file's integrity."""
        from patchbank.model import PatchCore
        from patchbank.model_file.contents import read

        if not self_test and runtime != Runtime():
            raise ConfigError("info: the runtime's options are those of --self-test; nothing runs without it")
        stored = read(model)
        tested = PatchCore.load(model, runtime=runtime).run_self_test() if self_test else None
        manifest = stored.manifest
        if tested:
            manifest["self_test_now"] = tested.to_dict()
        if as_json:
            say_json(manifest, indent=1)
            return
        backbone, bank, calibration = manifest["backbone"], manifest["bank"], stored.state.calibration
        last = stored.history.versions[-1]
        layers = [
            f"{each['name']} ({each['channels']} channels, stride {each['stride']})" for each in backbone["layers"]
        ]
        rows = {
            "file": f"{model} ({Path(model).stat().st_size / 1e6:.1f} MB, format {manifest['format_version']})",
            "sha-256": stored.file.sha256(),
            "written by": f"patchbank {manifest['patchbank_version']}",
            "backbone": f"{backbone['name']} ({backbone['licence']})",
            "layers": ", ".join(layers),
            "bank": f"{counted(bank['size'], 'vector')} of {counted(last.images, 'image')}",
            "radius": f"{last.covering_radius:.4f} (no training patch is farther from the bank)",
            "threshold": described(calibration) if calibration else "none",
            "scene": _scene(stored.state.scene),
            "self-test": _self_test(len(stored.self_test_images), tested),
        }
        if calibration:
            rows["support"] = str(calibration.support)
            rows["review"] = _review(calibration)
            if calibration.bounds.suspects:
                rows["suspects"] = calibration.bounds.sentence
        if math.isnan(last.covering_radius):
            rows["radius"] = "unknown"
        if last.number > 1:
            rows["version"] = f"{last.number}, {last.action} of {last.time} (patchbank history)"
        if last.calibrated in ("bound", "stale"):
            rows["scores"] = MEANING[last.calibrated]
        for name, value in rows.items():
            say(f"{name:<12} {value}")
        say("options")
        for name, value in manifest["config"].items():
            say(f"  {name:<20} {value}")


def _self_test(images: int, tested: SelfTest | None) -> str:
    if not images:
        return "none: patchbank update MODEL --images FOLDER adds one"
    if tested is None:
        return f"{counted(images, 'image')} (--self-test scores them once more)"
    limit = f"largest difference {tested.difference:.1e} of a patch's length, limit {tested.tolerance:.0e}"
    return f"passed: {counted(images, 'image')}, {limit}"


def _review(calibration: Calibration) -> str:
    if not calibration.review_rate:
        return "off"
    above, rate = calibration.review_above, f"{100 * calibration.review_rate:g} % of good images"
    return f"{rate}, over {above:.4f}" if above is not None else f"{rate}; too few images support it"


def _scene(scene: ImageCheck | None) -> str:
    if scene is None:
        return "not checked"
    from patchbank.calibration.image_check import MEASURES

    ranges = zip(MEASURES, *scene.ranges, strict=True)
    about = ", ".join(f"{measure.name} {low:.4g}..{high:.4g}" for measure, low, high in ranges)
    return f"{about} (false alarms at most {100 * scene.max_false_alarms:g} %, {counted(len(scene.measures), 'image')})"
