"""Answering a conversation that its caller keeps: the whole of it comes with every turn, and nothing of it is kept.

The model is told these messages and no others: the box's own system prompt is for its own conversations.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from chatapi.audio import Source
from chatapi.engines import (
    Capability,
    ContextOverflow,
    LanguageModel,
    PromptMessage,
    Sampling,
    Stop,
    TokenChunk,
    TokenUsage,
)
from chatapi.errors import CallerError, NotFound, TooLarge, Unprocessable
from chatapi.events import Event, ToolCall, Transcript, TurnEnded
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.services.turns import tool_call_parser
from chatapi.services.turns.generation import GenerationOptions, Generator
from chatapi.services.turns.run import Send, TurnLimits, TurnRun
from chatapi.settings import Settings

ALL_CHARS = 16
"""Times `limits.prompt_chars`, which holds for each message and for tools and schema: most of all messages together."""
LEAST_ROOM = 16
"""Tokens an answer must have room for; a limit above what the context has left is lowered to that."""
SPOKEN_SECONDS = 3600
"""How long a spoken answer can be referred to by its id instead of its words."""
MOST_SPOKEN = 256
"""Spoken answers whose words are remembered for that."""

PARAMETERS: tuple[tuple[str, Capability], ...] = (
    ("top_p", "top_p"),
    ("frequency_penalty", "penalties"),
    ("presence_penalty", "penalties"),
    ("logit_bias", "logit_bias"),
    ("logprobs", "logprobs"),
    ("schema", "schema"),
    ("tools", "schema"),
)
"""Of `Sampling`, what an engine must be able to do for it; one that knows tools needs no schema for them."""
NAMES = {"schema": "response_format"}
"""What callers call it, where that is not our name."""


@dataclass(frozen=True)
class ChatMessage:
    """One message as it came."""

    role: str
    """system, user, assistant or tool."""
    parts: tuple[str | Source, ...]
    """Text, or a file of somebody speaking; one after the other."""
    calls: tuple[ToolCall, ...] = ()
    call: str = ""
    spoken: str = ""
    """The id of a spoken answer that stands for its words."""


@dataclass(frozen=True)
class ChatTurn:
    """What a caller asks."""

    messages: tuple[ChatMessage, ...]
    speak: bool = False
    voice: str | None = None
    spoken: str = ""
    """The id that the answer can be referred to by, if it is spoken."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    speed: float = 1.0
    """How many times as fast as usual it is spoken."""
    form: str = ""
    """What the schema of the answer is for, in words for the model."""
    priority: Priority = Priority.REQUEST
    traceparent: str = ""
    """The caller's trace, as W3C Trace Context writes it."""

    @property
    def heard(self) -> bool:
        """Whether any of it is to be listened to."""
        return any(not isinstance(part, str) for message in self.messages for part in message.parts)


