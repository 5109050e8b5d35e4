"""`patchbank explain`: why an image was judged as it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.options import command
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Runtime

if TYPE_CHECKING:
    from patchbank.results.explanation import ExplanationFacts, Finding


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "explain")
    def explain(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image to inspect and explain.")],
        runtime: Runtime,
        output: Annotated[
            str | None,
            typer.Option("-o", "--output", metavar="FILE", help="Write one page (.html) or one picture (.png)."),
        ] = None,
        regions: Annotated[int, typer.Option("--regions", metavar="N", help="Explain at most so many regions.")] = 5,
        neighbours: Annotated[
            int, typer.Option("--neighbours", metavar="N", help="Show so many nearest normal patches of each.")
        ] = 3,
        colours: Annotated[
            str,
            typer.Option(
                "--colours",
                metavar="orange|blue",
                help="The heat map's colours; blue shows better on orange parts (rust, copper, wood).",
            ),
        ] = "orange",
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Say why an image was judged as it was: for each region the nearest normal patches, and how far normal patches
        are from what the model knows, at that place and overall."""
        from patchbank.imaging.overlay import check_colours
        from patchbank.inspection.explain import check_ending, check_numbers
        from patchbank.model import PatchCore
        from patchbank.util.files import check_writable

        check_numbers(regions, neighbours)
        check_colours(colours)
        if output:
            check_ending(output)
            check_writable(output)
        result = PatchCore.load(model, runtime=runtime).predict(image)
        explanation = result.explain(regions=regions, neighbours=neighbours, colours=colours)
        if output:
            explanation.save(output, model=Path(model).name)
        if as_json:
            say_json(explanation.to_dict())
        else:
            _print(explanation)
        if output:
            note(f"wrote {output}")


def _print(explanation: ExplanationFacts) -> None:
    from patchbank.reports import explanation_text as said

    say(explanation.path)
    say(said.verdict(explanation))
    for text in explanation.notes:
        say(text)
    for number, finding in enumerate(explanation.findings, start=1):
        say()
        say(said.title(number, finding))
        for line in _lines(finding):
            say(f"  {line}")


def _lines(finding: Finding) -> list[str]:
    from patchbank.reports import explanation_text as said

    near = [f"{patch.distance:9.4g}  {patch.image}, {said.percent(patch.mark)}" for patch in finding.neighbours]
    return [said.distance(finding), *said.comparisons(finding), "Nearest normal patches:", *near]
