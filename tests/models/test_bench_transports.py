"""The transports of `chatapi bench live`, realtime and devices, with fake engines."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Audio
from chatapi.bench import sound_card
from chatapi.bench.corpus import Clip
from chatapi.bench.live import TranscriptComparison, devices, measure, scenarios
from chatapi.bench.live.acoustics import Walls
from chatapi.bench.live.harness import BLOCK, Harness
from chatapi.bench.live.realtime import RealtimeTransport, Wire
from chatapi.errors import InternalError
from chatapi.events import (
    Interrupted,
    ResponseStarted,
    SpeechStarted,
    SpeechStopped,
    Transcript,
    TurnEnded,
    TurnTimings,
)
from chatapi.interfaces.audio_device.realtime_link import parse_address
from chatapi.settings import Settings
from conftest import RunAppliance, RunningServer, tone

pytestmark = pytest.mark.anyio
needs_pulse = pytest.mark.skipif(not sound_card.installed(), reason=sound_card.INSTALL)
MakeSettings = Callable[..., Settings]


def clip(seconds: float) -> Clip:
    return Clip("tone", tone(seconds), "a tone", "en", "made", "tone", "tune", "", None)


def transport(server: RunningServer) -> RealtimeTransport:
    return RealtimeTransport(parse_address(server.url, None, None, server.appliance.settings.data))


@pytest.mark.alone
async def test_question_over_the_websocket_is_timed(fake_server: RunningServer) -> None:
    async with transport(fake_server).open_harness() as room:
        found = await scenarios.question(room, clip(0.8))
        # Earlier, the same words would count as the echo of the answer.
        await room.wait(3)
        again = await scenarios.question(room, clip(0.6))
    for each in (found, again):
        assert each.asked.startswith("heard")
        assert each.latency is not None and 0.2 < each.latency < 3
    assert (room.came(ResponseStarted), room.came(TurnEnded), room.came(Interrupted)) == (2, 2, 0)
    assert [words for _, _, words in room.utterances] == ["a tone", "a tone"]
    [stopped] = [event for at, event in room.events if isinstance(event, SpeechStopped) and at < room.utterances[1][0]]
    assert stopped.answered and stopped.at == pytest.approx(room.utterances[0][1], abs=0.1)


async def test_barge_in_over_the_websocket_stops_the_answer(slow_server: RunningServer) -> None:
    async with transport(slow_server).open_harness() as room:
        _, end = await room.say(tone(3), "a long tone")
        assert await room.until(lambda: room.speaker.first(end) is not None)
        start, _ = await room.say(tone(1.5, 660), "another")
        assert await room.until(lambda: room.came(Interrupted, start) > 0, 60)
        paused = [at for at, each in room.events if isinstance(each, SpeechStarted) and each.during_answer]
        assert paused and paused[0] >= start
        await room.answered(start)


async def test_exception_of_a_scenario_is_not_wrapped(fake_server: RunningServer) -> None:
    with pytest.raises(scenarios.ScenarioSkipped):
        async with transport(fake_server).open_harness() as room:
            await scenarios.disturbance(room, tone(0.5), tone(0.2))


def test_realtime_events_become_live_events() -> None:
    wire = Wire()

    def events_of(kind: str, **fields: Any) -> list[Any]:
        return list(wire.take({"type": kind, **fields}, 7.0))

    assert events_of("chatapi.output_audio.paused") == [SpeechStarted(7.0, during_answer=True)]
    assert events_of("input_audio_buffer.speech_stopped", audio_end_ms=1500) == []
    assert events_of("input_audio_buffer.cleared") == [SpeechStopped(1.5, answered=False)]
    completed = "conversation.item.input_audio_transcription.completed"
    assert events_of(completed, transcript="hello") == [Transcript("hello")]
    assert events_of("response.created", response={"id": "one"}) == [ResponseStarted("hello")]
    events_of("response.output_item.added", item={"id": "item"})
    sound = base64.b64encode(b"\0\0" * 240).decode()
    [speech] = events_of("response.output_audio.delta", response_id="one", delta=sound)
    assert speech.audio.seconds == 0.01
    assert events_of("response.done", response={"status": "cancelled", "conversation_id": "c"}) == []
    assert events_of("conversation.item.deleted", item_id="of another item") == []
    assert events_of("conversation.item.deleted", item_id="item") == [Interrupted(0.0, "", retracted=True)]
    # Further audio of an interrupted answer is ignored.
    assert events_of("response.output_audio.delta", response_id="one", delta=sound) == []
    assert events_of("chatapi.timings", response_id="one", timings={"endpoint": 0.2}) == []
    # The end of an answer comes with its timings.
    assert events_of("response.done", response={"status": "completed", "conversation_id": "c"}) == []
    assert events_of("chatapi.timings", response_id="two", timings={"endpoint": 0.3}) == [
        TurnEnded("c", "completed", timings=TurnTimings(endpoint=0.3))
    ]


def test_walls_echo_the_playback_at_the_given_level() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, RATE).astype(np.float32)
    walls = Walls(-12, np.random.default_rng(2))
    echo = np.concatenate([walls(noise[at : at + BLOCK]) for at in range(0, RATE, BLOCK)])
    assert np.abs(echo[:100]).max() < 1e-6
    late = slice(RATE // 2, RATE)
    assert 20 * np.log10(echo[late].std() / noise[late].std()) == pytest.approx(-12, abs=1.5)


async def test_transcripts_are_compared_live_and_as_a_file(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        comparison = TranscriptComparison(appliance.transcriber)
        transcript = (await appliance.transcriber.transcribe_utterance(Audio(tone(1), RATE))).text
        spoken = Clip("tone", tone(1), transcript, "en", "made", "tone", "tune", "", None)
        await comparison.add(spoken, "")
    assert [(row.value, row.met) for row in comparison.rows()] == [(100, None), (100, False)]


@needs_pulse
@pytest.mark.alone
async def test_question_at_the_sound_card_is_timed_by_the_recording(fake_settings: MakeSettings) -> None:
    async with devices.open_devices(fake_settings()) as made:
        async with made.open_harness() as room:
            found = await scenarios.question(room, clip(0.8))
            await check_recording(room)
        rows = {row.what: row.value for row in await made.rows()}
    assert found.asked.startswith("heard")
    assert found.latency is not None and 0.2 < found.latency < 3
    delay, late, longer = rows.values()
    assert 0 < delay < 1
    assert 0 <= late < 1
    assert 0 <= longer < 0.3


@needs_pulse
async def test_unexpected_end_of_talk_is_reported(fake_settings: MakeSettings) -> None:
    broken = fake_settings("asr.engine=whisper_cpp", "asr.model=nothing")
    async with devices.open_devices(broken) as made:
        with pytest.raises(InternalError, match="ended by itself"):
            async with made.open_harness():
                pass


async def check_recording(room: Harness) -> None:
    """Checks that the speaker played the answer and nothing of the question."""
    [(start, end, _)] = room.utterances
    assert end - start == pytest.approx(0.8, abs=0.02)
    assert room.speaker.last(start, end) is None
    assert room.came(ResponseStarted) == room.came(TurnEnded) == 1


async def test_missing_sound_server_is_reported_in_one_row(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    async with fake_appliance() as appliance:
        [row] = [row async for row in measure(appliance, None, 1, "devices")]  # type: ignore[arg-type]
    assert "pulseaudio" in row.what
    assert row.met is None
