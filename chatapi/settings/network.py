"""The settings tables of the network interfaces."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic.config import JsonDict

LIVE: JsonDict = {"live": True}
"""Marks a setting that changes while chatapi runs (`setting_changes`); any other changes at the next start."""


class Table(BaseModel):
    """A frozen settings table that rejects unknown keys."""

    # Without use_attribute_docstrings, for which Pydantic reads the source of every table at every start.
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Table):
    """The HTTP server of `chatapi serve`."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network, then set an api_key."""
    port: int = Field(8000, ge=0, le=65535)
    """TCP port to listen on; 0: a free one."""
    tls: bool = False
    """Serve HTTPS, with a certificate generated in the data directory, or with your own `certificate`."""
    certificate: Path | None = None
    """Your own certificate, a PEM file with its chain; used only with tls."""
    key: Path | None = None
    """The key of your own certificate, unencrypted PEM; empty: it is in the certificate's file."""
    api_key: SecretStr | None = Field(None, min_length=1)
    """API key that every route requires when set: `Authorization: Bearer KEY`; `chatapi keys` adds more keys."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other web pages that may call the server from a browser; none by default."""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Host names accepted while listening on loopback; others are rejected, against DNS rebinding."""
    send_seconds: float = Field(20, gt=0)
    """Time after which a client that reads nothing is disconnected, in seconds."""
    body_seconds: float = Field(30, gt=0)
    """Time in which the whole body of a request must arrive, in seconds."""
    head_seconds: float = Field(15, gt=0)
    """Time in which a connection must send a whole request head or its first Wyoming event, in seconds; otherwise it is
    closed."""
    connections: int = Field(2048, ge=16, le=60_000)
    """Largest number of open connections, within the system's limit of open files; for one more the connection that has
    been idle longest is closed, or the new one is rejected."""
    connections_per_address: int = Field(256, ge=1, le=60_000)
    """Largest number of open connections from one address other than this machine."""
    requests: int = Field(512, ge=4)
    """Largest number of requests processed at once; one more is rejected, except for /health and /ready."""


class WyomingSettings(Table):
    """Wyoming, the protocol by which Home Assistant uses voice services. It has neither API keys nor encryption."""

    enabled: bool | None = None
    """Whether `chatapi serve` offers Wyoming; unset: yes, unless the server has API keys, or the port is in use and
    none of host, port and socket is set. A server with API keys offers it to other machines only with `allow`."""
    host: str = "127.0.0.1"
    """Address to listen on; empty: only the socket. For other machines set `allow` too."""
    port: int = Field(10300, ge=0, le=65535)
    """TCP port to listen on; 0: a free one."""
    socket: Path | None = None
    """A Unix socket to listen on as well, for this user and group."""
    allow: tuple[str, ...] = ()
    """Networks that may connect, besides this machine, such as 192.168.1.0/24; empty: all."""
    scope: Literal["talk", "transcribe"] = "talk"
    """What clients may do: talk, which is everything that Wyoming has, or only transcribe."""
    announce: bool = True
    """Whether to announce the service by zeroconf, so that Home Assistant finds it, when other machines can connect."""
    connections: int = Field(32, ge=1, le=1024)
    """Largest number of open connections; one more is rejected."""
    connections_per_address: int = Field(16, ge=1, le=1024)
    """Largest number of open connections from one address other than this machine."""
    payload_bytes: int = Field(1 << 20, ge=1024)
    """Largest payload of one event, in bytes."""
    idle_seconds: float = Field(300, gt=0)
    """Time after which a connection that sends nothing is closed, in seconds."""

    @field_validator("allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_networks(value)

    @property
    def demanded(self) -> bool:
        """Whether the settings ask for Wyoming explicitly, so that a failure to listen is an error."""
        if self.enabled is not None:
            return self.enabled
        return any(
            getattr(self, name) != WyomingSettings.model_fields[name].default for name in ("host", "port", "socket")
        )


class TorchServeSettings(Table):
    """TorchServe's HTTP and gRPC interfaces, for its clients; each listens on a port of its own."""

    enabled: bool = False
    """Whether `chatapi serve` offers them; `chatapi serve --torchserve` does too."""
    host: str = "127.0.0.1"
    """Address to listen on; for other machines create keys first, or set `tokens`."""
    inference_port: int = Field(8080, ge=0, le=65535)
    """TCP port of the inference API; 0: a free one."""
    management_port: int = Field(8081, ge=0, le=65535)
    """TCP port of the management API; 0: a free one."""
    metrics_port: int = Field(8082, ge=0, le=65535)
    """TCP port of the metrics; 0: a free one."""
    grpc: bool | None = None
    """Whether to offer gRPC, which needs the extra torchserve; unset: if the extra is installed."""
    grpc_inference_port: int = Field(7070, ge=0, le=65535)
    """TCP port of the inference API over gRPC; 0: a free one."""
    grpc_management_port: int = Field(7071, ge=0, le=65535)
    """TCP port of the management API over gRPC; 0: a free one."""
    tls: tuple[Literal["inference", "management", "metrics", "grpc"], ...] = ()
    """Interfaces that are encrypted. Without `certificate` and `keystore` they present the box's own certificate,
    which clients of gRPC cannot verify."""
    certificate: Path | None = None
    """Certificate of the encrypted ports, a PEM file with its chain."""
    key: Path | None = None
    """Its unencrypted key, a PEM file; unset: the key is in the certificate's file."""
    keystore: Path | None = None
    """PKCS12 keystore with the certificate and its key, instead of `certificate`."""
    keystore_password: SecretStr | None = None
    """Password of the keystore."""
    config: Path | None = None
    """TorchServe's config.properties; a setting of this table that differs from its default wins over it."""
    tokens: bool | None = None
    """Whether TorchServe's tokens are issued; unset: if the box has API keys, or other machines can connect. With
    tokens or API keys every request needs one of them."""
    token_minutes: float = Field(60, gt=0)
    """Time after which a token expires, in minutes."""
    key_file: Path | None = None
    """File of the tokens in TorchServe's form; unset: key_file.json in the data directory. It is removed at the end."""
    models: tuple[str, ...] = ()
    """Models registered at the start, NAME=MODEL each, where MODEL is a model's name, or default for the one in use,
    and all for every archive of the model store; empty: the model in use, by its own name."""
    model_store: Path | None = None
    """Folder with model archives (.mar) that clients may register; unset: archives are known by their names only."""
    keep_models: bool = True
    """Whether what clients register, scale and unregister is restored at the next start, as TorchServe's snapshots do;
    not once the settings of the models have changed."""
    model_api: bool = False
    """Whether clients may register and unregister models."""
    response: Literal["text", "json"] = "text"
    """Form of a prediction where the request does not ask for one: the transcript, or JSON with segments."""
    voice_consent: str = Field("", max_length=2000)
    """The operator's statement of who allowed the use of the voices whose clips clients send to a voice conversion
    model, such as 'only our own voices'; empty: such predictions are rejected. Clips are stored nowhere."""
    workers: int = Field(0, ge=0, le=64)
    """Workers of each model registered at the start, which are its transcriptions at once; 0: as many as the model's
    engine runs."""
    queue: int = Field(100, ge=0, le=10_000)
    """Predictions of one model that may wait for a worker; one more is rejected."""
    request_bytes: int = Field(160 << 20, ge=1024, le=4 << 30)
    """Largest request, in bytes."""
    response_bytes: int = Field(160 << 20, ge=1024, le=4 << 30)
    """Largest prediction, in bytes."""
    response_seconds: float = Field(0, ge=0)
    """Longest duration of a prediction, in seconds; 0: only that of every transcription, which grows with the audio."""
    logs: Path | None = None
    """Folder for access_log.log, model_log.log and model_metrics.log, which have no content; unset: none."""


