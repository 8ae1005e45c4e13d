"""API keys in a running server: authentication, damaged files, rate limits and wrong keys."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from chatapi import auth
from chatapi.errors import (
    ChatapiError,
    SettingsError,
    TooMany,
    Unauthorized,
)

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"
READY = auth.http_operation("GET", "/ready")


class Clock:
    """Time that passes when the test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_key_is_known_by_its_id_and_its_secret(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    ring = auth.Keyring(tmp_path, None)
    assert ring.authenticate([b"", b"nonsense", text.encode()], HERE).name == "kitchen"
    for wrong in (text[:-1], text + "A", text.upper(), "chatapi_", text.rpartition("_")[0], "chatapi_local_x"):
        with pytest.raises(Unauthorized):
            ring.authenticate([wrong.encode()], ELSEWHERE)
    with pytest.raises(Unauthorized):
        ring.authenticate([b"x"] * 20 + [text.encode()], ELSEWHERE)


def test_it_opens_nothing_once_it_expired_and_none_that_expires_while_the_time_is_unknown(tmp_path: Path) -> None:
    text, forever = auth.add(tmp_path, "guest", ["talk"], days=1), auth.add(tmp_path, "owner", ["talk"])
    [made, _] = auth.read(tmp_path) or ()
    now = Clock(made.created + 3600)
    ring = auth.Keyring(tmp_path, None, now=now)
    guest = ring.authenticate([text.encode()], HERE)
    assert ring.is_valid(guest)
    for time, told in ((made.created + 86_401, "has expired"), (1000.0, "does not know the time")):
        now.now = time
        with pytest.raises(Unauthorized, match=told):
            ring.authenticate([text.encode()], HERE)
        assert not ring.is_valid(guest)
        assert ring.authenticate([forever.encode()], HERE).name == "owner"


def test_who_came_in_while_it_was_open_is_not_welcome_once_it_is_closed(tmp_path: Path) -> None:
    ring = auth.Keyring(tmp_path, None)
    before = ring.authenticate([], HERE)
    assert before is auth.ANYBODY and ring.is_valid(before)
    auth.add(tmp_path, "kitchen", ["talk"])
    assert not ring.is_valid(before)
    auth.revoke(tmp_path, "kitchen")
    assert ring.required, "revoking the last key must not open the door to everybody"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b'{"version": 1}',
        b'{"version": 3, "keys": []}',
        b'{"version": 1, "keys": {}}',
        b'{"version": 1, "keys": [{}]}',
        b'{"version": 1, "keys": [], "more": 1}',
        b"[" * 50_000,
        b" " * (2 << 20),
    ],
    ids=range(11),
)
def test_a_damaged_file_lets_nobody_in_until_it_is_whole(tmp_path: Path, content: bytes) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    ring, file = auth.Keyring(tmp_path, "own"), auth.file_of(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(content)
    for given in (b"own", text.encode(), b""):
        with pytest.raises(SettingsError, match=r"keys\.json cannot be used") as raised:
            ring.authenticate([given], HERE)
        assert raised.value.code == "keys_damaged"
    with pytest.raises(SettingsError):
        auth.add(tmp_path, "other", ["talk"])
    assert file.read_bytes() == content, "what is damaged may still be mended"
    file.write_bytes(whole)
    assert ring.authenticate([text.encode()], HERE).name == "kitchen"


@pytest.mark.parametrize("change", [{"id": "x"}, {"scopes": ["root"]}, {"sha256": ""}, {"rate": 0}, {"created": "now"}])
def test_an_entry_that_is_not_as_it_was_written_is_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    auth.add(tmp_path, "kitchen", ["talk"])
    document = json.loads(auth.file_of(tmp_path).read_text())
    document["keys"][0].update(change)
    auth.file_of(tmp_path).write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=next(iter(change))):
        auth.read(tmp_path)


def test_a_file_that_goes_away_opens_nothing(tmp_path: Path) -> None:
    auth.add(tmp_path, "kitchen", ["talk"])
    file, good = auth.file_of(tmp_path), auth.Keyring(tmp_path, None)
    assert good.required
    file.write_text("damaged")
    late = auth.Keyring(tmp_path, None)
    with pytest.raises(SettingsError):
        assert late.required
    file.unlink()
    for ring in (good, late):
        with pytest.raises(SettingsError, match="is gone"):
            ring.authenticate([], HERE)
    file.mkdir()
    with pytest.raises(SettingsError):
        good.authenticate([], HERE)
    file.rmdir()
    text = auth.add(tmp_path, "new", ["talk"])
    assert good.authenticate([text.encode()], HERE).name == late.authenticate([text.encode()], HERE).name == "new"


