"""Speech recognition by whisper.cpp, through pywhispercpp."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import DEFAULT_OPTIONS, Segment, Stop, TranscriptionOptions, TranscriptToken, Word
from chatapi.engines.asr.whisper import (
    ACCEPTED,
    ALL_FRAMES,
    FRAME,
    MARGIN,
    SPEECH,
    TOKENS_A_SECOND,
    WhisperModel,
    WhisperResult,
    WhisperTranscriber,
    repeats,
    words_of,
)
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings
from chatapi.system import openmp

with openmp.sleeping():
    import _pywhispercpp as whisper

_log: list[str] = []
"""Errors that whisper.cpp reported while loading; none of its output is printed."""
_loading = threading.Lock()


def _log_error(level: int, text: str) -> None:
    if level == ERROR:
        _log.append(text.strip())


ERROR = 4
"""ggml's log level of an error message."""

whisper.whisper_log_set(_log_error)
# At exit Python frees the callback without holding its lock, which aborts the process.
atexit.register(whisper.whisper_log_set, None)

TRIMMED = 512
"""Frames of the encoder for a short clip, instead of 1500. See docs/measurements/engines.md."""
RELIABLE = -0.45
"""Mean log-probability below which a clip transcribed with the trimmed encoder is transcribed again with the full one;
chosen on the tune split of tests/corpus."""
RETRY_FRAMES = 1000
"""Frames of the encoder for a text that loops with all 1500: with others it rarely does. At least as many as the clip
has."""
TIMESTAMPS = 0.3
"""By how much the log-probability of a text with its timestamps is above that of the text alone, at most."""
SHORTEST = RATE * 11 // 10
"""Samples that shorter audio is padded to: whisper.cpp gives no text for less than a second."""


