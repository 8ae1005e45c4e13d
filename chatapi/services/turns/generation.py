"""Generation of an answer: the completion of the language model and its speech, at the same time."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
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
from chatapi.errors import CallerError, ChatapiError, Unprocessable
from chatapi.events import Event, TextDelta, ToolCalls
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Preempted, Worker, YieldPolicy
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.turns import tool_call_parser
from chatapi.services.turns.prompts import P, Prompt, Question
from chatapi.settings import LlmSettings
from chatapi.storage.history import ConversationState, ToolResult
from chatapi.text.sentence_splitter import SentenceSplitter

SENTENCES_AHEAD = 8
"""Sentences that may wait for their synthesis."""
MAX_PAUSE_SECONDS = 1.0
"""Longest pause of the language model until the first sentence is synthesized, in seconds; a sentence may turn out to
have nothing to speak."""
NEXT_QUESTION_TOKENS = 100
"""Estimated length of the next question, in tokens."""
CHARACTERS_PER_TOKEN = 3
"""Length of a token in prompts, estimated low; an engine reports a prompt that is longer."""
MESSAGE_TOKENS = 16
"""Tokens that a chat template adds to a message at most."""
FINAL_PUNCTUATION = re.compile(r"[\s.?!,;:…。、！？，-]+$")
"""Punctuation that speech recognition adds at the end of a transcript."""

Send = Callable[[Event], Awaitable[None]]
Mark = Callable[[str], None]
"""Called with the name of a stage of the turn's timings whenever that stage is reached."""


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate an answer."""

    voice: Voice | None = None
    """Voice of the speech; None: text only."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """Further sampling parameters; its max_tokens, temperature and seed are replaced by those above."""
    speed: float = 1.0
    """Speaking rate, as a multiple of the usual one."""
    verbatim: bool = False
    """Send the completion as the model writes it, also where it begins with a space or has no words."""
    priority: Priority = Priority.REQUEST
    confirmed: anyio.Event | None = None
    """Live conversations: set once the turn has ended for certain; until then the answer may be retracted. The first
    sentence is shorter and is synthesized with all cores; the model continues after it once this is set."""


@dataclass(frozen=True)
class Generation(Generic[P]):
    """A generated answer."""

    reply: str
    last: TokenChunk
    """The model's last chunk, with the finish reason and usage."""
    prompt: P
    """The prompt that was used, shortened where it did not fit."""
    speech_seconds: float | None
    """Length of the speech, in seconds; None: text only."""


