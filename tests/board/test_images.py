"""The image that ships, built from containers/ on a bare Debian and run as on a box: read-only, and not as root."""

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
HEARD = ["what", "is", "the", "capital", "of", "australia"]
BUILDS = ["gcc", "cc", "c++", "make", "cmake", "ninja", "pip", "pip3", "uv", "nvcc"]


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    made = Containers(tmp_path_factory.mktemp("containers"))
    yield made
    made.clear()


@pytest.fixture(scope="module")
def image(containers: Containers, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of any machine, by the script that builds it everywhere."""
    house = wheels(tmp_path_factory.mktemp("wheels"), os.uname().machine)
    pip = house.parent / "pip.conf"
    pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    mounts = f"--volume {house}:/wheels:ro --volume {pip}:/etc/pip.conf:ro"
    base = containers.base("bare")
    made = containers.run(
        "containers/build.sh", "cpu",
        BUILDER="buildah", OPTIONS="--pull-never", ENGINES_OPTIONS=mounts, BASE_IMAGE=base, ENGINES_PREFIX="localhost/",
    )  # fmt: skip
    shutil.rmtree(house)
    return f"localhost/{made.strip()}"


@dataclass
class Box:
    """A container that serves."""

    name: str
    url: str


@pytest.fixture(scope="module")
def box(containers: Containers, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """The image as containers/compose.yaml runs it, on the models of this machine."""
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
        yield Box(name, url)
    finally:
        containers.run("podman", "rm", "--force", "--time=2", name, check=False)


def words(text: str) -> list[str]:
    return [word.strip(".,?!").lower() for word in text.split()]


@pytest.mark.parametrize("reply", ["text", "voice"])
@pytest.mark.parametrize("question", ["text", "voice"])
def test_it_answers(box: Box, question: str, reply: str) -> None:
    options = {"reply": reply, "temperature": "0", "max_tokens": "30"}
    if question == "text":
        body = {**options, "temperature": 0, "max_tokens": 30, "prompt": "What is the capital of France?"}
        answer = httpx.post(f"{box.url}/completion", json=body, timeout=300)
    else:
        sound = {"content-type": "audio/flac"}
        answer = httpx.post(
            f"{box.url}/completion", params=options, content=CLIP.read_bytes(), headers=sound, timeout=300
        )
    assert answer.status_code == 200, answer.text
    if reply == "voice":
        assert answer.content[:4] == b"RIFF" and len(answer.content) > 20_000
        heard, said = answer.headers.get("x-chatapi-transcript"), answer.headers["x-chatapi-reply"]
    else:
        heard, said = answer.json()["transcript"], answer.json()["reply"]
    if question == "text":
        assert "Paris" in said
    else:
        assert words(heard) == HEARD and said


def test_its_health_check_says_so(containers: Containers, box: Box) -> None:
    assert containers.run("podman", "healthcheck", "run", box.name).strip() in ("", "healthy")


def test_it_is_not_root_and_writes_only_its_data(containers: Containers, box: Box) -> None:
    def inside(command: str) -> str:
        return containers.run("podman", "exec", box.name, "sh", "-c", command, check=False).strip()

    assert inside("id -u; id -Gn") == "10001\nchatapi audio video"
    assert inside("touch /opt/chatapi/x || echo refused") == "refused"
    assert inside("touch /data/x && echo written") == "written"
    # Nothing to gain for whoever breaks in: all capabilities are gone, for good.
    assert inside("grep -h CapBnd /proc/1/status").split()[1] == "0" * 16
    assert inside("grep -h NoNewPrivs /proc/1/status").split()[1] == "1"


def test_nothing_that_builds_is_in_it_and_nothing_of_where_it_was_built(containers: Containers, image: str) -> None:
    def inside(command: str) -> str:
        return containers.run(
            "podman", "run", "--rm", "--network=none", "--entrypoint=sh", "--user=0", image, "-c", command
        ).strip()

    assert inside(f"for name in {' '.join(BUILDS)}; do command -v $name || true; done") == ""
    found = "find / -xdev ( -name pip.conf -o -name wheels -o -path '*/.cache/*' ) -not -path '/proc/*'"
    assert inside(found.replace("(", r"\(").replace(")", r"\)")) == ""
    assert inside("cat /opt/venv/lib/python3*/site-packages/*/direct_url.json 2>/dev/null || true") == ""


def test_what_changes_often_is_in_the_last_layers(containers: Containers, image: str) -> None:
    told = containers.run("buildah", "inspect", "--type=image", image)
    history = [layer for layer in json.loads(told)["OCIv1"]["history"] if not layer.get("empty_layer")]
    made = [layer.get("created_by", "") for layer in history]
    # chatapi itself after its engines, these after what Debian brings, all of it after the base.
    order = [next(i for i, line in enumerate(made) if words in line) for words in ("apt-get", "groupadd", "ldconfig")]
    assert order == sorted(order) and order[-1] == len(made) - 3, made


def test_its_labels_say_under_which_terms_it_is_given_on(containers: Containers, image: str) -> None:
    config = json.loads(containers.run("podman", "inspect", image))[0]["Config"]
    labels = config["Labels"]
    assert "GPL-3.0-or-later" in labels["org.opencontainers.image.licenses"]
    assert labels["org.opencontainers.image.version"] in image and labels["org.chatapi.l4t"] == ""
    assert (config["User"], config["StopSignal"], list(config["Volumes"])) == ("10001", "SIGTERM", ["/data"])


# Last, for it ends the box.
def test_a_signal_ends_it_within_seconds(containers: Containers, box: Box) -> None:
    begun = time.monotonic()
    containers.run("podman", "kill", "--signal=TERM", box.name)
    status = containers.run("podman", "wait", box.name).strip()
    assert (status, time.monotonic() - begun < 5) == ("0", True)
