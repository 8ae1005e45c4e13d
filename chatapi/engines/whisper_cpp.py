"""Speech recognition by whisper.cpp, through pywhispercpp."""

from __future__ import annotations

import atexit
import os
import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from chatapi import openmp
from chatapi.audio import RATE, Samples
from chatapi.engines import Segment, Stop, never
from chatapi.errors import EngineFailed, ModelFault, Unprocessable
from chatapi.settings import Settings

with openmp.sleeping():
    import _pywhispercpp as whisper

_log: list[str] = []
"""Errors whisper.cpp reported; nothing of what it says is printed."""
_loading = threading.Lock()


def _listen(level: int, text: str) -> None:
    if level == ERROR:
        _log.append(text.strip())


ERROR = 4
"""ggml's level of an error message."""

whisper.whisper_log_set(_listen)
# At exit Python frees the callback without holding its lock, which aborts the process.
atexit.register(whisper.whisper_log_set, None)

WINDOW = 30 * RATE
"""Samples Whisper hears at once."""
FRAME = 320
"""Samples for each of the encoder's 1500 frames."""
TRIMMED = 512
"""Frames of the encoder for a short clip, instead of 1500.

On the held-out clips of tests/corpus no more words are wrong than with all 1500, in less than half the time; with 128
or with fewer than 384 many are. `chatapi bench hearing` measures it.
"""
MARGIN = 64
"""Frames without the clip that the trimmed encoder must have left: up to 8.96 seconds are short."""
SURE = -0.45
"""Mean log-probability below which a trimmed run is done again with the full encoder; chosen on the split tune."""
GUESS = -0.9
"""Mean log-probability below which nothing is believed.

Silence, noise, hum, tones, clicks and breath give -1.0 to -4.0 with the full encoder, tiny.en and base; the worst
clip of tests/corpus that was understood gives -0.6.
"""
NO_SPEECH = 0.6
"""Probability of no speech above which only what is SURE is believed; whisper.cpp does this check itself."""
IDEOGRAMS = "\u3040-\u30ff\u3400-\u9fff"
"""Letters of languages written without spaces."""
SHORTEST = RATE * 11 // 10
"""whisper.cpp hears nothing in less than a second."""
FASTEST = 6
"""Words a second that nobody says for long."""
TOKENS_A_SECOND = 25
"""More than any language needs; a loop would go on to 224 tokens."""


