"""Speech written down and texts read aloud: what they take of the gate, how long they may, and how they are counted."""

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
from chatapi.errors import Busy, DeadlineExceeded, TooLarge, Unprocessable
from chatapi.services.files import SMALL
from chatapi.services.transcription.transcriber import TranscriptionRequest
from chatapi.services.turns.completion import Turn
from conftest import Running, tone, until
from wyoming_peer import ask, audio_events, open_to_wyoming
from wyoming_peer import until as come

pytestmark = pytest.mark.anyio
CLIP = np.concatenate([np.zeros(RATE, np.float32), tone(1.0), np.zeros(RATE, np.float32)])


def counted(appliance: Appliance) -> dict[str, float]:
    """What has become of the turns so far: how many, by kind, heard, reply and result."""
    (family,) = appliance.metrics.turns.collect()
    names = ("kind", "input", "reply", "result")
    return {
        " ".join(each.labels[name] for name in names): each.value
        for each in family.samples
        if each.name.endswith("_total")
    }


def refused(appliance: Appliance) -> float:
    (family,) = appliance.metrics.refused.collect()
    return next(each.value for each in family.samples if each.name.endswith("_total"))


async def blocks(*given: Samples) -> AsyncIterator[Samples]:
    for each in given:
        yield each


async def test_what_comes_over_wyoming_has_a_slot_and_is_counted(echo: Running) -> None:
    async with echo() as appliance, open_to_wyoming(appliance) as (_, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Transcribe().event())
            await client.write_event(AudioStart(RATE, 2, 1).event())
            await until(lambda: appliance.admission.used == 1)
            await client.write_event(AudioStop().event())
            await come(client, "transcript-stop")
        assert (await ask(port, Synthesize("Hello."), end=["audio-stop"]))[-1].type == "audio-stop"
        await until(lambda: appliance.admission.used == 0)
        assert counted(appliance) == {"file voice text ok": 1, "file text voice ok": 1}


async def test_who_asks_for_something_else_in_the_middle_of_a_sound_has_left_it(echo: Running) -> None:
    async with echo() as appliance, open_to_wyoming(appliance) as (_, port):
        start = AudioStart(RATE, 2, 1)
        came = await ask(port, Transcribe(), start, Transcribe(), *audio_events(CLIP), end=["transcript-stop"])
        assert [each.type for each in came].count("transcript") == 1
        await until(lambda: appliance.admission.used == 0)
        assert counted(appliance) == {"file voice text left": 1, "file voice text ok": 1}


async def test_a_full_box_refuses_what_comes_over_wyoming(echo: Running) -> None:
    async with echo("limits.concurrent=1", "limits.queue=0") as appliance, open_to_wyoming(appliance) as (_, port):
        async with appliance.admission.admitted():
            for asked in ([Transcribe(), *audio_events(CLIP)], [Synthesize("Hello.")]):
                (error,) = await ask(port, *asked, end=["transcript", "audio-stop"])
                assert (error.type, error.data["code"]) == ("error", "busy")
        assert refused(appliance) == 2


async def test_only_the_queue_refuses(echo: Running) -> None:
    async with echo() as appliance:
        with appliance.conversation.answering_alone("mine"), pytest.raises(Busy):
            async with appliance.conversation.take(Turn(prompt="hello", conversation="mine")) as events:
                [event async for event in events]
        assert refused(appliance) == 0
        assert counted(appliance) == {"request text text conversation_busy": 1}


async def test_a_speaker_who_never_ends_is_ended(echo: Running) -> None:
    async def silent() -> AsyncGenerator[Samples, None]:
        yield CLIP[:1000]
        await anyio.sleep_forever()

    async with echo("limits.turn_seconds=0.1", "limits.audio_seconds=2") as appliance:
        with pytest.raises(DeadlineExceeded):
            async with appliance.files.dictated(silent()) as found:
                [each async for each in found]
        with pytest.raises(TooLarge):
            async with appliance.files.dictated(blocks(CLIP)) as found:
                [each async for each in found]
        await until(lambda: appliance.admission.used == 0)


async def test_a_text_without_words_is_counted_as_what_it_is(echo: Running) -> None:
    async def nothing() -> AsyncIterator[str]:
        yield " ... "

    async with echo() as appliance:
        with pytest.raises(Unprocessable, match="nothing to say"):
            async with appliance.files.followed(nothing(), appliance.synthesis.voice(None)) as found:
                [each async for each in found]
        assert counted(appliance) == {"file text voice empty_text": 1}


async def test_a_text_that_is_no_longer_wanted_lets_go_of_the_voice_at_once(echo: Running) -> None:
    async def endless() -> AsyncGenerator[str, None]:
        while True:
            yield "A sentence. "
            await anyio.lowlevel.checkpoint()

    left, hooks, text = [], sys.get_asyncgen_hooks(), endless()

    def thrown_away(generator: AsyncGenerator[object, None]) -> None:
        left.append(generator.__name__)
        hooks.finalizer(generator)

    async with echo() as appliance:
        said = appliance.synthesis.follow(text, appliance.synthesis.voice(None))
        sys.set_asyncgen_hooks(finalizer=thrown_away)
        await anext(said)
        await said.aclose()
        sys.set_asyncgen_hooks(*hooks)
        await text.aclose()
        assert left == []


def streamed(samples: np.ndarray) -> bytes:
    """As a browser records it, which does not know yet how long it will be."""
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


async def test_a_large_recording_that_states_no_length_waits_with_the_long_ones(
    echo: Running, rng: np.random.Generator
) -> None:
    file = streamed(rng.normal(0, 0.1, 12 * 48_000))
    assert len(file) > SMALL
    async with echo("limits.concurrent=1") as appliance, anyio.create_task_group() as group:

        async def heard() -> None:
            async with appliance.files.heard(file, TranscriptionRequest()) as transcribed_parts:
                assert [transcribed_part.done async for transcribed_part in transcribed_parts][-1] == pytest.approx(
                    12, abs=0.1
                )

        async with appliance.files.long.admitted():
            group.start_soon(heard)
            await until(lambda: appliance.files.long.waiting == 1)
