"""run.sh on a simulated Jetson: the docker commands that it runs, recorded by a fake docker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from paths import ROOT

DOCKER = """#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps(words) + "\\n")
if words[:1] == ["info"]:
    print(os.environ.get("RUNTIMES", '{"nvidia": {}}'))
if words[:2] == ["image", "ls"]:
    print(os.environ.get("BUILT", ""))
if words[:2] == ["image", "inspect"]:
    if words[-1] not in os.environ.get("IMAGES", "").split():
        sys.exit(1)
    if "{{.Id}}" in words:
        print("sha256:feed")
    elif len(words) > 3:
        print(os.environ.get("LABEL", ""))
for step in ("fetch", "compile"):
    if step in words:
        sys.exit(int(os.environ.get(step.upper(), "0")))
"""
NAME = "chatapi:0.1.0-r36"


class FakeJetson:
    """A machine that run.sh takes for a Jetson."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        (folder / "bin/docker").write_text(DOCKER)
        (folder / "bin/docker").chmod(0o755)
        (folder / "release").write_text("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
        self.folder, self.record = folder, folder / "record"

    def run(self, *words: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        given = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "TEGRA_RELEASE": str(self.folder / "release"),
            "CHATAPI_DATA": str(self.folder / "data"),
            "RECORD": str(self.record),
            "HOME": os.environ["HOME"],
            "IMAGES": NAME,
            **environ,
        }
        command = [str(ROOT / "run.sh"), *words]
        return subprocess.run(
            command,
            env=given,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def runs(self) -> list[list[str]]:
        lines = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [line for line in lines if line[0] == "run"]


@pytest.fixture
def jetson(tmp_path: Path) -> FakeJetson:
    return FakeJetson(tmp_path)


def test_server_runs_in_its_image_with_the_options_of_the_board(jetson: FakeJetson) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(jetson.folder / "notify"))
        given = {"NOTIFY_SOCKET": str(jetson.folder / "notify"), "WATCHDOG_USEC": "90000000"}
        done = jetson.run("--set", "server.port=8123", CHATAPI_LLM_MODEL="mine", **given)
    assert done.returncode == 0, done.stderr
    fetching, serving = jetson.runs()
    assert fetching[-4:] == ["--set", "server.port=8123", "models", "fetch"]
    assert serving[-3:] == ["sha256:feed", "--set", "server.port=8123"]
    options = " ".join(serving)
    for wanted in (
        "--runtime nvidia",
        "--read-only",
        "--cap-drop ALL",
        "--name chatapi",
        f"--volume {jetson.folder}/data:/data",
        "--env CHATAPI_DATA=/data",
        "--env CHATAPI_LLM_MODEL ",
        f"--volume {jetson.folder}/notify:/run/notify",
        "--env WATCHDOG_USEC=90000000",
    ):
        assert wanted in options
    # There is no terminal and no input.
    assert "--tty" not in serving and "--interactive" not in serving


def test_settings_file_of_the_working_directory_is_used(jetson: FakeJetson) -> None:
    (jetson.folder / "chatapi.toml").write_text("[server]\nport = 8123\n")
    assert jetson.run(cwd=jetson.folder).returncode == 0
    fetching, serving = jetson.runs()
    assert fetching[-4:] == ["--config", "/run/chatapi.toml", "models", "fetch"]
    assert serving[-3:] == ["sha256:feed", "--config", "/run/chatapi.toml"]
    for options in (fetching, serving):
        assert f"{jetson.folder}/chatapi.toml:/run/chatapi.toml:ro" in options


def test_installed_models_are_used_without_a_network(jetson: FakeJetson) -> None:
    done = jetson.run("serve", FETCH="2")
    assert done.returncode == 0 and "continuing with the installed ones" in done.stderr
    assert jetson.runs()[-1][-1] == "serve"


BUILT = "chatapi-build:r36.4.3-cu126-cp310-22.04"


def test_best_model_for_the_board_is_compiled_once_before_serving(jetson: FakeJetson) -> None:
    done = jetson.run("--set", "server.port=8123", BUILT=BUILT)
    assert done.returncode == 0, done.stderr
    compiling, fetching, serving = jetson.runs()
    chatapi = [BUILT, "python3", "-m", "chatapi"]
    assert compiling[-9:] == [*chatapi, "--set", "server.port=8123", "compile", "auto", "--if-wanted"]
    assert "--name" not in compiling and fetching[-1] == "fetch" and serving[-1] == "server.port=8123"
    (jetson.folder / "data/compiled/tiny").mkdir(parents=True)
    (jetson.folder / "data/compiled/tiny/made.json").write_text("{}")
    jetson.record.unlink()
    assert jetson.run(BUILT=BUILT).returncode == 0
    assert not [line for line in jetson.runs() if "compile" in line]


def test_compile_receives_the_settings_of_file_and_options(jetson: FakeJetson) -> None:
    (jetson.folder / "chatapi.toml").write_text("[llm]\nengine = 'openai_upstream'\n")
    words = ("--set=a.b=1", "serve", "--tls", "--set", "llm.model=mine")
    assert jetson.run(*words, cwd=jetson.folder, BUILT=BUILT).returncode == 0
    compiling = jetson.runs()[0]
    given = ["--config", "/run/chatapi.toml", "--set=a.b=1", "--set", "llm.model=mine"]
    assert compiling[compiling.index("chatapi") + 1 :] == [*given, "compile", "auto", "--if-wanted"]


def test_failed_compilation_does_not_stop_the_server(jetson: FakeJetson) -> None:
    done = jetson.run(BUILT=BUILT, COMPILE="1")
    assert done.returncode == 0 and "a small model is used until ./run.sh compile auto" in done.stderr
    assert jetson.runs()[-1][-1] == "sha256:feed"


def test_service_at_boot_does_not_compile(jetson: FakeJetson) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(jetson.folder / "notify"))
        assert jetson.run("serve", BUILT=BUILT, NOTIFY_SOCKET=str(jetson.folder / "notify")).returncode == 0
    assert not [line for line in jetson.runs() if "compile" in line]


def test_other_commands_run_in_unnamed_containers(jetson: FakeJetson) -> None:
    assert jetson.run("check", "--json").returncode == 0
    (run,) = jetson.runs()
    assert run[-2:] == ["check", "--json"] and "--name" not in run


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RUNTIMES": '{"runc": {}}'}, "docker has no nvidia runtime"),
        ({"IMAGES": ""}, f"there is no image {NAME}, and no jetson-containers to build it with"),
        ({"LABEL": "39"}, "is for L4T r39 and this board has r36"),
        ({"IMAGE": "/etc/passwd"}, "is not an archive of an image"),
        ({"RUN_IN": "cloud"}, "it can be venv or container"),
        ({"CHATAPI_DATA": "/proc/nowhere"}, "/proc/nowhere cannot be written"),
    ],
)
def test_obstacle_to_running_is_reported_in_one_sentence(
    jetson: FakeJetson, environ: dict[str, str], message: str
) -> None:
    done = jetson.run("serve", **environ)
    assert done.returncode != 0 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not (jetson.record.exists() and jetson.runs())


def test_container_installation_hints_at_compiling_a_model(tmp_path: Path) -> None:
    def hint(mode: str) -> str:
        script = f"mode={mode}; source systemd/install.sh; data={tmp_path}; hint_to_compile"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, check=True)
        return done.stdout.decode()

    assert "sudo ./run.sh compile auto" in hint("container")
    assert hint("venv") == ""
    (tmp_path / "compiled/tiny").mkdir(parents=True)
    (tmp_path / "compiled/tiny/made.json").write_text("{}")
    assert hint("container") == ""