class Generator:
    """Generates answers with the language model and speech synthesis."""

    def __init__(self, llm: Worker[LanguageModel], synthesis: SpeechSynthesis, settings: LlmSettings) -> None:
        self._llm = llm
        self._synthesis = synthesis
        self.settings = settings
        """Read anew for every answer."""

    def question(
        self, conversation_state: ConversationState, text: str, results: tuple[ToolResult, ...] = ()
    ) -> Question:
        """The prompt for the next question in a conversation, after these tool results."""
        return Question(conversation_state, text, self.settings.system_prompt, results)

    async def generate(self, prompt: P, options: GenerationOptions, send: Send, mark: Mark) -> Generation[P]:
        """Send a TextDelta for every chunk of text and a Speech for every chunk of audio, each kind in order.

        An answer without anything to speak is replaced by the speech of `no_answer`. An answer that was preempted and
        now fills the context ends there with the finish reason length.

        Raises the errors of `prompt.shortened` where the prompt does not fit the model.
        """
        run = _GenerationRun(self, options, send, mark)
        if options.voice is None:
            return await run.write(prompt, None)
        sentences_in, sentences_out = anyio.create_memory_object_stream[str](SENTENCES_AHEAD)
        async with anyio.create_task_group() as group:
            group.start_soon(run.speak, sentences_out, options.voice)
            async with sentences_in:
                generation = await run.write(prompt, sentences_in)
        return replace(generation, speech_seconds=run.speech_seconds)

    def sampling(self, options: GenerationOptions, written_tokens: int = 0) -> Sampling:
        """The sampling parameters of an answer that has this many tokens already."""
        settings = self.settings
        max_tokens = settings.max_tokens if options.max_tokens is None else options.max_tokens
        return replace(
            options.sampling,
            max_tokens=max(1, max_tokens - written_tokens),
            temperature=settings.temperature if options.temperature is None else options.temperature,
            seed=options.seed,
        )

    async def stream(
        self, prompt: Prompt, options: GenerationOptions, written: str = "", written_tokens: int = 0
    ) -> AsyncGenerator[TokenChunk, None]:
        """The completion as it is generated, or its continuation after `written`.

        Raises ContextOverflow before the first chunk, Preempted when it yields its slot to a more urgent request.
        """
        messages = prompt.messages()
        if written:
            prefix = messages.pop().text if messages[-1].role == "assistant" else ""
            messages.append(PromptMessage("assistant", prefix + written))
        sampling = self.sampling(options, written_tokens)
        # Constrained output cannot be continued in the middle: the model would begin it anew.
        can_continue = self.continues and sampling.schema is None and not sampling.tools and sampling.logprobs is None
        call, reader = prompt.generate(messages, sampling, self.capabilities)
        yields = YieldPolicy.RAISE if can_continue else YieldPolicy.NEVER
        try:
            async with self._llm.stream(call, options.priority, yields) as chunks:
                async for chunk in chunks:
                    yield reader.read(chunk)
        except Unprocessable as error:
            reader.require_valid(error)
            raise

    def shortened_for_next(self, prompt: Question, options: GenerationOptions, usage: TokenUsage) -> Question:
        """The prompt without the exchanges that would leave no room for the next question.

        `usage` is that of the last answer.
        """
        sampling, context = self.sampling(options), self._llm.engine.context
        needed = usage.prompt_tokens + usage.completion_tokens + NEXT_QUESTION_TOKENS + sampling.max_tokens
        if needed <= context or not prompt.conversation_state.exchanges:
            return prompt
        return prompt.shortened(ContextOverflow(needed, context), sampling)

    async def end_of_turn_probability(
        self, prompt: Question, sampling: Sampling, priority: Priority = Priority.LIVE
    ) -> float | None:
        """The probability that the question is complete, judged by its words; None where the engine cannot tell.

        `sampling` holds the tools of the answer. As a side effect, the engine has the prompt in its cache.
        """
        messages = replace(prompt, text=FINAL_PUNCTUATION.sub("", prompt.text)).messages()
        if messages[-1].role != "user":
            return None
        try:
            call = tool_call_parser.end_of_turn_probability(messages, sampling, self.capabilities)
            async with self._llm.stream(call, priority) as found:
                return await anext(found, None)
        except ChatapiError:
            # The answer will meet the same error and report it.
            return None

    def preload(self, speak: bool) -> None:
        """Load the engines of an answer in the background if they were unloaded."""
        self._llm.preload()
        if speak:
            self._synthesis.preload()

    def room(self, messages: Sequence[PromptMessage], sampling: Sampling) -> int:
        """An estimate of the tokens that the context has left for an answer to these messages."""
        characters = sum(len(message.text) for message in messages)
        characters += tool_call_parser.description_length(sampling.tools)
        left = self._llm.engine.context - characters // CHARACTERS_PER_TOKEN - MESSAGE_TOKENS * (len(messages) + 1)
        return max(self.settings.max_tokens, left)

    @property
    def no_answer(self) -> str:
        """The answer where the model writes none, or none that can be spoken."""
        return self.settings.no_answer

    @property
    def continues(self) -> bool:
        """Whether the model can continue an answer where it was stopped."""
        return self._llm.engine.continues

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The optional capabilities of the model's engine."""
        return self._llm.engine.capabilities

    @property
    def synthesis(self) -> SpeechSynthesis:
        return self._synthesis


