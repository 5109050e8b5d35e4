"""The zoo as text: the table of docs/operate/backbones.md, compared with it by a test."""

from __future__ import annotations

from patchbank.backbones.zoo import DownloadedWeights, ZooRow, zoo


def zoo_table() -> str:
    """A Markdown table, one line a network; layers as name (channels, stride), the default ones in bold."""
    head = "| name | layers: name (channels, stride); **default** | embedding | weights | licence |\n"
    return head + "| --- | --- | --- | --- | --- |\n" + "".join(_line(row) for row in zoo())


def _line(row: ZooRow) -> str:
    layers = []
    for layer in row.layers:
        mark = "**" if layer.name in row.default_layers else ""
        layers.append(f"{mark}`{layer.name}`{mark} ({layer.channels}, {layer.stride})")
    return f"| `{row.name}` | {', '.join(layers)} | {row.embedding} | {_source(row)} | {row.licence} |\n"


def _source(row: ZooRow) -> str:
    if isinstance(row.weights, DownloadedWeights):
        return f"`{row.weights.file}`, {row.weights.megabytes} MB, fetched"
    return f"`{row.weights.package}`, " + (f"extra `{row.weights.extra}`" if row.weights.extra else "installed")
