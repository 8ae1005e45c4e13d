"""A turn of a conversation: what was asked, by text or by voice, and the answer as it is written and spoken."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.abilities.answering import Answering, Manner
from chatapi.abilities.speaking import Speaking
from chatapi.abilities.transcription import Transcription
from chatapi.engines import Usage
from chatapi.errors import Busy, ChatapiError, Deadline, TooLarge, Unknown, Unprocessable, alone
from chatapi.events import Event, Ledger, Transcript, TurnEnded, TurnOver, TurnStarted
from chatapi.gate import Gate, Priority
from chatapi.history import History, Recalled
from chatapi.metrics import Metrics
from chatapi.settings import Settings
from chatapi.workers import Worker

log = logging.getLogger(__name__)

AHEAD = 16
"""Events a turn may be ahead of its caller."""
HOTTEST = 2
"""The highest temperature; beyond it words come at random."""
LAST_SEED = 2**32 - 2
"""llama.cpp keeps seeds in 32 bits, and the one after this means a random one."""


@dataclass(frozen=True)
class Turn:
    """What a caller asks; either `prompt` or `audio`."""

    prompt: str | None = None
    audio: bytes | None = None
    """A file, as it arrived."""
    speak: bool = False
    """Whether the answer is spoken too."""
    conversation: str | None = None
    """The conversation it goes on with; None begins one."""
    begins: bool = False
    """Whether a conversation that is not kept begins under that id: its ids are the caller's own."""
    system: str | None = None
    """What the model is told instead of the default, from this turn on."""
    voice: str | None = None
    language: str | None = None
    """ISO 639-1 code of the audio, or auto."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    priority: Priority = Priority.REQUEST
    traceparent: str = ""
    """The caller's trace, as W3C Trace Context writes it."""


