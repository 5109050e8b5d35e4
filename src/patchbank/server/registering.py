"""From a model file to a version in the registry: its file is kept, what it says of itself is noted."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from patchbank import ConfigError, PatchCore
from patchbank.store import models, streams
from patchbank.store.models import ModelVersion, NewVersion
from patchbank.store.values import Actor

if TYPE_CHECKING:
    from sqlalchemy import Connection

COMMAND_LINE = Actor("command line")
_REASON = "given to patchbank serve"


def name_of(path: str | Path) -> str:
    """The name that a model file given on the command line is served under: its stem. Raises ConfigError for one that
    is no name."""
    name = Path(path).stem
    if not 0 < len(name) <= 64 or not name[0].isalnum() or not all(char.isalnum() or char in "._- " for char in name):
        raise ConfigError(
            f"{path}: expected a file named with letters, digits, '.', '_', '-' and spaces, at most 64; the name is "
            "the model's"
        )
    return name


def described(model: PatchCore, file_sha256: str, file_size: int, *, action: str = "upload") -> NewVersion:
    """What the registry notes of a model whose file is kept."""
    last, calibration = model.versions[-1], model.calibration
    return NewVersion(
        file_sha256=file_sha256,
        file_size=file_size,
        bank_version=last.number,
        action=action,
        calibrated=last.calibrated,
        images=last.images,
        size=last.size,
        time=_time_of(last.time),
        threshold=model.threshold,
        pixel_threshold=model.pixel_threshold,
        max_false_alarms=model.config.max_false_alarms if calibration else None,
        confidence=model.config.confidence if calibration else None,
        author=last.author[:500],
        note=last.note[:10_000],
    )


def _time_of(text: str) -> datetime:
    """A version's time; now for a fit, which has none, or a text that is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.now(UTC)


def deploy_new(connection: Connection, name: str, new: NewVersion) -> tuple[ModelVersion, bool]:
    """Registers, approves and deploys a model file that was given on the command line, on the stream of its name. One
    that was given before is left as it is, whatever people have deployed since. Returns the version, and whether it was
    deployed."""
    model = models.ensure(connection, name, by=COMMAND_LINE)
    version = models.add_version(connection, model.id, new, by=COMMAND_LINE, reason=_REASON)
    stream = streams.ensure(connection, name, by=COMMAND_LINE)
    if version.status == "candidate":
        version = models.approve(connection, version.id, by=COMMAND_LINE, reason=_REASON)
    elif streams.current(connection, stream.id) is not None:
        return version, False
    streams.deploy(connection, stream.id, version.id, by=COMMAND_LINE, reason=_REASON)
    return version, True
