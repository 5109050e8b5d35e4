"""`patchbank backbones`: list, show, fetch, export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank.cli.options import command, progress_bar
from patchbank.cli.terminal import say, say_json
from patchbank.config import Runtime

app = typer.Typer(help="The networks that can be used: list, show, fetch, export.", no_args_is_help=True)


@command(app, "backbones list")
def list_all(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """List the networks that have a name."""
    from patchbank.backbones.zoo import zoo

    if as_json:
        say_json([dataclasses.asdict(row) for row in zoo()])
        return
    for row in zoo():
        layers = ", ".join(
            f"{layer.name} ({layer.channels})" for layer in row.layers if layer.name in row.default_layers
        )
        say(f"{row.name:<20} {layers:<32} {row.licence:<13} {_availability(row)}")


@command(app, "backbones show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A zoo network, or the path of an ONNX file.")],
    runtime: Runtime,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show a network's layers, channels, strides, input statistics and licence."""
    from patchbank.backbones import BackboneInfo, load_backbone
    from patchbank.backbones.custom import list_layers
    from patchbank.backbones.zoo import find

    if name.lower().endswith(".onnx"):
        info = load_backbone(name, (), runtime).info
        about: dict[str, Any] = dataclasses.asdict(info) | {"default_layers": [layer.name for layer in info.layers]}
        about["layers"] = [dataclasses.asdict(layer) for layer in list_layers(name, trusted=runtime.trusted)]
        weights = name
    else:
        row = find(name)
        about, weights = dataclasses.asdict(row), _availability(row)
    if as_json:
        say_json(about)
        return
    patch_size = about.get("patch_size", BackboneInfo.patch_size)
    say(f"{about['name']}: {about['licence']}, embedding {about['embedding']}, patch_size {patch_size}")
    say(f"input        (rgb - mean) / std on 0..255; mean {_triple(about['mean'])}, std {_triple(about['std'])}")
    if (multiple := about.get("side_multiple", 1)) > 1:
        say(f"             height and width are multiples of {multiple}")
    say(f"weights      {weights}")
    say("layer        channels  stride")
    for layer in about["layers"]:
        default = "  default" if layer["name"] in about["default_layers"] else ""
        say(f"{layer['name']:<12} {layer['channels']:>8}  {layer['stride']:>6}{default}")


@command(app, "backbones fetch")
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A zoo network whose weights are downloaded.")],
) -> None:
    """Download a network's weights once, check them, and keep them in the cache."""
    from patchbank.backbones.fetch import fetch as run

    with progress_bar() as progress:
        path = run(name, progress)
    say(str(path))


@command(app, "backbones export")
def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Any model of timm that can return features.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="ONNX file to write.")],
    pretrained: Annotated[bool, typer.Option(help="Use timm's pretrained weights (downloads them).")] = True,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Use this checkpoint of the model (.safetensors, .pth) and download nothing."
        ),
    ] = None,
) -> None:
    """Export a model of timm as an ONNX file that `--backbone FILE` takes. Needs the extra `torch`."""
    from patchbank.backbones.export import export as run

    say(str(run(name, output, pretrained=pretrained, weights=weights)))


def _availability(row: Any) -> str:
    from patchbank.backbones.build import expected_path

    path = expected_path(row)
    if path is not None and path.is_file():
        return str(path)
    return "not on this machine; " + getattr(row.weights, "install", f"patchbank backbones fetch {row.name}")


def _triple(values: Any) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