class Model(Protocol):
    """What this engine needs to know of an opened model."""

    @property
    def name(self) -> str: ...
    @property
    def files(self) -> Mapping[str, Path]: ...
    @property
    def languages(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class _Heard:
    """What one run of the model gave."""

    segments: tuple[Segment, ...]
    logprob: float
    """Mean over the tokens of all segments."""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


class WhisperCpp:
    """One transcription at a time: whisper.cpp keeps the state of a run in the loaded model."""

    def __init__(self, settings: Settings, models: Sequence[Model]) -> None:
        """Raises ModelFault when the weights cannot be loaded."""
        model = models[0]
        self.languages = tuple(model.languages)
        self._name = model.name
        self._trim = settings.whisper_cpp.trim
        self.threads = settings.whisper_cpp.threads or min(8, _cores())
        self._context = _loaded(model)
        weakref.finalize(self, whisper.whisper_free, self._context)

    def transcribe(self, samples: Samples, language: str | None = None, stop: Stop = never) -> Iterator[Segment]:
        """As the role says; Unprocessable (unknown_language) for one it does not understand."""
        if language is not None and language not in self.languages:
            raise Unprocessable(
                f"{self._name} does not understand {language!r}; it understands {', '.join(self.languages)}",
                code="unknown_language",
            )
        start = 0
        while start < len(samples) and not stop():
            window = samples[start : start + WINDOW]
            language = language or self._language(window)
            heard = self._hear(window, language, stop)
            if stop():
                return
            # The last segment may have been cut in a word by the window's end: it is heard again from its start.
            again = start + WINDOW < len(samples) and len(heard) > 1 and heard[-1].start > WINDOW / RATE / 2
            for segment in heard[:-1] if again else heard:
                yield replace(segment, start=segment.start + start / RATE, end=segment.end + start / RATE)
            start += round(heard[-1].start * RATE) if again else WINDOW

    def _hear(self, window: Samples, language: str, stop: Stop) -> tuple[Segment, ...]:
        """What is said in at most 30 seconds, as far as it can be believed."""
        if frames := self.window(len(window)):
            heard = self._run(window, language, frames, stop)
            if heard.segments and heard.logprob >= SURE and not _repeats(heard.text, 2):
                return heard.segments
        heard = self._run(window, language, 0, stop)
        return tuple(each for each in heard.segments if each.logprob >= GUESS and not _loops(each))

    def window(self, samples: int) -> int:
        """Frames of the encoder that a sound of this length is first heard with; 0: all of them."""
        return TRIMMED if self._trim and -(-samples // FRAME) + MARGIN <= TRIMMED else 0

    def _run(self, window: Samples, language: str, frames: int, stop: Stop) -> _Heard:
        """The segments of one run over the window; nothing once `stop` is true. `frames` 0: the full encoder."""
        if stop():
            return _Heard((), 0.0)
        padded = np.pad(window, (0, max(0, SHORTEST - len(window)))).astype(np.float32, copy=False)
        parameters = self._parameters(language, frames)
        parameters.max_tokens = 16 + len(window) * TOKENS_A_SECOND // RATE if frames else 0
        whisper.assign_abort_callback(parameters, stop)
        failed = whisper.whisper_full(self._context, parameters, padded, len(padded))
        if stop():
            return _Heard((), 0.0)
        if failed:
            raise EngineFailed(f"whisper.cpp could not transcribe with {self._name}: error {failed}")
        return self._heard(language, len(window) / RATE)

    def _parameters(self, language: str, frames: int) -> Any:
        parameters = whisper.whisper_full_default_params(whisper.WHISPER_SAMPLING_GREEDY)
        parameters.n_threads = self.threads
        parameters.language = language
        parameters.audio_ctx = frames
        parameters.no_context = True
        parameters.print_progress = parameters.print_realtime = parameters.print_timestamps = False
        parameters.suppress_nst = True
        # The full encoder's text is written again, less greedily, when it goes round in circles or is a guess; in place
        # of that the trimmed encoder's is given up.
        parameters.temperature_inc = 0.0 if frames else 0.4
        parameters.greedy = {"best_of": 2}
        parameters.no_speech_thold = NO_SPEECH
        parameters.logprob_thold = SURE if frames else GUESS
        return parameters

    def _heard(self, language: str, seconds: float) -> _Heard:
        """What the last run left in the context."""
        segments, total, count = [], 0.0, 0
        for index in range(whisper.whisper_full_n_segments(self._context)):
            logprobs = self._logprobs(index)
            text = whisper.whisper_full_get_segment_text(self._context, index).decode("utf-8", "replace").strip()
            if not logprobs or not any(char.isalnum() for char in text):
                continue
            start = min(seconds, whisper.whisper_full_get_segment_t0(self._context, index) / 100)
            end = min(seconds, whisper.whisper_full_get_segment_t1(self._context, index) / 100)
            segments.append(Segment(text, start, max(start, end), sum(logprobs) / len(logprobs), language))
            total, count = total + sum(logprobs), count + len(logprobs)
        return _Heard(tuple(segments), total / max(1, count))

    def _logprobs(self, segment: int) -> list[float]:
        """Of the text tokens of a segment: those after them are times and marks."""
        end = whisper.whisper_token_eot(self._context)
        tokens = range(whisper.whisper_full_n_tokens(self._context, segment))
        chosen = [whisper.whisper_full_get_token_data(self._context, segment, index) for index in tokens]
        return [float(np.log(max(token.p, 1e-9))) for token in chosen if token.id < end]

    def _language(self, window: Samples) -> str:
        """The language of the window, of those the model's manifest names."""
        if len(self.languages) == 1:
            return self.languages[0]
        padded = np.pad(window, (0, max(0, SHORTEST - len(window)))).astype(np.float32, copy=False)
        # Detection uses the encoder's length of the last run. A run that is ended before its encoder starts sets
        # that length and computes the spectrum, and nothing else.
        parameters = self._parameters(self.languages[0], self.window(len(window)))
        whisper.assign_encoder_begin_callback(parameters, lambda *unused: False)
        whisper.whisper_full(self._context, parameters, padded, len(padded))
        likely = np.zeros(whisper.whisper_lang_max_id() + 1, np.float32)
        if whisper.whisper_lang_auto_detect(self._context, 0, self.threads, likely) < 0:
            raise EngineFailed(f"whisper.cpp could not detect the language with {self._name}")
        return max(self.languages, key=lambda code: likely[whisper.whisper_lang_id(code)])


def _loaded(model: Model) -> Any:
    path = next(path for path in model.files.values() if path.suffix == ".bin")
    with _loading:
        _log.clear()
        context = whisper.whisper_init_from_file_with_params(str(path), whisper.whisper_context_default_params())
        # A context that could not be loaded looks like any other, and using it ends the process.
        if _log:
            raise ModelFault(f"whisper.cpp cannot load {path}: {_log[0]}")
    return context


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _loops(segment: Segment) -> bool:
    """Whether it says one thing again and again, faster than anybody can: people do repeat themselves."""
    fastest = FASTEST * (segment.end - segment.start)
    return len(segment.text.split()) > fastest and _repeats(segment.text, 4)


def _repeats(text: str, times: int) -> bool:
    """Whether a phrase follows itself so often, as when Whisper has lost the thread; a single word one time more."""
    words = re.findall(f"[{IDEOGRAMS}]|[^\\W_{IDEOGRAMS}]+", text.lower())
    for length in range(1, len(words) // times + 1):
        often = times + 1 if length == 1 else times
        for start in range(len(words) - length * often + 1):
            phrase = words[start : start + length]
            if words[start : start + length * often] == phrase * often:
                return True
    return False
