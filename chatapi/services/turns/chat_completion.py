"""Stateless chat completions: the caller sends the whole conversation with every turn, and nothing of it is stored.

The model sees these messages, and a system prompt of the settings where a turn asks for one and has none.
"""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from chatapi.audio.decode import Source
from chatapi.engines import (
    Capability,
    PromptMessage,
    Sampling,
    TokenChunk,
    TokenUsage,
)
from chatapi.errors import CallerError, NotFound, TooLarge, Unprocessable
from chatapi.events import Event, ReasoningDelta, TextDelta, ToolCall, Transcript, TurnEnded
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.services.turns import tool_call_parser
from chatapi.services.turns.generation import GenerationOptions, Generator
from chatapi.services.turns.prompts import FixedPrompt
from chatapi.services.turns.run import Send, TurnItems, TurnLimits, TurnRun, turn_timed_out
from chatapi.settings import Settings

AUDIO_ID_SECONDS = 3600
"""How long a spoken answer can be referred to by its id, in seconds."""
MAX_AUDIO_IDS = 256
"""Spoken answers whose text is remembered for that."""

CUT_SHARE = 0.95
"""Share of the turn's time after which a text answer is cut."""

PARAMETERS: tuple[tuple[str, Capability], ...] = (
    ("top_p", "top_p"),
    ("frequency_penalty", "penalties"),
    ("presence_penalty", "penalties"),
    ("logit_bias", "logit_bias"),
    ("logprobs", "logprobs"),
    ("schema", "schema"),
    ("tools", "schema"),
)
"""Field of `Sampling` and the capability it requires; an engine that supports tools needs no schema for them."""
STYLE = ("top_p", "frequency_penalty", "presence_penalty")
"""Those that only tune the style of the answer: an engine without them still gives the answer."""
PARAMETER_NAMES = {"schema": "response_format"}
"""Field of `Sampling` -> name of the request parameter, where they differ."""


@dataclass(frozen=True)
class ChatMessage:
    """A message of the request."""

    role: str
    """system, user, assistant or tool."""
    parts: tuple[str | Source, ...]
    """Texts and audio files with speech, in order."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """Id of the call that a message of the role tool answers."""
    audio_id: str = ""
    """Id of an earlier spoken answer; its text is the content of the message."""


@dataclass(frozen=True)
class ChatTurn:
    """A request for a chat completion."""

    messages: tuple[ChatMessage, ...]
    speak: bool = False
    """Whether the answer is also synthesized."""
    voice: str | None = None
    audio_id: str = ""
    """Id by which a spoken answer can be referred to later."""
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    reads_aloud: bool = False
    """Whether the last message is itself what is spoken, and the model is not asked."""
    speed: float = 1.0
    """Speaking rate, as a multiple of the usual one."""
    fills_context: bool = False
    """Whether an answer without `max_tokens` may be as long as the context and the turn's deadline permit."""
    has_default_system: bool = False
    """Whether messages without a system message get the one of the settings."""
    reasoning: bool = False
    """Whether the model's reasoning is sent as events too."""
    schema_description: str = ""
    """Purpose of the answer's schema, as an instruction for the model."""
    priority: Priority = Priority.REQUEST
    traceparent: str = ""
    """The caller's trace, in the format of W3C Trace Context."""

    @property
    def has_audio(self) -> bool:
        """Whether any message has an audio part."""
        return any(not isinstance(part, str) for message in self.messages for part in message.parts)


