"""A turn of a stored conversation: a question by text or voice, and the answer as text and speech."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from chatapi.audio.decode import Source
from chatapi.engines import TokenUsage
from chatapi.errors import NotFound, TooLarge, Unprocessable
from chatapi.events import Event, Transcript, TurnEnded, TurnStarted
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.services.turns.conversations import Conversations
from chatapi.services.turns.generation import GenerationOptions, Generator
from chatapi.services.turns.prompts import Question
from chatapi.services.turns.response_history import is_of_responses
from chatapi.services.turns.run import Send, TurnLimits, TurnRun
from chatapi.settings import Settings
from chatapi.storage.history import ConversationHistory, ConversationState
from chatapi.text.sentence_splitter import is_text

MAX_TEMPERATURE = 2
"""Highest sampling temperature; above it the output is random."""
MAX_SEED = 2**32 - 2
"""Highest seed: llama.cpp keeps seeds in 32 bits, and takes the next value as a random seed."""


@dataclass(frozen=True)
class Turn:
    """A request; it has either `prompt` or `audio`."""

    prompt: str | None = None
    audio: Source | None = None
    """An audio file as uploaded."""
    speak: bool = False
    """Whether the answer is also synthesized."""
    conversation: str | None = None
    """Id of the conversation to continue; None begins a new one."""
    create_missing: bool = False
    """Whether an unknown conversation id begins a new conversation: the caller chooses its ids."""
    system: str | None = None
    """System prompt from this turn on, instead of the default."""
    voice: str | None = None
    language: str | None = None
    """ISO 639-1 code of the audio, or auto."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    priority: Priority = Priority.REQUEST
    traceparent: str = ""
    """The caller's trace, in the format of W3C Trace Context."""


