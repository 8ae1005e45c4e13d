"""The released image: built from containers/ on a bare Debian, and run read-only and without root."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from board.containers import ROOT, Containers, missing, wait, wheels
from conftest import MODELS

pytestmark = [
    pytest.mark.image,
    pytest.mark.real,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root alone may make a base and mount layers"),
]
DEFAULTS = ("whisper-tiny.en-ct2", "smollm2-135m-instruct", "en_US-joe-medium")
CLIP = ROOT / "tests/corpus/made/010-kokoro-alpha_kumo-en-us.flac"
TRANSCRIPT = ["what", "is", "the", "capital", "of", "australia"]
BUILD_TOOLS = ["gcc", "cc", "c++", "make", "cmake", "ninja", "pip", "pip3", "uv", "nvcc"]


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    made = Containers(tmp_path_factory.mktemp("containers"))
    yield made
    made.clear()


@pytest.fixture(scope="module")
def image(containers: Containers, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The CPU image, made by the build script."""
    wheelhouse = wheels(tmp_path_factory.mktemp("wheels"), os.uname().machine)
    pip = wheelhouse.parent / "pip.conf"
    pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    mounts = f"--volume {wheelhouse}:/wheels:ro --volume {pip}:/etc/pip.conf:ro"
    base = containers.base("bare")
    made = containers.run(
        "containers/build.sh", "cpu",
        BUILDER="buildah", OPTIONS="--pull-never", ENGINES_OPTIONS=mounts, BASE_IMAGE=base, ENGINES_PREFIX="localhost/",
    )  # fmt: skip
    shutil.rmtree(wheelhouse)
    return f"localhost/{made.strip()}"


@dataclass
class ServerContainer:
    """A running container of the server."""

    name: str
    url: str


@pytest.fixture(scope="module")
def server(containers: Containers, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerContainer]:
    """The image as containers/compose.yaml runs it, with the models of this machine."""
    data = tmp_path_factory.mktemp("data")
    for name in DEFAULTS:
        shutil.copytree(MODELS / "models" / name, data / "models" / name)
    subprocess.run(["chown", "-R", "10001:10001", str(data)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = "chatapi-test"
    containers.run(
        "podman", "run", "--detach", "--name", name, "--network=host", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL",
        "--security-opt=no-new-privileges", f"--volume={data}:/data", f"--env=CHATAPI_SERVER_PORT={port}", image,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait(containers, name, url)
        yield ServerContainer(name, url)
    finally:
        containers.run("podman", "rm", "--force", "--time=2", name, check=False)


def words(text: str) -> list[str]:
    return [word.strip(".,?!").lower() for word in text.split()]


@pytest.mark.parametrize("reply", ["text", "voice"])
@pytest.mark.parametrize("question", ["text", "voice"])
def test_server_answers_text_and_voice(server: ServerContainer, question: str, reply: str) -> None:
    options = {"reply": reply, "temperature": "0", "max_tokens": "30"}
    if question == "text":
        body = {**options, "temperature": 0, "max_tokens": 30, "prompt": "What is the capital of France?"}
        answer = httpx.post(f"{server.url}/completion", json=body, timeout=300)
    else:
        headers = {"content-type": "audio/flac"}
        answer = httpx.post(
            f"{server.url}/completion", params=options, content=CLIP.read_bytes(), headers=headers, timeout=300
        )
    assert answer.status_code == 200, answer.text
    if reply == "voice":
        assert answer.content[:4] == b"RIFF" and len(answer.content) > 20_000
        transcript, spoken_reply = answer.headers.get("x-chatapi-transcript"), answer.headers["x-chatapi-reply"]
    else:
        transcript, spoken_reply = answer.json()["transcript"], answer.json()["reply"]
    if question == "text":
        assert "Paris" in spoken_reply
    else:
        assert words(transcript) == TRANSCRIPT and spoken_reply


def test_container_health_check_passes(containers: Containers, server: ServerContainer) -> None:
    assert containers.run("podman", "healthcheck", "run", server.name).strip() in ("", "healthy")


def test_server_is_not_root_and_writes_only_its_data(containers: Containers, server: ServerContainer) -> None:
    def inside(command: str) -> str:
        return containers.run("podman", "exec", server.name, "sh", "-c", command, check=False).strip()

    assert inside("id -u; id -Gn") == "10001\nchatapi audio video"
    assert inside("touch /opt/chatapi/x || echo refused") == "refused"
    assert inside("touch /data/x && echo written") == "written"
    # An intruder gains nothing: all capabilities are dropped for good.
    assert inside("grep -h CapBnd /proc/1/status").split()[1] == "0" * 16
    assert inside("grep -h NoNewPrivs /proc/1/status").split()[1] == "1"


def test_image_has_no_build_tools_and_no_traces_of_the_build(containers: Containers, image: str) -> None:
    def inside(command: str) -> str:
        return containers.run(
            "podman", "run", "--rm", "--network=none", "--entrypoint=sh", "--user=0", image, "-c", command
        ).strip()

    assert inside(f"for name in {' '.join(BUILD_TOOLS)}; do command -v $name || true; done") == ""
    found = "find / -xdev ( -name pip.conf -o -name wheels -o -path '*/.cache/*' ) -not -path '/proc/*'"
    assert inside(found.replace("(", r"\(").replace(")", r"\)")) == ""
    assert inside("cat /opt/venv/lib/python3*/site-packages/*/direct_url.json 2>/dev/null || true") == ""


def test_frequently_changed_files_are_in_the_last_layers(containers: Containers, image: str) -> None:
    inspected = containers.run("buildah", "inspect", "--type=image", image)
    history = [layer for layer in json.loads(inspected)["OCIv1"]["history"] if not layer.get("empty_layer")]
    commands = [layer.get("created_by", "") for layer in history]
    # chatapi comes after its engines, these after Debian's packages, and all of them after the base.
    order = [
        next(i for i, line in enumerate(commands) if words in line) for words in ("apt-get", "groupadd", "ldconfig")
    ]
    assert order == sorted(order) and order[-1] == len(commands) - 3, commands


def test_labels_name_the_version_and_the_licenses(containers: Containers, image: str) -> None:
    config = json.loads(containers.run("podman", "inspect", image))[0]["Config"]
    labels = config["Labels"]
    assert "GPL-3.0-or-later" in labels["org.opencontainers.image.licenses"]
    assert labels["org.opencontainers.image.version"] in image and labels["org.chatapi.l4t"] == ""
    assert (config["User"], config["StopSignal"], list(config["Volumes"])) == ("10001", "SIGTERM", ["/data"])


# Last, because it stops the server.
def test_sigterm_stops_the_server_within_seconds(containers: Containers, server: ServerContainer) -> None:
    started = time.monotonic()
    containers.run("podman", "kill", "--signal=TERM", server.name)
    status = containers.run("podman", "wait", server.name).strip()
    assert (status, time.monotonic() - started < 5) == ("0", True)