class Conversation:
    """The ability. `take` is its door."""

    def __init__(
        self,
        transcription: Transcription,
        speaking: Speaking,
        answering: Answering,
        history: Worker[History],
        gate: Gate,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.transcription = transcription
        self.speaking = speaking
        self.answering = answering
        self.history = history
        self.gate = gate
        self.settings = settings
        self.metrics = metrics
        self._busy: set[str] = set()

    @asynccontextmanager
    async def take(self, turn: Turn) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a turn; leaving the block stops all its work.

        Raises what is wrong with the turn on entering; what fails later is raised by the events.
        """
        self._check(turn)
        send, receive = anyio.create_memory_object_stream[Event](AHEAD)
        run = _Run(self, turn, send)
        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(run.produce)
                try:
                    yield run.events(receive)
                finally:
                    group.cancel_scope.cancel()
        except Exception as error:
            if (one := alone(error)) is not error:
                raise one from None
            raise

    def _check(self, turn: Turn) -> None:
        """What can be told before any work. Raises CallerError or NotReady."""
        if (turn.prompt is None) == (turn.audio is None):
            what = "both a prompt and audio" if turn.audio is not None else "neither a prompt nor audio"
            raise Unprocessable(f"the request has {what}; it takes one of them", code="one_of_prompt_and_audio")
        if turn.prompt is not None:
            self._check_prompt(turn.prompt)
        for name, text in (("prompt", turn.prompt), ("system", turn.system), ("conversation", turn.conversation)):
            if text is not None and not _encodable(text):
                raise Unprocessable(f"{name} holds NUL or lone surrogates, which are not text")
        _check_manner(turn)
        if turn.audio is not None or turn.language is not None:
            self.transcription.language(turn.language)
        if turn.speak or turn.voice is not None:
            self.speaking.voice(turn.voice)

    def _check_prompt(self, prompt: str) -> None:
        most = self.settings.limits.prompt_chars
        if not prompt.strip():
            raise Unprocessable("the prompt is empty; say something", code="empty_prompt")
        if len(prompt) > most:
            raise TooLarge(
                f"the prompt has {len(prompt)} characters; at most {most} are taken",
                code="prompt_too_long",
                details={"limit_chars": most},
            )

    @contextmanager
    def answering_alone(self, conversation: str) -> Iterator[None]:
        """A conversation answers one turn at a time. Raises Busy (conversation_busy)."""
        if conversation in self._busy:
            raise Busy(
                f"the conversation {conversation!r} is still answering; wait for its end", code="conversation_busy"
            )
        self._busy.add(conversation)
        try:
            yield
        finally:
            self._busy.discard(conversation)


def _check_manner(turn: Turn) -> None:
    if turn.max_tokens is not None and turn.max_tokens < 1:
        raise Unprocessable(f"max_tokens is {turn.max_tokens}; it must be at least 1")
    if turn.temperature is not None and not 0 <= turn.temperature <= HOTTEST:
        raise Unprocessable(f"temperature is {turn.temperature:g}; it must be from 0 to {HOTTEST}")
    if turn.seed is not None and not 0 <= turn.seed <= LAST_SEED:
        raise Unprocessable(f"seed is {turn.seed}; it must be from 0 to {LAST_SEED}")


def _encodable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


class _Run:
    """One turn at work: three tasks, thinking, speaking and telling, joined by bounded streams."""

    def __init__(self, ability: Conversation, turn: Turn, send: MemoryObjectSendStream[Event]) -> None:
        self._ability = ability
        self._turn = turn
        self._send = send
        self._begun = time.monotonic()
        self._ledger = Ledger()
        self._language = ""
        self._usage = Usage()
        self._error: Exception | None = None

    async def events(self, receive: MemoryObjectReceiveStream[Event]) -> AsyncIterator[Event]:
        async for event in receive:
            yield event
        if self._error is not None:
            raise self._error

    async def produce(self) -> None:
        """The whole turn; what fails is kept for whoever reads the events."""
        result = "left"
        limit = self._ability.settings.limits.turn_seconds
        async with self._send:
            try:
                with anyio.fail_after(limit):
                    await self._admitted()
                result = "ok"
            except TimeoutError:
                self._error = Deadline(f"the answer took longer than the {limit:g} seconds a turn may take")
                result = self._error.code
            except Exception as error:
                self._error = one if isinstance(one := alone(error), Exception) else error
                result = self._error.code if isinstance(self._error, ChatapiError) else "internal_error"
            finally:
                self._ability.metrics.turn(self._over(result))

    async def _admitted(self) -> None:
        ability, turn = self._ability, self._turn
        try:
            admission = ability.gate.admitted(turn.priority)
            async with admission:
                with ability.metrics.active.track_inprogress():
                    self._mark("admitted")
                    ability.answering.rouse(self._turn.speak)
                    conversation = self._turn.conversation or History.new_id()
                    with ability.answering_alone(conversation):
                        recalled = await self._recalled(conversation)
                        await self._send.send(TurnStarted(conversation))
                        await self._converse(recalled)
        except Busy:
            ability.metrics.refused.inc()
            raise

    async def _recalled(self, conversation: str) -> Recalled:
        turn = self._turn
        if turn.conversation is None:
            return Recalled(conversation, turn.system, ())
        try:
            recalled = await self._ability.history.call(lambda history: history.recall(conversation), turn.priority)
        except Unknown:
            if not turn.begins:
                raise
            return Recalled(conversation, turn.system, ())
        return recalled if turn.system is None else replace(recalled, system=turn.system)

    async def _converse(self, recalled: Recalled) -> None:
        asked = self._turn.prompt if self._turn.audio is None else await self._heard(self._turn.audio)
        assert asked is not None  # noqa: S101 - one of both is there, `take` has checked
        ability = self._ability
        voice = ability.speaking.voice(self._turn.voice, self._language) if self._turn.speak else None
        manner = Manner(voice, self._turn.max_tokens, self._turn.temperature, self._turn.seed, self._turn.priority)
        answered = await ability.answering.answer(recalled, asked.strip(), manner, self._send.send, self._mark)
        recalled, last = answered.recalled, answered.last
        self._ledger = replace(self._ledger, spoken=answered.spoken)
        await ability.history.call(lambda history: history.add(recalled, asked, answered.reply), self._turn.priority)
        self._mark("end")
        self._usage = usage = last.usage or Usage()
        await self._send.send(
            TurnEnded(
                recalled.id,
                last.finish_reason or "stop",
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cached_tokens,
                self._ledger,
            )
        )

    async def _heard(self, file: bytes) -> str:
        hearing = self._ability.transcription
        audio = await hearing.decoded(file)
        heard = await hearing.hear(audio, self._turn.language, self._turn.priority)
        self._language = heard.language
        self._ledger = replace(self._ledger, audio=audio.seconds, speech_end=heard.end)
        self._mark("transcript")
        await self._send.send(Transcript(heard.text, True, heard.start, heard.end, heard.language))
        return heard.text

    def _mark(self, stage: str) -> None:
        """Note when a stage was first reached."""
        if getattr(self._ledger, stage) is None:
            self._ledger = replace(self._ledger, **{stage: time.monotonic() - self._begun})

    def _over(self, result: str) -> TurnOver:
        turn, usage = self._turn, self._usage
        return TurnOver(
            kind="request",
            heard="text" if turn.audio is None else "voice",
            reply="voice" if turn.speak else "text",
            result=result,
            since=self._begun,
            ledger=self._ledger,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            traceparent=turn.traceparent,
        )
