"""The protocols of engines, one per role, and the values that engines receive and return.

An engine is plain blocking code. Its constructor `Engine(settings, models)` loads it; its methods are generators. It
knows nothing of threads, asyncio, HTTP or metrics, and keeps no state between calls that a caller could notice. It
polls `stop` between steps and, where the library can be interrupted, inside them; once `stop` is true the generator
returns at its next step without another item. Polling is the sign of life between two items
(`chatapi.engines.cancellation`). An engine that keeps memory for its next call may have a method
`release_memory(stop)`, which is called on its thread after one second without a call; `stop` becomes true when the next
call arrives.
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

VAD_FRAME = 512
"""Samples of a VAD frame: 32 ms at 16 kHz, the only size that Silero VAD supports."""
WAKE_WORD_FRAME = 320
"""Samples per wake word probability: 20 ms at 16 kHz. pymicro-wakeword takes 10 ms and computes one every 30 ms."""


class SpeechStream(Protocol):
    """The VAD state of one live stream."""

    def probability(self, frame: Samples) -> float:
        """Probability of speech, 0 to 1, in the next VAD_FRAME samples; takes less than 1 ms. Any thread may call it,
        one at a time."""


class VoiceActivityDetector(Protocol):
    """Voice activity detection."""

    def stream(self) -> SpeechStream:
        """Starts the state of a live stream."""

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        """Probability of speech, 0 to 1, for every VAD_FRAME samples of 16 kHz mono; a short last frame is padded."""


class WakeWordStream(Protocol):
    """The wake word state of one live stream."""

    def probability(self, samples: Samples) -> float:
        """Probability, 0 to 1, that the wake word has just ended, after the next samples, of any number; 20 ms of audio
        take much less than 1 ms. Any thread may call it, one at a time."""


class WakeWordDetector(Protocol):
    """Wake word detection."""

    words: str
    """The wake word as text."""
    threshold: float
    """Probability from which the wake word counts as detected, 0 to 1."""

    def stream(self) -> WakeWordStream:
        """Starts the state of a live stream."""

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        """Probability, 0 to 1, that the wake word has just ended, for every WAKE_WORD_FRAME samples of 16 kHz mono."""


class EndOfTurnDetector(Protocol):
    """End-of-turn detection from audio."""

    def end_of_turn_probability(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        """One probability, 0 to 1, that the turn is over, for 16 kHz mono audio that ends in the pause."""


@dataclass(frozen=True)
class Word:
    """A word of a transcript with its timestamps, without punctuation."""

    text: str
    start: float
    """Seconds from the first sample given."""
    end: float
    """Seconds from the first sample given."""


@dataclass(frozen=True)
class TranscriptToken:
    """A token of a transcript: a word or a part of one."""

    id: int
    """Its number in the model's vocabulary."""
    utf8: bytes
    """Its text in UTF-8; a character may be spread over several tokens."""
    logprob: float
    """Natural logarithm of its probability."""


@dataclass(frozen=True)
class Segment:
    """A segment of a transcript."""

    text: str
    start: float
    """Seconds from the first sample given."""
    end: float
    """Seconds from the first sample given."""
    logprob: float = 0.0
    """Mean natural logarithm of the tokens' probabilities; near 0 is certain, below -1 is unreliable."""
    language: str = ""
    """ISO 639-1 code of the spoken language, as requested or as detected."""
    words: tuple[Word, ...] = ()
    """Present where `TranscriptionOptions.words` requests them."""
    tokens: tuple[TranscriptToken, ...] = ()
    """Present where `TranscriptionOptions.tokens` requests them."""

    def retimed(self, clock: Callable[[float, bool], float]) -> Segment:
        """The same segment with every time mapped by `clock(seconds, is_end)`; no time ends before it starts."""
        start = clock(self.start, False)
        words = tuple(
            replace(word, start=(begun := clock(word.start, False)), end=max(begun, clock(word.end, True)))
            for word in self.words
        )
        return replace(self, start=start, end=max(start, clock(self.end, True)), words=words)


@dataclass(frozen=True)
class TranscriptionOptions:
    """Options of a transcription, except the language."""

    prompt: str = ""
    """Text that precedes the audio; the transcript prefers its names and its style."""
    temperature: float = 0.0
    """Sampling temperature, 0 to 1; 0 takes the most probable token."""
    translate: bool = False
    """Translate to English; only where the transcriber's `translates` is true."""
    words: bool = False
    """Whether segments carry their words."""
    tokens: bool = False
    """Whether segments carry their tokens."""


DEFAULT_OPTIONS = TranscriptionOptions()


