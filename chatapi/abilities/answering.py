"""Answering: from what was asked to words and speech, thinking and speaking at once."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.abilities.speaking import Speaking
from chatapi.engines import ContextOverflow, LanguageModel, Message, Piece, Sampling, Voice
from chatapi.errors import ChatapiError, TooLarge
from chatapi.events import Event, TextDelta
from chatapi.gate import Priority
from chatapi.history import Recalled
from chatapi.sentences import Cutter
from chatapi.settings import Llm
from chatapi.workers import Preempted, Worker, Yields

PIECES_AHEAD = 8
"""Pieces of text that may wait to be spoken."""
RESTING = 1.0
"""Seconds the model waits for its first piece to be spoken; some pieces turn out to have nothing to say."""
KEPT = 0.7
"""Share of the context that is filled after the oldest exchanges left; the rest lets the prompt cache live a while."""

MARKS = re.compile(r"[\s.?!,;:…。、！？，-]+$")
"""What whoever wrote down speech put at its end."""

Send = Callable[[Event], Awaitable[None]]
Mark = Callable[[str], None]
"""Told the name of a stage of the ledger each time something of it happens."""


@dataclass(frozen=True)
class Manner:
    """How an answer is to be given."""

    voice: Voice | None = None
    """None: not spoken."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    priority: Priority = Priority.REQUEST
    go: anyio.Event | None = None
    """Where somebody waits in a conversation: the first piece is shorter, and spoken with all that the machine has; the
    model writes on once it is spoken and this has come. Until then the answer may yet be taken back."""


@dataclass(frozen=True)
class Answered:
    """An answer that was given."""

    reply: str
    last: Piece
    """The model's last piece, with its reason and usage."""
    recalled: Recalled
    """What of the conversation the model was given."""
    spoken: float | None
    """Seconds of speech; None: it was not to be spoken."""


