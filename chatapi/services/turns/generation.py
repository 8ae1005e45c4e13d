"""Answering: from what was asked to words and speech, thinking and speaking at once."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Generic

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from chatapi.engines import (
    Capability,
    ContextOverflow,
    LanguageModel,
    PromptMessage,
    Sampling,
    TokenChunk,
    TokenUsage,
    Voice,
)
from chatapi.errors import CallerError, ChatapiError
from chatapi.events import Event, TextDelta, ToolCalls
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Preempted, Worker, YieldPolicy
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.turns import tool_call_parser
from chatapi.services.turns.prompts import P, Prompt, Question
from chatapi.settings import LlmSettings
from chatapi.storage.history import ConversationState, ToolResult
from chatapi.text.sentence_splitter import SentenceSplitter

PIECES_AHEAD = 8
"""Pieces of text that may wait to be spoken."""
RESTING = 1.0
"""Seconds the model waits for its first piece to be spoken; some pieces turn out to have nothing to say."""
NEXT = 100
"""Tokens that the next question is expected to need."""
MARKS = re.compile(r"[\s.?!,;:…。、！？，-]+$")
"""What whoever wrote down speech put at its end."""

Send = Callable[[Event], Awaitable[None]]
Mark = Callable[[str], None]
"""Told the name of a stage of the timings each time something of it happens."""


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is to be given."""

    voice: Voice | None = None
    """None: not spoken."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """What else is wanted of the writing; its tokens, temperature and seed are those above."""
    speed: float = 1.0
    """How many times as fast as usual it is spoken."""
    verbatim: bool = False
    """The answer is given as the model writes it, also where it begins with a space or has no words."""
    priority: Priority = Priority.REQUEST
    go: anyio.Event | None = None
    """Where somebody waits in a conversation: the first piece is shorter, and spoken with all that the machine has; the
    model writes on once it is spoken and this has come. Until then the answer may yet be taken back."""


@dataclass(frozen=True)
class Generation(Generic[P]):
    """An answer that was given."""

    reply: str
    last: TokenChunk
    """The model's last piece, with its reason and usage."""
    prompt: P
    """What of it the model was given."""
    spoken: float | None
    """Seconds of speech; None: it was not to be spoken."""


class Generator:
    """The box's mind and mouth together."""

    def __init__(self, llm: Worker[LanguageModel], synthesis: SpeechSynthesis, settings: LlmSettings) -> None:
        self._llm = llm
        self._speaking = synthesis
        self._settings = settings

    def question(
        self, conversation_state: ConversationState, asked: str, results: tuple[ToolResult, ...] = ()
    ) -> Question:
        """What is asked next in a conversation, after what functions gave, as a prompt."""
        return Question(conversation_state, asked, self._settings.system, results)

    async def answer(self, prompt: P, generation_options: GenerationOptions, send: Send, mark: Mark) -> Generation[P]:
        """Send a TextDelta for every piece written and a Speech for every piece spoken, in order of each kind.

        Where nothing of what was written has a sound, `no_answer` is spoken. One that was stopped while it was written,
        and now fills the context, ends there with the reason length.

        Raises what `prompt.shortened` raises when it does not fit the model.
        """
        run = _GenerationRun(self, generation_options, send, mark)
        if generation_options.voice is None:
            return await run.thought(prompt, None)
        giving, taking = anyio.create_memory_object_stream[str](PIECES_AHEAD)
        async with anyio.create_task_group() as group:
            group.start_soon(run.spoken, taking, generation_options.voice)
            async with giving:
                answered = await run.thought(prompt, giving)
        return replace(answered, spoken=run.seconds)

    def sampling(self, generation_options: GenerationOptions, tokens: int = 0) -> Sampling:
        """How an answer is to be written that has so many tokens already."""
        settings = self._settings
        most = settings.max_tokens if generation_options.max_tokens is None else generation_options.max_tokens
        return replace(
            generation_options.sampling,
            max_tokens=max(1, most - tokens),
            temperature=settings.temperature
            if generation_options.temperature is None
            else generation_options.temperature,
            seed=generation_options.seed,
        )

    async def written(
        self, prompt: Prompt, generation_options: GenerationOptions, so_far: str = "", tokens: int = 0
    ) -> AsyncGenerator[TokenChunk, None]:
        """The model's answer as it comes, or what comes after `so_far`, which has so many tokens.

        Raises ContextOverflow before its first piece, Preempted when it makes room for somebody more urgent.
        """
        messages = prompt.messages()
        if so_far:
            begun = messages.pop().text if messages[-1].role == "assistant" else ""
            messages.append(PromptMessage("assistant", begun + so_far))
        sampling = self.sampling(generation_options, tokens)
        # A form that is half written cannot be gone on with: the model would begin it anew.
        goes_on = self.continues and sampling.schema is None and not sampling.tools and sampling.logprobs is None
        async with self._llm.stream(
            lambda engine, stop: prompt.generate(engine, messages, sampling, stop),
            generation_options.priority,
            YieldPolicy.RAISE if goes_on else YieldPolicy.NEVER,
        ) as pieces:
            async for piece in pieces:
                yield piece

    def roomy(self, prompt: Question, generation_options: GenerationOptions, usage: TokenUsage) -> Question:
        """A prompt without the exchanges that the next question would leave no room for; `usage`: the last answer's."""
        sampling, context = self.sampling(generation_options), self._llm.engine.context
        needed = usage.prompt_tokens + usage.completion_tokens + NEXT + sampling.max_tokens
        if needed <= context or not prompt.conversation_state.exchanges:
            return prompt
        return prompt.shortened(ContextOverflow(needed, context), sampling)

    async def whole(self, prompt: Question, sampling: Sampling, priority: Priority = Priority.LIVE) -> float | None:
        """How probable it is that nothing is missing from what is asked, by its words; None where it cannot be told.

        `sampling` says which functions the answer will be told of. An engine that can tell has read the prompt then.
        """
        messages = replace(prompt, asked=MARKS.sub("", prompt.asked)).messages()
        if messages[-1].role != "user":
            return None
        try:
            async with self._llm.stream(
                lambda engine, stop: tool_call_parser.whole(engine, messages, sampling, stop), priority
            ) as found:
                return await anext(found, None)
        except ChatapiError:
            # The answer will meet the same, and say so.
            return None

    def preload(self, speak: bool) -> None:
        """An answer will be wanted soon: those who make it begin to come back, where they were idle."""
        self._llm.preload()
        if speak:
            self._speaking.preload()

    @property
    def no_answer(self) -> str:
        """Said where the model has nothing to say, or nothing that has a sound."""
        return self._settings.no_answer

    @property
    def continues(self) -> bool:
        """Whether the model can go on where it was stopped."""
        return self._llm.engine.continues

    @property
    def can(self) -> frozenset[Capability]:
        """What more the model's engine can be asked."""
        return self._llm.engine.can

    @property
    def synthesis(self) -> SpeechSynthesis:
        return self._speaking


