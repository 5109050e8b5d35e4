"""Models to look back with: the version that decided once, whether or not it decides now."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from patchbank import PatchbankError, PatchCore
from patchbank.server.problems import Problem
from patchbank.store import models

if TYPE_CHECKING:
    from patchbank.server.models import ModelHost
    from patchbank.store.engine import Store
    from patchbank.store.models import ModelVersion

_KEPT = 2  # in memory beside those that are deployed


class Archive:
    """Opens the files of versions that are not deployed, and keeps the last two in memory."""

    def __init__(self, store: Store, host: ModelHost) -> None:
        self._store, self._host = store, host
        self._kept: OrderedDict[str, PatchCore] = OrderedDict()
        self._opening = asyncio.Lock()

    async def at(self, version_id: int | None) -> PatchCore:
        """The model as it was at a version. Raises Problem if there is none, or its file cannot be used."""
        return await self._model(version_id, as_it_was=True)

    async def whole(self, version_id: int) -> PatchCore:
        """The model of a version's file, with all of its history. Raises Problem as `at`."""
        return await self._model(version_id, as_it_was=False)

    async def _model(self, version_id: int | None, *, as_it_was: bool) -> PatchCore:
        if version_id is None:
            raise Problem(409, "no-model", "The version that decided is not registered here: upload its model file")
        version = await asyncio.wrap_future(self._store.query(models.version, version_id))
        hosted = self._host.get(version_id)
        try:
            model = hosted.model if hosted else await self._opened(version)
            return model.at(version.bank_version) if as_it_was else model
        except PatchbankError as error:
            raise Problem(409, "model-file", f"The version's model file cannot be used: {error}") from error

    async def _opened(self, version: ModelVersion) -> PatchCore:
        digest = version.file_sha256
        async with self._opening:
            if digest not in self._kept:
                path = self._store.models.path(digest)
                model = await asyncio.to_thread(PatchCore.load, path, runtime=self._host.runtime)
                if model.made_by.sha256 != digest:
                    raise Problem(409, "model-file", "The version's model file is damaged; restore it from a backup")
                self._kept[digest] = model
            self._kept.move_to_end(digest)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[digest]
