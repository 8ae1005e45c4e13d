"""The protocols of engines, one per role, and the values that engines take and give.

An engine is plain blocking code. Its constructor `Engine(settings, models)` loads it; its one method is a generator.
It knows nothing of threads, asyncio, HTTP or metrics, and keeps nothing between calls that a caller could notice.
It polls `stop` between steps and, where the library can be interrupted, inside them; once `stop` is true the generator
returns at its next step without another item. Polling is the sign of life between two items
(`chatapi.engines.cancellation`). An engine that keeps memory for its next call may have a method `give_back(stop)`,
called on its thread after a second without a call; `stop` is true once a call comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from chatapi.audio import Audio, Samples
from chatapi.engines.cancellation import Stop as Stop
from chatapi.engines.cancellation import never as never
from chatapi.engines.cancellation import still_wanted as still_wanted
from chatapi.events import Token, ToolCall


class SpeechStream(Protocol):
    """The state of one live stream that a speech detector follows."""

    def probability(self, frame: Samples) -> float:
        """Of speech, for the next 512 samples; takes under a millisecond, so any thread may call it."""


class VoiceActivityDetector(Protocol):
    """Voice activity detection."""

    def listener(self) -> SpeechStream:
        """For a stream that has no end yet."""

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        """Probability of speech, 0 to 1, for every 32 ms (512 samples) of 16 kHz mono; a short last frame is padded."""


class WakeWordStream(Protocol):
    """The state of one live stream that a wake word detector follows."""

    def probability(self, samples: Samples) -> float:
        """That the wake word has just ended, 0 to 1, for the next samples, of any number; 20 ms of them take well
        under a millisecond, so any thread may call it."""


class WakeWordDetector(Protocol):
    """Whether the box's name is called."""

    words: str
    """The wake word as it is said."""
    threshold: float
    """Probability from which it was said."""

    def listener(self) -> WakeWordStream:
        """For a stream that has no end yet."""

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        """Probability, 0 to 1, for every 20 ms (320 samples) of 16 kHz mono, that the wake word has just ended."""