def test_a_bucket_fills_with_time_and_the_number_of_buckets_is_bounded() -> None:
    clock = Clock()
    buckets = auth.TokenBuckets(3, clock)
    assert [buckets.take("a", 2, 0.5) for _ in range(3)] == [0, 0, 2]
    assert buckets.wait("a", 2, 0.5) == 2 and buckets.wait("b", 2, 0.5) == 0
    clock.now = 2
    assert [buckets.take("a", 2, 0.5) for _ in range(2)] == [0, 2]
    clock.now = 1000
    assert [buckets.take("a", 2, 0.5) for _ in range(3)] == [0, 0, 2]
    for number in range(100):
        buckets.take(str(number), 2, 0.5)
    assert len(buckets) == 3


def test_a_key_is_for_so_many_requests_a_minute_and_others_are_undisturbed(tmp_path: Path) -> None:
    few, many = auth.add(tmp_path, "few", ["talk"], rate=3), auth.add(tmp_path, "many", ["talk"])
    clock = Clock()
    ring = auth.Keyring(tmp_path, None, clock)
    holder, other = ring.authenticate([few.encode()], HERE), ring.authenticate([many.encode()], HERE)
    for _ in range(3):
        ring.authorize(holder, READY)
    with pytest.raises(TooMany, match="3 requests per minute") as raised:
        ring.authorize(holder, READY)
    assert raised.value.retry_after == 20
    for _ in range(100):
        ring.authorize(other, READY)
    clock.now = 20
    ring.authorize(holder, READY)


def test_an_address_with_many_wrong_keys_has_to_wait_and_nobody_else(tmp_path: Path) -> None:
    named = auth.add(tmp_path, "kitchen", ["talk"]).encode()
    clock = Clock()
    ring = auth.Keyring(tmp_path, "sesame", clock)
    told = []
    for _ in range(1000):
        with pytest.raises(ChatapiError) as raised:
            ring.authenticate([b"guess"], HERE)
        told.append(raised.value)
    assert [type(error) for error in told] == [Unauthorized] * 10 + [TooMany] * 990
    assert told[-1].retry_after == 6
    with pytest.raises(TooMany):
        ring.authenticate([b"sesame"], HERE)
    assert ring.authenticate([named], HERE).name == "kitchen", "that one cannot be guessed"
    assert ring.authenticate([b"sesame"], ELSEWHERE).name == "settings"
    with pytest.raises(Unauthorized):
        ring.authenticate([], HERE)
    clock.now = 6
    assert ring.authenticate([b"sesame"], HERE).name == "settings"


def test_a_network_of_ipv6_counts_as_one_address(tmp_path: Path) -> None:
    ring = auth.Keyring(tmp_path, "sesame", Clock())
    for number in range(10):
        with pytest.raises(Unauthorized):
            ring.authenticate([b"guess"], f"2001:db8::{number:x}")
    with pytest.raises(TooMany):
        ring.authenticate([b"guess"], "2001:db8::ffff")
    for address in ("2001:db8:0:1::1", "::ffff:192.0.2.1", "no address at all" * 100, ""):
        with pytest.raises(Unauthorized):
            ring.authenticate([b"guess"], address)


def test_when_keys_were_used_is_bounded_and_may_be_lost(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    now = Clock(2e9)
    ring = auth.Keyring(tmp_path, None, now=now)
    ring.authenticate([text.encode()], HERE)
    (tmp_path / "keys-used.json").write_text("damaged")
    assert auth.times_used(tmp_path) == {}
    ring.store_uses()
    assert list(auth.times_used(tmp_path).values()) == [2e9]
    ring.authenticate([text.encode()], HERE)
    (tmp_path / "keys-used.json").unlink()
    (tmp_path / "keys-used.json").mkdir()
    ring.store_uses()
    assert auth.times_used(tmp_path) == {}


def test_what_the_machine_lacked_for_a_moment_is_not_remembered(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    ring = auth.Keyring(tmp_path, None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(SettingsError) as raised:
            ring.authenticate([text.encode()], HERE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.code == "keys_damaged"
    assert ring.authenticate([text.encode()], HERE).name == "kitchen"
