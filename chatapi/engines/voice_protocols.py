"""The protocols of engines that detect and convert voices: VAD, wake word, end of turn, speakers and commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from chatapi.audio import Audio, Samples
from chatapi.engines.cancellation import Stop, never

VAD_FRAME = 512
"""Samples of a VAD frame: 32 ms at 16 kHz, the only size that Silero VAD supports."""
WAKE_WORD_FRAME = 320
"""Samples per wake word probability: 20 ms at 16 kHz. pymicro-wakeword takes 10 ms and computes one every 30 ms."""
SPEAKER_WINDOW, SPEAKER_HOP = 25_600, 6_400
"""Samples of a speaker embedding, and from one to the next: 1.6 s and 0.4 s at 16 kHz."""
COMMAND_SAMPLES = 16_000
"""Samples of the longest command: 1 s at 16 kHz."""


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


class SpeakerEncoder(Protocol):
    """Speaker embeddings: vectors that are alike where the voice is the same."""

    threshold: float
    """Cosine similarity of two groups of embeddings from which they are one speaker's, -1 to 1."""

    def embeddings(self, samples: Samples, stop: Stop = never) -> Iterator[Samples]:
        """A vector of length 1 for each window that `speaker_windows` places in these samples of 16 kHz mono; audio
        shorter than a window is repeated."""


@dataclass(frozen=True)
class ConversionWindow:
    """The part of samples that is converted; those before and after it are its context."""

    start: int
    """The first sample that is converted."""
    end: int
    """The sample after the last one."""
    position: int = 0
    """Samples of the stream before the first of these, so that windows of a stream fit together; a multiple of 320."""


class VoiceConverter(Protocol):
    """Voice conversion: says what one voice says with another."""

    rate: int
    """Sample rate of its speech, in Hz."""
    reference_format: str
    """Name of the form of its references; one of another form cannot be used."""
    on_gpu: bool
    """Whether it runs on a GPU."""

    def reference(self, samples: Samples, stop: Stop = never) -> Iterator[Samples]:
        """What is kept of a voice: rows of numbers, of shape (frames, width), of 16 kHz mono of one speaker, part by
        part. References of several clips are joined along the first axis."""

    def convert(
        self,
        samples: Samples,
        reference: Samples,
        stop: Stop = never,
        source: str = "",
        window: ConversionWindow | None = None,
    ) -> Iterator[Audio]:
        """16 kHz mono in the voice of the reference, in parts of 0.7 to 3 s; silence where the source is silent.

        `source`: a name of its speaker; what the engine learned of the speaker in earlier calls makes short recordings
        better. Empty: it is learned from this recording alone. `window`: what is converted; None: everything. Of n
        samples of 16 kHz it makes n * rate / 16000, rounded at both ends of the window.

        Raises Unprocessable (empty_reference) for a reference without frames, (unknown_reference) for another width.
        """


@dataclass(frozen=True, eq=False)
class CommandFeatures:
    """What a command classifier finds in one clip."""

    probabilities: tuple[float, ...]
    """Of each of the engine's labels; they sum to 1."""
    embedding: Samples
    """A vector that is alike for the same word, whoever speaks it."""


@dataclass(frozen=True, eq=False)
class CommandReplay:
    """Embeddings of clips that the classifier knows, which keep it from forgetting them when it is taught words."""

    embeddings: Samples
    """Of shape (clips, width)."""
    labels: tuple[int, ...]
    """Of each clip, the place of its label; clips of other words and of background have the last one."""
    parts: tuple[int, ...]
    """Of each clip, what it is for: 0 training, 1 calibration, 2 judging; each has voices of its own."""
    words: tuple[str, ...]
    """Of each clip, its word; empty: background."""


class CommandClassifier(Protocol):
    """Classification of short clips: which of a few words it is."""

    labels: tuple[str, ...]
    """The words; the last label is that of all other sounds."""
    features: str
    """Name of the form of its embeddings; what was taught with another form cannot be used."""

    def classify(self, samples: Samples, stop: Stop = never) -> Iterator[CommandFeatures]:
        """One CommandFeatures for at most COMMAND_SAMPLES of 16 kHz mono; a shorter clip is padded at both ends."""

    def replay(self, stop: Stop = never) -> Iterator[CommandReplay]:
        """What keeps it from forgetting; nothing where it cannot be taught."""


class WordEncoder(Protocol):
    """Embeddings of short clips that distinguish words which a command classifier does not know."""

    features: str
    """Name of the form of its embeddings; what was taught with another form cannot be used."""

    beside: str
    """The form of the classifier's embeddings that it joins with its own; what it knows is of that classifier."""

    def encode(self, samples: Samples, other: Samples, stop: Stop = never) -> Iterator[Samples]:
        """One vector for at most COMMAND_SAMPLES of 16 kHz mono, alike for the same word, whoever speaks it.

        `other`: the classifier's embedding of the clip; empty: none is joined.
        """

    def known(self, labels: tuple[str, ...], stop: Stop = never) -> Iterator[CommandReplay]:
        """Embeddings of known clips, with the places of these labels, the last of which is that of all other sounds;
        nothing where it has none for them."""


def speaker_windows(samples: int) -> list[int]:
    """The first samples of the windows in so many samples: one every SPEAKER_HOP, and one that ends with the last."""
    last = max(0, samples - SPEAKER_WINDOW)
    return [*range(0, last, SPEAKER_HOP), last]