class _GenerationRun:
    """One answer: its text in one task, its speech in another."""

    def __init__(self, generator: Generator, options: GenerationOptions, send: Send, mark: Mark) -> None:
        self._generator = generator
        self._options = options
        self._send = send
        self._mark = mark
        self._has_audio = anyio.Event()
        self._has_paused = False
        self._has_tool_calls = False
        self.speech_seconds = 0.0

    async def write(self, prompt: P, sentences: MemoryObjectSendStream[str] | None) -> Generation[P]:
        """Generate the text; its sentences go to `sentences`."""
        splitter = SentenceSplitter(hurried=self._options.confirmed is not None)
        reply, last, tokens, written = "", TokenChunk(""), 0, 0
        while True:
            try:
                async with aclosing(self._generator.stream(prompt, self._options, reply, written)) as chunks:
                    async for last in chunks:
                        text = last.text if reply or self._options.verbatim else last.text.lstrip()
                        await self._emit(last, text)
                        if text:
                            tokens, reply = tokens + 1, reply + text
                            if await self._queue(splitter.feed(text), sentences) and self._should_pause(last):
                                break
                    else:
                        break
                written = tokens
                await self._pause()
            except Preempted:
                if last.finish_reason is not None:
                    break
                # It continues from there, after the more urgent request.
                written = tokens
            except ContextOverflow as overflow:
                if (shorter := self._shortened(prompt, overflow, written)) is None:
                    last = TokenChunk("", "length", TokenUsage(overflow.context - written))
                    break
                prompt = shorter
        reply = await self._finish(reply, last, splitter, sentences)
        if written and last.usage:
            last = replace(last, usage=replace(last.usage, completion_tokens=last.usage.completion_tokens + written))
        return Generation(reply.rstrip(), last, prompt, None)

    def _shortened(self, prompt: P, overflow: ContextOverflow, written: int) -> P | None:
        """A prompt that fits; None where the context is full with the tokens written before the answer was stopped."""
        try:
            return prompt.shortened(overflow, self._generator.sampling(self._options, written))
        except CallerError:
            if not written:
                raise
            return None

    async def _emit(self, chunk: TokenChunk, text: str) -> None:
        if text or chunk.calls:
            self._mark("first_token")
        if text:
            await self._send(TextDelta(text, chunk.tokens))
        if chunk.calls:
            self._has_tool_calls = True
            await self._send(ToolCalls(chunk.calls))

    async def _finish(
        self, reply: str, last: TokenChunk, splitter: SentenceSplitter, sentences: MemoryObjectSendStream[str] | None
    ) -> str:
        """The whole answer, `no_answer` where the model wrote none; queues its last sentences."""
        if not (reply.strip() or last.calls or self._options.verbatim):
            reply = self._generator.no_answer
            await self._send(TextDelta(reply))
            await self._queue(splitter.feed(reply), sentences)
        await self._queue(splitter.finish(), sentences)
        return reply

    async def _queue(self, ready: list[str], sentences: MemoryObjectSendStream[str] | None) -> bool:
        """Queue sentences for synthesis; returns whether there were any."""
        for sentence in ready:
            self._mark("first_sentence")
            if sentences is not None:
                await sentences.send(sentence)
        return bool(ready)

    def _should_pause(self, last: TokenChunk) -> bool:
        """Whether the model pauses until the first sentence is synthesized."""
        options = self._options
        wanted = options.confirmed is not None and options.voice is not None and self._generator.continues
        return wanted and not self._has_paused and last.finish_reason is None

    async def _pause(self) -> None:
        self._has_paused = True
        with anyio.move_on_after(MAX_PAUSE_SECONDS):
            await self._has_audio.wait()
        if self._options.confirmed is not None:
            await self._options.confirmed.wait()

    async def speak(self, sentences: MemoryObjectReceiveStream[str], voice: Voice) -> None:
        """Synthesize the sentences as they arrive."""
        async with sentences:
            await self._synthesize(sentences, voice)
        if not self.speech_seconds and not self._has_tool_calls:
            # All of the answer was symbols, which have no sound; silence would seem like a fault.
            await self._synthesize(_single(self._generator.no_answer), voice)

    async def _synthesize(self, sentences: AsyncIterator[str], voice: Voice) -> None:
        options = self._options
        async with aclosing(
            self._generator.synthesis.synthesize_sentences(sentences, voice, options.priority, options.speed)
        ) as speech:
            async for part in speech:
                self._mark("first_audio")
                self._has_audio.set()
                self.speech_seconds += part.audio.seconds
                await self._send(part)


async def _single(text: str) -> AsyncIterator[str]:
    yield text
