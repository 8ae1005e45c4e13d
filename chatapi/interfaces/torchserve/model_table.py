"""The registered models: register, scale, set the default version, unregister, and which model of the box each is."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import anyio
import anyio.to_thread

from chatapi.appliance import Appliance
from chatapi.engines import registry
from chatapi.errors import BadInput, Forbidden, NotFound, SettingsError, Unprocessable, WrongMode
from chatapi.interfaces.torchserve import archive
from chatapi.interfaces.torchserve.archive import ArchivedModel
from chatapi.interfaces.torchserve.errors import ModelNotRegistered
from chatapi.interfaces.torchserve.model_role import ModelRole
from chatapi.interfaces.torchserve.model_snapshot import ModelRecord
from chatapi.interfaces.torchserve.registrable_models import RegistrableModel, RegistrableModels, file_name, stem
from chatapi.interfaces.torchserve.served_model import ALL, DEFAULT, FIRST_VERSION, ModelOptions, ServedModel
from chatapi.settings import TorchServeSettings, replaced

log = logging.getLogger("chatapi.torchserve.model")

MOST_REGISTERED = 100
"""Most registered versions of all models."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", re.ASCII)
"""A model's name or version."""


class ModelTable:
    """All registered models. All methods belong to one event loop."""

    def __init__(self, appliance: Appliance, table: TorchServeSettings, roles: Mapping[str, ModelRole]) -> None:
        """`roles`: those whose models may be registered, by name."""
        self._appliance = appliance
        self._roles = roles
        self._table = table
        self._versions: dict[str, dict[str, ServedModel]] = {}
        self._defaults: dict[str, str] = {}
        self._activating = anyio.Lock()
        aliases = dict(entry.partition("=")[::2] for entry in table.models if entry != ALL)
        self._known = RegistrableModels(appliance, roles.values(), aliases)

    def __len__(self) -> int:
        return sum(map(len, self._versions.values()))

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in self._versions.values():
            yield from versions.values()

    def listed(self) -> list[ServedModel]:
        """The default version of every model, in the order of their names."""
        return [self._versions[name][self._defaults[name]] for name in sorted(self._versions)]

    @property
    def only(self) -> str | None:
        """The model of requests that name none: the only one there is."""
        return next(iter(self._versions)) if len(self._versions) == 1 else None

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """A version of a model; None: the default one. Raises NotFound."""
        versions = self._versions_of(name)
        wanted = version or self._defaults[name]
        if wanted not in versions:
            message = f"Model version: {wanted} does not exist for model: {name}"
            raise NotFound(message, code="version_not_registered")
        return versions[wanted]

    def versions(self, name: str) -> list[ServedModel]:
        """All versions of a model. Raises NotFound."""
        return list(self._versions_of(name).values())

    async def register(self, url: str, name: str = "", options: dict[str, int] | None = None) -> ServedModel:
        """Register a model by the file name of a URL, which is never fetched, or by an archive of the model store.

        Raises Unprocessable, NotFound when it stands for no known model, WrongMode when it is registered already.
        """
        if not url:
            raise Unprocessable("Parameter url is required.", details={"param": "url"})
        file = file_name(url)
        archived = await anyio.to_thread.run_sync(self._archived, file)
        model = self._known.find(file) if archived is None else self._known_archived(archived)
        chosen = name or (archived.name if archived else "") or stem(file)
        settings = replace(self._default_options(), **{**(archived.options if archived else {}), **(options or {})})
        settings.check()
        version = archived.version if archived else FIRST_VERSION
        found = self._add(chosen, version, url, model, settings)
        if archived is not None:
            found.min_workers, found.max_workers = archived.min_workers, archived.max_workers
        log.info("model %s version %s registered as %s", chosen, version, model.name)
        return found

    async def restore(self, record: ModelRecord) -> ServedModel:
        """Register a model of the start. Raises what `register` raises."""
        model = await anyio.to_thread.run_sync(self._known_recorded, record)
        options = replace(self._default_options(), **record.options)
        options.check()
        url = record.archive or f"{record.name}.mar"
        return self._add(record.name, record.version, url, model, options, startup=True)

    async def scale(self, served: ServedModel, least: int, most: int) -> None:
        """Set a model's numbers of workers; the first worker loads the model if another one is in use.

        Raises Unprocessable, WrongMode when another registered model has workers, and the errors of loading.
        """
        if most:
            await self._activate(served)
        served.scale(least, most)
        log.info("model %s version %s has %d to %d workers", served.name, served.version, least, most)

    def set_default(self, name: str, version: str) -> None:
        """Make a version the default one. Raises NotFound."""
        self._defaults[name] = self.get(name, version).version

    def prefer(self, name: str, version: str) -> None:
        """Make a version the default one where it is registered."""
        if version in self._versions.get(name, {}):
            self._defaults[name] = version

    def unregister(self, name: str, version: str | None = None) -> None:
        """Remove a version; predictions in progress finish. Raises NotFound, Forbidden (default_version)."""
        found = self.get(name, version)
        versions = self._versions[name]
        if len(versions) > 1 and found.version == self._defaults[name]:
            raise Forbidden(f"Cannot remove default version for model {name}", code="default_version")
        del versions[found.version]
        # Those that wait for a worker get the error of a model without one.
        found.scale(0, 0)
        if not versions:
            del self._versions[name], self._defaults[name]
        log.info("model %s version %s unregistered", name, found.version)

    def stored(self) -> list[str]:
        """The archives of the model store. Blocking."""
        store = self._table.model_store
        return [] if store is None else sorted(each.name for each in store.glob("*.mar"))[:MOST_REGISTERED]

    def _known_recorded(self, record: ModelRecord) -> RegistrableModel:
        """The box's model of a record: the one in use where it names none. Raises NotFound, BadInput."""
        if record.model:
            return self._known.find(record.model)
        archived = self._archived(file_name(record.archive)) if record.archive else None
        if archived is not None:
            return self._known_archived(archived)
        with suppress(NotFound):
            return self._known.find(*filter(None, (record.archive, record.name)))
        return self._known.find(DEFAULT)

    def _versions_of(self, name: str) -> dict[str, ServedModel]:
        if name not in self._versions:
            raise ModelNotRegistered(f"Model not found: {name[:200]}")
        return self._versions[name]

    def _add(
        self, name: str, version: str, url: str, model: RegistrableModel, options: ModelOptions, startup: bool = False
    ) -> ServedModel:
        for what, text in (("model_name", name), ("version", version)):
            if not NAME.fullmatch(text):
                raise Unprocessable(f"{what} {text[:200]!r} must be of letters, digits, dots, hyphens and underscores")
        if version in self._versions.get(name, {}):
            raise WrongMode(f"Model version {version} is already registered for model {name}")
        if len(self) >= MOST_REGISTERED:
            raise WrongMode(f"{len(self)} models are registered, which is the limit; unregister one")
        found = ServedModel(name, version, url, model.role, model.name, options, self._table.queue, startup)
        self._versions.setdefault(name, {})[version] = found
        self._defaults.setdefault(name, version)
        return found

    def _default_options(self) -> ModelOptions:
        return ModelOptions(response_timeout=round(self._table.response_seconds))

    def _archived(self, file: str) -> ArchivedModel | None:
        """The archive of that name in the model store; None: there is none. Blocking."""
        store = self._table.model_store
        path = None if store is None else store / file
        return archive.read(path) if path is not None and path.is_file() else None

    def _known_archived(self, archived: ArchivedModel) -> RegistrableModel:
        """The box's model of an archive. Raises BadInput (invalid_archive), which says that its handler is not run."""
        try:
            model = self._known.find(*filter(None, (archived.model, archived.file, archived.name)))
        except NotFound as error:
            handler = f"its handler {archived.handler!r} is code of its own, which the box does not run"
            raise BadInput(f"{error.message}; {handler}", code="invalid_archive") from None
        if archived.handler:
            log.info("handler %s of the archive of %s is not run: %s is", archived.handler, archived.name, model.name)
        return model

    async def _activate(self, served: ServedModel) -> None:
        """Load the model if another one is in use. Raises WrongMode, NotFound, SettingsError, WaitAndRetry."""
        async with self._activating:
            active = self._appliance.active.get(served.role)
            if served.model in (DEFAULT, active):
                return
            same = [each for each in self if each.role == served.role and each is not served]
            if others := [each.name for each in same if each.max_workers]:
                title = registry.roles()[served.role].title
                raise WrongMode(
                    f"the box runs one {title} model at a time, and {others[0]!r} has workers with {active}; scale it "
                    "to 0 workers or unregister it first"
                )
            if not self._appliance.catalog.installed(served.model):
                message = (
                    f"the model {served.model} is not installed; `chatapi models fetch {served.model}` installs it"
                )
                raise NotFound(message, code="model_not_registered")
            begun = time.monotonic()
            wanted = {
                f"{served.role}.model": served.model,
                f"{served.role}.engine": self._appliance.catalog.get(served.model).engine,
            }
            try:
                await self._appliance.swap(served.role, replaced(self._appliance.settings, wanted))
            except SettingsError as error:
                raise WrongMode(f"the model {served.model} cannot be loaded: {error.message}") from error
            served.load_seconds = time.monotonic() - begun
