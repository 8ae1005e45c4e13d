"""The commands and examples of the documents work, with real models."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chatapi import settings
from chatapi.audio.decode import decode
from chatapi.catalog.manifest import load_all
from chatapi.interfaces.http.completion_request import PromptRequest
from conftest import serving
from paths import ROOT

README = (ROOT / "README.md").read_text()
CURL = (ROOT / "docs/integrations/curl.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", CURL, re.DOTALL)
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}
DOCUMENTS = {"README.md": README, **PAGES}
TOML = [
    (name, block)
    for name, text in DOCUMENTS.items()
    for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    if "[build-system]" not in block
]
"""Settings files in the documents; a file with [build-system] is a package's own."""
VERBS = {"build", "docs", "fix", "fuzz", "install", "lint", "logs", "soak", "status", "test", "uninstall", "update"}
"""Commands of run.sh itself; all others are commands of chatapi."""


def test_readme_starts_with_its_two_commands() -> None:
    first = [line.split()[:2] for line in README.splitlines() if line.startswith("    ")][:2]
    assert first == [["./run.sh", "#"], ["./run.sh", "test"]]


def test_every_option_is_in_the_table_of_options() -> None:
    table = CURL[CURL.index("| option |") : CURL.index("Options go into")]
    assert set(re.findall(r"`(\w+)`", table)) >= set(PromptRequest.model_fields)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_model_a_document_names_is_in_the_catalog(name: str) -> None:
    known = load_all([ROOT / "models"])
    named = re.findall(r"models (?:fetch|remove|verify) ([\w.-]+)", DOCUMENTS[name]) + re.findall(
        r'^model = "(?!auto)(.+?)"', DOCUMENTS[name], re.MULTILINE
    )
    assert [each for each in named if each not in known] == []
    assert named or name != "README.md"


@pytest.mark.parametrize(("name", "block"), TOML)
def test_every_settings_file_a_document_shows_can_be_loaded(name: str, block: str, tmp_path: Path) -> None:
    file = tmp_path / "chatapi.toml"
    file.write_text(block)
    assert settings.load(file=file, environ={}).origins, name


@pytest.fixture(scope="module")
def commands() -> set[str]:
    usage = subprocess.run([sys.executable, "-m", "chatapi", "--help"], capture_output=True, text=True, check=True)
    return VERBS | set(re.findall(r"^    (\w+) ", usage.stdout, re.MULTILINE))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_a_document_shows_exists(name: str, commands: set[str]) -> None:
    shown = set(re.findall(r"(?:\./run\.sh|`chatapi) ([a-z]+)", DOCUMENTS[name]))
    assert shown <= commands, shown - commands


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_python_example_can_be_compiled(name: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", DOCUMENTS[name], re.DOTALL):
        compile(block, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.real
def test_curl_examples_work_unchanged(data: Path, tmp_path: Path) -> None:
    assert len(BLOCKS) == 6
    with serving(settings.load([f"data={data}", "llm.temperature=0"], environ={}).settings) as server:
        replies = [run(block, server.port, data, tmp_path) for block in BLOCKS]
        text, spoken = json.loads(replies[1]), json.loads(replies[3])
    assert "Paris" in text["reply"]
    # Synthesis varies, and the ASR model is the smallest.
    assert words(spoken["transcript"])[:5] == ["what", "is", "the", "capital", "of"]
    assert len({*words(spoken["reply"])} & {*words(text["reply"])}) >= 3
    for name in ("question", "answer", "spoken"):
        assert decode(tmp_path / f"{name}.wav").seconds > 0.5


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def run(block: str, port: int, data: Path, folder: Path) -> str:
    """Runs a block as a reader would, with this server's port and this interpreter."""
    script = block.replace("localhost:8000", f"localhost:{port}").replace("./run.sh", f"{sys.executable} -m chatapi")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "CHATAPI_DATA": str(data), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real
def test_commands_without_a_server_work(data: Path, tmp_path: Path) -> None:
    question = tmp_path / "question.wav"
    spoken = chatapi("say", "What is the capital of France?", "-o", str(question), data=data)
    assert "of speech in" in spoken.stderr
    answer = chatapi(
        "ask",
        str(question),
        "--reply",
        "voice",
        "--temperature",
        "0",
        "-o",
        str(tmp_path / "answer.wav"),
        "--json",
        data=data,
    )
    document = json.loads(answer.stdout)
    assert words(document["transcript"])[:5] == ["what", "is", "the", "capital", "of"] and document["reply"]
    assert document["timings"]["first_audio"] < document["timings"]["end"]
    assert decode(tmp_path / "answer.wav").seconds == pytest.approx(document["timings"]["spoken"], abs=0.05)
    assert "capital of" in chatapi("transcribe", str(question), data=data).stdout
    again = chatapi("ask", "And of Italy?", "--conversation", document["conversation"], data=data)
    assert again.stdout.strip()


@pytest.mark.real
def test_check_reports_success_and_faults(data: Path, tmp_path: Path) -> None:
    success = chatapi("check", data=data)
    assert success.returncode == 0, success.stdout
    assert "all files are correct" in success.stdout
    assert "server.port" not in success.stdout
    assert "server.port = 8000  (default)" in chatapi("check", "--all", data=data).stdout
    failure = chatapi("check", "--json", data=tmp_path / "empty", status=1)
    findings = json.loads(failure.stdout)["findings"]
    assert any(f["level"] == "bad" and "models fetch" in f["message"] for f in findings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ask", "hello", "--set", "llm.engine=parrot"), "it can be one of"),
        (("ask", "hello", "--set", "llm.modle=x"), "did you mean llm.model"),
        (("ask", "nothing.wav"), "cannot read nothing.wav"),
        (("models", "fetch", "smollm"), "did you mean"),
        (("models", "fetch", "qwen3-4b"), "did you mean qwen3-4b-instruct-2507"),
        (("transcribe", "nothing.mp3"), "nothing.mp3"),
        (("ask", "hello", "-o", "out.wav"), "add --reply voice"),
        (("--set", "llm.modle=x"), "did you mean llm.model"),
        (("--set", "llm.modle=x", "ask", "hello"), "did you mean llm.model"),
    ],
)
def test_wrong_usage_is_reported_in_one_sentence(data: Path, arguments: tuple[str, ...], message: str) -> None:
    failed = chatapi(*arguments, data=data, status=2)
    assert message in failed.stderr
    assert failed.stderr.startswith("chatapi: ")
    assert "Traceback" not in failed.stderr


def chatapi(*arguments: str, data: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chatapi", *arguments]
    environ = {"PATH": "/usr/bin:/bin", "CHATAPI_DATA": str(data), "HOME": str(data)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, cwd=data.parent)
    assert done.returncode == status, done.stderr
    return done
