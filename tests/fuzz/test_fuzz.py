"""The fuzzer, for a short time with a fixed seed; for longer, run `./run.sh fuzz --minutes N`."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from conftest import MODELS
from fuzz import documents, media
from fuzz.cli_files import CommandLine
from fuzz.client import Outcome
from fuzz.corpus import corpus
from fuzz.driver import Campaign, judge_usage_change
from fuzz.inputs import Input, load_input, request
from fuzz.interfaces import InputGenerator
from fuzz.judge import Judge, fault_of
from fuzz.many_clients import ManyClients
from fuzz.pools import Pools
from fuzz.server_process import ServerProcess, log_errors
from fuzz.summary import summary

SEED = 13
NO_POOLS = Pools(("a",), (1,), ({},), (Input("http", "OpenAPI", "", (request("GET", "/"),)),))
QUESTION = Input("http", "chat", "", (request("POST", "/v1/chat/completions", b"{}"),))


def run_fuzzer(folder: Path, engines: str, inputs: int, seconds: float, *more: str, files: float = 4) -> Judge:
    """Fuzzes with the corpus, then with generated inputs, then the command line for `files` seconds."""
    judge = Judge(folder / "findings", engines)
    campaign = Campaign(ServerProcess(folder, engines, *more), judge, SEED, pool=8)

    async def run() -> None:
        await campaign.run(inputs, seconds, corpus())
        # After this short warm-up memory may grow more than in a long run: 57 MiB after 3,000 inputs, and after 7,400.
        judge_usage_change(judge, campaign.usage_change, 0.4)
        if files:
            await CommandLine(folder, engines, judge).run(SEED, files)

    asyncio.run(run())
    print(summary(judge, campaign, campaign.seconds))
    return judge


@pytest.mark.alone
def test_hostile_inputs_to_fake_engines_find_nothing(tmp_path: Path) -> None:
    judge = run_fuzzer(tmp_path, "fake", 3000, 40)
    assert list(judge.findings) == []
    assert judge.deaths == 0
    assert judge.inputs > len(corpus())


@pytest.mark.alone
@pytest.mark.real
def test_hostile_inputs_to_real_engines_find_nothing(tmp_path: Path) -> None:
    if not (MODELS / "models").is_dir():
        pytest.skip("the models are not here: chatapi models fetch")
    judge = run_fuzzer(tmp_path, "real", 200, 90, files=0)
    assert list(judge.findings) == []
    assert judge.deaths == 0
    assert judge.inputs > len(corpus())


@pytest.mark.alone
def test_thousand_clients_at_once_are_answered_or_rejected_with_retry_after(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, "fake", "fake.delay=0.05")
    many = ManyClients(server, 1000)

    async def run() -> None:
        await server.start()
        await many.run()
        await server.stop()

    asyncio.run(run())
    assert not many.faults, many.table()
    assert many.outcomes["200"] > 0


def test_failing_engine_is_a_finding_that_can_be_replayed(tmp_path: Path) -> None:
    """Tests the fuzzer itself: the language model of this server raises."""
    judge = Judge(tmp_path / "findings", "fake")
    campaign = Campaign(ServerProcess(tmp_path, "fake", "fake.fault=raise"), judge, SEED)
    given = Input(
        "http",
        "chat",
        "text",
        (request("POST", "/completion", b'{"prompt": "one two"}', {"Content-Type": "application/json"}),),
    )
    asyncio.run(campaign.run(0, 20, [given]))
    finding = judge.findings["status 500 engine_failed [chat]"]
    assert load_input(finding.files[0]) == given


def test_input_that_kills_the_server_is_identified(tmp_path: Path) -> None:
    """The server kills itself at one request: the campaign restarts it and names the input."""
    server = CrashingServer(tmp_path)
    judge = Judge(tmp_path / "findings", "fake")
    campaign = Campaign(server, judge, SEED)
    harmless = [Input("http", "page", str(n), (request("GET", f"/models?{n}"),)) for n in range(8)]
    deadly = Input("http", "page", "deadly", (request("GET", "/ready?die"),))
    asyncio.run(campaign.run(0, 60, [*harmless[:4], deadly, *harmless[4:]]))
    assert judge.deaths == 1
    assert [load_input(path) for path in judge.findings["death SIGKILL [page]"].files] == [deadly]


def test_memory_is_measured_with_an_idle_decoder_even_after_a_decoder_crash(tmp_path: Path) -> None:
    judge = Judge(tmp_path / "findings", "fake")
    campaign = Campaign(ServerProcess(tmp_path, "fake"), judge, SEED, pool=2)
    deadly = [each for each in corpus() if each.interface == "transcriptions" and "bomb-stsz" in each.name]
    asyncio.run(campaign.run(1, 60, deadly))
    assert campaign.usage_change is not None
    assert campaign.usage_change.before.processes == campaign.usage_change.after.processes == 3
    assert 0 < campaign.usage_change.after.anonymous < campaign.usage_change.after.pss


class CrashingServer(ServerProcess):
    """A server that kills its process at a request with the query `die`."""

    @property
    def command(self) -> list[str]:
        code = (
            "import os, signal, sys\n"
            "from chatapi.interfaces.http import middleware\n"
            "run = middleware._HttpRequest.run\n"
            "async def dying(self):\n"
            "    if self._scope['query_string'] == b'die': os.kill(os.getpid(), signal.SIGKILL)\n"
            "    await run(self)\n"
            "middleware._HttpRequest.run = dying\n"
            "from chatapi.cli import main\n"
            "main(sys.argv[1:])\n"
        )
        python, _, _, *words = super().command
        return [python, "-c", code, *words]


def test_same_seed_makes_the_same_inputs() -> None:
    first, second = InputGenerator(SEED, NO_POOLS), InputGenerator(SEED, NO_POOLS)
    assert [first.make(n) for n in range(300)] == [second.make(n) for n in range(300)]
    assert [first.make(n) for n in range(300)] != [InputGenerator(SEED + 1, NO_POOLS).make(n) for n in range(300)]


def test_every_interface_is_among_the_inputs() -> None:
    generator = InputGenerator(SEED, NO_POOLS)
    assert {generator.make(n).interface for n in range(3000)} == {
        "completion JSON", "completion stream", "completion form", "completion audio", "conversations", "chat",
        "chat schema",
        "chat audio", "transcriptions", "translations", "speech", "models and voices", "page and paths", "OpenAPI",
        "raw HTTP",
        "disconnects", "Realtime", "Wyoming", "Wyoming framing",
    }  # fmt: skip


def test_saved_input_is_loaded_unchanged(tmp_path: Path) -> None:
    generator = InputGenerator(SEED, NO_POOLS)
    for number in range(50):
        given = generator.make(number)
        given.save(tmp_path / "input.json", found="x")
        assert load_input(tmp_path / "input.json") == given


@pytest.mark.parametrize("container", media.CONTAINERS)
def test_good_file_of_each_container_is_generated(container: str) -> None:
    assert media.decoded_seconds(media.files()[container]) == pytest.approx(0.5, abs=0.15)


def test_bomb_is_small_and_declares_fifty_million_samples() -> None:
    assert len(media.bomb(50_000_000)) < 700
    assert (50_000_000).to_bytes(4, "big") in media.bomb(50_000_000)


def test_mutations_change_files() -> None:
    rng = random.Random(SEED)
    good = set(media.files().values())
    assert sum(media.mutated(rng)[1] in good for _ in range(500)) < 50


def test_doubling_schema_is_small_and_has_forty_levels() -> None:
    assert len(json.dumps(documents.doubling(40))) < 4000
    assert len(documents.doubling(40)["$defs"]) == 41


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome("whole", 200, {}, b"{}"), ""),
        (Outcome("whole", 422, {}, b'{"code": "invalid_value"}'), ""),
        (Outcome("whole", 422, {}, b"no"), "status 422 without a code"),
        (Outcome("whole", 500, {}, b'{"code": "internal_error"}'), "status 500 internal_error"),
        (Outcome("whole", 502, {}, b""), "status 502"),
        (Outcome("whole", 503, {"retry-after": "1"}, b'{"code": "busy"}'), ""),
        (Outcome("whole", 503, {}, b'{"code": "busy"}'), "status 503 without Retry-After"),
        (Outcome("whole", 503, {"retry-after": "1"}, b"busy"), "status 503 without a code"),
        (Outcome("whole", 507, {}, b'{"code": "storage_fault"}'), ""),
        (Outcome("hang"), "hang"),
        (Outcome("none"), "no answer"),
        (Outcome("cut", 200), "answer cut off"),
    ],
)
def test_outcome_is_judged(outcome: Outcome, fault: str) -> None:
    assert fault_of(QUESTION, outcome) == fault


def test_tracebacks_are_distinguished_by_location_and_error() -> None:
    exception = 'Traceback (most recent call last):\n  File "/x/chatapi/audio/mel.py", line 5, in decode\nValueError: 5'
    lines = [
        json.dumps({"level": "info", "message": "fine"}),
        json.dumps({"level": "error", "message": "unexpected error", "exception": exception}),
        "Traceback (most recent call last):",
        '  File "/x/chatapi/runtime/admission.py", line 7, in enter',
        "KeyError: 3",
    ]
    assert [each.signature for each in log_errors(lines)] == [
        "traceback: unexpected error: chatapi/audio/mel.py:decode: ValueError",
        "traceback: chatapi/runtime/admission.py:enter: KeyError",
    ]