class Answering:
    """The box's mind and mouth together."""

    def __init__(self, llm: Worker[LanguageModel], speaking: Speaking, settings: Llm) -> None:
        self._llm = llm
        self._speaking = speaking
        self._settings = settings

    async def answer(self, recalled: Recalled, asked: str, manner: Manner, send: Send, mark: Mark) -> Answered:
        """Send a TextDelta for every piece written and a Speech for every piece spoken, in order of each kind.

        Raises TooLarge (prompt_too_long) when what is asked does not fit the model even alone.
        """
        run = _Run(self, manner, send, mark)
        if manner.voice is None:
            return await run.thought(recalled, asked, None)
        giving, taking = anyio.create_memory_object_stream[str](PIECES_AHEAD)
        async with anyio.create_task_group() as group:
            group.start_soon(run.spoken, taking, manner.voice)
            async with giving:
                answered = await run.thought(recalled, asked, giving)
        return replace(answered, spoken=run.seconds)

    async def written(
        self, recalled: Recalled, asked: str, manner: Manner, so_far: str = "", tokens: int = 0
    ) -> AsyncGenerator[Piece, None]:
        """The model's answer as it comes, or what comes after `so_far`, which has so many tokens.

        Raises ContextOverflow before its first piece, Preempted when it makes room for somebody more urgent.
        """
        settings = self._settings
        messages = _messages(recalled, asked, settings.system)
        if so_far:
            messages.append(Message("assistant", so_far))
        most = settings.max_tokens if manner.max_tokens is None else manner.max_tokens
        sampling = Sampling(
            max_tokens=max(1, most - tokens),
            temperature=settings.temperature if manner.temperature is None else manner.temperature,
            seed=manner.seed,
        )
        async with self._llm.stream(
            lambda engine, stop: engine.generate(messages, sampling, stop),
            manner.priority,
            Yields.RAISES if self.continues else Yields.NEVER,
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def whole(self, recalled: Recalled, asked: str) -> float | None:
        """How probable it is that nothing is missing from what is asked, by its words; None where it cannot be told."""
        messages = _messages(recalled, MARKS.sub("", asked), self._settings.system)
        if messages[-1].role != "user":
            return None
        try:
            async with self._llm.stream(lambda engine, stop: engine.whole(messages, stop), Priority.LIVE) as found:
                return await anext(found, None)
        except ChatapiError:
            # The answer will meet the same, and say so.
            return None

    def rouse(self, speak: bool) -> None:
        """An answer will be wanted soon: those who make it begin to come back, where they were idle."""
        self._llm.rouse()
        if speak:
            self._speaking.rouse()

    @property
    def no_answer(self) -> str:
        """Said where the model has nothing to say."""
        return self._settings.no_answer

    @property
    def continues(self) -> bool:
        """Whether the model can go on where it was stopped."""
        return self._llm.engine.continues

    @property
    def speaking(self) -> Speaking:
        return self._speaking


class _Run:
    """One answer: text on one task, its speech on another."""

    def __init__(self, ability: Answering, manner: Manner, send: Send, mark: Mark) -> None:
        self._ability = ability
        self._manner = manner
        self._send = send
        self._mark = mark
        self._sounded = anyio.Event()
        self._rested = False
        self.seconds = 0.0

    async def thought(self, recalled: Recalled, asked: str, pieces: MemoryObjectSendStream[str] | None) -> Answered:
        cutter, reply, last, tokens, before = Cutter(hurried=self._manner.go is not None), "", Piece(""), 0, 0
        while True:
            try:
                async with aclosing(self._ability.written(recalled, asked, self._manner, reply, before)) as written:
                    async for last in written:
                        text = last.text if reply else last.text.lstrip()
                        if text:
                            tokens, reply = tokens + 1, reply + text
                            self._mark("first_token")
                            await self._send(TextDelta(text))
                            if await self._hand_over(cutter.feed(text), pieces) and self._rests(last):
                                break
                    else:
                        break
                before = tokens
                await self._rest()
            except Preempted:
                if last.finish_reason is not None:
                    break
                # It goes on from there, behind whoever was let in.
                before = tokens
            except ContextOverflow as overflow:
                recalled = _shortened(recalled, asked, overflow)
        if not reply.strip():
            reply = self._ability.no_answer
            await self._send(TextDelta(reply))
            await self._hand_over(cutter.feed(reply), pieces)
        await self._hand_over(cutter.finish(), pieces)
        if before and last.usage:
            last = replace(last, usage=replace(last.usage, completion_tokens=last.usage.completion_tokens + before))
        return Answered(reply.rstrip(), last, recalled, None)

    async def _hand_over(self, cut: list[str], pieces: MemoryObjectSendStream[str] | None) -> bool:
        """Whether there was a piece."""
        for piece in cut:
            self._mark("first_sentence")
            if pieces is not None:
                await pieces.send(piece)
        return bool(cut)

    def _rests(self, last: Piece) -> bool:
        """Whether no more is to be written before the first piece is spoken."""
        wanted = self._manner.go is not None and self._manner.voice is not None and self._ability.continues
        return wanted and not self._rested and last.finish_reason is None

    async def _rest(self) -> None:
        self._rested = True
        with anyio.move_on_after(RESTING):
            await self._sounded.wait()
        if self._manner.go is not None:
            await self._manner.go.wait()

    async def spoken(self, taking: MemoryObjectReceiveStream[str], voice: Voice) -> None:
        speaking, priority = self._ability.speaking, self._manner.priority
        async with taking, aclosing(speaking.pieces(taking, voice, priority)) as speech:
            async for part in speech:
                self._mark("first_audio")
                self._sounded.set()
                self.seconds += part.audio.seconds
                await self._send(part)


def _messages(recalled: Recalled, asked: str, system: str) -> list[Message]:
    messages = [Message("system", recalled.system if recalled.system is not None else system)]
    for exchange in recalled.exchanges:
        messages += [Message("user", exchange.asked), Message("assistant", exchange.answered)]
    messages.append(Message("user", asked))
    return [message for message in messages if message.text]


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
