"""Third-party clients, each unmodified in an environment of its own: every feature works, or is known not to."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio
import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import decode
from chatapi.auth.certificate_authority import CertificateKeeper
from clients import results
from clients.environments import NotInstallable
from clients.programs import PROGRAMS, Program
from fuzz.server_process import ServerProcess
from paths import CORPUS

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(results.REPORT not in os.environ, reason="run by ./run.sh test --clients"),
]
SILENCE = np.zeros(RATE // 2, np.float32)
RECORDINGS = {"fox": "real/en-quick_brown_fox.flac", "wake": "wake/alone.flac", "wake_question": "wake/pause.flac"}
SETTINGS = ("llm.max_tokens=60", "limits.turn_seconds=110")


def recording(samples: Samples) -> bytes:
    return wav(Audio(np.concatenate([SILENCE, samples, SILENCE]), RATE))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Servers with fake engines, with real models and with HTTPS, and recordings, as the scripts expect them."""
    folder = tmp_path_factory.mktemp("clients")
    servers = {name: ServerProcess(folder / name, name, *SETTINGS) for name in ("fake", "real")}
    servers["tls"] = ServerProcess(folder / "tls", "fake", *SETTINGS, "server.tls=true")
    found = {"CLIENTS_WORK": str(folder)}
    try:
        for name, server in servers.items():
            anyio.run(server.start)
            scheme = "https" if name == "tls" else "http"
            found[f"CLIENTS_{name.upper()}_URL"] = f"{scheme}://127.0.0.1:{server.port}"
            found[f"CLIENTS_{name.upper()}_WYOMING"] = str(server.wyoming)
        # Node takes further authorities only from its environment.
        found["NODE_EXTRA_CA_CERTS"] = str(CertificateKeeper(servers["tls"].data).authority)
        for name, clip in RECORDINGS.items():
            (folder / f"{name}.wav").write_bytes(recording(decode(CORPUS / clip).samples))
        question = decode(CORPUS / "wake" / "pause.flac").samples[RATE:]
        (folder / "question.wav").write_bytes(recording(question))
        yield found
    finally:
        for server in servers.values():
            anyio.run(server.stop)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.folder)
def test_program_works_unmodified(program: Program, environment: dict[str, str]) -> None:
    try:
        found = results.run(program, environment)
    except NotInstallable as error:
        pytest.skip(str(error))
    results.keep(program, found)
    failing = {result.feature: result.reason for result in found if not result.works}
    assert set(program.fails) <= {result.feature for result in found}
    assert {feature: reason for feature, reason in failing.items() if feature not in program.fails} == {}
    assert set(program.fails) - set(failing) == set(), "works now: remove it from programs.py"