class Transcriber(Protocol):
    """Automatic speech recognition; `transcribe` may run on as many threads at once as there are slots."""

    slots: int
    languages: tuple[str, ...]
    """ISO 639-1 codes of the supported languages."""
    translates: bool
    """Whether it can translate speech in another language to English."""

    def transcribe(
        self,
        samples: Samples,
        language: str | None = None,
        stop: Stop = never,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> Iterator[Segment]:
        """Segments of 16 kHz mono, in order; `language` None: detect it. No segments where there are no words."""


@dataclass(frozen=True)
class PromptMessage:
    """One message of a chat prompt."""

    role: str
    """system, user, assistant or, for an engine that supports tools, tool: the result of a tool call."""
    text: str
    calls: tuple[ToolCall, ...] = ()
    """The tool calls of an assistant's message."""
    call: str = ""
    """The id of the tool call that a tool's message answers."""


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of its arguments, which are an object."""
    strict: bool = False


Capability = Literal["top_p", "penalties", "logit_bias", "logprobs", "schema", "tools"]
"""Parts of `Sampling` that not every language model supports. `tools` means native tool calls; for other models the
tools are described in the prompt (`chatapi.services.turns.tool_call_parser`)."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters and limits of one completion."""

    max_tokens: int = 256
    """Most tokens of the completion."""
    temperature: float = 0.7
    """0 takes the most probable token; higher is more varied."""
    seed: int | None = None
    stop_texts: tuple[str, ...] = ()
    """The completion ends before any of these texts."""
    top_p: float | None = None
    """Sample only from the most probable tokens whose probabilities sum to this value, 0 to 1; None: the model's
    default."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    """-2 to 2: what a token's logit loses for each occurrence, and once for having occurred; None: the model's
    default."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """The model's token -> -100 to 100, added to its logit."""
    logprobs: int | None = None
    """How many of the most probable tokens are reported at each position, 0 to 20; None: no tokens are reported."""
    schema: Mapping[str, Any] | None = None
    """JSON schema that the completion as a whole matches."""
    strict: bool = False
    """Whether an upstream server must follow the schema exactly; the engines in this process always do."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """auto, required, none, or a colon and a tool's name."""
    parallel: bool = True
    """Whether several tool calls at once are allowed."""


@dataclass(frozen=True)
class TokenUsage:
    """Token counts of a completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens taken from the cache instead of being computed again."""


@dataclass(frozen=True)
class TokenChunk:
    """A chunk of a completion, whose text may be empty; the last one carries the finish reason and the usage."""

    text: str
    finish_reason: str | None = None
    """stop, length or tool_calls, on the last chunk only."""
    usage: TokenUsage | None = None
    tokens: tuple[Token, ...] = ()
    """The tokens of the text, where `Sampling.logprobs` requests them."""
    calls: tuple[ToolCall, ...] = ()
    """Complete tool calls."""


class ContextOverflow(Exception):
    """The messages and the tokens reserved for the answer exceed the context; `generate` raises it before its first
    chunk."""

    def __init__(self, needed: int, context: int) -> None:
        super().__init__(f"{needed} tokens needed, {context} fit")
        self.needed, self.context = needed, context


class LanguageModel(Protocol):
    """A chat model."""

    slots: int
    """How many completions it can generate at once, each on its own thread."""
    continues: bool
    """Whether it continues a last message whose role is assistant."""
    capabilities: frozenset[Capability]
    context: int
    """Tokens of a prompt and its completion together."""

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        """The completion as it is generated, about one token per chunk.

        Raises ContextOverflow before generating, Unprocessable (invalid_json_schema) for a schema that it cannot
        follow.
        """

    def end_of_turn_probability(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        """Probability that the last message, which ends without punctuation, is complete.

        One number between 0 and 1, comparable only with those of the same model; none where the model cannot tell.
        """

    def counts(self) -> Mapping[str, float]:
        """Counters of its library since it was loaded, by the names of `metrics.engine.COUNTS`. Any thread may call
        it."""


class NoEngineCounts:
    """Default of a language model whose library counts nothing."""

    def counts(self) -> Mapping[str, float]:
        return {}


class ChatOnly(NoEngineCounts):
    """Defaults of a language model that accepts plain messages and generates plain text only."""

    continues = False
    capabilities: frozenset[Capability] = frozenset()

    def end_of_turn_probability(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        return iter(())


@dataclass(frozen=True)
class Voice:
    """A voice that a request can name."""

    name: str
    language: str
    """ISO 639-1 code."""
    rate: int
    """Sample rate of its speech, in Hz."""
    region: str = ""
    """ISO 3166-1 code of the country whose dates and accent it speaks, such as GB; empty: unknown."""

    @property
    def locale(self) -> str:
        """The language with the region where it is known, such as en-GB."""
        return f"{self.language}-{self.region}" if self.region else self.language


class Synthesizer(Protocol):
    """Text to speech."""

    voices: tuple[Voice, ...]
    """The first is the default."""

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        """Mono audio at the voice's sample rate, one chunk per sentence; nothing for a text without words.

        `speed` 2 speaks twice as fast as the settings' speed. Unprocessable (speed_not_supported) before the first
        chunk where the voice has a fixed speed.
        """