class _GenerationRun:
    """One answer: text on one task, its speech on another."""

    def __init__(self, ability: Generator, generation_options: GenerationOptions, send: Send, mark: Mark) -> None:
        self._ability = ability
        self._manner = generation_options
        self._send = send
        self._mark = mark
        self._sounded = anyio.Event()
        self._rested = False
        self._called = False
        self.seconds = 0.0

    async def thought(self, prompt: P, pieces: MemoryObjectSendStream[str] | None) -> Generation[P]:
        cutter, reply, last, tokens, before = (
            SentenceSplitter(hurried=self._manner.go is not None),
            "",
            TokenChunk(""),
            0,
            0,
        )
        while True:
            try:
                async with aclosing(self._ability.written(prompt, self._manner, reply, before)) as written:
                    async for last in written:
                        text = last.text if reply or self._manner.verbatim else last.text.lstrip()
                        await self._tell(last, text)
                        if text:
                            tokens, reply = tokens + 1, reply + text
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
                if (shorter := self._shortened(prompt, overflow, before)) is None:
                    last = TokenChunk("", "length", TokenUsage(overflow.context - before))
                    break
                prompt = shorter
        reply = await self._finished(reply, last, cutter, pieces)
        if before and last.usage:
            last = replace(last, usage=replace(last.usage, completion_tokens=last.usage.completion_tokens + before))
        return Generation(reply.rstrip(), last, prompt, None)

    def _shortened(self, prompt: P, overflow: ContextOverflow, written: int) -> P | None:
        """One that fits; None: so much of the answer was written when it was stopped that the context is full."""
        try:
            return prompt.shortened(overflow, self._ability.sampling(self._manner, written))
        except CallerError:
            if not written:
                raise
            return None

    async def _tell(self, piece: TokenChunk, text: str) -> None:
        if text or piece.calls:
            self._mark("first_token")
        if text:
            await self._send(TextDelta(text, piece.tokens))
        if piece.calls:
            self._called = True
            await self._send(ToolCalls(piece.calls))

    async def _finished(
        self, reply: str, last: TokenChunk, cutter: SentenceSplitter, pieces: MemoryObjectSendStream[str] | None
    ) -> str:
        """All of the answer, which is `no_answer` where the model had none; its end goes to be spoken."""
        if not (reply.strip() or last.calls or self._manner.verbatim):
            reply = self._ability.no_answer
            await self._send(TextDelta(reply))
            await self._hand_over(cutter.feed(reply), pieces)
        await self._hand_over(cutter.finish(), pieces)
        return reply

    async def _hand_over(self, cut: list[str], pieces: MemoryObjectSendStream[str] | None) -> bool:
        """Whether there was a piece."""
        for piece in cut:
            self._mark("first_sentence")
            if pieces is not None:
                await pieces.send(piece)
        return bool(cut)

    def _rests(self, last: TokenChunk) -> bool:
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
        async with taking:
            await self._say(taking, voice)
        if not self.seconds and not self._called:
            # All of the answer was signs, which have no sound; silence would sound like a box that is broken.
            await self._say(_alone(self._ability.no_answer), voice)

    async def _say(self, pieces: AsyncIterator[str], voice: Voice) -> None:
        async with aclosing(
            self._ability.synthesis.pieces(pieces, voice, self._manner.priority, self._manner.speed)
        ) as speech:
            async for part in speech:
                self._mark("first_audio")
                self._sounded.set()
                self.seconds += part.audio.seconds
                await self._send(part)


async def _alone(text: str) -> AsyncIterator[str]:
    yield text
