"""Every utterance with words is answered, resumes the paused answer, or gives an error.

On the fake engines, with given transcripts. Time is that of the samples: engines have all the time they need between
two blocks, unless a test says otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import numpy as np
import pytest

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.errors import EngineFailed
from chatapi.events import (
    Failed,
    Interrupted,
    LiveEvent,
    ResponseStarted,
    Resumed,
    Speech,
    SpeechStarted,
    SpeechStopped,
    TurnEnded,
)
from chatapi.services.live import LiveSession, SessionOptions
from chatapi.services.live.barge_in import ENDING
from chatapi.services.transcription.transcriber import TranscriptText
from conftest import TIMEOUT, RunAppliance, until

pytestmark = pytest.mark.anyio
E = TypeVar("E")
BLOCK = RATE // 10


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


def voice(seconds: float) -> Samples:
    """The user's speech, a noise; the server's speech is a tone."""
    return np.random.default_rng(7).normal(0, 0.2, int(seconds * RATE)).astype(np.float32)


@dataclass
class Talk:
    """The user of a live session; `words` is the transcript of every utterance."""

    appliance: Appliance
    session: LiveSession
    events: list[LiveEvent] = field(default_factory=list)
    words: str | Exception = ""

    async def feed(self, *sounds: Samples, settle: bool = True) -> None:
        for start in range(0, len(sound := np.concatenate(sounds)), BLOCK):
            await self.session.feed(sound[start : start + BLOCK])
            await anyio.sleep(0.002)
            if settle:
                await until(lambda: not any(each.admission.used for each in self.appliance.engines.all()))
                await anyio.sleep(0.002)

    async def say(self, words: str | Exception, seconds: float = 0.8, pause: float = 2.0) -> None:
        self.words = words
        await self.feed(voice(seconds), silence(pause))

    async def answer(self, words: int = 30) -> None:
        """Starts an answer of 60 ms per word, with two more words."""
        await self.session.respond(" ".join(["word"] * words))
        await until(lambda: len(self.all(TurnEnded)) > 0)

    async def until_left(self, seconds: float) -> None:
        """Feeds silence until only this much of the answer is left to play."""
        answer = self.session.answer
        assert answer is not None
        left = answer.playback.seconds - answer.playback.played(self.session.seconds)
        await self.feed(silence(left - seconds))

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def user_texts(self) -> list[str]:
        return [event.user_text for event in self.all(ResponseStarted)]

    def slow_down(self, delay: float) -> None:
        """Makes the model take so long for a word, in seconds."""
        self.appliance.engines.llm.engine.delay = delay  # type: ignore[attr-defined]

    async def ended(self, count: int) -> None:
        await until(lambda: len(self.all(TurnEnded)) >= count)


@pytest.fixture
def talking(fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    @asynccontextmanager
    async def run(*more: str, options: SessionOptions | None = None) -> AsyncIterator[Talk]:
        async with fake_appliance(*more) as appliance, appliance.live.session(options) as (session, events):
            talk = Talk(appliance, session)

            async def words(*_: object) -> TranscriptText:
                if isinstance(talk.words, Exception):
                    raise talk.words
                return TranscriptText(talk.words, "en")

            async def collect() -> None:
                async for event in events:
                    talk.events.append(event)

            monkeypatch.setattr(appliance.transcriber, "transcribe_samples", words)
            async with anyio.create_task_group() as group:
                group.start_soon(collect)
                yield talk
                group.cancel_scope.cancel()

    return run


@pytest.mark.parametrize("words", ["You said word word?", "Germany?", "Yes.", "And why is that?"])
async def test_speech_in_the_last_second_of_an_answer_is_a_turn(talking: Callable[..., object], words: str) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        await talk.until_left(0.6)
        await talk.say(words)
        await talk.ended(2)
        assert talk.all(SpeechStarted)[0].during_answer
        assert talk.user_texts[1:] == [words]


async def test_words_of_the_answer_after_its_end_are_a_turn(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        await talk.until_left(-0.3)
        await talk.say("You said word word?")
        await talk.ended(2)
        assert talk.user_texts[1:] == ["You said word word?"]


@pytest.mark.parametrize("left", [0.8, 0.0])
async def test_echo_of_the_last_second_is_no_turn(talking: Callable[..., object], left: float) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        await talk.until_left(left)
        played = np.concatenate([event.audio.at(RATE).samples for event in talk.all(Speech)])
        talk.words = "word word word"
        await talk.feed(0.3 * played[-RATE:], silence(1.5))
        await until(lambda: len(talk.all(SpeechStopped)) > 0)
        assert [event.answered for event in talk.all(SpeechStopped)] == [False]
        assert len(talk.user_texts) == 1


async def test_filler_in_the_last_second_resumes_the_answer(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        await talk.until_left(0.6)
        await talk.say("Mhm.")
        assert len(talk.all(Resumed)) == 1 and len(talk.user_texts) == 1


async def test_single_word_in_the_middle_of_an_answer_resumes_it(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        await talk.until_left(ENDING + 0.3)
        await talk.say("Germany?", pause=0.5)
        assert len(talk.all(Resumed)) == 1 and len(talk.user_texts) == 1 and talk.session.playing


async def test_turn_committed_during_an_answer_is_classified_by_its_words(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer(60)
        await talk.until_left(2.5)
        await talk.feed(voice(0.25))
        talk.words = "Why?"
        assert talk.session.during_answer and await talk.session.commit()
        await talk.ended(2)
        assert talk.user_texts[1:] == ["Why?"]


async def test_client_that_stops_reporting_playback_is_answered(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        talk.session.report_playback(0.5)
        await talk.feed(silence(6))
        assert not talk.session.playing
        await talk.say("Germany?")
        await talk.ended(2)
        assert talk.user_texts[1:] == ["Germany?"]


async def test_turn_of_the_longest_length_does_not_end_the_conversation(talking: Callable[..., object]) -> None:
    async with talking("live.turn_seconds=2", "fake.delay=0.02") as talk:  # type: ignore[attr-defined]
        talk.words = "the whole utterance"
        # Its answer is generated and not played yet when the speech continues.
        await talk.feed(voice(4.5), silence(2), settle=False)
        await talk.ended(1)
        await talk.feed(silence(2))
        count = len(talk.user_texts)
        await talk.say("And why is that?")
        await until(lambda: len(talk.user_texts) > count)
        assert talk.user_texts[-1].endswith("And why is that?")


async def ask_slow_model(talk: Talk) -> None:
    """Asks a question whose answer takes longer than speech may extend the turn."""
    talk.slow_down(0.5)
    talk.words = "one two three four five six seven eight"
    await talk.feed(voice(0.8), settle=False)
    with anyio.fail_after(TIMEOUT):
        while not talk.user_texts:
            await talk.feed(silence(0.1), settle=False)
            await anyio.sleep(0.05)
    # The samples arrive faster than the model generates.
    await talk.feed(silence(4.5), settle=False)
    assert not talk.all(Speech)


async def test_noise_before_playback_keeps_the_answer(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await ask_slow_model(talk)
        for words in ("", "Mhm."):
            talk.words = words
            await talk.feed(voice(0.4), silence(0.5), settle=False)
            await until(lambda: not talk.appliance.engines.asr.admission.used)
            await talk.feed(silence(1.5), settle=False)
        talk.slow_down(0)
        await talk.ended(1)
        assert not talk.all(Interrupted) and len(talk.user_texts) == 1


async def test_question_before_playback_is_answered_with_the_first(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await ask_slow_model(talk)
        talk.words = "And why is that?"
        await talk.feed(voice(0.8), silence(1.5), settle=False)
        await until(lambda: len(talk.user_texts) == 2)
        talk.slow_down(0)
        await talk.ended(1)
        assert talk.user_texts[1:] == [f"{talk.user_texts[0]} And why is that?"]
        assert [exchange.asked for exchange in talk.session.conversation_state.exchanges] == talk.user_texts[1:]


async def test_answer_cancelled_at_the_onset_of_a_noise_is_given_after_it(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await ask_slow_model(talk)
        talk.words = ""
        await talk.feed(voice(0.4), settle=False)
        # As a connection does for a client that discards the buffered audio of the answer.
        assert await talk.session.cancel(talk.session.answer, "interrupted")
        await talk.feed(silence(1.5), settle=False)
        talk.slow_down(0)
        await talk.ended(1)
        assert talk.user_texts[1:] == talk.user_texts[:1]


async def test_turn_that_ends_during_a_slow_history_write_is_answered(
    talking: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SessionOptions(semantic=False, silence_ms=200)
    async with talking(options=options) as talk:  # type: ignore[attr-defined]
        await talk.answer(60)
        amend, may_continue = talk.session.context.amend, anyio.Event()

        async def slow(number: int, answered: str, asked: str | None = None) -> None:
            await may_continue.wait()
            await amend(number, answered, asked)

        monkeypatch.setattr(talk.session.context, "amend", slow)
        await talk.until_left(2.5)
        talk.words = "Why?"
        await talk.feed(voice(0.25), silence(1), settle=False)
        await until(lambda: len(talk.user_texts) == 2)
        may_continue.set()
        await talk.ended(2)
        await talk.feed(silence(1))
        assert len(talk.all(Interrupted)) == 1
        answer = talk.session.answer
        assert answer is not None and answer.released and answer.asked == "Why?"


async def test_asr_failure_is_sent_and_spoken(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.say(EngineFailed("the asr engine failed: as configured"))
        await talk.ended(1)
        assert [(event.error.code, event.during_transcription) for event in talk.all(Failed)] == [
            ("engine_failed", True)
        ]
        assert "sorry" in talk.all(Speech)[-1].text and talk.all(TurnEnded)[0].finish_reason == "failed"


async def test_asr_failure_during_an_answer_resumes_it(
    talking: Callable[..., object],
) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        await talk.until_left(ENDING + 0.5)
        await talk.say(EngineFailed("the asr engine failed: as configured"), pause=0.5)
        assert len(talk.all(Resumed)) == len(talk.all(Failed)) == len(talk.user_texts) == 1


async def test_question_after_a_text_answer_is_a_turn_of_its_own(talking: Callable[..., object]) -> None:
    async with talking(options=SessionOptions(speak=False)) as talk:  # type: ignore[attr-defined]
        for count, words in enumerate(("What is that?", "And why is that?"), 1):
            await talk.say(words, pause=1.5)
            await talk.ended(count)
        assert talk.user_texts == ["What is that?", "And why is that?"]
        assert not talk.all(Interrupted)


async def test_late_cancellation_of_one_answer_keeps_the_next(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        before = talk.session.answer
        await talk.until_left(-0.5)
        await talk.say("And why is that?", pause=0.5)
        await talk.ended(2)
        assert not await talk.session.cancel(before)
        assert await talk.session.cancel(talk.session.answer)


async def test_words_of_the_answer_are_a_turn_in_push_to_talk(talking: Callable[..., object]) -> None:
    async with talking(options=SessionOptions(detect=False)) as talk:  # type: ignore[attr-defined]
        await talk.answer()
        played = np.concatenate([event.audio.at(RATE).samples for event in talk.all(Speech)])
        await talk.until_left(0.0)
        talk.words = "word word word"
        await talk.feed(played[-RATE:])
        assert await talk.session.commit()
        await talk.ended(2)
        assert talk.user_texts[1:] == ["word word word"]


async def test_paused_answer_resumes_when_turn_detection_is_turned_off(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        await talk.until_left(1.5)
        await talk.feed(voice(0.25))
        assert talk.session.during_answer
        talk.session.change(SessionOptions(detect=False))
        await until(lambda: len(talk.all(Resumed)) == 1)
        await talk.feed(silence(2))
        assert not talk.session.playing


@pytest.mark.parametrize(
    ("left", "words", "reason"),
    [
        (-0.5, "", "no_words"),
        (3.0, "", "no_words"),
        (3.0, "Mhm.", "backchannel"),
        (3.0, "a b c d e f g h i j", "noise"),
    ],
)
async def test_dismissal_reason_is_counted_and_logged_without_the_transcript(
    talking: Callable[..., object], caplog: pytest.LogCaptureFixture, left: float, words: str, reason: str
) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer(60)
        await talk.until_left(left)
        with caplog.at_level("INFO", "chatapi.services.live"):
            await talk.say(words, seconds=0.4)
        assert [event.answered for event in talk.all(SpeechStopped)] == [False] and len(talk.user_texts) == 1
        assert dismissed(talk) == {reason: 1}
        (entry,) = (each for each in caplog.records if each.getMessage() == "utterance not answered")
        assert vars(entry)["reason"] == reason
        assert not words or words not in str(vars(entry))


async def test_dismissed_echo_is_counted(talking: Callable[..., object]) -> None:
    async with talking() as talk:  # type: ignore[attr-defined]
        await talk.answer()
        played = np.concatenate([event.audio.at(RATE).samples for event in talk.all(Speech)])
        await talk.until_left(0.0)
        talk.words = "word word word"
        await talk.feed(0.3 * played[-RATE:], silence(1.5))
        await until(lambda: len(talk.all(SpeechStopped)) > 0)
        assert dismissed(talk) == {"echo": 1}


def dismissed(talk: Talk) -> dict[str, float]:
    """Returns the number of dismissed utterances by reason."""
    samples = (each for metric in talk.appliance.metrics.dismissed.collect() for each in metric.samples)
    return {each.labels["reason"]: each.value for each in samples if each.value and each.name.endswith("_total")}
