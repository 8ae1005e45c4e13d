"""A plug-in, installed as a wheel beside chatapi's: its engine answers, and its role is loaded on demand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import FAKE_ENGINES, TIMEOUT
from paths import ROOT, SUPPORT

pytestmark = pytest.mark.slow
PLUGIN = SUPPORT / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with chatapi and the plug-in, both installed from wheels."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PLUGIN, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-build-isolation", "--no-index", "--no-deps", "--wheel-dir", str(folder / "wheels")]
    subprocess.run([*pip, *build, str(ROOT), str(source)], check=True, timeout=300)
    wheels = [str(path) for path in (folder / "wheels").glob("*.whl")]
    install = ["install", "--no-index", "--no-deps", "--target", str(folder / "site")]
    subprocess.run([*pip, *install, *wheels], check=True, timeout=300)
    return folder / "site"


@pytest.fixture
def broken(site: Path, tmp_path: Path) -> Path:
    """The same folder, where no module of the plug-in can be imported."""
    copy = shutil.copytree(site, tmp_path / "site")
    (copy / "chatapi_parrot/__init__.py").write_text("import a_library_that_is_gone\n")
    return copy


def command(site: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs `chatapi` from the folder, on the running environment's libraries."""
    return subprocess.run(
        [sys.executable, "-m", "chatapi", *words],
        env={**os.environ, "PYTHONPATH": str(site), **environ}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip


def options(data: Path, *more: str) -> list[str]:
    chosen = (*FAKE_ENGINES, f"data={data}", "server.port=0", "wyoming.enabled=false", "log.format=json", *more)
    return [word for each in chosen for word in ("--set", each)]


@contextmanager
def running(site: Path, data: Path, *more: str) -> Iterator[tuple[httpx.Client, Path]]:
    """A server with fake engines and further settings, once it is ready, and its log."""
    log = data.with_name("log")
    with log.open("w") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "chatapi", *options(data, *more), "serve"],
            env={**os.environ, "PYTHONPATH": str(site)}, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    assert child.stdout is not None
    try:
        lines = []
        while (line := child.stdout.readline()) and "ready after" not in line:
            lines.append(line)
        assert line, "".join(lines) + log.read_text()
        with httpx.Client(base_url=line.split()[-1], timeout=TIMEOUT) as client:
            yield client, log
    finally:
        child.terminate()
        child.communicate(timeout=TIMEOUT)


