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
    """A fake clock that the test sets."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_key_authenticates_by_its_id_and_secret(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    keyring = auth.Keyring(tmp_path, None)
    assert keyring.authenticate([b"", b"nonsense", text.encode()], HERE).name == "kitchen"
    for wrong in (text[:-1], text + "A", text.upper(), "chatapi_", text.rpartition("_")[0], "chatapi_local_x"):
        with pytest.raises(Unauthorized):
            keyring.authenticate([wrong.encode()], ELSEWHERE)
    with pytest.raises(Unauthorized):
        keyring.authenticate([b"x"] * 20 + [text.encode()], ELSEWHERE)


def test_key_that_expires_is_rejected_after_its_end_and_while_the_time_is_unknown(tmp_path: Path) -> None:
    text, forever = auth.add(tmp_path, "guest", ["talk"], days=1), auth.add(tmp_path, "owner", ["talk"])
    [stored_key, _] = auth.read(tmp_path) or ()
    now = Clock(stored_key.created + 3600)
    keyring = auth.Keyring(tmp_path, None, now=now)
    guest = keyring.authenticate([text.encode()], HERE)
    assert keyring.is_valid(guest)
    for time, message in ((stored_key.created + 86_401, "has expired"), (1000.0, "does not know the time")):
        now.now = time
        with pytest.raises(Unauthorized, match=message):
            keyring.authenticate([text.encode()], HERE)
        assert not keyring.is_valid(guest)
        assert keyring.authenticate([forever.encode()], HERE).name == "owner"


def test_anonymous_access_ends_when_the_first_key_is_added(tmp_path: Path) -> None:
    keyring = auth.Keyring(tmp_path, None)
    before = keyring.authenticate([], HERE)
    assert before is auth.ANYBODY and keyring.is_valid(before)
    auth.add(tmp_path, "kitchen", ["talk"])
    assert not keyring.is_valid(before)
    auth.revoke(tmp_path, "kitchen")
    assert keyring.required, "revoking the last key must not allow anonymous access"


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
def test_damaged_file_rejects_every_key_until_it_is_repaired(tmp_path: Path, content: bytes) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    keyring, file = auth.Keyring(tmp_path, "own"), auth.file_of(tmp_path)
    intact = file.read_bytes()
    file.write_bytes(content)
    for given in (b"own", text.encode(), b""):
        with pytest.raises(SettingsError, match=r"keys\.json cannot be used") as raised:
            keyring.authenticate([given], HERE)
        assert raised.value.code == "keys_damaged"
    with pytest.raises(SettingsError):
        auth.add(tmp_path, "other", ["talk"])
    assert file.read_bytes() == content, "a damaged file may still be repaired"
    file.write_bytes(intact)
    assert keyring.authenticate([text.encode()], HERE).name == "kitchen"


@pytest.mark.parametrize("change", [{"id": "x"}, {"scopes": ["root"]}, {"sha256": ""}, {"rate": 0}, {"created": "now"}])
def test_invalid_entry_counts_as_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    auth.add(tmp_path, "kitchen", ["talk"])
    document = json.loads(auth.file_of(tmp_path).read_text())
    document["keys"][0].update(change)
    auth.file_of(tmp_path).write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=next(iter(change))):
        auth.read(tmp_path)


def test_removed_file_rejects_every_request(tmp_path: Path) -> None:
    auth.add(tmp_path, "kitchen", ["talk"])
    file, loaded = auth.file_of(tmp_path), auth.Keyring(tmp_path, None)
    assert loaded.required
    file.write_text("damaged")
    unloaded = auth.Keyring(tmp_path, None)
    with pytest.raises(SettingsError):
        assert unloaded.required
    file.unlink()
    for keyring in (loaded, unloaded):
        with pytest.raises(SettingsError, match="is gone"):
            keyring.authenticate([], HERE)
    file.mkdir()
    with pytest.raises(SettingsError):
        loaded.authenticate([], HERE)
    file.rmdir()
    text = auth.add(tmp_path, "new", ["talk"])
    assert loaded.authenticate([text.encode()], HERE).name == unloaded.authenticate([text.encode()], HERE).name == "new"


def test_token_bucket_refills_with_time_and_the_number_of_buckets_is_bounded() -> None:
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


def test_rate_limit_of_a_key_does_not_affect_other_keys(tmp_path: Path) -> None:
    limited_key, unlimited_key = auth.add(tmp_path, "few", ["talk"], rate=3), auth.add(tmp_path, "many", ["talk"])
    clock = Clock()
    keyring = auth.Keyring(tmp_path, None, clock)
    limited, unlimited = (
        keyring.authenticate([limited_key.encode()], HERE),
        keyring.authenticate([unlimited_key.encode()], HERE),
    )
    for _ in range(3):
        keyring.authorize(limited, READY)
    with pytest.raises(TooMany, match="3 requests per minute") as raised:
        keyring.authorize(limited, READY)
    assert raised.value.retry_after == 20
    for _ in range(100):
        keyring.authorize(unlimited, READY)
    clock.now = 20
    keyring.authorize(limited, READY)


def test_many_wrong_keys_delay_only_their_own_address(tmp_path: Path) -> None:
    named = auth.add(tmp_path, "kitchen", ["talk"]).encode()
    clock = Clock()
    keyring = auth.Keyring(tmp_path, "sesame", clock)
    errors = []
    for _ in range(1000):
        with pytest.raises(ChatapiError) as raised:
            keyring.authenticate([b"guess"], HERE)
        errors.append(raised.value)
    assert [type(error) for error in errors] == [Unauthorized] * 10 + [TooMany] * 990
    assert errors[-1].retry_after == 6
    with pytest.raises(TooMany):
        keyring.authenticate([b"sesame"], HERE)
    assert keyring.authenticate([named], HERE).name == "kitchen", "a stored key cannot be guessed"
    assert keyring.authenticate([b"sesame"], ELSEWHERE).name == "settings"
    with pytest.raises(Unauthorized):
        keyring.authenticate([], HERE)
    clock.now = 6
    assert keyring.authenticate([b"sesame"], HERE).name == "settings"


def test_ipv6_network_counts_as_one_address(tmp_path: Path) -> None:
    keyring = auth.Keyring(tmp_path, "sesame", Clock())
    for number in range(10):
        with pytest.raises(Unauthorized):
            keyring.authenticate([b"guess"], f"2001:db8::{number:x}")
    with pytest.raises(TooMany):
        keyring.authenticate([b"guess"], "2001:db8::ffff")
    for address in ("2001:db8:0:1::1", "::ffff:192.0.2.1", "no address at all" * 100, ""):
        with pytest.raises(Unauthorized):
            keyring.authenticate([b"guess"], address)


def test_damaged_times_of_use_are_ignored_and_replaced(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    now = Clock(2e9)
    keyring = auth.Keyring(tmp_path, None, now=now)
    keyring.authenticate([text.encode()], HERE)
    (tmp_path / "keys-used.json").write_text("damaged")
    assert auth.times_used(tmp_path) == {}
    keyring.store_uses()
    assert list(auth.times_used(tmp_path).values()) == [2e9]
    keyring.authenticate([text.encode()], HERE)
    (tmp_path / "keys-used.json").unlink()
    (tmp_path / "keys-used.json").mkdir()
    keyring.store_uses()
    assert auth.times_used(tmp_path) == {}


def test_temporary_lack_of_file_descriptors_is_not_remembered(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    keyring = auth.Keyring(tmp_path, None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(SettingsError) as raised:
            keyring.authenticate([text.encode()], HERE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.code == "keys_damaged"
    assert keyring.authenticate([text.encode()], HERE).name == "kitchen"
