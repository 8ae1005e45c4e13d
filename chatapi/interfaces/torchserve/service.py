"""What TorchServe's ports share: the models, their counters, the tokens, and who may do what."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from chatapi.appliance import Appliance
from chatapi.auth import ANYBODY, KeyHolder, policy
from chatapi.auth.policy import Interface
from chatapi.errors import ChatapiError, NotReady, SettingsError, Unauthorized
from chatapi.interfaces.http.middleware import LOOPBACK
from chatapi.interfaces.torchserve.conversion_role import ConversionRole
from chatapi.interfaces.torchserve.encryption import PortEncryption
from chatapi.interfaces.torchserve.metrics import TorchServeMetrics
from chatapi.interfaces.torchserve.model_role import ModelRole
from chatapi.interfaces.torchserve.model_table import ModelTable
from chatapi.interfaces.torchserve.predictions import Predictor
from chatapi.interfaces.torchserve.served_model import ServedModel
from chatapi.interfaces.torchserve.startup import ModelsAtStart
from chatapi.interfaces.torchserve.tokens import TokenKind, Tokens
from chatapi.interfaces.torchserve.transcription_role import TranscriptionRole
from chatapi.runtime.byte_budget import ByteBudget
from chatapi.settings import TorchServeSettings
from chatapi.storage.layout import DataDirectory

log = logging.getLogger("chatapi.torchserve.model")

KINDS: Mapping[Interface, TokenKind] = {
    "torchserve_inference": "inference",
    "torchserve_management": "management",
    "torchserve_metrics": "management",
}
"""Interface -> the kind of token that it takes."""
RENEWAL_SECONDS = 3600
"""Time between two looks whether the certificate must be renewed, in seconds."""
HELD = 2
"""Requests of the largest size that may be held at once."""
WRONG_TOKEN = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"  # noqa: S105


class TorchServe:
    """The models, counters and tokens of all ports."""

    def __init__(self, appliance: Appliance, table: TorchServeSettings) -> None:
        """`table`: the effective settings. Raises SettingsError when the key file cannot be written, and for
        certificates that cannot be used."""
        self.appliance = appliance
        self.table = table
        self.metrics = TorchServeMetrics(appliance.settings.data)
        roles: Sequence[ModelRole] = (TranscriptionRole(appliance, table), ConversionRole(appliance, table))
        self.roles: Mapping[str, ModelRole] = {each.name: each for each in roles}
        """Roles whose models predict, by name."""
        self.models = ModelTable(appliance, table, self.roles)
        self.start = ModelsAtStart(
            appliance, table, self.models, lambda role: table.workers or self.roles[role].workers()
        )
        self.predictor = Predictor(appliance, self.metrics, table.response_bytes)
        self.encryption = PortEncryption(table, appliance.settings) if table.tls else None
        self.tokens = Tokens(self._key_file, table.token_minutes * 60) if self._issues_tokens else None
        self.budget = ByteBudget(HELD * table.request_bytes)
        self.grpc_ports: Sequence[int] = ()
        """Ports of inference and management over gRPC, once they listen."""
        self.group: TaskGroup | None = None
        """Runs changes after their answers; set while the ports are served."""

    @property
    def healthy(self) -> bool:
        """Whether every registered model has as many workers as it should."""
        return self.appliance.warm and all(self.is_ready(each) or not each.min_workers for each in self.models.listed())

    def is_ready(self, served: ServedModel) -> bool:
        """Whether a model has workers that can work."""
        usable = self.appliance.engines[served.role].state in ("ready", "idle", "reloading")
        return bool(served.max_workers) and self.appliance.warm and usable

    def is_on_gpu(self, served: ServedModel) -> bool:
        """Whether the engine of a model runs on a GPU, as far as it was loaded and says so."""
        try:
            return bool(getattr(self.appliance.engines[served.role].engine, "on_gpu", False))
        except NotReady:
            return False

    def role_for(self, holder: KeyHolder, served: ServedModel) -> ModelRole:
        """The role of a model, for a client that may predict with it. Raises Forbidden."""
        policy.authorize(holder, policy.operation("torchserve_model", served.role))
        return self.roles[served.role]

    def encrypts(self, interface: str) -> bool:
        """Whether a port is encrypted; `interface`: inference, management, metrics or grpc, or that of the policy."""
        return interface.removeprefix("torchserve_") in self.table.tls

    async def keep_certificate(self) -> None:
        """Renew the certificate while the ports are served. A failure is logged once; the old one stays in use."""
        logged = ""
        while self.encryption is not None:
            await anyio.sleep(RENEWAL_SECONDS)
            try:
                if await anyio.to_thread.run_sync(self.encryption.renew):
                    log.info("certificate of TorchServe's ports renewed")
                logged = ""
            except SettingsError as error:
                if error.message != logged:
                    log.warning("certificate of TorchServe's ports not renewed: %s", error.message)
                logged = error.message

    @property
    def body_seconds(self) -> float:
        """Time in which a request must arrive, in seconds: as long as one may take, since uploads of the largest size
        take minutes on a slow network."""
        return max(self.appliance.settings.server.body_seconds, self.table.response_seconds, 300)

    def soon(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a change after the answer that announces it; an error is logged."""

        async def run() -> None:
            try:
                await work()
            except ChatapiError as error:
                log.warning("workers not changed: %s", error.message)

        assert self.group is not None  # noqa: S101 - requests arrive while it runs
        self.group.start_soon(run)

    def authenticate(self, offered: Sequence[bytes], interface: Interface, address: str, path: str = "") -> KeyHolder:
        """The client with one of these tokens or API keys. Raises Unauthorized, TooMany, SettingsError."""
        if self.tokens is not None:
            for each in offered:
                renewer = self.tokens.renewer(each) if path == "/token" else None
                if found := renewer or self.tokens.holder(each, KINDS[interface]):
                    return found
        try:
            holder = self.appliance.keyring.authenticate(offered, address)
        except Unauthorized:
            raise Unauthorized(WRONG_TOKEN) from None
        if holder is ANYBODY and self.tokens is not None:
            raise Unauthorized(WRONG_TOKEN)
        return holder

    @property
    def _issues_tokens(self) -> bool:
        if self.table.tokens is not None:
            return self.table.tokens
        return self.table.host not in LOOPBACK or self.appliance.keyring.required

    @property
    def _key_file(self) -> Path:
        return self.table.key_file or DataDirectory(self.appliance.settings.data).torchserve_tokens