def test_chatapi_and_the_plug_in_are_those_of_the_wheels(site: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import chatapi, chatapi_parrot as it; print(chatapi.__path__[0], it.__path__[0])"],
        env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.split() == [str(site / "chatapi"), str(site / "chatapi_parrot")]


def test_engine_of_a_plug_in_answers_and_its_role_is_not_waited_for(site: Path, tmp_path: Path) -> None:
    (tmp_path / "chatapi.toml").write_text('[parrot]\nphrase = "Polly says:"\n')
    with running(site, tmp_path / "data", "llm.engine=parrot") as (client, _):
        assert client.get("/ready").json() == {"ready": True}
        reply = client.post("/completion", json={"prompt": "hello there"})
        assert (reply.status_code, reply.json()["reply"]) == (200, "Polly says: hello there")
        health = client.get("/health").json()
        assert (health["status"], health["engines"]["loudness"]["state"]) == ("ok", "idle")
        assert 'chatapi_engine_loaded{engine="loudness"} 0.0' in client.get("/metrics").text
        roles = {role["name"]: role for role in client.get("/models").json()["roles"]}
        assert roles["llm"]["engine"] == "parrot"
        assert {"name": "parrot", "plug_in": "chatapi-parrot 1.0"} in roles["llm"]["engines"]
        assert roles["loudness"]["engines"] == [{"name": "rms", "plug_in": "chatapi-parrot 1.0"}]
        assert (roles["loudness"]["essential"], roles["llm"]["essential"]) == (False, True)


def test_settings_of_a_plug_in_come_from_every_source(site: Path, tmp_path: Path) -> None:
    def checked(*words: str, **environ: str) -> Any:
        done = command(site, "check", "--json", *options(tmp_path / "data", *words), **environ)
        return json.loads(done.stdout) if done.stdout else done.stderr

    (tmp_path / "chatapi.toml").write_text('[parrot]\nslots = 3\nphrase = "File"\n[loudness]\nidle_seconds = 5\n')
    found = checked("parrot.phrase=Command", CHATAPI_PARROT_SLOTS="4")
    assert found["settings"]["parrot.phrase"] == {"value": "Command", "from": "command line"}
    assert found["settings"]["parrot.slots"] == {"value": 4, "from": "environment CHATAPI_PARROT_SLOTS"}
    assert found["settings"]["loudness.idle_seconds"] == {"value": 5.0, "from": "chatapi.toml"}
    told = [each["message"] for each in found["findings"] if each["about"] == "plug-in"]
    assert told == [
        "chatapi-parrot 1.0 adds the llm engine parrot",
        "chatapi-parrot 1.0 adds the loudness engine rms",
    ]
    assert "command line: parrot.slots must be at least 1" in checked("parrot.slots=0")
    assert "did you mean parrot.phrase?" in checked("parrot.phrse=x")
    assert "did you mean CHATAPI_PARROT_PHRASE?" in checked(CHATAPI_PARROT_PHRSE="x")
    (tmp_path / "chatapi.toml").write_text("[parrot]\nsolts = 3\n")
    assert "there is no setting 'parrot.solts'; did you mean parrot.slots?" in checked()


def test_engines_of_a_plug_in_are_listed(site: Path, tmp_path: Path) -> None:
    done = command(site, "models", "engines", "--json", *options(tmp_path / "data", "llm.engine=parrot"))
    rows = {(row["role"], row["engine"]): row for row in json.loads(done.stdout)}
    assert rows["llm", "parrot"] == {
        "role": "llm", "engine": "parrot", "installed": True, "active": True, "plug_in": "chatapi-parrot 1.0",
        "remedy": "",
    }  # fmt: skip
    assert rows["llm", "fake"]["plug_in"] is None
    table = command(site, "models", "engines", *options(tmp_path / "data")).stdout
    assert "chatapi-parrot 1.0" in table


def test_a_plug_in_that_cannot_be_imported_does_not_stop_the_box(broken: Path, tmp_path: Path) -> None:
    (tmp_path / "chatapi.toml").write_text("[parrot]\nslots = 3\n")
    with running(broken, tmp_path / "data", "parrot.phrase=x") as (client, log):
        reply = client.post("/completion", json={"prompt": "hello"})
        assert reply.status_code == 200
        assert "loudness" not in client.get("/health").json()["engines"]
        told = [line for line in log.read_text().splitlines() if "check: plug-in" in line]
        assert len(told) == 1 and "the plug-in chatapi-parrot 1.0 cannot be imported" in told[0]


def test_a_chosen_engine_that_cannot_be_imported_is_one_error(broken: Path, tmp_path: Path) -> None:
    done = command(broken, *options(tmp_path / "data", "llm.engine=parrot"), "serve")
    assert done.returncode == 2
    assert "the llm engine 'parrot' cannot be used: the plug-in chatapi-parrot 1.0 cannot be imported" in done.stderr
    assert "No module named 'a_library_that_is_gone'" in done.stderr and "Traceback" not in done.stderr


def test_page_shows_the_plug_in_of_the_tests() -> None:
    page = (ROOT / "docs/adding-an-engine.md").read_text()
    for path in [PLUGIN / "pyproject.toml", *sorted((PLUGIN / "chatapi_parrot").glob("*.py"))]:
        if path.name != "__init__.py":
            assert path.read_text().strip() in page, path.name
