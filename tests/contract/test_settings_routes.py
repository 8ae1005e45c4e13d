"""`GET /settings` and `PATCH /settings` of a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatapi import auth
from chatapi.cli import main
from chatapi.settings import Settings
from conftest import RunningServer, serving

FakeSettings = Callable[..., Settings]


def shown(server: RunningServer, key: str) -> dict[str, Any]:
    setting: dict[str, Any] = server.client.get("/settings").json()["settings"][key]
    return setting


def test_a_patch_is_used_at_once_or_waits_for_a_restart(fake_settings: FakeSettings, data: Path) -> None:
    with serving(fake_settings()) as server:
        body = {"llm": {"max_tokens": 3}, "limits": {"queue": 5}, "history": {"keep_days": 5}}
        changed = server.client.patch("/settings", json=body)
        assert changed.status_code == 200
        assert changed.json() == {
            "active": ["llm.max_tokens"],
            "restart": ["limits.queue", "history.keep_days"],
            "hidden": [],
        }
        expected = {"value": 3, "from": "override", "changes": "live", "pending": False}
        assert shown(server, "llm.max_tokens") == expected
        assert shown(server, "limits.queue") == {**expected, "value": 16, "changes": "restart", "pending": True}
        reply = server.client.post("/completion", json={"prompt": "one two three four five six"}).json()
        assert reply["finish_reason"] == "length" and reply["usage"]["completion_tokens"] == 3
        server.client.patch("/settings", json={"llm": {"max_tokens": None}})
        assert shown(server, "llm.max_tokens") == {**expected, "value": 200, "from": "default"}
    assert "llm.max_tokens" not in (data / "overrides.toml").read_text()


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"llm": {"max_tokens": 3, "temperature": 9}}, "llm.temperature must be at most 2", "llm.temperature"),
        ({"llm": {"max_tokens": 3, "temprature": 1}}, "did you mean llm.temperature", "llm.temprature"),
        ({"llm": None}, "there is no setting 'llm'", "llm"),
    ],
)
def test_one_wrong_value_changes_nothing_and_is_named(
    fake_settings: FakeSettings, data: Path, body: Any, message: str, param: str
) -> None:
    with serving(fake_settings(), load=False) as server:
        rejected = server.client.patch("/settings", json=body)
        assert rejected.status_code == 422 and message in rejected.json()["detail"], rejected.text
        assert rejected.json()["param"] == param
        assert shown(server, "llm.max_tokens")["value"] == 200
    assert not (data / "overrides.toml").exists()


def test_settings_need_the_scope_operate_and_show_no_secret(fake_settings: FakeSettings, data: Path) -> None:
    talk, operate = (auth.add(data, name, [name]) for name in ("talk", "operate"))
    with serving(fake_settings("openai_upstream.api_key=hidden-words"), load=False) as server:
        for method in ("GET", "PATCH"):
            wrong = server.client.request(method, "/settings", json={}, headers={"Authorization": f"Bearer {talk}"})
            assert wrong.status_code == 403
        right = server.client.get("/settings", headers={"Authorization": f"Bearer {operate}"})
        assert right.json()["settings"]["openai_upstream.api_key"]["value"] == "(set)"
        assert "hidden-words" not in right.text


@pytest.mark.parametrize(
    "change",
    [
        {"wyoming": {"allow": ["0.0.0.0/0"]}},
        {"openai_upstream": {"url": "http://127.0.0.1:9"}},
        {"server": {"host": "0.0.0.0"}},
        {"server": {"api_key": "k"}},
        {"openai_upstream": {"api_key": "k"}},
        {"data": "/elsewhere"},
        {"log": {"audit": False}},
        {"webhook": {"private": True}},
        {"storage": {"artifacts": "s3://elsewhere"}},
    ],
)
def test_what_guards_the_box_is_not_changed_over_http(
    fake_settings: FakeSettings, data: Path, change: dict[str, Any]
) -> None:
    with serving(fake_settings(), load=False) as server:
        answer = server.client.patch("/settings", json={**change, "llm": {"temperature": 0.5}})
    assert (answer.status_code, answer.json()["code"]) == (403, "local_setting")
    assert not (data / "overrides.toml").exists()


def test_the_command_changes_a_running_server(
    fake_settings: FakeSettings, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as exited:
            main(["--set", f"data={data}", "--set", f"server.port={server.port}", "settings", *arguments])
        return exited.value.code, capsys.readouterr().err

    with serving(fake_settings("fake.delay=0.001")) as server, server.appliance.keyring.local(server.port):
        done, said = run("set", "llm.max_tokens=3", "limits.queue=5", "server.cors_origins=http://a")
        assert (done, shown(server, "llm.max_tokens")["value"]) == (0, 200)
        assert said.endswith("a running chatapi uses it after a restart\n"), "who may connect is changed in the file"
        done, said = run("set", "llm.max_tokens=4", "limits.queue=6")
        assert (done, shown(server, "llm.max_tokens")["value"]) == (0, 4)
        assert said == "llm.max_tokens: in use now\nlimits.queue: stored; chatapi uses it after a restart\n"
        done, said = run("set", "asr.engine=ctranslate2", "asr.model=whisper-tinny")
        assert (done, shown(server, "asr.engine")["value"]) == (2, "fake")
        assert "asr.model: there is no model 'whisper-tinny'; did you mean whisper-tiny" in said
        assert run("unset", "llm.max_tokens") == (0, "llm.max_tokens: in use now\n")
        assert shown(server, "llm.max_tokens")["value"] == 200
    done, said = run("set", "llm.max_tokens=5")
    assert (done, said) == (0, "llm.max_tokens = 5\na running chatapi uses it after a restart\n")