class WhisperCpp(WhisperTranscriber):
    """Speech recognition with whisper.cpp.

    It runs one transcription at a time: whisper.cpp keeps the state of a run in the loaded model.
    """

    trimmed = TRIMMED

    def __init__(self, settings: Settings, models: Sequence[WhisperModel]) -> None:
        """Raises ModelError when the weights cannot be loaded."""
        model = models[0]
        super().__init__(model, settings.whisper_cpp.threads, settings.whisper_cpp.trim)
        self._context = _load(model)
        # The decoder of a turbo model has fewer layers than its encoder, and was not trained to translate.
        translates = whisper.whisper_model_n_text_layer(self._context) >= whisper.whisper_model_n_audio_layer(
            self._context
        )
        self.translates = bool(whisper.whisper_is_multilingual(self._context)) and translates
        weakref.finalize(self, whisper.whisper_free, self._context)

    def _transcribe_window(
        self, window: Samples, seconds: float, language: str | None, options: TranscriptionOptions, stop: Stop
    ) -> tuple[Segment, ...]:
        language = language or self._language(window)
        # The accuracy of a trimmed encoder was measured on transcription only, not on translation.
        if not options.translate and (frames := self.window(len(window))):
            result = self._run(window, self._parameters(language, frames, options), options, stop)
            reliable = result.logprob >= RELIABLE and not result.hallucinated(seconds)
            if result.segments and reliable and not repeats(result.text, 2):
                return result.segments
        result = self._run(window, self._parameters(language, 0, options), options, stop)
        if result.hallucinated(seconds):
            frames = min(ALL_FRAMES, max(RETRY_FRAMES, -(-len(window) // FRAME) + MARGIN))
            result = self._run(window, self._parameters(language, frames, options), options, stop)
        return result.kept(seconds)

    def _run(self, window: Samples, parameters: Any, options: TranscriptionOptions, stop: Stop) -> WhisperResult:
        """The segments of one run over the window; none once `stop` is true."""
        if stop():
            return WhisperResult((), 0.0)
        padded = np.pad(window, (0, max(0, SHORTEST - len(window)))).astype(np.float32, copy=False)
        parameters.max_tokens = 16 + len(window) * TOKENS_A_SECOND // RATE if parameters.audio_ctx else 0
        whisper.assign_abort_callback(parameters, stop)
        failed = whisper.whisper_full(self._context, parameters, padded, len(padded))
        if stop():
            return WhisperResult((), 0.0)
        if failed:
            raise EngineFailed(f"whisper.cpp could not transcribe with {self._name}: error {failed}")
        return self._result(parameters.language, len(window) / RATE, options)

    def _parameters(self, language: str, frames: int, options: TranscriptionOptions = DEFAULT_OPTIONS) -> Any:
        """Parameters of a run. `frames` 0: the full encoder."""
        parameters = whisper.whisper_full_default_params(whisper.WHISPER_SAMPLING_GREEDY)
        parameters.n_threads = self.threads
        parameters.language = language
        parameters.audio_ctx = frames
        parameters.no_context = True
        parameters.print_progress = parameters.print_realtime = parameters.print_timestamps = False
        parameters.suppress_nst = True
        # At higher temperatures a file would have another text each time: the library's generator cannot be seeded.
        parameters.temperature_inc = 0.0
        parameters.greedy = {"best_of": 2}
        # whisper.cpp does not tell its probability of no speech. It drops the text where that is above this threshold
        # and the log-probability, punctuation and timestamps included, is below the other: of what is left below
        # ACCEPTED, the model is sure of speech.
        parameters.no_speech_thold = SPEECH
        parameters.logprob_thold = RELIABLE if frames else ACCEPTED + TIMESTAMPS
        parameters.temperature = options.temperature
        parameters.translate = options.translate
        parameters.token_timestamps = options.words
        if options.prompt:
            parameters.initial_prompt = options.prompt
        return parameters

    def _result(self, language: str, seconds: float, options: TranscriptionOptions) -> WhisperResult:
        """The output of the last run, which is in the context."""
        segments, total, count = [], 0.0, 0
        for index in range(whisper.whisper_full_n_segments(self._context)):
            tokens = self._tokens(index)
            logprobs = [float(np.log(max(token.p, 1e-9))) for token in tokens]
            text = whisper.whisper_full_get_segment_text(self._context, index).decode("utf-8", "replace").strip()
            if not logprobs or not any(char.isalnum() for char in text):
                continue
            start = min(seconds, whisper.whisper_full_get_segment_t0(self._context, index) / 100)
            end = min(seconds, whisper.whisper_full_get_segment_t1(self._context, index) / 100)
            logprob = sum(logprobs) / len(logprobs)
            segments.append(
                Segment(text, start, max(start, end), logprob, language, *self._parts(tokens, end, options))
            )
            total, count = total + sum(logprobs), count + len(logprobs)
        return WhisperResult(tuple(segments), total / max(1, count))

    def _parts(
        self, tokens: Sequence[Any], end: float, options: TranscriptionOptions
    ) -> tuple[tuple[Word, ...], tuple[TranscriptToken, ...]]:
        """The words and tokens of a segment, as far as they are requested."""
        if not (options.words or options.tokens):
            return (), ()
        texts = [whisper.whisper_token_to_bytes(self._context, token.id) for token in tokens]
        words: tuple[Word, ...] = ()
        if options.words:
            words = words_of([(text, t.t0 / 100, t.t1 / 100) for text, t in zip(texts, tokens, strict=True)], end)
        if not options.tokens:
            return words, ()
        logprobs = (float(np.log(max(token.p, 1e-9))) for token in tokens)
        parts = zip(tokens, texts, logprobs, strict=True)
        return words, tuple(TranscriptToken(token.id, text, logprob) for token, text, logprob in parts)

    def _tokens(self, segment: int) -> list[Any]:
        """The text tokens of a segment: timestamps and special tokens have higher numbers."""
        end = whisper.whisper_token_eot(self._context)
        tokens = range(whisper.whisper_full_n_tokens(self._context, segment))
        chosen = [whisper.whisper_full_get_token_data(self._context, segment, index) for index in tokens]
        return [token for token in chosen if token.id < end]

    def _language(self, window: Samples) -> str:
        """Detects the language of the window, among those of the model's manifest."""
        if len(self.languages) == 1:
            return self.languages[0]
        padded = np.pad(window, (0, max(0, SHORTEST - len(window)))).astype(np.float32, copy=False)
        # Detection uses the encoder length of the last run. A run that is aborted before its encoder starts sets that
        # length and computes the spectrum only.
        parameters = self._parameters(self.languages[0], self.window(len(window)))
        whisper.assign_encoder_begin_callback(parameters, lambda *unused: False)
        whisper.whisper_full(self._context, parameters, padded, len(padded))
        probabilities = np.zeros(whisper.whisper_lang_max_id() + 1, np.float32)
        if whisper.whisper_lang_auto_detect(self._context, 0, self.threads, probabilities) < 0:
            raise EngineFailed(f"whisper.cpp could not detect the language with {self._name}")
        return max(self.languages, key=lambda code: probabilities[whisper.whisper_lang_id(code)])


def _load(model: WhisperModel) -> Any:
    path = next(path for path in model.files.values() if path.suffix == ".bin")
    with _loading:
        _log.clear()
        context = whisper.whisper_init_from_file_with_params(str(path), whisper.whisper_context_default_params())
        # A context that failed to load looks like any other, and using it ends the process.
        if _log:
            raise ModelError(f"whisper.cpp cannot load {path}: {_log[0]}")
    return context
