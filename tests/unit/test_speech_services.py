"""Transcription and speech requests: their admission, deadline and turn records."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncGenerator, AsyncIterator

import anyio.lowlevel
import av
import numpy as np
import pytest
from wyoming.asr import Transcribe
from wyoming.audio import AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.tts import Synthesize

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.engines import Voice
from chatapi.errors import Busy, DeadlineExceeded, TooLarge
from chatapi.services.transcription.service import SMALL_FILE_BYTES
from chatapi.services.transcription.transcriber import TranscriptionRequest
from chatapi.services.turns.completion import Turn
from conftest import RunAppliance, tone, until
from wyoming_peer import ask, audio_events, open_to_wyoming
from wyoming_peer import until as receive_until

pytestmark = pytest.mark.anyio
CLIP = np.concatenate([np.zeros(RATE, np.float32), tone(1.0), np.zeros(RATE, np.float32)])


def counted(appliance: Appliance) -> dict[str, float]:
    """The number of turns so far by kind, input, reply and result."""
    (family,) = appliance.metrics.turns.collect()
    names = ("kind", "input", "reply", "result")
    return {
        " ".join(each.labels[name] for name in names): each.value
        for each in family.samples
        if each.name.endswith("_total")
    }


def rejected(appliance: Appliance) -> float:
    (family,) = appliance.metrics.refused.collect()
    return next(each.value for each in family.samples if each.name.endswith("_total"))


async def stream(*blocks: Samples) -> AsyncIterator[Samples]:
    for block in blocks:
        yield block


async def test_wyoming_requests_hold_a_slot_and_are_counted(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Transcribe().event())
            await client.write_event(AudioStart(RATE, 2, 1).event())
            await until(lambda: appliance.admission.used == 1)
            await client.write_event(AudioStop().event())
            await receive_until(client, "transcript-stop")
        assert (await ask(port, Synthesize("Hello."), end=["audio-stop"]))[-1].type == "audio-stop"
        await until(lambda: appliance.admission.used == 0)
        assert counted(appliance) == {"file voice text ok": 1, "file text voice ok": 1}


async def test_new_request_in_the_middle_of_a_stream_abandons_the_stream(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, open_to_wyoming(appliance) as (_, port):
        start = AudioStart(RATE, 2, 1)
        events = await ask(port, Transcribe(), start, Transcribe(), *audio_events(CLIP), end=["transcript-stop"])
        assert [event.type for event in events].count("transcript") == 1
        await until(lambda: appliance.admission.used == 0)
        assert counted(appliance) == {"file voice text disconnected": 1, "file voice text ok": 1}


async def test_full_queue_rejects_wyoming_requests(fake_appliance: RunAppliance) -> None:
    async with (
        fake_appliance("limits.concurrent=1", "limits.queue=0") as appliance,
        open_to_wyoming(appliance) as (_, port),
    ):
        async with appliance.admission.admitted():
            for request in ([Transcribe(), *audio_events(CLIP)], [Synthesize("Hello.")]):
                (error,) = await ask(port, *request, end=["transcript", "audio-stop"])
                assert (error.type, error.data["code"]) == ("error", "busy")
        assert rejected(appliance) == 2


async def test_busy_conversation_is_not_counted_as_a_rejection(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        async with appliance.conversations.exclusive("mine"):
            with pytest.raises(Busy):
                async with appliance.completions.run(Turn(prompt="hello", conversation="mine")) as events:
                    [event async for event in events]
        assert rejected(appliance) == 0
        assert counted(appliance) == {"request text text conversation_busy": 1}


async def test_endless_stream_ends_at_its_limits(fake_appliance: RunAppliance) -> None:
    async def silent() -> AsyncGenerator[Samples, None]:
        yield CLIP[:1000]
        await anyio.sleep_forever()

    async with fake_appliance("limits.turn_seconds=0.1", "limits.audio_seconds=2") as appliance:
        with pytest.raises(DeadlineExceeded):
            async with appliance.transcription_service.transcribe_stream(silent()) as items:
                [item async for item in items]
        with pytest.raises(TooLarge):
            async with appliance.transcription_service.transcribe_stream(stream(CLIP)) as items:
                [item async for item in items]
        await until(lambda: appliance.admission.used == 0)


@pytest.mark.parametrize("deltas", [[" ... "], ["👍"], [""], []])
async def test_text_without_words_is_a_short_silence(fake_appliance: RunAppliance, deltas: list[str]) -> None:
    async def arriving() -> AsyncIterator[str]:
        for delta in deltas:
            yield delta

    async with fake_appliance() as appliance:
        voice = appliance.synthesis.voice(None)
        async with appliance.speech_service.synthesize_stream(arriving(), voice) as items:
            [audio] = [item async for item in items]
        assert audio.rate == voice.rate and 0.1 < audio.seconds < 0.5 and not audio.samples.any()
        async with appliance.speech_service.synthesize("".join(deltas)) as items:
            assert [item.seconds async for item in items] == [audio.seconds]
        assert counted(appliance) == {"file text voice ok": 2}


@pytest.mark.parametrize(("region", "month"), [("GB", "April 3rd"), ("US", "March 4th"), ("", "March 4th")])
async def test_text_is_normalized_for_the_region_of_the_voice(
    fake_appliance: RunAppliance, region: str, month: str
) -> None:
    async def text() -> AsyncIterator[str]:
        yield "Due 03/04/25."

    async with fake_appliance() as appliance:
        voice = Voice("fake", "en", RATE, region)
        speech = [item async for item in appliance.synthesis.synthesize_sentences(text(), voice)]
        expected = f"Due {month}, twenty twenty-five."
        assert {item.text for item in speech} == {expected}
        assert appliance.synthesis.normalized_sentences("Due 03/04/25.", voice) == [expected]


async def test_closed_synthesis_closes_its_generators_at_once(fake_appliance: RunAppliance) -> None:
    async def endless() -> AsyncGenerator[str, None]:
        while True:
            yield "A sentence. "
            await anyio.lowlevel.checkpoint()

    leaked, hooks, text = [], sys.get_asyncgen_hooks(), endless()

    def on_finalize(generator: AsyncGenerator[object, None]) -> None:
        leaked.append(generator.__name__)
        hooks.finalizer(generator)

    async with fake_appliance() as appliance:
        speech = appliance.synthesis.synthesize_deltas(text, appliance.synthesis.voice(None))
        sys.set_asyncgen_hooks(finalizer=on_finalize)
        await anext(speech)
        await speech.aclose()
        sys.set_asyncgen_hooks(*hooks)
        await text.aclose()
        assert leaked == []


def recorded_live(samples: np.ndarray) -> bytes:
    """WebM as a browser records it, which does not know the duration in advance."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm", options={"live": "1"}) as out:
        stream = out.add_stream("libopus", rate=48_000, layout="mono")
        stream.bit_rate = 256_000
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate = 48_000
        to_codec = av.AudioResampler(stream.format, "mono", 48_000, frame_size=stream.frame_size)
        for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return file.getvalue()


async def test_large_recording_without_a_duration_waits_in_the_queue_of_long_recordings(
    fake_appliance: RunAppliance, rng: np.random.Generator
) -> None:
    file = recorded_live(rng.normal(0, 0.1, 12 * 48_000))
    assert len(file) > SMALL_FILE_BYTES
    async with fake_appliance("limits.concurrent=1") as appliance, anyio.create_task_group() as group:
        service = appliance.transcription_service

        async def transcribe() -> None:
            async with service.transcribe_file(file, TranscriptionRequest()) as chunks:
                assert [chunk.processed async for chunk in chunks][-1] == pytest.approx(12, abs=0.1)

        async with service.long_recordings.admitted():
            group.start_soon(transcribe)
            await until(lambda: service.long_recordings.waiting == 1)
