"""`patchbank export --html`: one page that inspects in a browser. It holds the graph, ONNX Runtime's WebAssembly and
the reference images, loads nothing from anywhere, and checks itself before it inspects."""

from __future__ import annotations

import base64
import gzip
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

from patchbank.calibration.image_check import MEASURES
from patchbank.errors import ConfigError, MissingExtraError
from patchbank.export.reference import Case
from patchbank.imaging.images import encode_png
from patchbank.imaging.overlay import colour_scale
from patchbank.reports.html import render
from patchbank.util.files import atomic_write

ORT_WEB = "onnxruntime-web"
TESTED = "1.30.0"  # of it
_BUNDLE, _WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_MOST_BYTES = 64 << 20  # of one of its files
_EXPORTS = re.compile(r"export\s*\{([^{}]*)\};?\s*(?://# sourceMappingURL=\S*\s*)?$")
_NEEDED = ("InferenceSession", "Tensor", "env")


@dataclass(frozen=True, eq=False)
class OrtWeb:
    """ONNX Runtime for browsers, as its npm package has it. bundle: its JavaScript, which ends by naming `ort`."""

    version: str
    bundle: str
    wasm: bytes


def read_ort_web(path: str | Path | None) -> OrtWeb:
    """ONNX Runtime Web from a package file of npm (.tgz), the folder that it was unpacked or installed to, or its
    `dist` folder. Raises MissingExtraError, which says how to get it, where there is none, and ConfigError for anything
    else."""
    if path is None or not Path(path).exists():
        problem = "it needs ONNX Runtime for browsers" if path is None else f"there is nothing at {path}"
        raise MissingExtraError(
            f"export --html: {problem}; run: npm pack {ORT_WEB}@{TESTED}, and give the file: "
            f"--ort-web {ORT_WEB}-{TESTED}.tgz"
        )
    wanted = ("package.json", f"dist/{_BUNDLE}", f"dist/{_WASM}")
    try:
        about, bundle, wasm = _in_folder(Path(path), wanted) if Path(path).is_dir() else _in_archive(Path(path), wanted)
        package = json.loads(about)
        if package["name"] != ORT_WEB:
            raise ValueError(f"it is {package['name']!r}")
        return OrtWeb(str(package["version"]), _named(bundle.decode()), wasm)
    except (OSError, EOFError, ValueError, KeyError, TypeError, tarfile.TarError) as error:
        raise ConfigError(
            f"ort_web: expected the npm package {ORT_WEB} (tested: {TESTED}), as a .tgz file or a folder; got {path}: "
            f"{error}"
        ) from error


def write_inspection_page(
    path: Path, title: str, facts: Mapping[str, Any], onnx: bytes, cases: Sequence[Case], ort_web: OrtWeb
) -> int:
    """Writes the page; returns its size in bytes. facts: as in reference.json. Raises OutputError."""
    height, width, _ = facts["input"]["shape"]
    threshold, pixel_threshold = (
        "" if facts[name] is None else f"{facts[name]:.4g}" for name in ("threshold", "pixel_threshold")
    )
    worker = resources.files("patchbank.export").joinpath("page", "worker.js").read_text(encoding="utf-8")
    page = render(
        "inspect.html",
        title=title,
        created=f"for images of {width} × {height} pixels",
        about=json.dumps(_about(facts, cases), allow_nan=False),
        worker=_packed(f"{ort_web.bundle}\n{worker}".encode()),
        wasm=_packed(ort_web.wasm),
        model=_packed(onnx),
        ort_version=ort_web.version,
        width=width,
        height=height,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        model_sha256=facts["model_sha256"],
        model_version=facts["model_version"],
    )
    written = 0
    with atomic_write(path) as file:
        for part in page:
            written += file.write(part.encode("utf-8", "replace"))
    return written


def _about(facts: Mapping[str, Any], cases: Sequence[Case]) -> dict[str, Any]:
    """What the page's script has to know."""
    names = ("input", "threshold", "pixel_threshold", "review_rate", "score_tolerance")
    images = [
        {
            "score": case.expected.score,
            "verdict": case.expected.verdict,
            "png": base64.b64encode(encode_png(case.image)).decode(),
        }
        for case in cases
    ]
    check = facts["image_check"]
    if check is not None:
        check = [{**each, **_words(measure)} for each, measure in zip(check, MEASURES, strict=True)]
    heat = colour_scale().tolist()
    return {**{name: facts[name] for name in names}, "image_check": check, "heat": heat, "images": images}


def _words(measure: Any) -> dict[str, str]:
    below, above = ((f"{side[0]}: {side[1]}" if side else "") for side in (measure.low, measure.high))
    return {"below": below, "above": above}


def _packed(data: bytes) -> str:
    """Compressed, and as text. The same data give the same text."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def _named(bundle: str) -> str:
    """The bundle as a classic script, whose exports are the members of `ort`: a page that is a file on a disk cannot
    start a worker from a module."""
    exports = _EXPORTS.search(bundle)
    pairs = [part.split(" as ") for part in exports[1].split(",")] if exports else []
    members = {pair[-1].strip(): pair[0].strip() for pair in pairs}
    if exports is None or not all(name in members for name in _NEEDED):
        raise ValueError(f"{_BUNDLE} does not export {', '.join(_NEEDED)}")
    script = bundle[: exports.start()].replace("import.meta.url", "self.location.href")
    return script + f"const ort={{{','.join(f'{name}:{members[name]}' for name in _NEEDED)}}};\n"


def _in_folder(folder: Path, names: Sequence[str]) -> list[bytes]:
    root = folder if (folder / names[0]).is_file() else folder.parent
    found = []
    for name in names:
        with (root / name).open("rb") as file:
            found.append(_limited(file, name))
    return found


def _in_archive(path: Path, names: Sequence[str]) -> list[bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix("package/")
            if name in names and name not in found and (file := archive.extractfile(member)):
                found[name] = _limited(file, name)
            if len(found) == len(names):
                return [found[name] for name in names]
    missing = ", ".join(name for name in names if name not in found)
    raise ValueError(f"it has no {missing}")


def _limited(file: IO[bytes], name: str) -> bytes:
    data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{name} is larger than {_MOST_BYTES:,} bytes")
    return data
