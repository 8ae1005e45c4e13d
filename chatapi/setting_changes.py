"""Changes settings while the appliance runs: validates, stores the overrides, and tells the parts that use them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.engines import registry
from chatapi.errors import ChatapiError
from chatapi.observability import logs
from chatapi.settings import Loaded, Settings
from chatapi.storage import setting_overrides

log = logging.getLogger(__name__)

CHOOSING = ("engine", "model", "worker")
"""Settings of a role's table that choose its engine and where it runs."""


@dataclass(frozen=True)
class AppliedChanges:
    """What became of changes; every list has dotted keys."""

    active: tuple[str, ...]
    """In use now."""
    restart: tuple[str, ...]
    """Stored, and in use after a restart."""
    hidden: tuple[str, ...]
    """Stored, but `--set` of the running command wins."""


class SettingChanges:
    """The settings of a running appliance, and their overrides."""

    def __init__(self, appliance: Appliance, loaded: Loaded) -> None:
        """`loaded`: the sources that the appliance was started with."""
        self._appliance = appliance
        self._one_at_a_time = anyio.Lock()
        self._started, self.loaded = loaded, loaded
        """The sources with the overrides of now."""
        self._chosen = {role: _choice(loaded.settings, role) for role in registry.roles()}
        """Role -> what its present engine was chosen by."""

    def pending(self, key: str) -> bool:
        """Whether a setting has another value after a restart."""
        now, then = (settings.at(each.settings, key) for each in (self.loaded, self._started))
        return bool(now != then) and not settings.is_live(key)

    async def apply(self, changes: Mapping[str, Any]) -> AppliedChanges:
        """Change settings: dotted key -> value; None removes an override.

        All are validated before any is stored, and a new engine or model is in use before its setting is stored, so
        that one that crashes this process is not loaded again at the next start. Raises SettingsError naming the key,
        StorageError, and WaitAndRetry when a model cannot be swapped now; then nothing has changed.
        """
        # A caller that disconnects must not leave a change stored and unused.
        with anyio.CancelScope(shield=True):
            async with self._one_at_a_time:
                wanted = (
                    await anyio.to_thread.run_sync(setting_overrides.preview, self.loaded, dict(changes))
                ).settings
                async with self._swapped(wanted):
                    after = await anyio.to_thread.run_sync(setting_overrides.change, self.loaded, dict(changes))
                self.loaded = after
                values = {key: settings.at(after.settings, key) for key in settings.dotted_keys()}
                live = {key: value for key, value in values.items() if settings.is_live(key) and not _chooses(key)}
                _tell(self._appliance, settings.replaced(self._appliance.settings, live))
        hidden = tuple(key for key in changes if after.origins.get(key) == settings.COMMAND)
        seen = [key for key in changes if key not in hidden]
        active = tuple(key for key in seen if settings.is_live(key))
        return AppliedChanges(active, tuple(key for key in seen if key not in active), hidden)

    @asynccontextmanager
    async def _swapped(self, wanted: Settings) -> AsyncIterator[None]:
        """Swap the engines of the roles whose choice differs; swap them back if the block or one of them fails."""
        done: dict[str, Settings] = {}
        changed = [role for role, choice in self._chosen.items() if choice != _choice(wanted, role)]
        try:
            for role in changed:
                before = self._appliance.settings
                await self._appliance.swap(role, settings.replaced(before, _choice(wanted, role)))
                done[role] = before
            yield
        except ChatapiError:
            for role, before in reversed(done.items()):
                await self._swap_back(role, before)
            raise
        self._chosen.update({role: _choice(wanted, role) for role in changed})

    async def _swap_back(self, role: str, before: Settings) -> None:
        try:
            await self._appliance.swap(role, settings.replaced(self._appliance.settings, _choice(before, role)))
        except ChatapiError:
            log.exception("engine not swapped back", extra={"role": role})


def _choice(tree: Settings, role: str) -> dict[str, Any]:
    """The live settings that choose a role's engine and where it runs: dotted key -> value."""
    keys = (f"{role}.{name}" for name in CHOOSING if name in type(getattr(tree, role)).model_fields)
    return {key: settings.at(tree, key) for key in keys if settings.is_live(key)}


def _chooses(key: str) -> bool:
    role, _, name = key.partition(".")
    return name in CHOOSING and role in registry.roles()


def _tell(appliance: Appliance, tree: Settings) -> None:
    """Hand the settings to every part that reads one of the live ones."""
    before, appliance.settings = appliance.settings, tree
    appliance.completions.settings = appliance.chat.settings = appliance.live.settings = tree
    appliance.transcriber.settings = tree
    appliance.generator.settings = tree.llm
    appliance.speech_service.limits = appliance.transcription_service.limits = tree.limits
    if tree.log.level != before.log.level:
        logs.set_level(tree.log)
