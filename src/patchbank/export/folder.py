"""`patchbank export`: a folder with one ONNX file that inspects, reference images with expected outputs, and small
programs in several languages that run them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.calibration.image_check import MEASURES
from patchbank.errors import ConfigError
from patchbank.export import reference
from patchbank.export.onnx_graph import MASK, Plan, inspection_graph, plan_for
from patchbank.export.page import read_ort_web, write_inspection_page
from patchbank.export.readme import readme
from patchbank.export.reference import Case, GraphRunner
from patchbank.export.thinning import ThinningCost, cost, recalibrated, thinned
from patchbank.imaging.sources import ImageSource
from patchbank.model import PatchCore
from patchbank.results.result import MadeBy
from patchbank.util.files import atomic_write, make_folder, output_errors
from patchbank.util.progress import Progress, silent
from patchbank.util.wording import finite
from patchbank.version import __version__

MODEL, REFERENCE, README, PAGE = "model.onnx", "reference.json", "README.md", "inspect.html"
TABLE = "reference.csv"  # the same, for programs without a reader of JSON
PROGRAMS = ("inspect_image.py", "inspect_image.mjs", "inspect_image.cpp", "InspectImage.cs", "InspectImage.csproj")
FORMAT = 1
PREFIX = "patchbank."  # of the keys in the ONNX file's metadata


@dataclass(frozen=True)
class Exported:
    """What `export_onnx` has made. size: (height, width) of the images that the graph takes. bank_size: vectors in it.
    file_bytes: of the ONNX file. page_bytes: of the page; None without one. images: how many reference images it was
    held against. largest_difference: of their scores, relative. milliseconds: of the graph and of the library for such
    an image, on this machine. thinning: what a smaller bank costs; None where the bank is whole. remarks: what its user
    should know."""

    folder: Path
    size: tuple[int, int]
    bank_size: int
    file_bytes: int
    page_bytes: int | None
    images: int
    largest_difference: float
    milliseconds: tuple[float, float]
    thinning: ThinningCost | None
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "folder": str(self.folder),
            "input_size": list(self.size),
            "bank_size": self.bank_size,
            "file_bytes": self.file_bytes,
            "page_bytes": self.page_bytes,
            "reference_images": self.images,
            "largest_difference": self.largest_difference,
            "graph_ms": round(self.milliseconds[0], 2),
            "library_ms": round(self.milliseconds[1], 2),
            "bank_size_cost": self.thinning.to_dict() if self.thinning else None,
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True, eq=False)
class Checked:
    """A graph that says what the library says. cases: the reference images. model: with the graph's bank."""

    onnx: bytes
    model: PatchCore
    plan: Plan
    cases: list[Case]
    largest_difference: float
    milliseconds: tuple[float, float]
    thinning: ThinningCost | None
    remarks: tuple[str, ...]


def export_onnx(
    model: PatchCore,
    folder: str | Path,
    *,
    input_size: tuple[int, int] | None = None,
    bank_size: int | None = None,
    training_images: Mapping[str, ImageSource] | None = None,
    images: Iterable[ImageSource] = (),
    ort_web: str | Path | None = None,
    title: str = "Inspection",
    progress: Progress = silent,
) -> Exported:
    """Writes a folder for programs without patchbank: `model.onnx`, which takes an RGB image and gives score, p-value,
    verdict, anomaly map and mask; reference images with the expected outputs; programs in Python, C++, C# and
    JavaScript that run them; a README.

    input_size: (height, width) of the images, which the graph fixes; None = the training images'. bank_size: thins the
    bank to so many vectors, which is faster, and raises scores. training_images: those of the fit by name
    (`bank.images`), to measure the thresholds again with the smaller bank. images: reference images of this size;
    without any, they are made of the model's self-test. ort_web: the npm package onnxruntime-web, as a .tgz file or a
    folder; with it there is also `inspect.html`, a page of this title that inspects in a browser without a network. The
    graph is run on the reference images first: raises BackboneError, and writes nothing, where it disagrees with the
    library. Raises ConfigError for a model that no graph can hold, or another package, and OutputError.
    """
    browser = read_ort_web(ort_web) if ort_web is not None else None
    plan = plan_for(model, input_size or reference.training_size(model))
    smaller = _smaller(model, bank_size, training_images, progress)
    checked = checked_graph(model, smaller, plan, images)
    target = make_folder(folder)
    facts, stored = facts_of(model, checked), reference.kept(checked.cases)
    rows = _write_reference(target, facts, stored)
    for name in PROGRAMS:
        _write(target / name, program(name).encode())
    page = PAGE if browser else ""
    _write(target / README, readme(facts, rows, checked.thinning, checked.remarks, page).encode())
    _write(target / MODEL, checked.onnx)
    page_bytes = None
    if browser:
        page_bytes = write_inspection_page(target / PAGE, title, facts, checked.onnx, stored, browser)
    else:
        with output_errors(target / PAGE):  # of an earlier export: it would judge by another model
            (target / PAGE).unlink(missing_ok=True)
    return Exported(
        target,
        checked.plan.size,
        len(checked.model.bank),
        len(checked.onnx),
        page_bytes,
        len(checked.cases),
        checked.largest_difference,
        checked.milliseconds,
        checked.thinning,
        checked.remarks,
    )