class ChatCompletions:
    """The ability. `take` is its door."""

    def __init__(
        self,
        transcription: FileTranscriber,
        generator: Generator,
        admission: Admission,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.transcription = transcription
        self.generator = generator
        self.admission = admission
        self.settings = settings
        self.metrics = metrics
        self._spoken: OrderedDict[str, tuple[float, str]] = OrderedDict()

    @property
    def synthesis(self) -> SpeechSynthesis:
        return self.generator.synthesis

    @asynccontextmanager
    async def take(self, turn: ChatTurn) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a turn; leaving the block stops all its work.

        Raises what is wrong with the turn on entering; what fails later is raised by the events. An error that is the
        caller's has the `param` in its details.
        """
        self._check(turn)
        turn_limits = TurnLimits(self.settings.limits.turn_seconds, turn.heard, turn.speak, turn.traceparent)
        run = TurnRun(self.admission, self.metrics, turn_limits)
        async with run.taken(_ChatRun(self, turn, run).work, turn.priority) as events:
            yield events

    def remember(self, spoken: str, text: str) -> None:
        """For SPOKEN_SECONDS, or until as many others were spoken."""
        self._spoken[spoken] = (time.monotonic() + SPOKEN_SECONDS, text)
        while len(self._spoken) > MOST_SPOKEN:
            self._spoken.popitem(last=False)

    def words(self, spoken: str, param: str) -> str:
        """Of a spoken answer. Raises NotFound (audio_not_found)."""
        until, text = self._spoken.get(spoken, (0.0, ""))
        if time.monotonic() > until:
            raise NotFound(
                f"there is no spoken answer {spoken!r}, or not any more; send its words as content",
                code="audio_not_found",
                details={"param": param},
            )
        return text

    def _check(self, turn: ChatTurn) -> None:
        if not turn.messages:
            raise _wrong("messages", "there are no messages; send at least one", "empty_messages")
        self._check_lengths(turn)
        _check_calls(turn)
        self._check_last(turn.messages[-1])
        self._check_skills(turn.sampling)
        if turn.speak:
            self.synthesis.voice(turn.voice)

    def _check_lengths(self, turn: ChatTurn) -> None:
        most, total = self.settings.limits.prompt_chars, 0
        lengths = [(f"messages[{at}]", _length(message)) for at, message in enumerate(turn.messages)]
        sampling = turn.sampling
        lengths.append(("response_format", len(json.dumps(sampling.schema)) if sampling.schema is not None else 0))
        lengths.append(("tools", tool_call_parser.length(sampling.tools)))
        for param, length in lengths:
            total += length
            if length > most:
                told = f"{param} has {length} characters; at most {most} are taken (limits.prompt_chars)"
                raise _wrong(param, told, "string_above_max_length")
        if total > most * ALL_CHARS:
            told = f"the messages have {total} characters together; at most {most * ALL_CHARS} are taken"
            raise _wrong("messages", told, "context_length_exceeded")
        if not turn.heard and not any(_length(message) or message.spoken for message in turn.messages):
            raise _wrong("messages", "there is not a word in the messages", "empty_messages")

    def _check_last(self, last: ChatMessage) -> None:
        if last.role != "assistant":
            return
        if last.calls:
            told = "the last message wants functions called; send what they gave as messages of the role tool"
            raise _wrong("messages", told, "invalid_value")
        if not self.generator.continues:
            told = f"the last message is the assistant's, and the engine {self._engine} cannot go on with it"
            raise _wrong("messages", told, "unsupported_value")

    def _check_skills(self, sampling: Sampling) -> None:
        if (param := self.lacking(sampling, self.generator.can)) is not None:
            told = f"{param} is not supported by the language model's engine, {self._engine}; leave it out"
            raise _wrong(param, told, "unsupported_parameter")

    @staticmethod
    def lacking(sampling: Sampling, can: frozenset[Capability]) -> str | None:
        """The first parameter that asks what an engine of these skills cannot do."""
        plain = Sampling()
        for name, skill in PARAMETERS:
            told = name == "tools" and tool_call_parser.followed(sampling, can)
            if getattr(sampling, name) != getattr(plain, name) and skill not in can and not told:
                return NAMES.get(name, name)
        return None

    @property
    def _engine(self) -> str:
        return self.settings.llm.engine


@dataclass(frozen=True)
class FixedPrompt:
    """Messages as they were given; none is ever left out."""

    told: tuple[PromptMessage, ...]
    room: int | None = None
    """Tokens that the answer may have beside them; None: that was no question yet."""

    def messages(self) -> list[PromptMessage]:
        return list(self.told)

    def generate(
        self, engine: LanguageModel, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop
    ) -> Iterator[TokenChunk]:
        if self.room is not None:
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self.room))
        return tool_call_parser.generate(engine, messages, sampling, stop)

    def shortened(self, overflow: ContextOverflow, sampling: Sampling) -> FixedPrompt:
        """With room for a shorter answer. Raises Unprocessable (context_length_exceeded)."""
        needed = overflow.needed - min(sampling.max_tokens, self.room or sampling.max_tokens)
        room = overflow.context - needed
        # An answer that is gone on with has less room each time: what it has said already is beside it now.
        if room >= LEAST_ROOM if self.room is None else 1 <= room < self.room:
            return replace(self, room=room)
        raise Unprocessable(
            f"the messages need {needed} tokens, and {overflow.context} fit the model together with the answer",
            code="context_length_exceeded",
            details={"param": "messages", "needed_tokens": overflow.needed, "context_tokens": overflow.context},
        )


class _ChatRun:
    """One turn at work."""

    def __init__(self, ability: ChatCompletions, turn: ChatTurn, run: TurnRun) -> None:
        self._ability = ability
        self._turn = turn
        self._course = run
        self._language = ""
        self._seconds = 0.0
        """Of sound that was listened to."""

    async def work(self, send: Send) -> None:
        ability, turn, run = self._ability, self._turn, self._course
        ability.generator.preload(turn.speak)
        told = [await self._told(at, message, send) for at, message in enumerate(turn.messages)]
        if turn.form:
            # In one with what the caller says: templates (Mistral's) refuse a second system message.
            before = told.pop(0).text if told[0].role == "system" else ""
            told.insert(0, PromptMessage("system", f"{before}\n\n{turn.form}" if before else turn.form))
        if turn.heard:
            run.timings = replace(run.timings, audio=self._seconds)
            run.mark("transcript")
        voice = ability.synthesis.voice(turn.voice, self._language) if turn.speak else None
        generation_options = GenerationOptions(
            voice,
            turn.max_tokens,
            turn.temperature,
            turn.seed,
            turn.sampling,
            turn.speed,
            verbatim=voice is None,
            priority=turn.priority,
        )
        answered = await ability.generator.answer(FixedPrompt(tuple(told)), generation_options, send, run.mark)
        run.timings = replace(run.timings, spoken=answered.spoken)
        run.mark("end")
        if turn.speak and turn.spoken:
            ability.remember(turn.spoken, answered.reply)
        usage = answered.last.usage or TokenUsage()
        run.count(usage)
        reason = answered.last.finish_reason or "stop"
        counted = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        await send(TurnEnded("", reason, *counted, timings=run.timings))

    async def _told(self, at: int, message: ChatMessage, send: Send) -> PromptMessage:
        texts = [
            await self._heard(part, f"messages[{at}].content[{place}]", send) if not isinstance(part, str) else part
            for place, part in enumerate(message.parts)
        ]
        if message.spoken and not any(texts):
            texts = [self._ability.words(message.spoken, f"messages[{at}].audio.id")]
        return PromptMessage(message.role, "\n".join(texts), message.calls, message.call)

    async def _heard(self, file: Source, param: str, send: Send) -> str:
        ability, longest = self._ability, self._ability.settings.limits.audio_seconds
        with _about(param):
            audio = await ability.transcription.decoded(file)
            self._seconds += audio.seconds
            if self._seconds > longest:
                raise TooLarge(
                    f"the audio of all messages is longer than {longest:g} seconds",
                    code="audio_too_long",
                    details={"limit_seconds": longest},
                )
            heard = await ability.transcription.hear(audio, None, self._turn.priority)
        self._language = heard.language
        await send(Transcript(heard.text, True, heard.start, heard.end, heard.language))
        return heard.text


@contextmanager
def _about(param: str) -> Iterator[None]:
    """What is wrong within is wrong with this."""
    try:
        yield
    except CallerError as error:
        error.details.setdefault("param", param)
        raise


def _length(message: ChatMessage) -> int:
    words = sum(len(part) for part in message.parts if isinstance(part, str))
    return words + sum(len(call.name) + len(call.arguments) for call in message.calls)


def _check_calls(turn: ChatTurn) -> None:
    """Tools have names of their own, one that is chosen is there, and results belong to calls."""
    tool_call_parser.check(turn.sampling)
    known: set[str] = set()
    for at, message in enumerate(turn.messages):
        known.update(call.id for call in message.calls)
        if message.role == "tool" and message.call not in known:
            told = f"no message before messages[{at}] wants the call {message.call!r}"
            raise _wrong(f"messages[{at}].tool_call_id", told, "invalid_value")


def _wrong(param: str, told: str, code: str) -> Unprocessable:
    return Unprocessable(told, code=code, details={"param": param})