class Completions:
    """Answers turns of stored conversations."""

    def __init__(
        self,
        transcriber: FileTranscriber,
        synthesis: SpeechSynthesis,
        generator: Generator,
        conversations: Conversations,
        admission: Admission,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.transcriber = transcriber
        self.synthesis = synthesis
        self.generator = generator
        self.conversations = conversations
        self.admission = admission
        self.settings = settings
        self.metrics = metrics

    @asynccontextmanager
    async def run(self, turn: Turn) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a turn. Leaving the block cancels all its work.

        Entering raises the errors of the request; the events raise all others.
        """
        self._check(turn)
        limits = TurnLimits(self.settings.limits.turn_seconds, turn.audio is not None, turn.speak, turn.traceparent)
        run = TurnRun(self.admission, self.metrics, limits)
        async with run.stream(_CompletionRun(self, turn, run).work, turn.priority) as events:
            yield events

    def _check(self, turn: Turn) -> None:
        """Check a request before any work. Raises CallerError or NotReady."""
        if (turn.prompt is None) == (turn.audio is None):
            what = "both a prompt and audio" if turn.audio is not None else "neither a prompt nor audio"
            raise Unprocessable(f"the request has {what}; it takes one of them", code="one_of_prompt_and_audio")
        if turn.prompt is not None:
            self._check_prompt(turn.prompt)
        if (length := len(turn.system or "")) > (limit := self.settings.limits.system_chars):
            raise TooLarge(
                f"the system prompt has {length} characters; the limit is {limit} (limits.system_chars)",
                code="prompt_too_long",
                details={"limit_chars": limit},
            )
        for name, text in (("prompt", turn.prompt), ("system", turn.system), ("conversation", turn.conversation)):
            if text is not None and not is_text(text):
                raise Unprocessable(f"{name} contains NUL or lone surrogates, which are not text")
        _check_sampling(turn)
        if turn.audio is not None or turn.language is not None:
            self.transcriber.language(turn.language)
        if turn.speak or turn.voice is not None:
            self.synthesis.voice(turn.voice)

    def _check_prompt(self, prompt: str) -> None:
        limit = self.settings.limits.prompt_chars
        if not prompt.strip():
            raise Unprocessable("the prompt is empty; send some text", code="empty_prompt")
        if len(prompt) > limit:
            raise TooLarge(
                f"the prompt has {len(prompt)} characters; the limit is {limit} (limits.prompt_chars)",
                code="prompt_too_long",
                details={"limit_chars": limit},
            )


def _check_sampling(turn: Turn) -> None:
    if turn.max_tokens is not None and turn.max_tokens < 1:
        raise Unprocessable(f"max_tokens is {turn.max_tokens}; it must be at least 1")
    if turn.temperature is not None and not 0 <= turn.temperature <= MAX_TEMPERATURE:
        raise Unprocessable(f"temperature is {turn.temperature:g}; it must be from 0 to {MAX_TEMPERATURE}")
    if turn.seed is not None and not 0 <= turn.seed <= MAX_SEED:
        raise Unprocessable(f"seed is {turn.seed}; it must be from 0 to {MAX_SEED}")


class _CompletionRun:
    """The work of one turn: transcription, generation and the update of the history."""

    def __init__(self, service: Completions, turn: Turn, run: TurnRun) -> None:
        self._service = service
        self._turn = turn
        self._run = run
        self._language = ""

    async def work(self, send: Send) -> None:
        service = self._service
        service.generator.preload(self._turn.speak)
        conversation = self._turn.conversation or ConversationHistory.new_id()
        async with service.conversations.exclusive(conversation):
            conversation_state = await self._recall(conversation)
            await send(TurnStarted(conversation))
            await self._answer(conversation_state, send)

    async def _recall(self, conversation: str) -> ConversationState:
        turn = self._turn
        if turn.conversation is None:
            return ConversationState(conversation, turn.system, ())
        try:
            conversation_state = await self._service.conversations.recall(conversation, turn.priority)
        except NotFound:
            if not turn.create_missing or is_of_responses(turn.conversation):
                raise
            return ConversationState(conversation, turn.system, ())
        return conversation_state if turn.system is None else replace(conversation_state, system=turn.system)

    async def _answer(self, conversation_state: ConversationState, send: Send) -> None:
        turn = self._turn
        question = turn.prompt if turn.audio is None else await self._transcribe(turn.audio, send)
        assert question is not None  # noqa: S101 - `run` has checked that there is a prompt or audio
        generator, run = self._service.generator, self._run
        prompt = generator.question(conversation_state, question.strip())
        generation = await generator.generate(prompt, self._options(), send, run.mark)
        run.timings = replace(run.timings, spoken=generation.speech_seconds)
        kept = await self._save(generation.prompt, question, generation.reply)
        run.mark("end")
        usage = generation.last.usage or TokenUsage()
        run.count(usage)
        await send(
            TurnEnded(
                generation.prompt.conversation_state.id,
                generation.last.finish_reason or "stop",
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cached_tokens,
                run.timings,
                kept,
            )
        )

    def _options(self) -> GenerationOptions:
        turn = self._turn
        voice = self._service.synthesis.voice(turn.voice, self._language) if turn.speak else None
        return GenerationOptions(voice, turn.max_tokens, turn.temperature, turn.seed, priority=turn.priority)

    async def _save(self, prompt: Question, question: str, reply: str) -> bool:
        """Add the exchange to the history; returns whether it is on the disk."""
        saved = await self._service.conversations.add(
            prompt.conversation_state, question, reply, priority=self._turn.priority
        )
        return saved.kept

    async def _transcribe(self, file: Source, send: Send) -> str:
        transcriber, run = self._service.transcriber, self._run
        audio = await transcriber.decode_file(file)
        found = await transcriber.transcribe_utterance(audio, self._turn.language, self._turn.priority)
        self._language = found.language
        run.timings = replace(run.timings, audio=audio.seconds, speech_end=found.end)
        run.mark("transcript")
        await send(Transcript(found.text, True, found.start, found.end, found.language))
        return found.text
