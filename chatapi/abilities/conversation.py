"""A turn of a conversation: what was asked, by text or by voice, and the answer as it is written and spoken."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.abilities.speaking import Speaking
from chatapi.abilities.transcription import Transcription
from chatapi.engines import ContextOverflow, LanguageModel, Message, Piece, Sampling, Usage, Voice
from chatapi.errors import Busy, ChatapiError, Deadline, TooLarge, Unprocessable, alone
from chatapi.events import Event, Ledger, TextDelta, Transcript, TurnEnded, TurnStarted
from chatapi.gate import Gate, Priority
from chatapi.history import History, Recalled
from chatapi.metrics import Metrics
from chatapi.sentences import Cutter
from chatapi.settings import Settings
from chatapi.workers import Worker

log = logging.getLogger(__name__)

AHEAD = 16
"""Events a turn may be ahead of its caller."""
PIECES_AHEAD = 8
"""Pieces of text that may wait to be spoken."""
KEPT = 0.7
"""Share of the context that is filled after the oldest exchanges left; the rest lets the prompt cache live a while."""


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
    system: str | None = None
    """What the model is told instead of the default, from this turn on."""
    voice: str | None = None
    language: str | None = None
    """ISO 639-1 code of the audio, or auto."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    priority: Priority = Priority.REQUEST


