"""Which models are registered when the server starts: those of its last snapshot, or else those of the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any

import anyio.to_thread

from chatapi.appliance import Appliance
from chatapi.errors import ChatapiError
from chatapi.interfaces.torchserve import properties
from chatapi.interfaces.torchserve.model_snapshot import ModelRecord, SnapshotFile
from chatapi.interfaces.torchserve.model_table import ModelTable
from chatapi.interfaces.torchserve.served_model import ALL, DEFAULT
from chatapi.settings import TorchServeSettings
from chatapi.storage.layout import DataDirectory

log = logging.getLogger("chatapi.torchserve.model")


class ModelsAtStart:
    """Registers the models of the start, and keeps what clients change."""

    def __init__(
        self, appliance: Appliance, table: TorchServeSettings, models: ModelTable, workers: Callable[[str], int]
    ) -> None:
        """`workers`: the workers of a model of a role where nothing states them. Raises SettingsError."""
        self._appliance = appliance
        self._table = table
        self._models = models
        self._workers = workers
        self._stated = properties.stated_models(table)
        settings = [list(table.models), str(table.model_store), [asdict(each) for each in self._stated]]
        self._file = SnapshotFile(DataDirectory(appliance.settings.data).torchserve_models, settings)
        self._writing = anyio.Lock()

    async def register(self) -> None:
        """Register the models once those of the box are loaded."""
        await self._appliance.until_warm()
        kept = await anyio.to_thread.run_sync(self._file.read) if self._table.keep_models else None
        if kept is not None:
            await self._register_all(kept)
            return
        pairs = [entry.partition("=")[::2] for entry in self._table.models if entry != ALL]
        entries = [ModelRecord(name, archive=f"{name}.mar", model=model) for name, model in pairs]
        if not entries and not self._stated and ALL not in self._table.models:
            name = self._appliance.active.get("asr") or DEFAULT
            entries = [ModelRecord(name, archive=f"{name}.mar", model=DEFAULT)]
        stated = {each.name for each in self._stated}
        await self._register_all([*self._stated, *(each for each in entries if each.name not in stated)])
        if ALL in self._table.models:
            archives = {each.archive for each in self._stated}
            for file in await anyio.to_thread.run_sync(self._models.stored):
                if file not in archives:
                    await self._attempt(file, self._register_archive(file))

    async def keep(self) -> None:
        """Write the snapshot after a client has changed the models; a failure is logged."""
        if not self._table.keep_models:
            return
        async with self._writing:
            found = [(each, self._models.get(each.name) is each) for each in self._models]
            try:
                await anyio.to_thread.run_sync(self._file.write, found)
            except ChatapiError as error:
                log.warning("registrations not kept for the next start: %s", error.message)

    async def _register_all(self, records: Sequence[ModelRecord]) -> None:
        for record in records:
            await self._attempt(record.name, self._register(record))
        for record in records:
            if record.default:
                self._models.prefer(record.name, record.version)

    async def _attempt(self, what: str, registration: Coroutine[Any, Any, None]) -> None:
        try:
            await registration
        except ChatapiError as error:
            log.warning("model %s not registered at the start: %s", what, error.message)

    async def _register(self, record: ModelRecord) -> None:
        found = await self._models.restore(record)
        least = self._workers(found.role) if record.min_workers is None else record.min_workers
        await self._models.scale(found, least, max(least, record.max_workers or 0))

    async def _register_archive(self, file: str) -> None:
        found = await self._models.register(file)
        found.loaded_at_startup = True
        least = found.min_workers or self._workers(found.role)
        await self._models.scale(found, least, max(least, found.max_workers))