def _write_reference(folder: Path, facts: Mapping[str, Any], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Writes the reference images and what is said of them; removes those of an earlier export. Returns the rows."""
    rows = [_row(number, case) for number, case in enumerate(cases, 1)]
    pictures = make_folder(folder / "reference")
    for row, case in zip(rows, cases, strict=True):
        _write(folder / row["file"], _ppm(case))
    _write(folder / REFERENCE, json.dumps({**facts, "images": rows}, indent=1, allow_nan=False).encode() + b"\n")
    _write(folder / TABLE, _table(rows))
    for old in pictures.glob("*.ppm"):
        if old.stem.isdigit() and int(old.stem) > len(rows):
            old.unlink()
    return rows


def _smaller(
    model: PatchCore, bank_size: int | None, images: Mapping[str, ImageSource] | None, progress: Progress
) -> PatchCore:
    """The model whose graph is exported."""
    if bank_size is None:
        if images is not None:
            raise ConfigError("training_images: they are for a smaller bank; set bank_size, too")
        return model
    smaller = thinned(model, bank_size)
    return smaller if images is None or smaller is model else recalibrated(model, smaller, images, progress)


def checked_graph(model: PatchCore, smaller: PatchCore, plan: Plan, images: Iterable[ImageSource]) -> Checked:
    """Builds the graph of `smaller`, which is `model` or one with a thinner bank, and holds it against the library.
    Raises as `export_onnx` does."""
    whole = reference.cases(model, plan.size, images)
    same = [(case.name, case.image) for case in whole]
    cases = whole if smaller is model else reference.inspected(smaller, same)
    onnx = inspection_graph(smaller, plan, _metadata(model.made_by, smaller, plan))
    run = GraphRunner(onnx, model)
    worst = reference.largest_difference(smaller, [(case, run(case.image)) for case in cases])
    image = cases[0].image
    taken = run.milliseconds(image)
    thinning = None
    if smaller is not model:
        full = GraphRunner(inspection_graph(model, plan, {}), model)
        thinning = cost((model, smaller), whole, cases, (full.milliseconds(image), taken))
    milliseconds = (taken, reference.library_milliseconds(smaller, image))
    return Checked(onnx, smaller, plan, cases, worst, milliseconds, thinning, _remarks(smaller, plan))


def facts_of(model: PatchCore, checked: Checked) -> dict[str, Any]:
    """What a program has to know of the graph, as JSON values."""
    made_by, model, (height, width) = model.made_by, checked.model, checked.plan.size
    about: dict[str, Any] = {
        "format": FORMAT,
        "patchbank": __version__,
        "model_sha256": made_by.sha256,
        "model_version": made_by.version,
        "model": MODEL,
        "graph_sha256": hashlib.sha256(checked.onnx).hexdigest(),
        "input": {"name": "image", "type": "uint8", "shape": [height, width, 3], "channels": "RGB"},
        "verdicts": {str(number): word for number, word in reference.WORDS.items()},
        "mask": {"anomalous": MASK, "else": 0},
        "score_tolerance": reference.TOLERANCE,
        "threshold": model.threshold,
        "pixel_threshold": model.pixel_threshold,
        "review_rate": model.config.review_rate,
        "bank_size": len(model.bank),
        "network": model.backbone.info.name,
        "network_licence": model.backbone.info.licence,
        "image_check": None,
    }
    if model.scene:
        ranges = zip(MEASURES, *model.scene.ranges.tolist(), strict=True)
        about["image_check"] = [{"name": measure.name, "low": low, "high": high} for measure, low, high in ranges]
    return about


def program(name: str) -> str:
    """The text of one of PROGRAMS."""
    stored = resources.files("patchbank.export").joinpath("programs", f"{name}.in")
    return stored.read_text(encoding="utf-8")


def _metadata(made_by: MadeBy, model: PatchCore, plan: Plan) -> dict[str, str]:
    """What the ONNX file says of itself to those who look: which model's it is, and its limits."""
    values: Mapping[str, Any] = {
        "version": __version__,
        "model_sha256": made_by.sha256,
        "model_version": made_by.version,
        "input": f"image uint8 {plan.size[0]}x{plan.size[1]}x3 RGB",
        "bank_size": len(model.bank),
        "threshold": model.threshold,
        "pixel_threshold": model.pixel_threshold,
        "network": model.backbone.info.name,
        "network_licence": model.backbone.info.licence,
    }
    return {f"{PREFIX}{name}": str(value) for name, value in values.items()}


def _remarks(model: PatchCore, plan: Plan) -> tuple[str, ...]:
    remarks = []
    if model.calibration is None:
        remarks.append("the model has no threshold (it was fitted without calibration): every verdict is REVIEW")
    if model.scene:
        height, width = plan.size
        sizes = {"aspect_ratio": width / height, "pixels": float(height * width)}
        for measure, low, high in zip(MEASURES, *model.scene.ranges.tolist(), strict=True):
            value = sizes.get(measure.name)
            if value is not None and not low <= value <= high:
                remarks.append(
                    f"images of {height}x{width} pixels are out of distribution for this model ({measure.name} "
                    f"{value:.4g}, normal {low:.4g} to {high:.4g}): no verdict will be OK"
                )
    return tuple(remarks)


def _row(number: int, case: Case) -> dict[str, Any]:
    expected = case.expected
    return {
        "file": f"reference/{number}.ppm",
        "name": case.name,
        "score": expected.score,
        "p_value": finite(expected.p_value),
        "verdict": expected.verdict,
        "highest": float(expected.anomaly_map.max()),
        "image_check": None if expected.image_check is None else [float(value) for value in expected.image_check],
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("file", "score", "p_value", "verdict")
    writer.writerow(names)
    writer.writerows(["nan" if row[name] is None else row[name] for name in names] for row in rows)
    return text.getvalue().encode()


def _ppm(case: Case) -> bytes:
    """The image as a binary PPM, which needs no decoder: a header in text, then red, green, blue of each pixel."""
    height, width = case.image.shape[:2]
    return f"P6\n{width} {height}\n255\n".encode() + np.ascontiguousarray(case.image).tobytes()


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)
