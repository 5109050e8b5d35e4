"""`patchbank audit`: which training images are odd."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.options import check_page, command, progress_bar
from patchbank.cli.terminal import note, say, say_json, say_parts
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError
from patchbank.util.wording import counted, plural, printable

if TYPE_CHECKING:
    from patchbank.monitoring.audit import Audit

_MOST_REMOVED = 20  # names in a command line to copy


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

        if output:
            check_page(output)
        if _is_model(source):
            if config != Config():
                raise ConfigError(f"{source} is a model, whose options are its own; leave the model options out")
            found = audit_model(PatchCore.load(source, runtime=runtime))
        else:
            with progress_bar() as progress:
                found = audit_images(read_dataset(source).train_paths, config, runtime=runtime, progress=progress)
        commands = _commands(found, source)
        if output:
            found.save(output, Path(source).name or source, commands)
        if as_json:
            say_json(found.to_dict())
        else:
            _print(found)
            for what, line in commands:
                note(f"{what}:")
                note(f"  {line}")
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


def _commands(found: Audit, source: str) -> list[tuple[str, str]]:
    """Returns what may be done about odd images: (what it does, command line to copy). Names that a terminal must not
    see are not offered."""
    odd: list[str] = []
    for image in found.odd:
        twins = {oddity.other for oddity in image.oddities if oddity.kind == "duplicate"}
        if image.name.isprintable() and not twins & set(odd):  # of two that are nearly the same, one stays
            odd.append(image.name)
    names = " ".join(f"--remove {shlex.quote(name)}" for name in odd[:_MOST_REMOVED])
    if not odd or not source.isprintable():
        return []
    where = shlex.quote(source)
    if _is_model(source):
        images = "--images DIR"  # the folder of the fit, which a model does not name
        return [("forget them (DIR: the folder of the fit)", f"patchbank update {where} {names} {images}")]
    return [
        ("fit without those that look defective", f"patchbank fit {where} -o MODEL --drop-outliers"),
        ("make a model that has learned them forget them", f"patchbank update MODEL {names} --images {where}"),
    ]


def _print(found: Audit) -> None:
    names = {image.name: printable(image.name) for image in (*found.odd, *found.oddest)}
    width = max((len(name) for name in names.values()), default=0)
    for image in found.odd:
        for place, oddity in enumerate(image.oddities):
            say(f"{names[image.name] if place == 0 else '':{width}}  {oddity.text}")
    for _, reason in found.unreadable:
        say(f"unreadable  {reason}")
    if found.oddest:
        say()
        say(f"the {len(found.oddest)} oddest, odd or not (oddness in multiples of its limit; over 1 is odd)")
    for rank, image in enumerate(found.oddest, start=1):
        mark, style = ("odd", "yellow") if image.oddities else ("", "")
        say_parts(
            (f"{rank:>4}  {image.severity:6.2f}  ", ""),
            (f"{mark:<3}", style),
            (f"  {names[image.name]:{width}}  {image.leading}".rstrip(), ""),
        )
    are = plural(len(found.odd), "is", "are")
    say(f"{len(found.odd)} of {counted(len(found.images), 'image')} {are} odd, the oddest first")
