"""Settings: every source, its precedence, and errors of wrong keys and values."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from chatapi import settings
from chatapi.errors import SettingsError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chatapi.toml"
    path.write_text('[server]\nport = 1001\nhost = "127.0.0.2"\n[llm]\nmax_tokens = 7\n')
    return path


def test_later_sources_have_precedence_and_origins_are_recorded(file: Path) -> None:
    environ = {"CHATAPI_SERVER_PORT": "1002", "CHATAPI_LLM_TEMPERATURE": "0.5"}
    loaded = settings.load(["server.port=1003"], environ=environ)
    assert loaded.settings.server.port == 1003
    assert (loaded.settings.server.host, loaded.settings.llm.max_tokens) == ("127.0.0.2", 7)
    assert loaded.origins["server.port"] == "command line"
    assert loaded.origins["llm.temperature"] == "environment CHATAPI_LLM_TEMPERATURE"
    assert loaded.origins["server.host"] == "chatapi.toml"
    assert "tts.engine" not in loaded.origins


@pytest.mark.parametrize(
    ("overrides", "environ", "message"),
    [
        (["server.prt=1"], {}, "did you mean server.port"),
        (["server.port"], {}, "key=value"),
        (["server.port=x"], {}, "command line: server.port must be a whole number"),
        (["server.port=70000"], {}, "server.port must be at most 65535"),
        ([], {"CHATAPI_SERVER_PRT": "1"}, "did you mean CHATAPI_SERVER_PORT"),
        ([], {"CHATAPI_LIMITS_QUEUE": "-1"}, "environment CHATAPI_LIMITS_QUEUE: limits.queue must be at least 0"),
        (["log.level=loud"], {}, "'debug', 'info'"),
    ],
)
def test_wrong_key_or_value_is_named_with_its_source(
    overrides: list[str], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        settings.load(overrides, environ=environ)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[servre]\nport = 1\n", "there is no setting 'servre"),
        ("[server]\nprot = 1\n", "did you mean server.port"),
        ("server = 3\n", "server"),
        ("[server\n", "cannot be read"),
    ],
)
def test_invalid_file_is_rejected_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        settings.load(file=path, environ={})


def test_missing_settings_file_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"no settings file nowhere\.toml"):
        settings.load(environ={"CHATAPI_CONFIG": "nowhere.toml"})


@pytest.mark.parametrize(
    ("text", "values"),
    [('["a", "b,c"]', ("a", "b,c")), ("['a']", ("a",)), ("[]", ()), ("[::1]", ("[::1]",)), ("a,[::1]", ("a", "[::1]"))],
)
def test_text_in_brackets_is_a_list(text: str, values: tuple[str, ...]) -> None:
    assert settings.load([f"server.hosts={text}"], environ={}).settings.server.hosts == values


def test_comma_separated_text_becomes_a_list() -> None:
    loaded = settings.load(["server.cors_origins=http://a, http://b"], environ={})
    assert loaded.settings.server.cors_origins == ("http://a", "http://b")


def test_environment_names_are_unique() -> None:
    names = [key.replace(".", "_") for key in settings.dotted_keys()]
    assert len(names) == len(set(names))


def test_secrets_are_not_in_the_representation() -> None:
    assert "hush" not in repr(settings.load(["server.api_key=hush"], environ={}).settings)


def tables(table: type[BaseModel] = settings.Settings) -> list[type[BaseModel]]:
    inner = [type(info.default) for info in table.model_fields.values() if isinstance(info.default, BaseModel)]
    return [table, *(deeper for each in inner for deeper in tables(each))]


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.__name__)
def test_every_table_of_settings_is_described(table: type[BaseModel]) -> None:
    assert table.__doc__


def test_settings_survive_the_environment_of_another_process() -> None:
    chosen = settings.load(["server.port=9", "server.cors_origins=http://a,http://b", "llm.engine=fake"], environ={})
    again = settings.load(environ=settings.as_environment(chosen.settings))
    assert again.settings == chosen.settings


@pytest.mark.parametrize(
    ("override", "environment", "new_key"),
    [
        ("mic.mode=wake_word", "CHATAPI_MIC_MODE", "audio_device.mode"),
        ("turn.engine=fake", "CHATAPI_TURN_ENGINE", "turn_detection.engine"),
        ("wake.model=auto", "CHATAPI_WAKE_MODEL", "wake_word.model"),
        ("echo.delay=1", "CHATAPI_ECHO_DELAY", "fake.delay"),
        ("live.sure_ms=100", "CHATAPI_LIVE_SURE_MS", "live.min_endpointing_delay_ms"),
        ("llm.system=Hello", "CHATAPI_LLM_SYSTEM", "llm.system_prompt"),
    ],
)
def test_old_key_is_an_error_that_names_the_new_one(
    override: str, environment: str, new_key: str, tmp_path: Path
) -> None:
    key, _, value = override.partition("=")
    table, _, name = key.partition(".")
    file = tmp_path / "chatapi.toml"
    file.write_text(f"[{table}]\n{name} = {value!r}\n")
    named = f"CHATAPI_{new_key.replace('.', '_').upper()}"
    for overrides, path, environ, message in (
        ([override], None, {}, f"it is now {new_key}"),
        ([], None, {environment: value}, f"it is now {named}"),
        ([], file, {}, "it is now "),
    ):
        with pytest.raises(SettingsError, match=message):
            settings.load(overrides, path, environ)
