"""A model file from outside: to the disk as it comes, opened and proven beside the others, and only then registered."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from patchbank import PatchbankError, PatchCore
from patchbank.errors import StoreError, StoreFullError
from patchbank.server.problems import Problem, busy
from patchbank.server.registering import described
from patchbank.server.stations import prove
from patchbank.store import models
from patchbank.store.models import ModelVersion, NewVersion
from patchbank.store.values import Actor

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.server.service import Service

SECONDS = 600.0  # in which a file must arrive


async def upload(
    service: Service, chunks: AsyncIterator[bytes], name: str, *, by: Actor, reason: str
) -> tuple[ModelVersion, bool]:
    """Registers a model file as a candidate of the model of this name, which is made where it is missing. Returns the
    version, and whether it is new: the same file again is the version that it was before.

    Raises Problem for a file that is no model, or does not score its own images on this machine; StoreError.
    """
    if service.uploading.locked():
        raise busy("Another model file is being uploaded; try again in a few seconds", 5)
    async with service.uploading:
        # The name is one that the store sweeps, if the process ends on the way.
        path = service.store.models.root / f".{secrets.token_hex(8)}.part"
        try:
            await _receive(chunks, path)
            new = await asyncio.to_thread(_proven, service, path)
            return await service.write(_register, name, new, by, reason)
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)


async def _receive(chunks: AsyncIterator[bytes], path: Path) -> None:
    try:
        with path.open("xb") as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
            size = file.tell()
    except OSError as error:
        raise StoreFullError(f"the model file cannot be kept: {error.strerror or error}") from error
    if not size:
        raise Problem(422, "no-model", "expected a model file as the body; got 0 bytes")


def _proven(service: Service, path: Path) -> NewVersion:
    """What the file says of itself, once it was opened with all limits, and has scored its own images as it should."""
    try:
        model = PatchCore.load(path, runtime=service.models.runtime)
        prove(model)
        digest = service.store.models.put_file(path)
    except StoreError:
        raise
    except PatchbankError as error:
        detail = str(error).replace(f"{path}: ", "").replace(str(path), "the file")
        raise Problem(422, "unusable-model", f"expected a .patchbank file that can be used here: {detail}") from error
    if digest != model.made_by.sha256:
        raise Problem(422, "unusable-model", "the file changed while it was read; upload it again")
    return described(model, digest, path.stat().st_size)


def _register(connection: Connection, name: str, new: NewVersion, by: Actor, reason: str) -> tuple[ModelVersion, bool]:
    model = models.ensure(connection, name, by=by)
    known = {each.id for each in models.versions(connection, model.id)}
    version = models.add_version(connection, model.id, new, by=by, reason=reason)
    return version, version.id not in known
