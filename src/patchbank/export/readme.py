"""The README of an exported folder: for programmers who know no machine learning, and no Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from patchbank.export.thinning import ThinningCost
from patchbank.util.wording import counted, printable

# What the library does and a graph does not.
LEFT_OUT = (
    "**Reading image files.** The model takes pixels. Decode the file with what your language has: 8 bits, RGB,\n"
    "  turned as its EXIF orientation says.",
    "**Other sizes.** The model takes images of one size. Do not resize others to it: their scores would mean\n"
    "  nothing. Export again with another `--input-size`.",
    "**16-bit images**, images of other channels than colours, and **tiles** of very large images.",
    "**Regions.** The mask marks pixels. Connected regions are for your own program (OpenCV: `connectedComponents`).",
    "**Explanations.** `patchbank explain` says why a part was rejected.",
    "**Updates.** When the model file changes (`patchbank update`, `patchbank threshold`), export again.",
)

_PAGE = Template("""# An inspection as one file

`model.onnx` says whether the picture of a part looks like pictures of good parts. It was made by patchbank $version
from a fitted model (version $model_version, SHA-256 `$model_sha256`).
It needs no patchbank and no Python. Any program can run it with [ONNX Runtime](https://onnxruntime.ai), which is a
library for C, C++, C#, Java, JavaScript, Python and others, for Windows, Linux and macOS.

## What is here

| file | what |
| --- | --- |
| `model.onnx` | the inspection, from the pixels to the verdict |
| `reference.json` | $images with what patchbank said of them, and all limits |
| `reference.csv` | the same figures as a table |
| `reference/` | these images as PPM: a line of text, then red, green, blue of each pixel |
| `inspect_image.py`, `inspect_image.mjs`, `inspect_image.cpp`, `InspectImage.cs` | complete programs to read and copy |
$page
## Try it

Each program compares the reference images first. **Do this on the machine that will inspect.** If it says that all
agree, the model computes there what patchbank computed.

| language | commands |
| --- | --- |
| Python | `pip install onnxruntime numpy`, then `python inspect_image.py` |
| JavaScript (Node.js 18 or later) | `npm install onnxruntime-node`, then `node inspect_image.mjs` |
| C# (.NET 8 or later) | `dotnet run -- .` |
| C++17 | the first lines of `inspect_image.cpp` say how to get ONNX Runtime and compile; then `./inspect_image .` |

With the name of a picture (`python inspect_image.py part.ppm`, `dotnet run -- . part.ppm`), each inspects that picture.

## What goes in

One tensor, `image`: **uint8, $height x $width x 3** (rows, columns, channels). That is the plain memory of an RGB
image: row after row, pixel after pixel, red, green, blue, each 0 to 255.

- The order is **RGB**. OpenCV and Windows bitmaps have blue first: turn it around
  (`cv::cvtColor(image, image, cv::COLOR_BGR2RGB)`).
- A grey image: write each value three times.
- Rows must follow each other without gaps. Bitmaps often pad their rows.
- Do not resize, sharpen, crop or compress: use the picture as the camera gave it, as for the training images.

## What comes out

| name | type | what |
| --- | --- | --- |
| `verdict` | int32 | **1 = OK, 2 = NG, 3 = REVIEW** (a person should look at it) |
| `score` | float32 | how unusual the image is; higher = more unusual$threshold |
| `p_value` | float32 | the share of good images that look at least this unusual (0 to 1)$no_p_value |
| `anomaly_map` | float32, $height x $width | how unusual each place is |
| `mask` | uint8, $height x $width | 255 where the map is over its limit$pixel_threshold, else 0 |
$check
Treat a missing answer, an exception or another number than 1, 2, 3 as NG. Only 1 is a good part.
$remarks
## What it does not do

$left_out
$thinning
## Good to know

- **Load it once.** Loading takes much longer than an image. One session may be used by several threads.
- **The same numbers.** This was checked when the folder was written: the same verdicts, and scores that agree with
  patchbank's to $tolerance or better, relative.
- **Nothing leaves the machine.** Newer versions of ONNX Runtime have telemetry. The programs here switch it off. Do so
  in yours: set the environment variable `ORT_DISABLE_TELEMETRY=1` before ONNX Runtime starts.
- **Time** is mostly two things: the network, and the comparison with $bank stored patches. A smaller bank
  (`--bank-size`) is faster.
- **Licence.** The network is $network; its licence: $licence. The programs are yours to use and change
  (Apache-2.0).
""")


def readme(
    facts: Mapping[str, Any],
    images: Sequence[Any],
    thinning: ThinningCost | None,
    remarks: Sequence[str],
    page: str = "",
) -> str:
    """The README. facts: as in reference.json. page: the name of the page that inspects in a browser, if there is
    one."""
    height, width, _ = facts["input"]["shape"]
    threshold, pixel_threshold = facts["threshold"], facts["pixel_threshold"]
    return _PAGE.substitute(
        version=facts["patchbank"],
        model_version=facts["model_version"],
        model_sha256=facts["model_sha256"],
        images=counted(len(images), "image"),
        page=_row_of(page),
        height=height,
        width=width,
        threshold="" if threshold is None else f"; NG over {threshold:.6g}",
        no_p_value="" if threshold is not None else "; not a number, because this model has no threshold",
        pixel_threshold="" if pixel_threshold is None else f" ({pixel_threshold:.6g})",
        check=_check(facts["image_check"]),
        remarks="".join(f"\n**Attention:** {printable(remark)}.\n" for remark in remarks),
        left_out="\n".join(f"- {line}" for line in LEFT_OUT),
        thinning=_thinning(thinning, facts["bank_size"]),
        tolerance=f"{facts['score_tolerance']:g}",
        bank=f"{facts['bank_size']:,}",
        network=printable(facts["network"]),
        licence=printable(facts["network_licence"]),
    )


def _check(measures: Sequence[Mapping[str, Any]] | None) -> str:
    if measures is None:
        return "\nThis model has no image check: it does not notice another part, a moved camera or lost focus.\n"
    rows = "\n".join(f"| {each['name']} | {_number(each['low'])} to {_number(each['high'])} |" for each in measures)
    return (
        "| `image_check` | float32, 6 | the picture as a whole: see below |\n\n"
        "A picture of another part, a moved camera, lost focus or another exposure makes every score meaningless. Six "
        "measures notice that.\nIf one of them lies outside its normal range, the verdict is REVIEW (or NG).\n\n"
        f"| `image_check`, in this order | normal |\n| --- | --- |\n{rows}\n"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _row_of(page: str) -> str:
    return f"| `{page}` | the same in a browser, without a network: open it, and drop images on it |\n" if page else ""


def _thinning(thinning: ThinningCost | None, bank_size: int) -> str:
    if thinning is None:
        return ""
    told = (
        "Thresholds were measured again for it, so the share of good parts that may be flagged is kept; faint defects "
        "may pass."
        if thinning.measured_again
        else "Scores only rise by that: more good parts are flagged, and no defect is missed that was found before."
    )
    rise = f"{100 * thinning.median_rise:.2g} % (median), at most {100 * thinning.largest_rise:.2g} %"
    changed = counted(thinning.other_verdicts, "verdict")
    return f"""
## The smaller bank

The bank was thinned to {bank_size:,} vectors (`--bank-size`).
{told}
On {counted(thinning.images, "reference image")}, scores rose by {rise}; {changed} changed.
"""
