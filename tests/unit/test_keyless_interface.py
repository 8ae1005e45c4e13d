"""Interfaces without API keys: allowed networks, connections per address, scopes, and keys that disable them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from chatapi import auth, settings
from chatapi.auth.keyless_interface import KeylessClient, KeylessClients, KeylessInterface
from chatapi.errors import Busy, ChatapiError, Forbidden, Unauthorized


@dataclass(frozen=True)
class Table:
    """The settings of a protocol that chatapi does not speak."""

    enabled: bool | None = True
    host: str = "0.0.0.0"
    allow: tuple[str, ...] = ("192.0.2.0/24", "2001:db8::/32")
    scope: str = "transcribe"
    connections: int = 4
    connections_per_address: int = 2


def interface(tmp_path: Path, table: Table) -> KeylessInterface:
    return KeylessInterface("Telex", "telex", table, settings.load([f"data={tmp_path}"], environ={}).settings)


def clients(tmp_path: Path, table: Table) -> KeylessClients:
    return KeylessClients(interface(tmp_path, table), auth.Keyring(tmp_path, None))


def rejected(found: KeylessClients, peer: object) -> ChatapiError:
    with pytest.raises(ChatapiError) as raised:
        with found.admitted(peer):
            pass
    return raised.value


def test_client_outside_the_networks_is_told_which_setting_has_them(tmp_path: Path) -> None:
    found = clients(tmp_path, Table())
    for peer in (("198.51.100.7", 1), ("::ffff:198.51.100.7", 1, 0, 0), ("2001:db9::1", 1, 0, 0), ("unknown", 0)):
        error = rejected(found, peer)
        assert isinstance(error, Forbidden) and error.code == "network_not_allowed"
        assert str(peer[0]) in error.message and "telex.allow" in error.message
    for peer in (("192.0.2.7", 1), ("127.0.0.1", 1), ("::1", 1, 0, 0), "/run/telex.sock", ""):
        with found.admitted(peer):
            assert len(found) == 1
    assert len(found) == 0


def test_connections_are_bounded_in_total_and_per_address(tmp_path: Path) -> None:
    found = clients(tmp_path, Table())
    with ExitStack() as stack:
        # The addresses of one IPv6 network count as one client.
        for number in range(2):
            assert stack.enter_context(found.admitted((f"2001:db8::{number}", 1, 0, 0))).address == "2001:db8::/64"
        error = rejected(found, ("2001:db8::ffff", 1, 0, 0))
        assert isinstance(error, Busy) and error.code == "too_many_connections" and error.retry_after
        assert "2 connections from your address" in error.message
        for _ in range(2):
            assert stack.enter_context(found.admitted(("127.0.0.1", 1))).address == ""
        assert "4 connections are open" in rejected(found, ("192.0.2.9", 1)).message
    with found.admitted(("2001:db8::1", 1, 0, 0)):
        assert len(found) == 1


def test_client_has_the_scope_of_the_setting_and_no_other(tmp_path: Path) -> None:
    with clients(tmp_path, Table()).admitted(("192.0.2.7", 1)) as client:
        client.authorize(auth.operation("wyoming", "transcribe"))
        with pytest.raises(Forbidden) as raised:
            client.authorize(auth.operation("wyoming", "transcript"))
    assert raised.value.code == "scope_missing"
    assert "a client of Telex has the scopes transcribe" in raised.value.message
    assert "the setting telex.scope changes it" in raised.value.message
    with clients(tmp_path, Table(scope="talk")).admitted(("192.0.2.7", 1)) as client:
        client.authorize(auth.operation("wyoming", "transcript"))
        with pytest.raises(Forbidden):
            client.authorize(auth.http_operation("GET", "/metrics"))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (Table(), ""),
        (Table(allow=()), "set telex.allow to the networks"),
        (Table(allow=(), host="127.0.0.1"), ""),
        (Table(allow=(), host=""), ""),
        (Table(enabled=None), "telex.enabled=true opens it"),
    ],
)
def test_keys_disable_it_unless_the_settings_limit_its_clients(tmp_path: Path, table: Table, reason: str) -> None:
    now = [0.0]
    ring, subject = auth.Keyring(tmp_path, None), interface(tmp_path, table)
    client = KeylessClient("", subject, ring, lambda: now[0])
    assert subject.is_enabled
    auth.add(tmp_path, "kitchen", ["talk"])
    assert subject.is_enabled is not bool(reason)
    # An open connection looks for new keys once a second.
    client.authorize(auth.operation("wyoming", "ping"))
    now[0] = 1.0
    if not reason:
        client.authorize(auth.operation("wyoming", "ping"))
        return
    with pytest.raises(Unauthorized, match=reason):
        client.authorize(auth.operation("wyoming", "ping"))
    with pytest.raises(Unauthorized, match=reason):
        with KeylessClients(subject, ring).admitted(("127.0.0.1", 1)):
            pass


def test_damaged_keys_disable_it_too(tmp_path: Path) -> None:
    auth.file_of(tmp_path).write_text("damaged")
    with pytest.raises(Unauthorized):
        interface(tmp_path, Table(enabled=None)).check_open(auth.Keyring(tmp_path, None))
