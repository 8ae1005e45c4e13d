"""Generation of an answer: the completion of the language model and its speech, at the same time."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
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
from chatapi.events import Event, ReasoningDelta, Speech, TextDelta, TextWithdrawn, ToolCalls
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import LateCall, Preempted, Worker, YieldPolicy
from chatapi.services.speech.synthesis import SILENCE_SECONDS, SpeechSynthesis, silence
from chatapi.services.turns import tool_call_parser
from chatapi.services.turns.generation_options import GenerationOptions as GenerationOptions
from chatapi.services.turns.prompts import P, Prompt, PromptCall, Question
from chatapi.services.turns.reasoning import ReasoningFilter
from chatapi.settings import LlmSettings
from chatapi.storage.history import ConversationState, ToolResult
from chatapi.text.speech_parts import SpeechPart, SpeechSplitter

SENTENCES_AHEAD = 8
"""Sentences that may wait for their synthesis."""
MAX_PAUSE_SECONDS = 1.0
"""Longest pause of the language model until the first sentence is synthesized, in seconds; a sentence may turn out to
have nothing to speak."""
NEXT_QUESTION_TOKENS = 100
"""Estimated length of the next question, in tokens."""
CORRECTIONS = 1
"""How often the model may try again after a call that could not be read."""
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
class Generation(Generic[P]):
    """A generated answer."""

    reply: str
    last: TokenChunk
    """The model's last chunk, with the finish reason and usage."""
    prompt: P
    """The prompt that was used, shortened where it did not fit."""
    speech_seconds: float | None
    """Length of the speech, in seconds; None: text only."""


@dataclass(frozen=True)
class Sentence:
    """A sentence to synthesize."""

    part: SpeechPart
    is_later: bool
    """Whether it came after text had been withdrawn."""


