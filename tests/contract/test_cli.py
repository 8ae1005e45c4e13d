"""The command line without a server or a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatapi.cli import main


def run(*arguments: str, data: Path) -> int:
    with pytest.raises(SystemExit) as exited:
        main(["--set", f"data={data}", *arguments])
    assert isinstance(exited.value.code, int)
    return exited.value.code


def test_settings_before_and_after_a_command_are_combined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--set", "server.port=0", "check", "--json", "--set", "llm.engine=fake", data=tmp_path)
    shown = json.loads(capsys.readouterr().out)["settings"]
    assert [shown[key]["value"] for key in ("data", "server.port", "llm.engine")] == [str(tmp_path), 0, "fake"]


def test_without_a_command_it_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", "server.host=203.0.113.1", data=tmp_path) == 2
    assert "cannot listen on 203.0.113.1:8000" in capsys.readouterr().err


def test_check_shows_the_findings_and_then_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("check", "--set", "server.port=0", data=tmp_path)
    output = capsys.readouterr().out
    assert output.index("machine:") < output.index("server.port = 0  (command line)")
    assert "llm.temperature" not in output
    run("check", "--all", data=tmp_path)
    assert "llm.temperature = 0.3  (default)" in capsys.readouterr().out


def test_models_are_listed_with_their_sizes_and_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", data=tmp_path) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("smollm2-135m-instruct "))
    assert "98 MB" in row and "default" in row and "installed" not in row
    run("models", "list", "--json", data=tmp_path)
    listed = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert listed["smollm2-135m-instruct"]["size_bytes"] > 90e6
    assert not any(model["active"] for model in listed.values())


def test_removing_a_model_that_is_not_installed_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "remove", "whisper-small", data=tmp_path) == 1
    assert capsys.readouterr().out == "whisper-small is not installed\n"


def test_unknown_model_is_reported_in_one_short_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "fetch", "nope", data=tmp_path) == 2
    assert len(capsys.readouterr().err) < 120


def test_fetch_with_all_models_installed_prints_one_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("models", "list", "--json", data=data)
    if not all(model["installed"] for model in json.loads(capsys.readouterr().out) if model["default"]):
        pytest.skip("the default models are not installed: chatapi models fetch")
    assert run("models", "fetch", data=data) == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == ("every default model is installed\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["talk", "--key", "secret"], "--key and --fingerprint are only used with --server"),
        (["talk", "--fingerprint", "ab"], "--key and --fingerprint are only used with --server"),
        (["bench", "turns", "--transport", "devices"], "are only used by `bench live`"),
        (["bench", "turns", "--streams", "2"], "are only used by `bench lag`"),
    ],
)
def test_option_without_effect_is_rejected(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, data=tmp_path) == 2
    assert message in capsys.readouterr().err