class Conversation:
    """The ability. `take` is its door."""

    def __init__(
        self,
        transcription: Transcription,
        speaking: Speaking,
        llm: Worker[LanguageModel],
        history: Worker[History],
        gate: Gate,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.transcription = transcription
        self.speaking = speaking
        self.llm = llm
        self.history = history
        self.gate = gate
        self.settings = settings
        self.metrics = metrics
        self._answering: set[str] = set()

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
        if turn.audio is not None or turn.language is not None:
            self.transcription.language(turn.language)
        if turn.speak:
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
    def answering(self, conversation: str) -> Iterator[None]:
        """A conversation answers one turn at a time. Raises Busy (conversation_busy)."""
        if conversation in self._answering:
            raise Busy(
                f"the conversation {conversation!r} is still answering; wait for its end", code="conversation_busy"
            )
        self._answering.add(conversation)
        try:
            yield
        finally:
            self._answering.discard(conversation)


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
        self._error: Exception | None = None

    async def events(self, receive: MemoryObjectReceiveStream[Event]) -> AsyncIterator[Event]:
        async for event in receive:
            yield event
        if self._error is not None:
            raise self._error

    async def produce(self) -> None:
        """The whole turn; what fails is kept for whoever reads the events."""
        metrics, result = self._ability.metrics, "left"
        limit = self._ability.settings.limits.turn_seconds
        async with self._send:
            try:
                with anyio.fail_after(limit):
                    await self._admitted()
                result = "ok"
                metrics.turn(self._ledger)
            except TimeoutError:
                self._error = Deadline(f"the answer took longer than the {limit:g} seconds a turn may take")
                result = self._error.code
            except Exception as error:
                self._error = one if isinstance(one := alone(error), Exception) else error
                result = self._error.code if isinstance(self._error, ChatapiError) else "internal_error"
            finally:
                heard = "text" if self._turn.audio is None else "voice"
                metrics.turns.labels(heard, "voice" if self._turn.speak else "text", result).inc()

    async def _admitted(self) -> None:
        ability, turn = self._ability, self._turn
        try:
            admission = ability.gate.admitted(turn.priority)
            async with admission:
                with ability.metrics.active.track_inprogress():
                    self._mark("admitted")
                    conversation = self._turn.conversation or History.new_id()
                    with ability.answering(conversation):
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
        recalled = await self._ability.history.call(lambda history: history.recall(conversation), turn.priority)
        return recalled if turn.system is None else replace(recalled, system=turn.system)

    async def _converse(self, recalled: Recalled) -> None:
        asked = self._turn.prompt if self._turn.audio is None else await self._heard(self._turn.audio)
        assert asked is not None  # noqa: S101 - one of both is there, `take` has checked
        reply, last, recalled = await self._answered(recalled, asked.strip())
        await self._ability.history.call(lambda history: history.add(recalled, asked, reply), self._turn.priority)
        self._mark("end")
        usage = last.usage or Usage()
        self._count(usage)
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

    async def _answered(self, recalled: Recalled, asked: str) -> tuple[str, Piece, Recalled]:
        """Think and speak at once. The reply, its last piece, and what of the conversation was remembered."""
        if not self._turn.speak:
            return await self._thought(recalled, asked, None)
        voice = self._ability.speaking.voice(self._turn.voice, self._language)
        send, receive = anyio.create_memory_object_stream[str](PIECES_AHEAD)
        async with anyio.create_task_group() as group:
            group.start_soon(self._spoken, receive, voice)
            async with send:
                return await self._thought(recalled, asked, send)
        raise AssertionError("a task group does not swallow errors")

    async def _thought(
        self, recalled: Recalled, asked: str, pieces: MemoryObjectSendStream[str] | None
    ) -> tuple[str, Piece, Recalled]:
        cutter, reply, last = Cutter(), "", Piece("")
        while True:
            try:
                async with aclosing(self._written(recalled, asked)) as written:
                    async for last in written:
                        text = last.text if reply else last.text.lstrip()
                        if text:
                            reply += text
                            self._mark("first_token")
                            await self._send.send(TextDelta(text))
                            await self._hand_over(cutter.feed(text), pieces)
                break
            except ContextOverflow as overflow:
                recalled = _shortened(recalled, asked, overflow)
        if not reply.strip():
            reply = self._ability.settings.llm.no_answer
            await self._send.send(TextDelta(reply))
            await self._hand_over(cutter.feed(reply), pieces)
        await self._hand_over(cutter.finish(), pieces)
        return reply.rstrip(), last, recalled

    async def _written(self, recalled: Recalled, asked: str) -> AsyncGenerator[Piece, None]:
        """The model's answer as it comes. Raises ContextOverflow before its first piece."""
        llm, turn = self._ability.settings.llm, self._turn
        messages = _messages(recalled, asked, llm.system)
        sampling = Sampling(
            max_tokens=llm.max_tokens if turn.max_tokens is None else turn.max_tokens,
            temperature=llm.temperature if turn.temperature is None else turn.temperature,
            seed=turn.seed,
        )
        async with self._ability.llm.stream(
            lambda engine, stop: engine.generate(messages, sampling, stop), turn.priority
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def _hand_over(self, cut: list[str], pieces: MemoryObjectSendStream[str] | None) -> None:
        for piece in cut:
            self._mark("first_sentence")
            if pieces is not None:
                await pieces.send(piece)

    async def _spoken(self, receive: MemoryObjectReceiveStream[str], voice: Voice) -> None:
        seconds = 0.0
        async with receive, aclosing(self._ability.speaking.pieces(receive, voice, self._turn.priority)) as speech:
            async for part in speech:
                self._mark("first_audio")
                seconds += part.audio.seconds
                await self._send.send(part)
        self._ledger = replace(self._ledger, spoken=seconds)

    def _mark(self, stage: str) -> None:
        """Note when a stage was first reached."""
        if getattr(self._ledger, stage) is None:
            self._ledger = replace(self._ledger, **{stage: time.monotonic() - self._begun})

    def _count(self, usage: Usage) -> None:
        metrics, ledger = self._ability.metrics, self._ledger
        for kind in ("prompt", "completion", "cached"):
            metrics.tokens.labels(kind).inc(getattr(usage, f"{kind}_tokens"))
        if ledger.end and ledger.first_token and usage.completion_tokens > 1 and not self._turn.speak:
            metrics.tokens_per_second.observe(
                (usage.completion_tokens - 1) / max(ledger.end - ledger.first_token, 1e-6)
            )


def _messages(recalled: Recalled, asked: str, system: str) -> list[Message]:
    messages = [Message("system", recalled.system if recalled.system is not None else system)]
    for exchange in recalled.exchanges:
        messages += [Message("user", exchange.asked), Message("assistant", exchange.answered)]
    return [*messages, Message("user", asked)]


def _shortened(recalled: Recalled, asked: str, overflow: ContextOverflow) -> Recalled:
    """Without its oldest exchanges, so that it fits with room to spare. Raises TooLarge when it has none."""
    if not recalled.exchanges:
        raise TooLarge(
            f"the prompt needs {overflow.needed} tokens with the room for its answer; {overflow.context} fit the model",
            code="prompt_too_long",
            details={"needed_tokens": overflow.needed, "context_tokens": overflow.context},
        )
    lengths = [len(exchange.asked) + len(exchange.answered) for exchange in recalled.exchanges]
    tokens_per_char = overflow.needed / (sum(lengths) + len(asked) + len(recalled.system or "") + 1)
    excess = (overflow.needed - KEPT * overflow.context) / tokens_per_char
    left_out = 1
    while left_out < len(lengths) and sum(lengths[:left_out]) < excess:
        left_out += 1
    return replace(recalled, exchanges=recalled.exchanges[left_out:])