class ChatCompletions:
    """Answers stateless chat turns."""

    def __init__(
        self,
        transcriber: FileTranscriber,
        generator: Generator,
        admission: Admission,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.transcriber = transcriber
        self.generator = generator
        self.admission = admission
        self.settings = settings
        self.metrics = metrics
        self._audio_texts: OrderedDict[str, tuple[float, str]] = OrderedDict()
        """Id of a spoken answer -> when it expires, on the monotonic clock in seconds, and its text."""

    @property
    def synthesis(self) -> SpeechSynthesis:
        return self.generator.synthesis

    @asynccontextmanager
    async def run(self, turn: ChatTurn) -> AsyncIterator[TurnItems[Event]]:
        """The events of a turn. Leaving the block cancels all its work.

        Entering raises the errors of the request; the events raise all others. A CallerError names the `param` in its
        details.
        """
        self._check(turn)
        limits = TurnLimits(self.settings.limits.turn_seconds, turn.has_audio, turn.speak, turn.traceparent)
        run = TurnRun(self.admission, self.metrics, limits)
        async with run.stream(_ChatRun(self, turn, run).work, turn.priority) as events:
            yield events

    def remember(self, audio_id: str, text: str) -> None:
        """Remember the text of a spoken answer for AUDIO_ID_SECONDS, or until MAX_AUDIO_IDS others follow."""
        self._audio_texts[audio_id] = (time.monotonic() + AUDIO_ID_SECONDS, text)
        while len(self._audio_texts) > MAX_AUDIO_IDS:
            self._audio_texts.popitem(last=False)

    def audio_text(self, audio_id: str, param: str) -> str:
        """The text of a spoken answer. Raises NotFound (audio_not_found)."""
        expires, text = self._audio_texts.get(audio_id, (0.0, ""))
        if time.monotonic() > expires:
            raise NotFound(
                f"there is no spoken answer {audio_id!r}, or it has expired; send its text as content",
                code="audio_not_found",
                details={"param": param},
            )
        return text

    def _check(self, turn: ChatTurn) -> None:
        if not turn.messages:
            raise _unprocessable("messages", "there are no messages; send at least one", "empty_messages")
        self._check_lengths(turn)
        _check_tool_calls(turn)
        self._check_last(turn.messages[-1])
        self._check_capabilities(turn.sampling)
        if turn.speak:
            self.synthesis.voice(turn.voice)

    def _check_lengths(self, turn: ChatTurn) -> None:
        limits, sampling, total = self.settings.limits, turn.sampling, 0
        lengths = [
            (f"messages[{index}]", _length(message), "system_chars" if message.role == "system" else "message_chars")
            for index, message in enumerate(turn.messages)
        ]
        schema = len(json.dumps(sampling.schema)) if sampling.schema is not None else 0
        lengths.append(("response_format", schema, "tools_chars"))
        lengths.append(("tools", tool_call_parser.description_length(sampling.tools), "tools_chars"))
        for param, length, name in lengths:
            total += length
            if length > (limit := getattr(limits, name)):
                message = f"{param} has {length} characters; the limit is {limit} (limits.{name})"
                raise _unprocessable(param, message, "string_above_max_length")
        if total > limits.messages_chars:
            most = f"{limits.messages_chars} (limits.messages_chars)"
            message = f"the messages and tools have {total} characters together; the limit is {most}"
            raise _unprocessable("messages", message, "context_length_exceeded")
        if not turn.has_audio and not any(_length(message) or message.audio_id for message in turn.messages):
            raise _unprocessable("messages", "the messages have no text", "empty_messages")

    def _check_last(self, last: ChatMessage) -> None:
        if last.role != "assistant":
            return
        if last.tool_calls:
            message = "the last message has tool calls; send their results as messages of the role tool"
            raise _unprocessable("messages", message, "invalid_value")
        if not self.generator.continues:
            message = f"the last message is the assistant's, which the engine {self._engine} cannot continue"
            raise _unprocessable("messages", message, "unsupported_value")

    def _check_capabilities(self, sampling: Sampling) -> None:
        if (param := self.unsupported_parameter(sampling, self.generator.capabilities)) is not None:
            message = f"{param} is not supported by the language model's engine, {self._engine}; leave it out"
            raise _unprocessable(param, message, "unsupported_parameter")

    def supported(self, sampling: Sampling) -> tuple[Sampling, tuple[str, ...]]:
        """The sampling without what only tunes the style and the engine does not support, and the names of that."""
        if all(getattr(sampling, name) is None for name in STYLE):
            return sampling, ()
        return self.without_style(sampling, self.generator.capabilities)

    @staticmethod
    def without_style(sampling: Sampling, capabilities: frozenset[Capability]) -> tuple[Sampling, tuple[str, ...]]:
        """What `supported` gives for an engine with these capabilities."""
        needs = dict(PARAMETERS)
        names = tuple(name for name in STYLE if getattr(sampling, name) is not None and needs[name] not in capabilities)
        dropped: dict[str, Any] = dict.fromkeys(names)
        return replace(sampling, **dropped), names

    @staticmethod
    def unsupported_parameter(sampling: Sampling, capabilities: frozenset[Capability]) -> str | None:
        """The first parameter that an engine with these capabilities does not support."""
        default = Sampling()
        for name, capability in PARAMETERS:
            emulated = name == "tools" and tool_call_parser.can_enforce_choice(sampling, capabilities)
            if getattr(sampling, name) != getattr(default, name) and capability not in capabilities and not emulated:
                return PARAMETER_NAMES.get(name, name)
        return None

    @property
    def _engine(self) -> str:
        return self.settings.llm.engine


class _ChatRun:
    """The work of one turn: transcription of its audio, and generation."""

    def __init__(self, service: ChatCompletions, turn: ChatTurn, run: TurnRun) -> None:
        self._service = service
        self._turn = turn
        self._run = run
        self._language = ""
        self._audio_seconds = 0.0
        """Audio transcribed so far, in seconds."""

    async def work(self, send: Send) -> None:
        service, turn, run = self._service, self._turn, self._run
        service.generator.preload(turn.speak)
        started = time.monotonic()
        prompt = FixedPrompt(tuple(await self._prompt_messages(send)))
        if turn.has_audio:
            run.timings = replace(run.timings, audio=self._audio_seconds)
            run.mark("transcript")
        deltas = reasoning = 0

        async def counted(event: Event) -> None:
            nonlocal deltas, reasoning
            deltas += isinstance(event, TextDelta)
            reasoning += isinstance(event, ReasoningDelta)
            await send(event)

        last, reply = TokenChunk("", "length"), ""
        with anyio.move_on_after(self._seconds(time.monotonic() - started)) as scope:
            generation = await service.generator.generate(prompt, self._options(prompt), counted, run.mark)
            last, reply = generation.last, generation.reply
            run.timings = replace(run.timings, spoken=generation.speech_seconds)
        if scope.cancelled_caught and not deltas:
            raise turn_timed_out(service.settings.limits.turn_seconds)
        run.mark("end")
        if turn.speak and turn.audio_id:
            service.remember(turn.audio_id, reply)
        # An answer that was cut has no count of its prompt.
        usage = last.usage or TokenUsage(0, deltas + reasoning, 0, reasoning)
        run.count(usage)
        tokens = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        reason = last.finish_reason or "stop"
        await send(TurnEnded("", reason, *tokens, timings=run.timings, reasoning_tokens=usage.reasoning_tokens))

    def _seconds(self, spent: float) -> float:
        """Time for the answer after `spent` seconds of work, in seconds: it is cut shortly before the turn's deadline,
        because half an answer is worth more than an error. That of a spoken answer moves with its audio."""
        if self._turn.speak:
            return math.inf
        return self._service.settings.limits.turn_seconds * CUT_SHARE - (self._run.timings.admitted or 0) - spent

    def _options(self, prompt: FixedPrompt) -> GenerationOptions:
        turn = self._turn
        voice = self._service.synthesis.voice(turn.voice, self._language) if turn.speak else None
        max_tokens = turn.max_tokens
        if max_tokens is None and turn.fills_context:
            max_tokens = self._service.generator.room(prompt.messages(), turn.sampling)
        return GenerationOptions(
            voice,
            max_tokens,
            turn.temperature,
            turn.seed,
            turn.sampling,
            turn.speed,
            verbatim=voice is None,
            reasoning=turn.reasoning,
            priority=turn.priority,
            script=prompt.messages()[-1].text if turn.reads_aloud else None,
        )

    async def _prompt_messages(self, send: Send) -> list[PromptMessage]:
        description = self._turn.schema_description
        settings = self._service.generator.settings
        messages = [
            await self._prompt_message(index, message, send) for index, message in enumerate(self._turn.messages)
        ]
        default = settings.system_prompt if self._turn.speak else settings.text_system_prompt
        if self._turn.has_default_system and default and not any(each.role == "system" for each in messages):
            messages.insert(0, PromptMessage("system", default))
        if description:
            # Joined to the caller's system message: templates (Mistral's) reject a second one.
            system = messages.pop(0).text if messages[0].role == "system" else ""
            messages.insert(0, PromptMessage("system", f"{system}\n\n{description}" if system else description))
        return messages

    async def _prompt_message(self, index: int, message: ChatMessage, send: Send) -> PromptMessage:
        texts = [
            part
            if isinstance(part, str)
            else await self._transcribe(part, f"messages[{index}].content[{part_index}]", send)
            for part_index, part in enumerate(message.parts)
        ]
        if message.audio_id and not any(texts):
            texts = [self._service.audio_text(message.audio_id, f"messages[{index}].audio.id")]
        return PromptMessage(message.role, "\n".join(texts), message.tool_calls, message.tool_call_id)

    async def _transcribe(self, file: Source, param: str, send: Send) -> str:
        transcriber, limit = self._service.transcriber, self._service.settings.limits.audio_seconds
        with _attribute_errors(param):
            audio = await transcriber.decode_file(file)
            self._audio_seconds += audio.seconds
            if self._audio_seconds > limit:
                raise TooLarge(
                    f"the audio of all messages is longer than {limit:g} seconds",
                    code="audio_too_long",
                    details={"limit_seconds": limit},
                )
            found = await transcriber.transcribe_utterance(audio, None, self._turn.priority)
        self._language = found.language
        await send(Transcript(found.text, True, found.start, found.end, found.language))
        return found.text


@contextmanager
def _attribute_errors(param: str) -> Iterator[None]:
    """Name this parameter in the details of a CallerError raised in the block."""
    try:
        yield
    except CallerError as error:
        error.details.setdefault("param", param)
        raise


def _length(message: ChatMessage) -> int:
    text = sum(len(part) for part in message.parts if isinstance(part, str))
    return text + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)


def _check_tool_calls(turn: ChatTurn) -> None:
    """Check that tool names are unique, that a chosen tool exists, and that every result belongs to a call."""
    tool_call_parser.check(turn.sampling)
    known: set[str] = set()
    for index, message in enumerate(turn.messages):
        known.update(call.id for call in message.tool_calls)
        if message.role == "tool" and message.tool_call_id not in known:
            text = f"no message before messages[{index}] has the tool call {message.tool_call_id!r}"
            raise _unprocessable(f"messages[{index}].tool_call_id", text, "invalid_value")


def _unprocessable(param: str, message: str, code: str) -> Unprocessable:
    return Unprocessable(message, code=code, details={"param": param})
