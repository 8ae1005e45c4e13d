"""The tables of the settings that say where the box listens, and to whom."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(Table):
    """Where and to whom `chatapi serve` answers."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network, then set an api_key."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    tls: bool = False
    """Speak HTTPS, with a certificate that is made and kept in the data directory, or your own:"""
    certificate: Path | None = None
    """Your own certificate, a PEM file with its chain; only with tls."""
    key: Path | None = None
    """Its key, unencrypted PEM; empty: it is in the certificate's file."""
    api_key: SecretStr | None = Field(None, min_length=1)
    """When set, every route wants it: `Authorization: Bearer KEY`; `chatapi keys` makes others beside it."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other pages that may call from a browser; none by default."""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names accepted while listening on loopback, so that a foreign page cannot reach it by a name of its own."""
    send_seconds: float = Field(20, gt=0)
    """A client that takes nothing for this long is dropped."""
    body_seconds: float = Field(30, gt=0)
    """A request's body must have arrived by then."""
    head_seconds: float = Field(15, gt=0)
    """A connection on which no whole request head, or no first Wyoming event, arrives for this long is closed."""
    connections: int = Field(2048, ge=16, le=60_000)
    """Connections open at once, as far as the system's limit of open files allows; for one more the connection that
    has been idle longest is closed, or it is refused."""
    connections_per_address: int = Field(256, ge=1, le=60_000)
    """Connections that one address, other than this machine, may have open."""
    requests: int = Field(512, ge=4)
    """Requests worked on at once; one more is refused, except for /health and /ready."""


class WyomingSettings(Table):
    """Wyoming, the protocol by which Home Assistant uses voice services. It has neither keys nor encryption."""

    enabled: bool | None = None
    """Whether `chatapi serve` speaks it; unset: unless the box has keys, or the port is taken and none of host, port
    and socket is set. A box that has keys speaks it beyond this machine only with `allow`."""
    host: str = "127.0.0.1"
    """Address to listen on; empty: none, only the socket. Beyond this machine set `allow` too."""
    port: int = Field(10300, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    socket: Path | None = None
    """A Unix socket to listen on as well, for this user and group."""
    allow: tuple[str, ...] = ()
    """Networks whose machines may come, besides this machine, such as 192.168.1.0/24; empty: everybody."""
    announce: bool = True
    """Whether Home Assistant finds it by itself (zeroconf), when it listens beyond this machine."""
    connections: int = Field(32, ge=1, le=1024)
    """Connections at once; one more is refused."""
    connections_per_address: int = Field(16, ge=1, le=1024)
    """Connections that one address, other than this machine, may have open."""
    payload_bytes: int = Field(1 << 20, ge=1024)
    """Largest piece of audio in one event."""
    idle_seconds: float = Field(300, gt=0)
    """A connection on which nothing arrives for so long is closed."""

    @field_validator("allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [each for each in value if not _is_network(each)]
        if wrong:
            raise ValueError(f"must be networks such as 192.168.1.0/24, and {wrong[0]!r} is none")
        return value

    @property
    def demanded(self) -> bool:
        """Whether the owner wants it, so that what keeps it from listening is a fault."""
        if self.enabled is not None:
            return self.enabled
        return any(
            getattr(self, name) != WyomingSettings.model_fields[name].default for name in ("host", "port", "socket")
        )


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
