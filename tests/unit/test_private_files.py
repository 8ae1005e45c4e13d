"""Permissions of the files in the data directory."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from chatapi.storage.layout import DataDirectory
from chatapi.system import private_files


def test_files_that_others_can_read_are_made_private(tmp_path: Path) -> None:
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
    private_files.tighten(DataDirectory(data).private())
    assert {name: (data / name).stat().st_mode & 0o777 for name in files} == dict.fromkeys(files, 0o600)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (data, data / "certificates")] == [0o700, 0o700]
    assert [stat.S_IMODE(each.stat().st_mode) for each in (data / "models" / "weights", outside)] == [0o664, 0o644]


def test_deliberately_shared_folder_stays_shared(tmp_path: Path) -> None:
    for number, mode in enumerate((0o1777, 0o2775)):
        shared = tmp_path / str(number)
        shared.mkdir()
        (shared / "keys.json").write_text("")
        shared.chmod(mode)
        private_files.tighten(DataDirectory(shared).private())
        assert stat.S_IMODE(shared.stat().st_mode) == mode
        assert stat.S_IMODE((shared / "keys.json").stat().st_mode) == 0o600
    private_files.tighten(DataDirectory(tmp_path / "nowhere").private())


def test_home_directory_is_unchanged_and_a_link_to_the_data_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    private_files.tighten(DataDirectory(tmp_path / "home").private())
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o755
    (tmp_path / "link").symlink_to(tmp_path / "data")
    private_files.tighten(DataDirectory(tmp_path / "link").private())
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_every_folder_that_is_created_is_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_files.folder(tmp_path / "a" / "b" / "c")
    modes = [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in (".", "a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o700, 0o700, 0o700]
    private_files.folder(tmp_path / "a")
