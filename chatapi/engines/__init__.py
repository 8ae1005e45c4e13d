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
from chatapi.engines.sound_protocols import DEFAULT_SOUND_OPTIONS as DEFAULT_SOUND_OPTIONS
from chatapi.engines.sound_protocols import SOUND_RATE as SOUND_RATE
from chatapi.engines.sound_protocols import SoundDetector as SoundDetector
from chatapi.engines.sound_protocols import SoundOptions as SoundOptions
from chatapi.engines.sound_protocols import SoundWindow as SoundWindow
from chatapi.engines.voice_protocols import COMMAND_SAMPLES as COMMAND_SAMPLES
from chatapi.engines.voice_protocols import SPEAKER_HOP as SPEAKER_HOP
from chatapi.engines.voice_protocols import SPEAKER_WINDOW as SPEAKER_WINDOW
from chatapi.engines.voice_protocols import VAD_FRAME as VAD_FRAME
from chatapi.engines.voice_protocols import WAKE_WORD_FRAME as WAKE_WORD_FRAME
from chatapi.engines.voice_protocols import CommandClassifier as CommandClassifier
from chatapi.engines.voice_protocols import CommandFeatures as CommandFeatures
from chatapi.engines.voice_protocols import CommandReplay as CommandReplay
from chatapi.engines.voice_protocols import ConversionWindow as ConversionWindow
from chatapi.engines.voice_protocols import EndOfTurnDetector as EndOfTurnDetector
from chatapi.engines.voice_protocols import SpeakerEncoder as SpeakerEncoder
from chatapi.engines.voice_protocols import SpeechStream as SpeechStream
from chatapi.engines.voice_protocols import VoiceActivityDetector as VoiceActivityDetector
from chatapi.engines.voice_protocols import VoiceConverter as VoiceConverter
from chatapi.engines.voice_protocols import WakeWordDetector as WakeWordDetector
from chatapi.engines.voice_protocols import WakeWordStream as WakeWordStream
from chatapi.engines.voice_protocols import WordEncoder as WordEncoder
from chatapi.engines.voice_protocols import speaker_windows as speaker_windows
from chatapi.events import Token, ToolCall


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
    speaker: str = ""
    """Label of the speaker; empty: without speaker labels."""

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
    on_gpu: bool
    """Whether it runs on a GPU."""
    is_warm: bool
    """Whether its constructor has run the model, so that the first call is no slower than the others."""

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
    reasoning_tokens: int = 0
    """Completion tokens of the model's reasoning, without its markers. An engine may leave it to `ReasoningFilter`."""


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
    reasoning: str = ""
    """Reasoning that the engine itself separates from the text."""


class ContextOverflow(Exception):
    """The messages and the tokens reserved for the answer exceed the context; `generate` raises it before its first
    chunk."""

    def __init__(self, needed: int, context: int, remedy: str = "") -> None:
        """`remedy`: how more would fit, beginning with the setting's name where there is one."""
        super().__init__(f"{needed} tokens needed, {context} fit")
        self.needed, self.context, self.remedy = needed, context, remedy


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
    base: str = ""
    """Name of the engine's voice whose speech is converted to this voice; empty: it is a voice of the engine."""

    @property
    def locale(self) -> str:
        """The language with the region where it is known, such as en-GB."""
        return f"{self.language}-{self.region}" if self.region else self.language


class Synthesizer(Protocol):
    """Text to speech."""

    voices: tuple[Voice, ...]
    """The first is the default."""
    is_warm: bool
    """Whether its constructor has run the model, so that the first call is no slower than the others."""

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        """Mono audio at the voice's sample rate, one chunk per sentence; nothing for a text without words.

        `speed` 2 speaks twice as fast as the settings' speed. Unprocessable (speed_not_supported) before the first
        chunk where the voice has a fixed speed.
        """
