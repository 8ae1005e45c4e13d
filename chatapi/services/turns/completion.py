"""A turn of a conversation: what was asked, by text or by voice, and the answer as it is written and spoken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from chatapi.audio import Source
from chatapi.engines import TokenUsage
from chatapi.errors import Busy, NotFound, TooLarge, Unprocessable
from chatapi.events import Event, Transcript, TurnEnded, TurnStarted
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.workers import Worker
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.services.turns.generation import GenerationOptions, Generator
from chatapi.services.turns.run import Send, TurnLimits, TurnRun
from chatapi.settings import Settings
from chatapi.storage.history import ConversationHistory, ConversationState
from chatapi.text.sentence_splitter import is_text

HOTTEST = 2
"""The highest temperature; beyond it words come at random."""
LAST_SEED = 2**32 - 2
"""llama.cpp keeps seeds in 32 bits, and the one after this means a random one."""


@dataclass(frozen=True)
class Turn:
    """What a caller asks; either `prompt` or `audio`."""

    prompt: str | None = None
    audio: Source | None = None
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


class Completions:
    """The ability. `take` is its door."""

    def __init__(
        self,
        transcription: FileTranscriber,
        synthesis: SpeechSynthesis,
        generator: Generator,
        history: Worker[ConversationHistory],
        admission: Admission,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.transcription = transcription
        self.synthesis = synthesis
        self.generator = generator
        self.history = history
        self.admission = admission
        self.settings = settings
        self.metrics = metrics
        self._busy: set[str] = set()

    @asynccontextmanager
    async def take(self, turn: Turn) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a turn; leaving the block stops all its work.

        Raises what is wrong with the turn on entering; what fails later is raised by the events.
        """
        self._check(turn)
        turn_limits = TurnLimits(
            self.settings.limits.turn_seconds, turn.audio is not None, turn.speak, turn.traceparent
        )
        run = TurnRun(self.admission, self.metrics, turn_limits)
        async with run.taken(_CompletionRun(self, turn, run).work, turn.priority) as events:
            yield events

    def _check(self, turn: Turn) -> None:
        """What can be told before any work. Raises CallerError or NotReady."""
        if (turn.prompt is None) == (turn.audio is None):
            what = "both a prompt and audio" if turn.audio is not None else "neither a prompt nor audio"
            raise Unprocessable(f"the request has {what}; it takes one of them", code="one_of_prompt_and_audio")
        if turn.prompt is not None:
            self._check_prompt(turn.prompt)
        for name, text in (("prompt", turn.prompt), ("system", turn.system), ("conversation", turn.conversation)):
            if text is not None and not is_text(text):
                raise Unprocessable(f"{name} holds NUL or lone surrogates, which are not text")
        _check_manner(turn)
        if turn.audio is not None or turn.language is not None:
            self.transcription.language(turn.language)
        if turn.speak or turn.voice is not None:
            self.synthesis.voice(turn.voice)

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


class _CompletionRun:
    """One turn at work: three tasks, thinking, speaking and telling, joined by bounded streams."""

    def __init__(self, ability: Completions, turn: Turn, run: TurnRun) -> None:
        self._ability = ability
        self._turn = turn
        self._course = run
        self._language = ""

    async def work(self, send: Send) -> None:
        ability = self._ability
        ability.generator.preload(self._turn.speak)
        conversation = self._turn.conversation or ConversationHistory.new_id()
        with ability.answering_alone(conversation):
            conversation_state = await self._recalled(conversation)
            await send(TurnStarted(conversation))
            await self._converse(conversation_state, send)

    async def _recalled(self, conversation: str) -> ConversationState:
        turn = self._turn
        if turn.conversation is None:
            return ConversationState(conversation, turn.system, ())
        try:
            conversation_state = await self._ability.history.call(
                lambda history: history.recall(conversation), turn.priority
            )
        except NotFound:
            if not turn.begins:
                raise
            return ConversationState(conversation, turn.system, ())
        return conversation_state if turn.system is None else replace(conversation_state, system=turn.system)

    async def _converse(self, conversation_state: ConversationState, send: Send) -> None:
        asked = self._turn.prompt if self._turn.audio is None else await self._heard(self._turn.audio, send)
        assert asked is not None  # noqa: S101 - one of both is there, `take` has checked
        ability, run = self._ability, self._course
        voice = ability.synthesis.voice(self._turn.voice, self._language) if self._turn.speak else None
        generation_options = GenerationOptions(
            voice, self._turn.max_tokens, self._turn.temperature, self._turn.seed, priority=self._turn.priority
        )
        prompt = ability.generator.question(conversation_state, asked.strip())
        answered = await ability.generator.answer(prompt, generation_options, send, run.mark)
        conversation_state, last = answered.prompt.conversation_state, answered.last
        run.timings = replace(run.timings, spoken=answered.spoken)
        saved = await ability.history.call(
            lambda history: history.add(conversation_state, asked, answered.reply), self._turn.priority
        )
        run.mark("end")
        usage = last.usage or TokenUsage()
        run.count(usage)
        await send(
            TurnEnded(
                conversation_state.id,
                last.finish_reason or "stop",
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cached_tokens,
                run.timings,
                saved.kept,
            )
        )

    async def _heard(self, file: Source, send: Send) -> str:
        hearing, run = self._ability.transcription, self._course
        audio = await hearing.decoded(file)
        heard = await hearing.hear(audio, self._turn.language, self._turn.priority)
        self._language = heard.language
        run.timings = replace(run.timings, audio=audio.seconds, speech_end=heard.end)
        run.mark("transcript")
        await send(Transcript(heard.text, True, heard.start, heard.end, heard.language))
        return heard.text
