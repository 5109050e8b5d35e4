"""`patchbank audit`: which training images are odd."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.options import command, progress_bar
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError
from patchbank.util.wording import counted, plural, printable

if TYPE_CHECKING:
    from patchbank.monitoring.audit import Audit


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "audit")
    def audit(
        source: Annotated[
            str,
            typer.Argument(
                metavar="DIR|MODEL",
                help="Folder of good images, MVTec AD folder or CSV file; or a model file, for what it holds.",
            ),
        ],
        config: Config,
        runtime: Runtime,
        output: Annotated[
            str | None, typer.Option("-o", "--output", metavar="FILE", help="Write one page with pictures (.html).")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all images.")] = False,
    ) -> None:
        """Look for bad images among the training images: defective, blurred, wrongly exposed, differently sized or
        framed ones, and near duplicates, the oddest first. Nothing is changed."""
        from patchbank.evaluation.datasets import read_dataset
        from patchbank.model import PatchCore
        from patchbank.monitoring.audit import audit_images, audit_model
        from patchbank.util.files import check_writable

        if output:
            if Path(output).suffix.lower() not in (".html", ".htm"):
                raise ConfigError(f"output: expected a name that ends in .html; got {output}")
            check_writable(output)
        if _is_model(source):
            if config != Config():
                raise ConfigError(f"{source} is a model, whose options are its own; leave the model options out")
            found = audit_model(PatchCore.load(source, runtime=runtime))
        else:
            with progress_bar() as progress:
                found = audit_images(read_dataset(source).train_paths, config, runtime=runtime, progress=progress)
        if output:
            found.save(output, Path(source).name or source)
        if as_json:
            say_json(found.to_dict())
        else:
            _print(found)
        for text in found.notes:
            note(text)
        if output:
            note(f"wrote {output}")


def _is_model(source: str) -> bool:
    path = Path(source)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".patchbank" or file.read(4) == b"PK\x03\x04"


def _print(found: Audit) -> None:
    names = {image.name: printable(image.name) for image in found.odd}
    width = max((len(names[image.name]) for image in found.odd), default=0)
    for image in found.odd:
        for place, oddity in enumerate(image.oddities):
            say(f"{names[image.name] if place == 0 else '':{width}}  {oddity.text}")
    for _, reason in found.unreadable:
        say(f"unreadable  {reason}")
    are = plural(len(found.odd), "is", "are")
    say(f"{len(found.odd)} of {counted(len(found.images), 'image')} {are} odd, the oddest first")
