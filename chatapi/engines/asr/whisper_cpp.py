"""Speech recognition by whisper.cpp, through pywhispercpp."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import PLAIN, Segment, Stop, TranscriptionOptions, TranscriptToken, Word
from chatapi.engines.asr.whisper import (
    NO_SPEECH,
    TOKENS_A_SECOND,
    WhisperModel,
    WhisperResult,
    WhisperTranscriber,
    hurried,
    loops,
    repeats,
    words_of,
)
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings
from chatapi.system import openmp

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

TRIMMED = 512
"""Frames of the encoder for a short clip, instead of 1500.

On the held-out clips of tests/corpus no more words are wrong than with all 1500, in less than half the time; with 128
or with fewer than 384 many are. `chatapi bench hearing` measures it.
"""
SURE = -0.45
"""Mean log-probability below which a trimmed run is done again with the full encoder; chosen on the split tune."""
GUESS = -0.9
"""Mean log-probability below which nothing is believed.

Silence, noise, hum, tones, clicks and breath give -1.0 to -4.0 with the full encoder, tiny.en and base; the worst
clip of tests/corpus that was understood gives -0.6.
"""
SHORTEST = RATE * 11 // 10
"""whisper.cpp hears nothing in less than a second."""


class WhisperCpp(WhisperTranscriber):
    """One transcription at a time: whisper.cpp keeps the state of a run in the loaded model."""

    trimmed = TRIMMED

    def __init__(self, settings: Settings, models: Sequence[WhisperModel]) -> None:
        """Raises ModelError when the weights cannot be loaded."""
        model = models[0]
        super().__init__(model, settings.whisper_cpp.threads, settings.whisper_cpp.trim)
        self._context = _loaded(model)
        # The decoder of a turbo is shorter than its encoder, and was not taught to translate.
        whole = whisper.whisper_model_n_text_layer(self._context) >= whisper.whisper_model_n_audio_layer(self._context)
        self.translates = bool(whisper.whisper_is_multilingual(self._context)) and whole
        weakref.finalize(self, whisper.whisper_free, self._context)

    def _hear(
        self, window: Samples, language: str | None, hearing: TranscriptionOptions, stop: Stop
    ) -> tuple[Segment, ...]:
        language, seconds = language or self._language(window), len(window) / RATE
        # Whether a trimmed encoder costs words was measured on what is written as it is spoken only.
        if not hearing.translate and (frames := self.window(len(window))):
            heard = self._run(window, self._parameters(language, frames, hearing), hearing, stop)
            sure = heard.logprob >= SURE and not hurried(heard.text, seconds)
            if heard.segments and sure and not repeats(heard.text, 2):
                return heard.segments
        heard = self._run(window, self._parameters(language, 0, hearing), hearing, stop)
        if hurried(heard.text, seconds):
            return ()
        return tuple(each for each in heard.segments if each.logprob >= GUESS and not loops(each))

    def _run(self, window: Samples, parameters: Any, hearing: TranscriptionOptions, stop: Stop) -> WhisperResult:
        """The segments of one run over the window; nothing once `stop` is true."""
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
        return self._heard(parameters.language, len(window) / RATE, hearing)

    def _parameters(self, language: str, frames: int, hearing: TranscriptionOptions = PLAIN) -> Any:
        """Of a run. `frames` 0: the full encoder."""
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
        parameters.temperature = hearing.temperature
        parameters.translate = hearing.translate
        parameters.token_timestamps = hearing.words
        if hearing.prompt:
            parameters.initial_prompt = hearing.prompt
        return parameters

    def _heard(self, language: str, seconds: float, hearing: TranscriptionOptions) -> WhisperResult:
        """What the last run left in the context."""
        segments, total, count = [], 0.0, 0
        for index in range(whisper.whisper_full_n_segments(self._context)):
            tokens = self._tokens(index)
            logprobs = [float(np.log(max(token.p, 1e-9))) for token in tokens]
            text = whisper.whisper_full_get_segment_text(self._context, index).decode("utf-8", "replace").strip()
            if not logprobs or not any(char.isalnum() for char in text):
                continue
            start = min(seconds, whisper.whisper_full_get_segment_t0(self._context, index) / 100)
            end = min(seconds, whisper.whisper_full_get_segment_t1(self._context, index) / 100)
            sure = sum(logprobs) / len(logprobs)
            segments.append(Segment(text, start, max(start, end), sure, language, *self._parts(tokens, end, hearing)))
            total, count = total + sum(logprobs), count + len(logprobs)
        return WhisperResult(tuple(segments), total / max(1, count))

    def _parts(
        self, tokens: Sequence[Any], end: float, hearing: TranscriptionOptions
    ) -> tuple[tuple[Word, ...], tuple[TranscriptToken, ...]]:
        """The words and tokens of a segment, as far as they are asked for."""
        if not (hearing.words or hearing.tokens):
            return (), ()
        spelled = [whisper.whisper_token_to_bytes(self._context, token.id) for token in tokens]
        words: tuple[Word, ...] = ()
        if hearing.words:
            words = words_of([(text, t.t0 / 100, t.t1 / 100) for text, t in zip(spelled, tokens, strict=True)], end)
        if not hearing.tokens:
            return words, ()
        logprobs = (float(np.log(max(token.p, 1e-9))) for token in tokens)
        kept = zip(tokens, spelled, logprobs, strict=True)
        return words, tuple(TranscriptToken(token.id, text, logprob) for token, text, logprob in kept)

    def _tokens(self, segment: int) -> list[Any]:
        """The text tokens of a segment: those after them are times and marks."""
        end = whisper.whisper_token_eot(self._context)
        tokens = range(whisper.whisper_full_n_tokens(self._context, segment))
        chosen = [whisper.whisper_full_get_token_data(self._context, segment, index) for index in tokens]
        return [token for token in chosen if token.id < end]

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


def _loaded(model: WhisperModel) -> Any:
    path = next(path for path in model.files.values() if path.suffix == ".bin")
    with _loading:
        _log.clear()
        context = whisper.whisper_init_from_file_with_params(str(path), whisper.whisper_context_default_params())
        # A context that could not be loaded looks like any other, and using it ends the process.
        if _log:
            raise ModelError(f"whisper.cpp cannot load {path}: {_log[0]}")
    return context