class AsrWebserviceSettings(Table):
    """The API of whisper-asr-webservice, for programs that know only that. It has neither API keys nor encryption."""

    enabled: bool = False
    """Whether `chatapi serve` offers it. A server with API keys offers it to other machines only with `allow`."""
    host: str = "127.0.0.1"
    """Address to listen on; for other machines set `allow` too."""
    port: int = Field(9000, ge=0, le=65535)
    """TCP port to listen on; 0: a free one."""
    allow: tuple[str, ...] = ()
    """Networks that may connect, besides this machine, such as 192.168.1.0/24; empty: all."""
    scope: Literal["transcribe"] = "transcribe"
    """What clients may do."""
    connections: int = Field(32, ge=1, le=1024)
    """Largest number of requests at once; one more is rejected."""
    connections_per_address: int = Field(16, ge=1, le=1024)
    """Largest number of requests at once from one address other than this machine."""
    request_bytes: int = Field(1 << 30, ge=1024, le=8 << 30)
    """Largest request, in bytes; its file is kept on the disk."""
    body_seconds: float = Field(600, gt=0)
    """Time in which the whole body of a request must arrive, in seconds."""

    @field_validator("allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_networks(value)


class GrpcSettings(Table):
    """Command recognition over gRPC; it needs the extra grpc."""

    enabled: bool = False
    """Whether `chatapi serve` offers it."""
    host: str = "127.0.0.1"
    """Address to listen on; for other machines create keys first."""
    port: int = Field(55221, ge=0, le=65535)
    """TCP port to listen on; 0: a free one."""
    tls: bool | None = None
    """Whether it is encrypted, with the web server's certificate; unset: as server.tls."""
    message_bytes: int = Field(4 << 20, ge=1024, le=64 << 20)
    """Largest message, in bytes; a larger one is rejected with RESOURCE_EXHAUSTED."""
    calls: int = Field(128, ge=1, le=4096)
    """Largest number of calls at once; one more is rejected with RESOURCE_EXHAUSTED."""
    idle_seconds: float = Field(60, gt=0)
    """Time without audio after which a stream ends with DEADLINE_EXCEEDED, in seconds."""


def _checked_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [each for each in value if not _is_network(each)]
    if wrong:
        raise ValueError(f"must be networks such as 192.168.1.0/24; {wrong[0]!r} is not a network")
    return value


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
