"""Changes settings while the appliance runs: validates, stores the overrides, and tells the parts that use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.observability import logs
from chatapi.settings import Loaded, Settings
from chatapi.storage import setting_overrides


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

    def pending(self, key: str) -> bool:
        """Whether a setting has another value after a restart."""
        now, then = (settings.at(each.settings, key) for each in (self.loaded, self._started))
        return bool(now != then) and not settings.is_live(key)

    async def apply(self, changes: Mapping[str, Any]) -> AppliedChanges:
        """Change settings: dotted key -> value; None removes an override.

        All are validated before any is stored. Raises SettingsError naming the key, StorageError.
        """
        # A caller that disconnects must not leave a change stored and unused.
        with anyio.CancelScope(shield=True):
            async with self._one_at_a_time:
                after = await anyio.to_thread.run_sync(setting_overrides.change, self.loaded, dict(changes))
                self.loaded = after
                values = {key: settings.at(after.settings, key) for key in settings.dotted_keys()}
                live = {key: value for key, value in values.items() if settings.is_live(key)}
                _tell(self._appliance, settings.replaced(self._appliance.settings, live))
        hidden = tuple(key for key in changes if after.origins.get(key) == settings.COMMAND)
        seen = [key for key in changes if key not in hidden]
        active = tuple(key for key in seen if settings.is_live(key))
        return AppliedChanges(active, tuple(key for key in seen if key not in active), hidden)


def _tell(appliance: Appliance, tree: Settings) -> None:
    """Hand the settings to every part that reads one of the live ones."""
    before, appliance.settings = appliance.settings, tree
    appliance.completions.settings = appliance.chat.settings = appliance.live.settings = tree
    appliance.transcriber.settings = tree
    appliance.generator.settings = tree.llm
    appliance.speech_service.limits = appliance.transcription_service.limits = tree.limits
    if tree.log.level != before.log.level:
        logs.set_level(tree.log)
