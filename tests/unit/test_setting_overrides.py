"""Overrides of settings: their file, their precedence, and the command that changes them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from chatapi import settings
from chatapi.cli import main
from chatapi.errors import SettingsError
from chatapi.storage import setting_overrides


def sources(data: Path, *overrides: str, **environ: str) -> settings.Loaded:
    return settings.load(overrides, environ={"CHATAPI_DATA": str(data), **environ})


def run(*arguments: str, data: Path) -> int:
    with pytest.raises(SystemExit) as exited:
        main(["--set", f"data={data}", *arguments])
    assert isinstance(exited.value.code, int)
    return exited.value.code


def test_an_override_wins_over_file_and_environment_and_loses_to_set(tmp_path: Path) -> None:
    file = tmp_path / "chatapi.toml"
    file.write_text("[llm]\ntemperature = 0.1\n[server]\nport = 1\n")
    environ = {"CHATAPI_DATA": str(tmp_path), "CHATAPI_LLM_TEMPERATURE": "0.2"}
    setting_overrides.change(settings.load(file=file, environ=environ), {"llm.temperature": 0.5, "server.port": 2})
    loaded = setting_overrides.applied(settings.load(["server.port=3"], file, environ))
    assert (loaded.settings.llm.temperature, loaded.origins["llm.temperature"]) == (0.5, "override")
    assert (loaded.settings.server.port, loaded.origins["server.port"]) == (3, "command line")


def test_the_file_is_private_and_every_kind_of_value_survives(tmp_path: Path) -> None:
    changes = {
        "llm.system_prompt": 'Say "no"\n\x7f\t\\ ü',
        "server.tls": True,
        "server.cors_origins": ["http://a", "http://b"],
        "wyoming.socket": "/run/w.sock",
        "llm.temperature": 0.00001,
        "live.sessions": "3",
    }
    after = setting_overrides.change(sources(tmp_path), changes).settings
    assert stat.S_IMODE((tmp_path / "overrides.toml").stat().st_mode) == 0o600
    assert setting_overrides.applied(sources(tmp_path)).settings == after
    assert (after.llm.system_prompt, after.live.sessions, after.wyoming.socket) == (
        changes["llm.system_prompt"],
        3,
        Path("/run/w.sock"),
    )


def test_none_removes_one_override_and_keeps_the_others(tmp_path: Path) -> None:
    setting_overrides.change(sources(tmp_path), {"server.port": 2, "live.sessions": 3})
    after = setting_overrides.change(sources(tmp_path), {"server.port": None})
    assert (after.settings.server.port, after.settings.live.sessions) == (8000, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"live.sessions": 3, "server.port": 70_000}, "override: server.port must be at most 65535"),
        ({"live.sessions": 3, "server.prt": 1}, "did you mean server.port"),
        ({"live.sessions": 3, "server.api_key": "k"}, "server.api_key is a secret"),
        ({"live.sessions": 3, "openai_upstream.api_key": None}, "openai_upstream.api_key is a secret"),
        ({"live.sessions": 3, "data": "/elsewhere"}, "data cannot be overridden"),
    ],
)
def test_one_wrong_change_stores_none(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        setting_overrides.change(sources(tmp_path), changes)
    assert not (tmp_path / "overrides.toml").exists()


def test_a_wrong_value_under_set_is_rejected_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="must be at most 65535"):
        setting_overrides.change(sources(tmp_path, "server.port=1"), {"server.port": 70_000})


@pytest.mark.parametrize("content", [b"[server\n", b"\xff", b"server.port = 70000\n", b"gone.key = 1\n"])
def test_a_damaged_file_is_renamed_and_the_box_starts_with_a_warning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "overrides.toml").write_bytes(content)
    loaded = setting_overrides.applied(sources(tmp_path))
    assert loaded.settings.server.port == 8000
    (renamed,) = tmp_path.glob("overrides.damaged-*.toml")
    assert renamed.read_bytes() == content and renamed.name in loaded.warnings[0]
    assert not setting_overrides.applied(sources(tmp_path)).warnings


def test_a_secret_in_the_file_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "overrides.toml").write_text('server.api_key = "planted"\n')
    loaded = setting_overrides.applied(sources(tmp_path))
    assert loaded.settings.server.api_key is None and "secret" in loaded.warnings[0]


def test_the_command_sets_gets_and_unsets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("settings", "set", "llm.temperature=0.7", "server.cors_origins=http://a,http://b", data=tmp_path) == 0
    assert run("settings", "get", "llm.temperature", "server.port", data=tmp_path) == 0
    lines = ["llm.temperature = 0.7  (override, live)", "server.port = 8000  (default, restart)"]
    assert capsys.readouterr().out.splitlines() == lines
    assert run("settings", "unset", "llm.temperature", data=tmp_path) == 0
    run("settings", "--json", data=tmp_path)
    shown = json.loads(capsys.readouterr().out)
    assert shown["llm.temperature"] == {"value": 0.3, "from": "default", "changes": "live"}
    assert shown["server.cors_origins"] == {"value": ["http://a", "http://b"], "from": "override", "changes": "restart"}


def test_the_command_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("settings", "get", "--set", "server.api_key=hidden-words", data=tmp_path)
    output = capsys.readouterr().out
    assert 'server.api_key = "(set)"  (command line, restart)' in output and "hidden-words" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "server.prt"], "did you mean server.port"),
        (["set", "server.prt=1"], "did you mean server.port"),
        (["set", "server.port"], "NAME=VALUE"),
        (["set"], "need a name"),
        (["unset", "server.prt"], "did you mean server.port"),
        (["set", "server.api_key=k"], "is a secret"),
    ],
)
def test_the_command_explains_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run("settings", *arguments, data=tmp_path) == 2
    assert message in capsys.readouterr().err