class Generator:
    """Generates answers with the language model and speech synthesis."""

    def __init__(self, llm: Worker[LanguageModel], synthesis: SpeechSynthesis, settings: LlmSettings) -> None:
        self._llm = llm
        self._synthesis = synthesis
        self.settings = settings
        """Read anew for every answer."""
        self.omits_reasoning_marker = False
        """Whether the model's last answer had reasoning with a closing marker and no opening one."""

    def question(
        self, conversation_state: ConversationState, text: str, results: tuple[ToolResult, ...] = ()
    ) -> Question:
        """The prompt for the next question in a conversation, after these tool results."""
        return Question(conversation_state, text, self.settings.system_prompt, results)

    async def generate(self, prompt: P, options: GenerationOptions, send: Send, mark: Mark) -> Generation[P]:
        """Send a TextDelta for every chunk of text and a Speech for every chunk of audio, each kind in order.

        The model's reasoning is neither; where a closing marker shows that the text before it was reasoning,
        TextWithdrawn is sent.

        An answer without anything to speak is replaced by the speech of `no_answer`. An answer that was preempted and
        now fills the context ends there with the finish reason length.

        Raises the errors of `prompt.shortened` where the prompt does not fit the model.
        """
        run = _GenerationRun(self, options, send, mark)
        if options.voice is None:
            return await run.write(prompt, None)
        sentences_in, sentences_out = anyio.create_memory_object_stream[Sentence](SENTENCES_AHEAD)
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

    def new_filter(self, options: GenerationOptions) -> ReasoningFilter:
        """The filter of a new answer."""
        structured = options.sampling.schema is not None
        return ReasoningFilter(structured=structured, suspicious=self.omits_reasoning_marker and not structured)

    async def stream(
        self, prompt: Prompt, options: GenerationOptions, answer: ReasoningFilter, written_tokens: int = 0
    ) -> AsyncGenerator[TokenChunk, None]:
        """The completion as it is generated, or its continuation after what `answer` has read.

        Raises ContextOverflow before the first chunk, Preempted when it yields its slot to a more urgent request.
        """
        messages = prompt.messages()
        if answer.raw:
            prefix = messages.pop().text if messages[-1].role == "assistant" else ""
            messages.append(PromptMessage("assistant", prefix + answer.raw))
        for correction in range(CORRECTIONS + 1):
            asked = PromptCall(prompt, messages, self.sampling(options, written_tokens), answer)
            try:
                async with self._llm.stream(LateCall(asked.call), options.priority, self._yields(options)) as chunks:
                    async for chunk in chunks:
                        read = asked.reader.read(chunk)
                        if asked.reader.problem:
                            break
                        yield read
            except Unprocessable as error:
                asked.reader.require_valid(error)
                raise
            if asked.engine is self._llm.engine:
                self.omits_reasoning_marker = answer.unopened
            if not asked.reader.problem:
                return
            if correction == CORRECTIONS or read.finish_reason == "length":
                yield replace(read, text=f"{read.text} {self.no_answer}".lstrip())
                return
            # An empty chunk shows that the engine is at work.
            yield replace(read, finish_reason=None, usage=None)
            failed, told = asked.reader.correction()
            if messages[-1].role == "assistant":
                # Templates (Mistral's) reject two messages in a row of the same role.
                failed = replace(failed, text=messages.pop().text + failed.text)
            messages += (failed, told)
            answer.restart()

    def _yields(self, options: GenerationOptions) -> YieldPolicy:
        """Whether the completion may be stopped for a more urgent one: constrained output cannot be continued in the
        middle, because the model would begin it anew."""
        sampling = options.sampling
        can_continue = self.continues and sampling.schema is None and not sampling.tools and sampling.logprobs is None
        return YieldPolicy.RAISE if can_continue else YieldPolicy.NEVER

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
        call = LateCall[float](
            lambda engine: tool_call_parser.end_of_turn_probability(messages, sampling, engine.capabilities)
        )
        try:
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
        self._answer = generator.new_filter(options)
        self._splitter = self._new_splitter()
        self._reply = ""
        self._has_withdrawn = self._speaks_again = False
        """Whether text was withdrawn, and whether the sentence that is being synthesized came after that."""
        self.speech_seconds = 0.0

    async def write(self, prompt: P, sentences: MemoryObjectSendStream[Sentence] | None) -> Generation[P]:
        """Generate the text; its sentences go to `sentences`."""
        last, written = TokenChunk(""), 0
        while True:
            try:
                script = self._options.scripted()
                async with aclosing(
                    script or self._generator.stream(prompt, self._options, self._answer, written)
                ) as chunks:
                    async for last in chunks:
                        if await self._take(last, sentences) and self._should_pause(last):
                            break
                    else:
                        break
                written = self._answer.chunks
                await self._pause()
            except Preempted:
                if last.finish_reason is not None:
                    break
                # It continues from there, after the more urgent request.
                written = self._answer.chunks
            except ContextOverflow as overflow:
                if (shorter := self._shortened(prompt, overflow, written)) is None:
                    last = await self._overflown(overflow, written, sentences)
                    break
                prompt = shorter
        await self._finish(last, sentences)
        if written and last.usage:
            last = replace(last, usage=replace(last.usage, completion_tokens=last.usage.completion_tokens + written))
        return Generation(self._reply.rstrip(), last, prompt, None)

    async def _take(self, chunk: TokenChunk, sentences: MemoryObjectSendStream[Sentence] | None) -> bool:
        """Send a chunk, and queue the sentences that it ends; returns whether there were any."""
        if self._answer.withdrawn and not self._has_withdrawn:
            self._has_withdrawn = True
            self._reply, self._splitter = "", self._new_splitter()
            await self._send(TextWithdrawn())
        text = chunk.text if self._reply or self._options.verbatim else chunk.text.lstrip()
        await self._emit(chunk, text)
        self._reply += text
        return bool(text) and await self._queue(self._splitter.feed(text), sentences)

    async def _overflown(
        self, overflow: ContextOverflow, written: int, sentences: MemoryObjectSendStream[Sentence] | None
    ) -> TokenChunk:
        """The last chunk of an answer that fills the context."""
        last = self._answer.read(TokenChunk("", "length", TokenUsage(overflow.context - written)))
        await self._take(last, sentences)
        return last

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
        if chunk.reasoning and self._options.reasoning:
            await self._send(ReasoningDelta(chunk.reasoning))
        if chunk.calls:
            self._has_tool_calls = True
            await self._send(ToolCalls(chunk.calls))

    async def _finish(self, last: TokenChunk, sentences: MemoryObjectSendStream[Sentence] | None) -> None:
        """Complete the answer with `no_answer` where the model wrote none; queue its last sentences."""
        if not (self._reply.strip() or last.calls or self._options.verbatim):
            self._reply = self._generator.no_answer
            await self._send(TextDelta(self._reply))
            await self._queue(self._splitter.feed(self._reply), sentences)
        await self._queue(self._splitter.finish(), sentences)

    async def _queue(self, ready: list[SpeechPart], sentences: MemoryObjectSendStream[Sentence] | None) -> bool:
        """Queue sentences for synthesis; returns whether there were any."""
        for sentence in ready:
            self._mark("first_sentence")
            if sentences is not None:
                await sentences.send(Sentence(sentence, self._has_withdrawn))
        return bool(ready)

    def _new_splitter(self) -> SpeechSplitter:
        # Every piece of an answer's audio belongs to a text, so that pauses have none.
        return SpeechSplitter(hurried=self._options.confirmed is not None, pauses=False)

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

    async def speak(self, sentences: MemoryObjectReceiveStream[Sentence], voice: Voice) -> None:
        """Synthesize the sentences as they arrive."""
        async with sentences:
            await self._synthesize(self._valid(sentences), voice)
        if self._options.script is not None and not self.speech_seconds:
            await self._send(Speech(silence(SILENCE_SECONDS, voice), ""))
        elif not self.speech_seconds and not self._has_tool_calls:
            # All of the answer was symbols, which have no sound; silence would seem like a fault.
            await self._synthesize(_single(self._generator.no_answer), voice)

    async def _valid(self, sentences: AsyncIterator[Sentence]) -> AsyncIterator[SpeechPart]:
        """The sentences that have not been withdrawn."""
        async for sentence in sentences:
            self._speaks_again = sentence.is_later
            if sentence.is_later == self._has_withdrawn:
                yield sentence.part

    async def _synthesize(self, sentences: AsyncIterator[str | SpeechPart], voice: Voice) -> None:
        options = self._options
        async with aclosing(
            self._generator.synthesis.synthesize_sentences(sentences, voice, options.priority, options.speed)
        ) as speech:
            async for part in speech:
                if self._speaks_again != self._has_withdrawn:
                    continue
                self._mark("first_audio")
                self._has_audio.set()
                self.speech_seconds += part.audio.seconds
                await self._send(part)


async def _single(text: str) -> AsyncIterator[str | SpeechPart]:
    yield text
