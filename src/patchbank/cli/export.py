"""`patchbank export`: a model for programs without patchbank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli.options import command, progress_bar
from patchbank.cli.terminal import note, say, say_json
from patchbank.config import Runtime
from patchbank.errors import ConfigError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from patchbank.export.folder import Exported


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "export")
    def export(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Model file written by 'patchbank fit'.")],
        runtime: Runtime,
        output: Annotated[
            str, typer.Option("-o", "--output", metavar="DIR", help="Folder to write; files in it are replaced.")
        ],
        input_size: Annotated[
            str | None,
            typer.Option(
                "--input-size",
                metavar="HEIGHTxWIDTH",
                help="Size of the images to inspect, in pixels (default: the training images').",
            ),
        ] = None,
        bank_size: Annotated[
            int | None,
            typer.Option(
                "--bank-size", metavar="N", help="Thin the bank to N vectors: faster. Give --training-images with it."
            ),
        ] = None,
        training_images: Annotated[
            str | None,
            typer.Option(
                "--training-images",
                metavar="DIR",
                help="The folder of the fit, to measure the threshold again for a smaller bank. Without it, scores "
                "rise and the threshold does not: more good parts are flagged.",
            ),
        ] = None,
        images: Annotated[
            str | None,
            typer.Option(
                "--images",
                metavar="DIR",
                help="Reference images of this size (default: made of the model's self-test).",
            ),
        ] = None,
        html: Annotated[
            bool, typer.Option("--html", help="Also write a page that inspects in a browser, without a network.")
        ] = False,
        ort_web: Annotated[
            str | None,
            typer.Option(
                "--ort-web",
                metavar="FILE|DIR",
                help="For --html: the npm package onnxruntime-web, as the .tgz of 'npm pack' or a folder.",
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Write a model as one ONNX file, which other programs run without patchbank and Python: from the pixels to
        score, verdict and heat map. With reference images, a README, and programs in C++, C#, JavaScript and Python."""
        from patchbank.evaluation.datasets import find_images, training_files
        from patchbank.export.folder import export_onnx
        from patchbank.export.page import read_ort_web
        from patchbank.model import PatchCore
        from patchbank.update.image_names import files_by_name

        if ort_web and not html:
            raise ConfigError("ort_web: it is for the page; add --html")
        if html:
            read_ort_web(ort_web)  # what is missing is said before the work
        size = _size(input_size)
        found = find_images(images) if images else []
        fitted = PatchCore.load(model, runtime=runtime)
        title = f"Inspection with {Path(model).name}"
        known = None
        if training_images:
            files = training_files(Path(training_images))
            known = files_by_name(fitted.training_images, files, [Path(training_images)])
        with progress_bar() as progress:
            done = export_onnx(
                fitted,
                output,
                input_size=size,
                bank_size=bank_size,
                training_images=known,
                images=found,
                ort_web=ort_web,
                title=title,
                progress=progress,
            )
        if as_json:
            say_json(done.to_dict())
        else:
            _print(done)
        for remark in done.remarks:
            note(remark)


def _size(text: str | None) -> tuple[int, int] | None:
    from patchbank.validation import parse_image_size

    if text is None:
        return None
    size = parse_image_size(text, "input_size")
    if len(size) != 2:
        raise ConfigError(f"input_size: expected HEIGHTxWIDTH, as 480x640; got {text!r}")
    return size[0], size[1]


def _print(done: Exported) -> None:
    height, width = done.size
    graph, library = done.milliseconds
    say(f"{done.folder}: model.onnx ({done.file_bytes / 1e6:.1f} MB) for images of {height}x{width} pixels")
    if done.page_bytes:
        say(f"page         {done.folder}/inspect.html ({done.page_bytes / 1e6:.1f} MB)")
    say(f"bank         {counted(done.bank_size, 'vector')}")
    images = counted(done.images, "reference image")
    say(f"agreement    {images}: same verdicts, scores to {done.largest_difference:.1g}")
    say(f"time         {graph:.0f} ms an image on this machine (patchbank itself: {library:.0f} ms)")
    if done.thinning:
        cost = done.thinning
        rise = f"{100 * cost.median_rise:.2g} % (median), at most {100 * cost.largest_rise:.2g} %"
        changed = f"{cost.other_verdicts} of {counted(cost.images, 'verdict')}"
        say(f"smaller bank scores rise by {rise}; {changed} changed; {cost.milliseconds_before:.0f} ms before")
        if cost.measured_again:
            say("threshold    measured again: {:.4f} (whole bank: {:.4f})".format(*reversed(cost.thresholds)))
    say("not in it    decoding of files, other sizes, 16 bits, regions, explanations: see README.md")
