"""What the child process does, for each kind of job. args: what `kinds.py` has prepared, with paths of files. Each
returns what it has found as JSON; a model that it makes lies in the job's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patchbank import Config, PatchCore, Runtime, audit_images
from patchbank.server.jobs.gate import Labelled, gate
from patchbank.server.jobs.importing import take_folder
from patchbank.server.jobs.tools import Tools
from patchbank.server.registering import described
from patchbank.store.types import time_text

_MOST_FINDINGS = 500


def fit(args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """A model of a dataset's images. It goes on where the same fit was interrupted."""
    if not tools.folder.model.exists():
        config = Config.from_dict(args["config"])
        model = PatchCore.fit(
            args["images"], config, runtime=_runtime(args), checkpoint=tools.folder.state, progress=tools.progress
        )
        model.save(tools.folder.model)
    return _made(_loaded(tools.folder.model, args), "fit", args, tools)


def update(args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """The next version of a model, which has learned further images of good parts."""
    model = _loaded(args["model"], args)
    known = model.calibration.images if model.calibration else model.training_images
    images = args["training"] if set(known) <= set(args["training"]) else None
    if images is None and args["training"]:
        tools.remarks.append("not all training images are in the service: the threshold was not measured again")
    after = model.update(
        args["images"],
        images=images,
        random_sample=args["random_sample"],
        note=args["note"],
        author=args["author"],
        time=args["time"],
        progress=tools.progress,
    )
    return _saved(after, "update", args, tools)


def threshold(args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """The next version of a model, with thresholds for another promise."""
    model = _loaded(args["model"], args)
    reason = {name: args[name] for name in ("note", "author", "time")}
    return _saved(model.with_threshold(**args["options"], **reason), "threshold", args, tools)


def rollback(args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """The next version of a model, which is as an earlier one was."""
    reason = {name: args[name] for name in ("note", "author", "time")}
    return _saved(_loaded(args["model"], args).rollback(args["to"], **reason), "rollback", args, tools)


def ask_gate(args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """What a version finds and misses of what people have labelled."""
    return {"gate": _gate(_loaded(args["model"], args), args, tools)}


def audit(args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """Which images of a dataset are odd, the oddest first."""
    config = Config.from_dict(args["config"])
    found = audit_images(args["images"], config, runtime=_runtime(args), progress=tools.progress)
    digests: dict[str, str] = args["digests"]
    wanted = [each for n, each in enumerate(found.images) if each.oddities or n < len(found.oddest)]
    return {
        "images": len(found.images),
        "odd": len(found.odd),
        "findings": [_with_digests(each.to_dict(), digests) for each in wanted[:_MOST_FINDINGS]],
        "unreadable": [{"sha256": digests.get(Path(name).name), "reason": why} for name, why in found.unreadable],
        "notes": list(found.notes),
    }


WORK: dict[str, Callable[[dict[str, Any], Tools], dict[str, Any]]] = {
    "fit": fit,
    "update": update,
    "threshold": threshold,
    "rollback": rollback,
    "gate": ask_gate,
    "audit": audit,
    "import": take_folder,
}


def _saved(model: PatchCore, action: str, args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    model.save(tools.folder.model)
    return _made(model, action, args, tools)


def _made(model: PatchCore, action: str, args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """What the registry notes of the model in the job's folder, and what its gate finds."""
    with tools.folder.model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    new = described(model, digest, tools.folder.model.stat().st_size, action=action)
    row = {name: getattr(new, name) for name in new.__dataclass_fields__} | {"time": time_text(new.time)}
    return {"version": row, "gate": _gate(model, args, tools)}


def _gate(candidate: PatchCore, args: dict[str, Any], tools: Tools) -> dict[str, Any]:
    base = _loaded(args["base"], args) if args["base"] else None
    labelled = [Labelled(**each) for each in args["labelled"]]
    return {"base_version_id": args["base_version_id"]} | gate(candidate, base, labelled, tools.remarks, tools.progress)


def _loaded(path: str | Path, args: dict[str, Any]) -> PatchCore:
    return PatchCore.load(path, runtime=_runtime(args))


def _runtime(args: dict[str, Any]) -> Runtime:
    return Runtime(**args["runtime"])


def _with_digests(image: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    """A finding, with the digests of the images that it names."""
    oddities = [each | {"other_sha256": digests.get(each["other"] or "")} for each in image["oddities"]]
    return image | {"sha256": digests.get(image["name"]), "oddities": oddities}
