"""A server whose engines run in child processes: the same turns, and crashes that cost only the calls in flight."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from chatapi.audio import Audio, wav
from chatapi.audio.decode import decode
from chatapi.cli.watchdog import Watchdog
from chatapi.events import TurnEnded
from chatapi.settings import Settings
from chatapi.system.systemd_notify import ServiceManager
from conftest import TIMEOUT, RunAppliance, serving, tone
from engine_processes import IN_PROCESSES, ROLES, engine_processes
from test_live import silence, talking

MakeSettings = Callable[..., Settings]
pytestmark = pytest.mark.slow

LONG = "word " * 800


def wait_until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


def test_turns_are_those_of_engines_on_threads(fake_settings: MakeSettings, beep: Audio) -> None:
    headers = {"content-type": "audio/wav"}
    replies = []
    for more in ((), IN_PROCESSES):
        with serving(fake_settings(*more)) as server:
            text = server.client.post("/completion", content=wav(beep), headers=headers).json()
            voice = server.client.post("/completion?reply=voice", content=wav(beep), headers=headers)
            streamed = server.client.post("/completion", json={"prompt": "One. Two.", "stream": True})
            assert [each.status_code for each in (voice, streamed)] == [200, 200]
            assert set(engine_processes()) == ({"asr", "llm", "tts"} if more else set())
            replies.append((text["transcript"], text["reply"], text["usage"], decode(voice.content).samples.tolist()))
            metrics = server.client.get("/metrics").text
            assert 'chatapi_engine_loaded{engine="llm"} 1.0' in metrics
    assert replies[0] == replies[1]
    assert engine_processes() == {}


@pytest.mark.anyio
async def test_live_turn_with_every_role_in_a_process(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance, *IN_PROCESSES) as talk:
        await talk.appliance.load(ROLES)
        await talk.say(silence(0.5), tone(0.8), silence(0.5))
        await talk.wait_for(TurnEnded)
        assert set(engine_processes()) == set(ROLES)
        watchdog = Watchdog(talk.appliance, ServiceManager.of({}))
        assert await watchdog.problems() == await watchdog.problems() == []


def test_crash_during_a_turn_costs_that_turn_alone(fake_settings: MakeSettings) -> None:
    with serving(fake_settings(*IN_PROCESSES, "fake.delay=0.05")) as server:
        before = {role: each.pid for role, each in engine_processes().items()}
        with server.client.stream("POST", "/completion", json={"prompt": LONG, "stream": True}) as reply:
            lines = reply.iter_lines()
            next(line for line in lines if line.startswith("data:"))
            os.kill(before["llm"], signal.SIGSEGV)
            rest = "\n".join(lines)
        assert "event: error" in rest and "engine_crashed" in rest and "SIGSEGV" in rest
        reply = server.client.post("/completion", json={"prompt": "hello"})
        assert (reply.status_code, reply.json()["reply"]) == (200, "You said: hello.")
        assert server.client.get("/ready").status_code == 200
        health = server.client.get("/health").json()
        assert (health["status"], health["engines"]["llm"]["rebuilt"]) == ("ok", 1)
        outside = health["memory_bytes"] - psutil.Process().memory_info().rss
        assert outside == pytest.approx(sum(each.memory_info().rss for each in engine_processes().values()), rel=0.2)
        after = {role: each.pid for role, each in engine_processes().items()}
        assert {role for role in after if after[role] != before[role]} == {"llm"}


def test_crash_before_the_answer_is_an_error_of_the_server(fake_settings: MakeSettings) -> None:
    with serving(fake_settings("llm.worker=process", "fake.delay=0.05")) as server:
        replies: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: replies.append(server.client.post("/completion", json={"prompt": LONG}))
        )
        thread.start()
        wait_until(lambda: server.appliance.engines.llm.items_produced > 3)
        os.kill(engine_processes()["llm"].pid, signal.SIGSEGV)
        thread.join(TIMEOUT)
        assert (replies[0].status_code, replies[0].json()["code"]) == (500, "engine_crashed")


def test_stuck_engine_is_killed_and_replaced(fake_settings: MakeSettings) -> None:
    with serving(fake_settings("llm.worker=process", "fake.fault=hang", "limits.step_seconds=1")) as server:
        stuck = engine_processes()["llm"].pid
        reply = server.client.post("/completion", json={"prompt": "a"})
        assert (reply.status_code, reply.json()["code"]) == (500, "engine_stuck")
        wait_until(lambda: server.client.get("/health").json()["status"] == "ok")
        wait_until(lambda: [each.pid for each in engine_processes().values()] not in ([], [stuck]))


def test_disconnecting_client_stops_the_engine_in_its_process(fake_settings: MakeSettings) -> None:
    with serving(fake_settings(*IN_PROCESSES, "fake.delay=0.05")) as server:
        worker = server.appliance.engines.llm
        with server.client.stream(
            "POST", "/completion", json={"prompt": LONG, "stream": True, "max_tokens": 700}
        ) as reply:
            next(line for line in reply.iter_lines() if line.startswith("data:"))
            assert worker.admission.used == 1
        # The whole answer takes more than half a minute; the slot is free when the engine has ended the call.
        wait_until(lambda: worker.admission.used == 0, 20)
        assert worker.rebuilt == 0


def test_idle_engines_end_their_processes(fake_settings: MakeSettings) -> None:
    idle = [f"{role}.idle_seconds=0.2" for role in ROLES]
    with serving(fake_settings(*IN_PROCESSES, *idle)) as server:
        wait_until(lambda: engine_processes() == {})
        assert server.client.post("/completion", json={"prompt": "hello"}).status_code == 200


def test_engine_that_asks_another_server_stays_on_threads(fake_settings: MakeSettings) -> None:
    with serving(fake_settings("llm.engine=openai_upstream", "llm.worker=process"), load=False) as server:
        server.run(lambda: server.appliance.engines.llm.open())
        assert engine_processes() == {}
