"""Live sessions on the fake engines: loud audio is speech, and a word of the answer is a tone of 60 ms."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import numpy as np
import pytest

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.errors import Busy, NotFound
from chatapi.events import (
    Failed,
    Interrupted,
    LiveEvent,
    ResponseStarted,
    Resumed,
    Speech,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Transcript,
    TurnEnded,
)
from chatapi.services.live import LiveSession, SessionOptions
from chatapi.services.speech import synthesis
from chatapi.services.transcription.segmenter import FRAME
from chatapi.services.transcription.transcriber import TranscriptText
from conftest import TIMEOUT, RunAppliance, tone, until

pytestmark = pytest.mark.anyio
E = TypeVar("E")


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


@dataclass
class Talk:
    """The user of a live session. Time is that of the samples: the engines finish between two blocks."""

    appliance: Appliance
    session: LiveSession
    events: list[LiveEvent] = field(default_factory=list)

    async def say(self, *sounds: Samples, settle: bool = True) -> None:
        """Feeds the sounds. Without `settle` only the recogniser has the time it needs."""
        engines = self.appliance.engines
        waited_for = engines.all() if settle else [engines.asr]
        for sound in sounds:
            for start in range(0, len(sound), 1600):
                await self.session.feed(sound[start : start + 1600])
                await anyio.sleep(0.002)
                await until(lambda: not any(each.admission.used for each in waited_for))
                await anyio.sleep(0.002)

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[E], count: int = 1) -> E:
        await until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]


@asynccontextmanager
async def talking(
    fake_appliance: RunAppliance, *more: str, options: SessionOptions | None = None
) -> AsyncIterator[Talk]:
    async with fake_appliance(*more) as appliance, appliance.live.session(options) as (session, events):
        talk = Talk(appliance, session)

        async def collect() -> None:
            async for event in events:
                talk.events.append(event)

        async with anyio.create_task_group() as group:
            group.start_soon(collect)
            yield talk
            group.cancel_scope.cancel()


async def test_utterance_is_answered_with_speech_after_its_pause(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance) as talk:
        await talk.say(silence(0.5), tone(0.8), silence(0.5))
        await talk.wait_for(TurnEnded)
        order = [type(event) for event in talk.events if not (isinstance(event, Transcript) and not event.final)]
        assert order[:4] == [SpeechStarted, SpeechStopped, Transcript, ResponseStarted]
        assert talk.all(SpeechStarted)[0].at == pytest.approx(0.5, abs=0.1)
        assert talk.all(SpeechStopped)[0].at == pytest.approx(1.3, abs=0.1)
        text = "".join(delta.text for delta in talk.all(TextDelta))
        assert text == f"You said: {talk.all(ResponseStarted)[0].user_text}."
        assert sum(speech.audio.seconds for speech in talk.all(Speech)) > 0.2
        timings = talk.all(TurnEnded)[0].timings
        assert timings.endpoint is not None and timings.first_audio is not None and 0 < timings.endpoint < 2
        stored = await talk.appliance.history.call(lambda history: history.recall(talk.session.conversation_state.id))
        assert [exchange.answered for exchange in stored.exchanges] == [text]


async def test_short_pause_does_not_end_a_turn(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance, "live.min_endpointing_delay_ms=500") as talk:
        await talk.say(tone(0.6), silence(0.25), tone(0.6), silence(0.8))
        await talk.wait_for(TurnEnded)
        assert len(talk.all(SpeechStopped)) == 1
        transcripts = [event.text for event in talk.all(Transcript) if event.final]
        assert len(transcripts) == 1
        assert float(transcripts[0].split()[1]) > 1.4


async def test_short_pauses_during_a_decode_do_not_lose_words(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # While the first words are still being decoded; each pause and the speech after it are too short for a new decode.
    stammer = np.concatenate([np.concatenate([tone(0.064), silence(0.064)]) for _ in range(6)])
    async with talking(fake_appliance, "live.partial_ms=5000") as talk:
        engine = talk.appliance.engines.asr.engine
        transcribe = engine.transcribe
        monkeypatch.setattr(engine, "transcribe", lambda *rest, **more: time.sleep(1) or transcribe(*rest, **more))
        await talk.say(np.concatenate([tone(0.6), silence(0.064), stammer, silence(1.0)]))
        await talk.wait_for(TurnEnded)
        assert float(talk.all(ResponseStarted)[-1].user_text.split()[1]) > 1.25


async def speak_again_before_playback(talk: Talk) -> None:
    """Resumes speech after a pause, while the model has not answered yet."""
    model = talk.appliance.engines.llm.engine
    model.delay = 0.5  # type: ignore[attr-defined]
    await talk.say(tone(0.6), silence(0.5), settle=False)
    await talk.wait_for(ResponseStarted)
    await talk.say(tone(0.6), settle=False)
    model.delay = 0  # type: ignore[attr-defined]
    await talk.say(silence(0.4))
    await talk.wait_for(TurnEnded)


async def test_resumed_speech_before_playback_extends_the_turn(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance) as talk:
        await speak_again_before_playback(talk)
        first = talk.all(Interrupted)[0]
        assert first == Interrupted(0.0, "", retracted=True, response=talk.all(ResponseStarted)[0].response)
        user_text = talk.all(ResponseStarted)[-1].user_text
        assert float(user_text.split()[1]) > 1.5
        stored = await talk.appliance.history.call(lambda history: history.recall(talk.session.conversation_state.id))
        assert [exchange.asked for exchange in stored.exchanges] == [user_text]


async def play_long_answer(talk: Talk) -> None:
    """Starts an answer of about two seconds."""
    await talk.session.respond(" ".join(["word"] * 30))
    await talk.wait_for(TurnEnded)


async def test_barge_in_ends_the_answer_and_history_keeps_the_played_part(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance) as talk:
        await play_long_answer(talk)
        await talk.say(silence(0.5), tone(0.9), silence(0.5))
        interrupted = await talk.wait_for(Interrupted)
        assert talk.all(SpeechStarted)[0].during_answer
        assert 0.4 < interrupted.played < 1.2
        assert 2 <= len(interrupted.text.split()) <= 16
        await talk.wait_for(TurnEnded, 2)
        stored = await talk.appliance.history.call(lambda history: history.recall(talk.session.conversation_state.id))
        assert stored.exchanges[0].answered == f"{interrupted.text} —"
        assert len(stored.exchanges) == 2
        # Only the prompt has the note.
        assert stored.exchanges[1].asked.startswith("heard")
        assert stored.exchanges[1].answered.startswith("You said: (I interrupt you.) heard")
        await talk.session.respond("and now")
        await talk.wait_for(TurnEnded, 3)
        assert talk.session.conversation_state.exchanges[-1].answered == "You said: and now."


@pytest.mark.parametrize("noise", ["", "Mhm.", "You said word word."])
async def test_noise_backchannel_and_echo_resume_the_answer(
    fake_appliance: RunAppliance, noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking(fake_appliance) as talk:
        await play_long_answer(talk)

        async def words(*_: object) -> TranscriptText:
            return TranscriptText(noise, "en")

        monkeypatch.setattr(talk.appliance.transcriber, "transcribe_samples", words)
        await talk.say(silence(0.5), tone(0.4), silence(0.6))
        await talk.wait_for(Resumed)
        assert talk.all(SpeechStarted)[0].during_answer
        assert not talk.all(Interrupted)
        assert not talk.all(SpeechStopped)[0].answered
        # It paused during the speech and continues from there.
        assert talk.session.playing


async def test_stop_request_ends_the_answer_and_is_not_answered(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking(fake_appliance) as talk:
        await play_long_answer(talk)

        async def words(*_: object) -> TranscriptText:
            return TranscriptText("Stop.", "en")

        monkeypatch.setattr(talk.appliance.transcriber, "transcribe_samples", words)
        await talk.say(silence(0.3), tone(0.4), silence(0.6))
        await talk.wait_for(Interrupted)
        await talk.wait_for(SpeechStopped)
        await talk.say(silence(0.5))
        assert len(talk.all(ResponseStarted)) == 1


async def test_echo_loop_is_reported_and_disables_barge_in(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking(fake_appliance) as talk:
        transcripts = [""]

        async def words(*_: object) -> TranscriptText:
            return TranscriptText(transcripts[-1], "en")

        monkeypatch.setattr(talk.appliance.transcriber, "transcribe_samples", words)
        await talk.session.respond("word")
        for text in ("You said blue mountains.", "You said green rivers."):
            transcripts.append(text)
            await talk.say(silence(0.4), tone(0.6), silence(0.7))
        failed = await talk.wait_for(Failed)
        assert failed.error.code == "echo_loop"
        await play_long_answer(talk)
        await talk.say(silence(0.3), tone(0.6), silence(0.6))
        assert not talk.all(SpeechStarted)[-1].during_answer
        assert not talk.all(Interrupted)


async def test_click_sends_no_event(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance) as talk:
        await talk.say(silence(0.3), tone(0.05), silence(0.6))
        assert talk.events == []


async def test_commit_ends_a_push_to_talk_turn(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance, options=SessionOptions(detect=False, answer=False, speak=False)) as talk:
        assert not await talk.session.commit()
        await talk.say(tone(0.5), silence(1.0))
        assert not talk.all(SpeechStopped)
        assert await talk.session.commit()
        await until(lambda: any(event.final for event in talk.all(Transcript)))
        transcript = talk.all(Transcript)[-1]
        assert not talk.all(ResponseStarted)
        await talk.session.respond()
        await talk.wait_for(TurnEnded)
        assert talk.all(ResponseStarted)[0].user_text == transcript.text
        assert not talk.all(Speech)


async def test_speech_before_a_pause_is_decoded_once_in_push_to_talk(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance, options=SessionOptions(detect=False, answer=False, speak=False)) as talk:

        async def until_decoded(sound: Samples, seconds: float) -> None:
            """Feeds audio until a partial transcript covers this much."""
            with anyio.fail_after(TIMEOUT):
                while not any(float(event.text.split()[-2]) >= seconds for event in talk.all(Transcript)):
                    await talk.session.feed(sound)
                    await anyio.sleep(0.005)

        # Whole frames; the decode in the pause, which makes the transcript final, includes at least six silent ones.
        block, words = FRAME * 3 / RATE, FRAME * 219 / RATE
        await talk.session.feed(tone(words))
        await until_decoded(silence(block), words + 5.5 * FRAME / RATE)
        talk.events.clear()
        await talk.session.feed(tone(1))
        assert await talk.session.commit()
        await until(lambda: any(event.final for event in talk.all(Transcript)))
        parts = talk.all(Transcript)[-1].text.split("heard ")[1:]
        assert len(parts) == 2 and float(parts[1].split()[0]) < 3

        await talk.session.feed(tone(words))
        talk.events.clear()
        await until_decoded(silence(block), words + 5.5 * FRAME / RATE)
        assert await talk.session.commit()
        await until(lambda: any(event.final for event in talk.all(Transcript)))
        assert talk.all(Transcript)[-1].text.count("heard") == 1


async def test_turn_of_the_longest_length_is_answered(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance, "live.turn_seconds=2") as talk:
        await talk.say(tone(3.5))
        await talk.wait_for(SpeechStopped)


async def test_answer_whose_first_piece_has_no_speech_continues(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking(fake_appliance) as talk:
        # Only the second piece has speech.
        normalize = synthesis.normalize
        monkeypatch.setattr(
            synthesis, "normalize", lambda text, language: "" if "You said" in text else normalize(text, language)
        )
        await talk.session.respond("one two. Three four five six. Seven eight.")
        await talk.wait_for(TurnEnded)
        assert talk.session.conversation_state.exchanges[-1].answered.endswith("Seven eight..")
        assert talk.all(Speech)


async def test_model_failure_is_sent_and_spoken(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance, "fake.fault=raise") as talk:
        await talk.say(tone(0.6), silence(0.5))
        ended = await talk.wait_for(TurnEnded)
        assert ended.finish_reason == "failed"
        assert talk.all(Failed)[0].error.code == "engine_failed"
        assert "sorry" in talk.all(Speech)[-1].text


async def test_third_session_is_rejected(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance) as one:
        async with one.appliance.live.session() as (other, events):
            with pytest.raises(Busy) as rejected:
                async with one.appliance.live.session():
                    pass
            assert rejected.value.code == "too_many_sessions"
            await one.say(tone(0.5), silence(0.4))
            await other.respond("hello")
            await one.wait_for(TurnEnded)
            with anyio.fail_after(TIMEOUT):
                while not isinstance(await events.receive(), TurnEnded):
                    pass
        async with one.appliance.live.session():
            assert one.appliance.live.sessions == 2
    assert one.appliance.live.sessions == 0


async def test_new_session_continues_a_conversation(fake_appliance: RunAppliance) -> None:
    async with talking(fake_appliance) as talk:
        await talk.session.respond("hello")
        await talk.wait_for(TurnEnded)
        conversation = talk.session.conversation_state.id
        async with talk.appliance.live.session(conversation=conversation) as (again, _):
            assert [exchange.asked for exchange in again.conversation_state.exchanges] == ["hello"]
        with pytest.raises(NotFound):
            async with talk.appliance.live.session(conversation="unknown"):
                pass


async def test_context_is_trimmed_before_it_overflows_by_several_exchanges(
    fake_appliance: RunAppliance,
) -> None:
    async with talking(fake_appliance, "llama_cpp.context=256", "llm.max_tokens=32") as talk:
        remembered = []
        for turn in range(12):
            await talk.session.respond(" ".join(["word"] * 9))
            await talk.wait_for(TurnEnded, turn + 1)
            remembered.append(len(talk.session.conversation_state.exchanges))
        fewer = [now for before, now in itertools.pairwise(remembered) if now <= before]
        # The rest of the context takes three exchanges until it is full again.
        assert 2 <= len(fewer) <= 4 and max(remembered) <= 6
        history = talk.appliance.history
        stored = await history.call(lambda history: history.recall(talk.session.conversation_state.id, everything=True))
        assert len(stored.exchanges) == 12
        state = await history.call(lambda history: history.recall(talk.session.conversation_state.id))
        assert len(state.exchanges) <= max(remembered)


@pytest.mark.real
async def test_full_context_keeps_the_prompt_cache_in_most_turns(fake_appliance: RunAppliance) -> None:
    sentences = " ".join(["The rain in the hills fills the rivers."] * 6)
    options = SessionOptions(speak=False, max_tokens=8)
    read = []
    model = ("llm.engine=llama_cpp", "llm.model=smollm2-135m-instruct", "llama_cpp.context=640")
    async with talking(fake_appliance, *model, options=options) as talk:
        for turn in range(10):
            # The next question does not come at once.
            await until(lambda: talk.appliance.engines.llm.admission.used == 0)
            await talk.session.respond(f"{turn}. {sentences}")
            ended = await talk.wait_for(TurnEnded, turn + 1)
            read.append(ended.prompt_tokens - ended.cached_tokens)
    # A question has 68 tokens; a trimmed conversation needs a prefill of several hundred.
    assert max(read) < 150


async def test_closing_a_session_during_an_answer_frees_the_engines(fake_appliance: RunAppliance) -> None:
    async with fake_appliance("fake.delay=0.05") as appliance:
        async with appliance.live.session() as (session, _):
            await session.respond(" ".join(["word"] * 100))
            await until(lambda: appliance.engines.llm.admission.used == 1)
        await until(lambda: appliance.engines.llm.admission.used == 0)
        assert appliance.live.sessions == 0
