"""The file of API keys, and the commands that change it."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from chatapi import auth
from chatapi.cli import main
from chatapi.errors import (
    BadInput,
    NotFound,
    SettingsError,
    StorageError,
    WrongMode,
)

HERE = "192.0.2.1"


def test_key_is_shown_once_and_stored_hashed_and_private(tmp_path: Path) -> None:
    text = auth.add(tmp_path, "kitchen", ["operate", "talk", "talk"], rate=60, days=30)
    assert text.startswith("chatapi_") and len(text) >= 8 + 8 + 1 + 43
    file = auth.file_of(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = text.split("_", 2)[2]
    assert secret not in file.read_text() and base64.urlsafe_b64decode(secret + "=").hex() not in file.read_text()
    [stored] = auth.read(tmp_path) or ()
    assert (stored.name, stored.scopes, stored.rate, stored.revoked) == ("kitchen", ["talk", "operate"], 60, None)
    assert stored.expires is not None and round((stored.expires - stored.created) / 86_400) == 30
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
def test_invalid_key_is_rejected(
    tmp_path: Path, name: str, scopes: list[str], rate: int | None, days: float | None
) -> None:
    with pytest.raises(BadInput):
        auth.add(tmp_path, name, scopes, rate, days)
    assert auth.read(tmp_path) is None


def test_name_is_in_use_until_its_key_is_revoked(tmp_path: Path) -> None:
    auth.add(tmp_path, "kitchen", ["talk"])
    with pytest.raises(WrongMode, match="revoke it first"):
        auth.add(tmp_path, "kitchen", ["talk"])
    auth.revoke(tmp_path, "kitchen")
    auth.revoke(tmp_path, "kitchen")
    assert [key.revoked is None for key in auth.read(tmp_path) or ()] == [False]
    auth.add(tmp_path, "kitchen", ["talk"])
    assert [key.revoked for key in auth.read(tmp_path) or ()] == [None]
    with pytest.raises(NotFound, match="keys list"):
        auth.revoke(tmp_path, "unknown")


FIRST_FORMAT = """{
 "version": 1,
 "keys": [
  {
   "id": "0badf00d",
   "name": "kitchen",
   "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
   "scopes": ["talk", "operate"],
   "rate": 60,
   "created": 1790000000.0,
   "expires": null,
   "revoked": null
  }
 ]
}"""
"""A file as the first version of chatapi wrote it."""


def test_file_of_the_first_format_opens_and_changes_its_format_only_for_new_scopes(tmp_path: Path) -> None:
    file = auth.file_of(tmp_path)
    file.write_text(FIRST_FORMAT)
    [kitchen] = auth.read(tmp_path) or ()
    assert (kitchen.name, kitchen.scopes, kitchen.rate) == ("kitchen", ["talk", "operate"], 60)
    assert auth.Keyring(tmp_path, None).required and file.read_text() == FIRST_FORMAT
    auth.add(tmp_path, "office", ["all"])
    assert json.loads(file.read_text())["version"] == 1, "an older chatapi still reads it"
    auth.add(tmp_path, "captions", ["moderate", "transcribe"])
    document = json.loads(file.read_text())
    assert document["version"] == 2 and document["keys"][0] == json.loads(FIRST_FORMAT)["keys"][0]
    assert [key.scopes for key in auth.read(tmp_path) or ()][-1] == ["transcribe", "moderate"]


def test_file_of_a_later_format_rejects_every_client_and_stays_as_it_is(tmp_path: Path) -> None:
    later = FIRST_FORMAT.replace('"version": 1', '"version": 3')
    auth.file_of(tmp_path).write_text(later)
    with pytest.raises(SettingsError, match="format is that of another version of chatapi") as raised:
        auth.add(tmp_path, "office", ["all"])
    assert raised.value.code == "keys_damaged" and auth.file_of(tmp_path).read_text() == later


def test_help_has_a_sentence_for_every_scope(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["keys", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert [scope for scope, meaning in auth.SCOPES.items() if f"{scope} {meaning}" not in shown] == []


def test_number_of_keys_is_limited(tmp_path: Path) -> None:
    auth.add(tmp_path, "key-0", ["talk"])
    document = json.loads(auth.file_of(tmp_path).read_text())
    [first] = document["keys"]
    document["keys"] = [{**first, "id": f"{n:08x}", "name": f"key-{n}"} for n in range(auth.MOST)]
    auth.file_of(tmp_path).write_text(json.dumps(document))
    with pytest.raises(WrongMode, match="the largest number"):
        auth.add(tmp_path, "one-more", ["talk"])
    auth.revoke(tmp_path, "key-7")
    auth.add(tmp_path, "one-more", ["talk"])
    names = {key.name for key in auth.read(tmp_path) or ()}
    assert len(names) == auth.MOST and "key-7" not in names


def test_keys_added_at_the_same_time_are_all_stored(tmp_path: Path) -> None:
    threads = [threading.Thread(target=auth.add, args=(tmp_path, f"key-{n}", ["talk"])) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in auth.read(tmp_path) or ()} == {f"key-{n}" for n in range(8)}


def test_unwritable_data_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="the keys cannot be stored"):
        auth.add(tmp_path / "file", "kitchen", ["talk"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_keys_added_by_root_belong_to_the_user_of_the_service(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    auth.add(tmp_path, "kitchen", ["talk"])
    assert auth.file_of(tmp_path).stat().st_uid == 65534


def test_command_adds_lists_and_revokes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, status: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as exited:
            main(["keys", *words, "--set", f"data={tmp_path}"])
        output = capsys.readouterr()
        assert exited.value.code == status, output.err
        return output.out, output.err

    assert run()[0] == "there is no key\n"
    key, note = run("add", "kitchen", "--rate", "60/minute", "--expires", "30")
    assert key.startswith("chatapi_") and key.count("\n") == 1 and "every request needs a key" in note
    run("add", "ops", "--scope", "operate", "--scope", "talk")
    keyring = auth.Keyring(tmp_path, None)
    assert keyring.authenticate([key.strip().encode()], HERE).scopes == ("talk",)
    keyring.store_uses()
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


def test_unset_clock_expires_no_key_and_adds_none_that_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth.add(tmp_path, "guest", ["talk"], days=1)
    monkeypatch.setattr("time.time", lambda: 200_000_000.0)
    with pytest.raises(WrongMode, match="already"):
        auth.add(tmp_path, "guest", ["talk"])
    with pytest.raises(WrongMode, match="clock shows 1976-05-03 and was never set"):
        auth.add(tmp_path, "other", ["talk"], days=1)
    assert auth.add(tmp_path, "other", ["talk"])
