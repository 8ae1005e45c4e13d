"""Keys: made, kept, revoked and damaged; who holds one, how often it may be used, and who tries too many."""

from __future__ import annotations

import base64
import json
import os
import resource
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from chatapi import auth
from chatapi.cli import main
from chatapi.errors import (
    BadInput,
    ChatapiError,
    NotFound,
    SettingsError,
    StorageError,
    TooMany,
    Unauthorized,
    WrongMode,
)
from chatapi.system import private_files

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


class Clock:
    """Time that passes when the test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# The file


def test_a_key_is_shown_once_and_kept_hashed_and_private(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["operate", "talk", "talk"], rate=60, days=30)
    assert text.startswith("chatapi_") and len(text) >= 8 + 8 + 1 + 43
    file = auth.file_of(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = text.split("_", 2)[2]
    assert secret not in file.read_text() and base64.urlsafe_b64decode(secret + "=").hex() not in file.read_text()
    [kept] = auth.read(tmp_path) or ()
    assert (kept.name, kept.scopes, kept.rate, kept.revoked) == ("kitchen", ["talk", "operate"], 60, None)
    assert kept.expires is not None and round((kept.expires - kept.created) / 86_400) == 30
    assert auth.add(tmp_path, "other", ["all"]) != auth.add(tmp_path, "another", ["all"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".keys.json")] == []


@pytest.mark.parametrize(
    ("name", "scopes", "rate", "days"),
    [
        ("", ["talk"], None, None),
        ("../x", ["talk"], None, None),
        ("a\nb", ["talk"], None, None),
        ("a" * 65, ["talk"], None, None),
        ("settings", ["talk"], None, None),
        ("local", ["talk"], None, None),
        ("a", [], None, None),
        ("a", ["root"], None, None),
        ("a", ["talk"], 0, None),
        ("a", ["talk"], 10**9, None),
        ("a", ["talk"], None, 0),
        ("a", ["talk"], None, float("nan")),
        ("a", ["talk"], None, 1e9),
    ],
)
def test_what_cannot_be_a_key_is_refused(
    tmp_path: Path, name: str, scopes: list[str], rate: int | None, days: float | None
) -> None:
    with pytest.raises(BadInput):
        auth.add(tmp_path, name, scopes, rate, days)
    assert auth.read(tmp_path) is None


def test_a_name_is_taken_until_its_key_is_revoked(tmp_path: Path) -> None:
    auth.add(tmp_path, "kitchen", ["talk"])
    with pytest.raises(WrongMode, match="revoke it first"):
        auth.add(tmp_path, "kitchen", ["talk"])
    auth.revoke(tmp_path, "kitchen")
    auth.revoke(tmp_path, "kitchen")
    assert [key.revoked is None for key in auth.read(tmp_path) or ()] == [False]
    auth.add(tmp_path, "kitchen", ["talk"])
    assert [key.revoked for key in auth.read(tmp_path) or ()] == [None]
    with pytest.raises(NotFound, match="keys list"):
        auth.revoke(tmp_path, "nobody")


def test_there_are_so_many_keys_and_no_more(tmp_path: Path) -> None:
    auth.add(tmp_path, "key-0", ["talk"])
    document = json.loads(auth.file_of(tmp_path).read_text())
    [first] = document["keys"]
    document["keys"] = [{**first, "id": f"{n:08x}", "name": f"key-{n}"} for n in range(auth.MOST)]
    auth.file_of(tmp_path).write_text(json.dumps(document))
    with pytest.raises(WrongMode, match="which is the most"):
        auth.add(tmp_path, "one-more", ["talk"])
    auth.revoke(tmp_path, "key-7")
    auth.add(tmp_path, "one-more", ["talk"])
    names = {key.name for key in auth.read(tmp_path) or ()}
    assert len(names) == auth.MOST and "key-7" not in names


def test_keys_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    threads = [threading.Thread(target=auth.add, args=(tmp_path, f"key-{n}", ["talk"])) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in auth.read(tmp_path) or ()} == {f"key-{n}" for n in range(8)}


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="the keys cannot be kept"):
        auth.add(tmp_path / "file", "kitchen", ["talk"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_is_the_services_to_read(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    auth.add(tmp_path, "kitchen", ["talk"])
    assert auth.file_of(tmp_path).stat().st_uid == 65534


# What a server knows


def test_a_key_is_known_by_its_id_and_its_secret(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    ring = auth.Keyring(tmp_path, None)
    assert ring.admit([b"", b"nonsense", text.encode()], HERE).name == "kitchen"
    for wrong in (text[:-1], text + "A", text.upper(), "chatapi_", text.rpartition("_")[0], "chatapi_local_x"):
        with pytest.raises(Unauthorized):
            ring.admit([wrong.encode()], ELSEWHERE)
    with pytest.raises(Unauthorized):
        ring.admit([b"x"] * 20 + [text.encode()], ELSEWHERE)


def test_it_opens_nothing_once_it_expired_and_none_that_expires_while_the_time_is_unknown(tmp_path: Path) -> None:
    text, forever = auth.add(tmp_path, "guest", ["talk"], days=1), auth.add(tmp_path, "owner", ["talk"])
    [made, _] = auth.read(tmp_path) or ()
    now = Clock(made.created + 3600)
    ring = auth.Keyring(tmp_path, None, now=now)
    guest = ring.admit([text.encode()], HERE)
    assert ring.holds(guest)
    for time, told in ((made.created + 86_401, "has expired"), (1000.0, "does not know the time")):
        now.now = time
        with pytest.raises(Unauthorized, match=told):
            ring.admit([text.encode()], HERE)
        assert not ring.holds(guest)
        assert ring.admit([forever.encode()], HERE).name == "owner"


def test_who_came_in_while_it_was_open_is_not_welcome_once_it_is_closed(tmp_path: Path) -> None:
    ring = auth.Keyring(tmp_path, None)
    before = ring.admit([], HERE)
    assert before is auth.ANYBODY and ring.holds(before)
    auth.add(tmp_path, "kitchen", ["talk"])
    assert not ring.holds(before)
    auth.revoke(tmp_path, "kitchen")
    assert ring.wanted, "revoking the last key must not open the door to everybody"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b'{"version": 1}',
        b'{"version": 2, "keys": []}',
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
            ring.admit([given], HERE)
        assert raised.value.code == "keys_damaged"
    with pytest.raises(SettingsError):
        auth.add(tmp_path, "other", ["talk"])
    assert file.read_bytes() == content, "what is damaged may still be mended"
    file.write_bytes(whole)
    assert ring.admit([text.encode()], HERE).name == "kitchen"


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
    assert good.wanted
    file.write_text("damaged")
    late = auth.Keyring(tmp_path, None)
    with pytest.raises(SettingsError):
        assert late.wanted
    file.unlink()
    for ring in (good, late):
        with pytest.raises(SettingsError, match="is gone"):
            ring.admit([], HERE)
    file.mkdir()
    with pytest.raises(SettingsError):
        good.admit([], HERE)
    file.rmdir()
    text = auth.add(tmp_path, "new", ["talk"])
    assert good.admit([text.encode()], HERE).name == late.admit([text.encode()], HERE).name == "new"


# How often


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
    holder, other = ring.admit([few.encode()], HERE), ring.admit([many.encode()], HERE)
    for _ in range(3):
        ring.count(holder)
    with pytest.raises(TooMany, match="3 requests a minute") as raised:
        ring.count(holder)
    assert raised.value.retry_after == 20
    for _ in range(100):
        ring.count(other)
    clock.now = 20
    ring.count(holder)


def test_an_address_with_many_wrong_keys_has_to_wait_and_nobody_else(tmp_path: Path) -> None:
    named = auth.add(tmp_path, "kitchen", ["talk"]).encode()
    clock = Clock()
    ring = auth.Keyring(tmp_path, "sesame", clock)
    told = []
    for _ in range(1000):
        with pytest.raises(ChatapiError) as raised:
            ring.admit([b"guess"], HERE)
        told.append(raised.value)
    assert [type(error) for error in told] == [Unauthorized] * 10 + [TooMany] * 990
    assert told[-1].retry_after == 6
    with pytest.raises(TooMany):
        ring.admit([b"sesame"], HERE)
    assert ring.admit([named], HERE).name == "kitchen", "that one cannot be guessed"
    assert ring.admit([b"sesame"], ELSEWHERE).name == "settings"
    with pytest.raises(Unauthorized):
        ring.admit([], HERE)
    clock.now = 6
    assert ring.admit([b"sesame"], HERE).name == "settings"


def test_a_network_of_ipv6_counts_as_one_address(tmp_path: Path) -> None:
    ring = auth.Keyring(tmp_path, "sesame", Clock())
    for number in range(10):
        with pytest.raises(Unauthorized):
            ring.admit([b"guess"], f"2001:db8::{number:x}")
    with pytest.raises(TooMany):
        ring.admit([b"guess"], "2001:db8::ffff")
    for address in ("2001:db8:0:1::1", "::ffff:192.0.2.1", "no address at all" * 100, ""):
        with pytest.raises(Unauthorized):
            ring.admit([b"guess"], address)


# The command


def test_the_command_makes_lists_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, status: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            main(["keys", *words, "--set", f"data={tmp_path}"])
        told = capsys.readouterr()
        assert left.value.code == status, told.err
        return told.out, told.err

    assert run()[0] == "there is no key\n"
    key, told = run("add", "kitchen", "--rate", "60/minute", "--expires", "30")
    assert key.startswith("chatapi_") and key.count("\n") == 1 and "nobody comes in without a key" in told
    run("add", "ops", "--scope", "operate", "--scope", "talk")
    ring = auth.Keyring(tmp_path, None)
    assert ring.admit([key.strip().encode()], HERE).scopes == ("talk",)
    ring.keep_uses()
    listed, _ = run("list")
    [kitchen, ops] = listed.splitlines()[1:]
    assert "60/minute" in kitchen and "good until" in kitchen and "never" not in kitchen
    assert "talk operate" in ops and "never" in ops
    run("revoke", "ops")
    assert "revoked" in run("list")[0]
    rows = json.loads(run("list", "--json")[0])
    assert [(row["name"], row["opens"], row["last_used"] is None) for row in rows] == [
        ("kitchen", True, False),
        ("ops", False, True),
    ]
    assert key.strip().rpartition("_")[2] not in listed + json.dumps(rows)
    for words in (
        ["add"],
        ["list", "x"],
        ["revoke", "x", "--rate", "1"],
        ["add", "x", "--json"],
        ["add", "x", "--rate", "1/s"],
    ):
        assert run(*words, status=2)[1].count("\n") == 1


def test_when_keys_were_used_is_bounded_and_may_be_lost(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    now = Clock(2e9)
    ring = auth.Keyring(tmp_path, None, now=now)
    ring.admit([text.encode()], HERE)
    (tmp_path / "keys-used.json").write_text("damaged")
    assert auth.times_used(tmp_path) == {}
    ring.keep_uses()
    assert list(auth.times_used(tmp_path).values()) == [2e9]
    ring.admit([text.encode()], HERE)
    (tmp_path / "keys-used.json").unlink()
    (tmp_path / "keys-used.json").mkdir()
    ring.keep_uses()
    assert auth.times_used(tmp_path) == {}


def test_what_the_machine_lacked_for_a_moment_is_not_remembered(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["talk"])
    ring = auth.Keyring(tmp_path, None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(SettingsError) as raised:
            ring.admit([text.encode()], HERE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.code == "keys_damaged"
    assert ring.admit([text.encode()], HERE).name == "kitchen"


def test_a_clock_that_was_never_set_gives_no_key_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth.add(tmp_path, "guest", ["talk"], days=1)
    monkeypatch.setattr("time.time", lambda: 200_000_000.0)
    with pytest.raises(WrongMode, match="already"):
        auth.add(tmp_path, "guest", ["talk"])
    with pytest.raises(WrongMode, match="clock shows 1976-05-03 and was never set"):
        auth.add(tmp_path, "other", ["talk"], days=1)
    assert auth.add(tmp_path, "other", ["talk"])


def test_what_others_could_read_is_tightened_at_the_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "certificates").mkdir(parents=True)
    (data / "models").mkdir()
    files = ["history.sqlite3", "history.sqlite3-wal", "history.damaged-x.sqlite3", "keys.json", "keys-used.json",
             "audit.log", "audit.log.1", "local-8000.key", "certificates/server.pem"]  # fmt: skip
    for name in [*files, "models/weights", "certificates/authority.crt"]:
        (data / name).write_text("")
        (data / name).chmod(0o664)
    for folder in (data, data / "certificates", data / "models"):
        folder.chmod(0o775)
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o644)
    (data / "history.link").symlink_to(outside)
    private_files.tighten(data)
    assert {name: (data / name).stat().st_mode & 0o777 for name in files} == dict.fromkeys(files, 0o600)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (data, data / "certificates")] == [0o700, 0o700]
    assert [stat.S_IMODE(each.stat().st_mode) for each in (data / "models" / "weights", outside)] == [0o664, 0o644]


def test_a_folder_that_is_shared_on_purpose_stays_so(tmp_path: Path) -> None:
    for number, mode in enumerate((0o1777, 0o2775)):
        shared = tmp_path / str(number)
        shared.mkdir()
        (shared / "keys.json").write_text("")
        shared.chmod(mode)
        private_files.tighten(shared)
        assert stat.S_IMODE(shared.stat().st_mode) == mode
        assert stat.S_IMODE((shared / "keys.json").stat().st_mode) == 0o600
    private_files.tighten(tmp_path / "nowhere")


def test_a_home_stays_as_it_is_and_a_link_to_the_data_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    private_files.tighten(tmp_path / "home")
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o755
    (tmp_path / "link").symlink_to(tmp_path / "data")
    private_files.tighten(tmp_path / "link")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