class EndOfTurnDetector(Protocol):
    """Whether a pause is the end of what somebody wants to say."""

    def finished(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        """One probability, 0 to 1, for 16 kHz mono that ends in the pause."""


@dataclass(frozen=True)
class Word:
    """A word that was understood, without the marks around it."""

    text: str
    start: float
    """Seconds from the first sample given."""
    end: float


@dataclass(frozen=True)
class TranscriptToken:
    """What a recogniser writes at once: a word or a part of one."""

    id: int
    """Its number in the model's vocabulary."""
    spelled: bytes
    """UTF-8; a character may be spread over several tokens."""
    logprob: float
    """Natural logarithm of its probability."""


@dataclass(frozen=True)
class Segment:
    """A stretch of speech that was understood."""

    text: str
    start: float
    """Seconds from the first sample given."""
    end: float
    logprob: float = 0.0
    """Mean natural logarithm of the tokens' probabilities; near 0 is sure, below -1 is a guess."""
    language: str = ""
    """ISO 639-1 code of what was spoken, as told or as detected."""
    words: tuple[Word, ...] = ()
    """Where `TranscriptionOptions.words` asked for them."""
    tokens: tuple[TranscriptToken, ...] = ()
    """Where `TranscriptionOptions.tokens` asked for them."""

    def timed(self, clock: Callable[[float, bool], float]) -> Segment:
        """The same with every time as `clock` gives it, told whether it is an end; nothing ends before it begins."""
        start = clock(self.start, False)
        words = tuple(
            replace(word, start=(begun := clock(word.start, False)), end=max(begun, clock(word.end, True)))
            for word in self.words
        )
        return replace(self, start=start, end=max(start, clock(self.end, True)), words=words)


@dataclass(frozen=True)
class TranscriptionOptions:
    """How a recogniser is to hear, beyond the language."""

    prompt: str = ""
    """Text that is taken to have been said before: its names and its style are rather written."""
    temperature: float = 0.0
    """0 takes the likeliest word; higher is more varied, up to 1."""
    translate: bool = False
    """Write English whatever is spoken; only where the recogniser's `translates` says so."""
    words: bool = False
    """Whether segments have their words."""
    tokens: bool = False
    """Whether segments have their tokens."""


PLAIN = TranscriptionOptions()


class Transcriber(Protocol):
    """Automatic speech recognition; `transcribe` may run on as many threads at once as there are slots."""

    slots: int
    languages: tuple[str, ...]
    """ISO 639-1 codes it understands."""
    translates: bool
    """Whether it can write in English what is spoken in another language."""

    def transcribe(
        self, samples: Samples, language: str | None = None, stop: Stop = never, hearing: TranscriptionOptions = PLAIN
    ) -> Iterator[Segment]:
        """Segments of 16 kHz mono, in order; `language` None: detect it. Nothing where it hears no words."""


@dataclass(frozen=True)
class PromptMessage:
    """One message of a chat."""

    role: str
    """system, user, assistant or, for an engine that knows tools, tool: what a function that was called gave."""
    text: str
    calls: tuple[ToolCall, ...] = ()
    """What an assistant wanted called."""
    call: str = ""
    """Of a tool's message: the id of the call."""


@dataclass(frozen=True)
class Tool:
    """A function that the model may want called."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of its arguments, which are an object."""
    strict: bool = False


Capability = Literal["top_p", "penalties", "logit_bias", "logprobs", "schema", "tools"]
"""What `Sampling` may ask beyond what every language model does. `tools` are known natively; to the others they are
told in words (`chatapi.services.turns.tool_call_parser`)."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is to be written."""

    max_tokens: int = 256
    temperature: float = 0.7
    seed: int | None = None
    stop_texts: tuple[str, ...] = ()
    """Writing ends before any of these would appear."""
    top_p: float | None = None
    """Only the likeliest tokens that have this probability together; None: as the model likes best."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    """-2 to 2: what a token loses for each time it was written, and once for having been; None: as for `top_p`."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """The model's token -> -100 to 100, added to its logit."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told at each place, 0 to 20; None: nothing of the tokens is told."""
    schema: Mapping[str, Any] | None = None
    """JSON schema that the whole answer fits."""
    strict: bool = False
    """Whether the schema, where it is only passed on, is to be followed to the letter; engines of ours always do."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """auto, required, none, or a tool's name after a colon."""
    parallel: bool = True
    """Whether several calls at once are taken."""


@dataclass(frozen=True)
class TokenUsage:
    """What an answer took, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were not computed again."""


@dataclass(frozen=True)
class TokenChunk:
    """A piece of an answer, whose text may be empty; the last one carries the reason and the usage."""

    text: str
    finish_reason: str | None = None
    """stop, length or tool_calls, on the last piece only."""
    usage: TokenUsage | None = None
    tokens: tuple[Token, ...] = ()
    """What the text consists of, where `Sampling.logprobs` asks for it."""
    calls: tuple[ToolCall, ...] = ()
    """Functions to be called, whole."""


class ContextOverflow(Exception):
    """The messages and the answer's reserve do not fit; raised by `generate` before its first piece."""

    def __init__(self, needed: int, context: int) -> None:
        super().__init__(f"{needed} tokens needed, {context} fit")
        self.needed, self.context = needed, context


class LanguageModel(Protocol):
    """A chat model."""

    slots: int
    """How many answers it can write at once, on a thread each."""
    continues: bool
    """Whether it goes on writing a last message that is the assistant's."""
    can: frozenset[Capability]
    context: int
    """Tokens that a prompt and its answer may have together."""

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        """The answer as it is written, about a token a piece.

        Raises ContextOverflow before writing, Unprocessable (invalid_json_schema) for a schema that it cannot follow.
        """

    def whole(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        """How probable it is that the last message, which ends without a mark, says all that it is to say.

        One number, between 0 and 1 and comparable only with those of the same model; none where it cannot be told.
        """

    def counts(self) -> Mapping[str, float]:
        """What its library counts since it was loaded, by the names of `metrics.engine.COUNTS`. Any thread may ask."""


class NoEngineCounts:
    """What a language model has whose library counts nothing."""

    def counts(self) -> Mapping[str, float]:
        return {}


class ChatOnly(NoEngineCounts):
    """What a language model has that takes whole messages and gives whole answers, and nothing beyond."""

    continues = False
    can: frozenset[Capability] = frozenset()

    def whole(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        return iter(())


@dataclass(frozen=True)
class Voice:
    """A voice one can ask for by name."""

    name: str
    language: str
    """ISO 639-1."""
    rate: int
    """Samples a second of what it speaks."""


class Synthesizer(Protocol):
    """Text to speech."""

    voices: tuple[Voice, ...]
    """The first is the default."""

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        """Mono audio, a chunk a sentence, at the voice's rate; nothing for a text with nothing to say.

        `speed` 2 speaks twice as fast as the settings have it. Unprocessable (speed_not_supported) before the first
        chunk where this voice has one speed only.
        """
