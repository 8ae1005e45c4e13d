"""Speech recognition with Whisper on CTranslate2: int8 on a CPU, an encoder as long as the clip, beam search with five
beams.

faster-whisper uses the same library; its encoder always takes 30 seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from chatapi.audio import RATE, Samples
from chatapi.audio.mel import HOP, log_mel, mel_filters
from chatapi.catalog import ggml
from chatapi.engines import DEFAULT_OPTIONS, Segment, Stop, TranscriptionOptions, TranscriptToken
from chatapi.engines.asr.ctranslate2_loading import loaded
from chatapi.engines.asr.whisper import (
    FRAME,
    NO_SPEECH,
    TOKENS_A_SECOND,
    WINDOW,
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
    import ctranslate2  # type: ignore[import-untyped]

TRIMMED = 576
"""Frames of the encoder for a short clip, instead of 1500; chosen with `RELIABLE` and the beams on the tune split of
tests/corpus. `chatapi bench hearing` measures them on the held-out clips."""
RETRY_FRAMES = 1000
"""Frames for a short clip whose transcript by the trimmed encoder is not reliable, instead of 1500: takes 0.6 of the
time. See docs/measurements/engines.md."""
PADDED = 200
"""Frames of silence after a longer clip, instead of as many as fill 1500: the decoder takes noise that ends long before
them for the end of speech."""
RELIABLE = -0.35
"""Mean log-probability below which a clip transcribed with the trimmed encoder is transcribed again with a longer one,
and below which text is dropped where the model reports no speech. See docs/measurements/engines.md."""
RELIABLE_LONG = -0.5
"""As `RELIABLE`, for a longer clip decoded with `FIRST_BEAMS`: below it, it is decoded again with all beams."""
FIRST_BEAMS = 2
"""Beams for a clip at first, at most; a text that is not reliable is decoded again with all of them. See
docs/measurements/engines.md."""
ALIGN_BELOW = -0.5
"""The decoder's score, timestamps included, from which a long clip's text is accepted without alignment. See
docs/measurements/engines.md."""
NO_REPEAT = 3
"""Length of phrases, in tokens, that a text with a loop may not repeat when it is decoded again. OpenAI's code samples
at a temperature there; CTranslate2's generators cannot be seeded again, so that a file would have another text each
time."""
CONTEXT = 448
"""Tokens of the decoder's context, prompt included."""
LONGEST_PROMPT = CONTEXT // 2 - 1
"""Tokens of the prompt at most, as in the code Whisper was published with."""
WARM_UP_TOKENS = 8
"""Length that the decoder of a warm-up generates at most; the library generates half of it."""
TIMESTAMP_STEP = 0.02
"""Seconds between two of Whisper's timestamps."""
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How GPT-2's tokenizer, which Whisper uses, splits text before the merges: https://github.com/openai/gpt-2."""


@dataclass(frozen=True)
class _DecodeRun:
    """The inputs of decoding one window."""

    encoded: Any
    """The encoder's output, shape (1, frames, width)."""
    prompt: list[int]
    language: str
    seconds: float
    options: TranscriptionOptions


class CTranslate2(WhisperTranscriber):
    """Speech recognition with CTranslate2.

    Deterministic unless a temperature is requested. ModelError when the weights cannot be loaded.
    """

    trimmed = TRIMMED
    is_warm = True

    def __init__(self, settings: Settings, models: Sequence[WhisperModel]) -> None:
        model, table = models[0], settings.ctranslate2
        super().__init__(model, table.threads, table.trim)
        self.slots, self._beams = table.slots, table.beams
        # The decoder's steps are so small that threads wait for one another longer than they compute: tiny.en with five
        # beams takes twice as long on two threads as on one. Two clips at once, on one thread each, take no longer than
        # one.
        self.threads = max(1, self.threads // self.slots)
        folder = next(path for path in model.files.values() if path.name == "model.bin").parent
        self._ids, self._token_bytes = _tokens(folder / "vocabulary.txt")
        self._whisper = loaded(folder, table, self.slots, self.threads)
        self.translates = bool(self._whisper.is_multilingual)
        self.on_gpu = self._whisper.device == "cuda"
        self._filters = mel_filters(self._whisper.n_mels)
        self._warm_up()

    @cached_property
    def _tokenizer(self) -> tiktoken.Encoding:
        """Only prompts need it; it takes 10 MB."""
        ranks = {token_bytes: rank for rank, token_bytes in enumerate(self._token_bytes)}
        return tiktoken.Encoding("whisper", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def _warm_up(self) -> None:
        """Encodes silence and decodes a few tokens, so that the first clip is not slower. ModelError when that
        fails."""
        silence = np.zeros(self.trimmed * FRAME, np.float32)
        try:
            run = self._encode(silence, len(silence), self.languages[0], DEFAULT_OPTIONS)
            self._whisper.generate(run.encoded, [run.prompt], beam_size=self._beams, max_length=WARM_UP_TOKENS)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"CTranslate2 cannot transcribe with {self._name}: {error}") from error

    def _transcribe_window(
        self, window: Samples, seconds: float, language: str | None, options: TranscriptionOptions, stop: Stop
    ) -> tuple[Segment, ...]:
        if seconds * RATE < HOP or stop():
            return ()
        try:
            # The accuracy of a trimmed encoder was measured on transcription only, not on translation.
            if not options.translate and (frames := self.window(len(window))):
                run = self._encode(window, frames * FRAME, language, options)
                result = self._decode(run, beams=FIRST_BEAMS)
                reliable = result.logprob >= RELIABLE and not result.hallucinated(seconds)
                if result.segments and reliable and not repeats(result.text, 2):
                    return result.segments
                if result.silent or stop():
                    return ()
                language = run.language
            run = self._encode(window, self._encoder_samples(len(window), options), language, options)
            if not options.translate and not self.short(len(window)):
                result = self._decode(run, beams=FIRST_BEAMS)
                kept = result.kept(seconds) == result.segments and not result.hallucinated(seconds)
                if result.segments and kept and result.logprob >= RELIABLE_LONG and not repeats(result.text, 2):
                    return () if stop() else result.segments
                if result.silent or stop():
                    return ()
            result = self._decode(run)
            if result.hallucinated(seconds) and not stop():
                result = self._decode(run, NO_REPEAT)
            return () if stop() else result.kept(seconds)
        except (RuntimeError, ValueError) as error:
            raise EngineFailed(f"CTranslate2 could not transcribe with {self._name}") from error

    def _encoder_samples(self, samples: int, options: TranscriptionOptions) -> int:
        """Samples, silence included, of the encoder's input for a clip that needs more than the trimmed encoder."""
        if not self._trim or options.translate:
            return WINDOW
        return RETRY_FRAMES * FRAME if self.short(samples) else min(WINDOW, samples + PADDED * FRAME) // FRAME * FRAME

    def _encode(self, window: Samples, length: int, language: str | None, options: TranscriptionOptions) -> _DecodeRun:
        """Pads the window with silence to `length` samples and encodes it."""
        padded = np.pad(window, (0, length - len(window))).astype(np.float32, copy=False)
        features = np.ascontiguousarray(log_mel(padded, self._filters)[np.newaxis])
        encoded = self._whisper.encode(ctranslate2.StorageView.from_array(features))
        language = language or self._language(encoded)
        return _DecodeRun(encoded, self._prompt(language, options), language, len(window) / RATE, options)

    def _language(self, encoded: Any) -> str:
        """Detects the language, among those of the model's manifest."""
        if len(self.languages) == 1:
            return self.languages[0]
        [found] = self._whisper.detect_language(encoded)
        probabilities = {token.strip("<|>"): probability for token, probability in found}
        return max(self.languages, key=lambda code: probabilities.get(code, 0.0))

    def _prompt(self, language: str, options: TranscriptionOptions) -> list[int]:
        text = f" {options.prompt.strip()}" if options.prompt else ""
        before = self._tokenizer.encode_ordinary(text)[-LONGEST_PROMPT:] if text else []
        return [*([self._ids["<|startofprev|>"], *before] if before else []), *self._start_tokens(language, options)]

    def _start_tokens(self, language: str, options: TranscriptionOptions) -> list[int]:
        """The tokens that start the decoder, with the language and the task."""
        tokens = [self._ids["<|startoftranscript|>"]]
        if self._whisper.is_multilingual:
            task = "<|translate|>" if options.translate else "<|transcribe|>"
            tokens += [self._ids[f"<|{language}|>"], self._ids[task]]
        return tokens

    def _decode(self, run: _DecodeRun, no_repeat: int = 0, beams: int = CONTEXT) -> WhisperResult:
        """Decodes once. `no_repeat`: length of phrases, in tokens, that are not repeated; 0: any may be. `beams`: at
        most so many."""
        temperature = run.options.temperature
        sampled = temperature > 0
        most = 16 + round(run.seconds * TOKENS_A_SECOND)
        [found] = self._whisper.generate(
            run.encoded,
            [run.prompt],
            beam_size=1 if sampled else min(beams, self._beams),
            sampling_topk=0 if sampled else 1,
            sampling_temperature=temperature if sampled else 1.0,
            no_repeat_ngram_size=no_repeat,
            # The library generates half of it at most, however short the prompt is.
            max_length=min(CONTEXT, max(2 * most, len(run.prompt) + most)),
            return_scores=True,
            return_no_speech_prob=True,
        )
        groups = [each for each in self._timed_groups(found.sequences_ids[0], run.seconds) if self._text_of(each[0])]
        if not groups:
            return WhisperResult((), 0.0, found.no_speech_prob)
        text_ids = [each for ids, *_ in groups for each in ids]
        times, logprobs = (
            ([], found.scores * len(text_ids))
            if self._needs_no_alignment(run, found, sampled)
            else self._align(run, text_ids)
        )
        logprob = float(np.mean(logprobs))
        if found.no_speech_prob > NO_SPEECH and logprob < RELIABLE:
            return WhisperResult((), logprob, found.no_speech_prob)
        return WhisperResult(tuple(self._segments(run, groups, times, logprobs)), logprob, found.no_speech_prob)

    def _needs_no_alignment(self, run: _DecodeRun, found: Any, sampled: bool) -> bool:
        """Whether the text needs no alignment, which is another pass of the decoder.

        Short clips always need it: barge-in judges an utterance by the log-probability of its words.
        """
        requested = run.options.words or run.options.tokens
        long = not self.short(round(run.seconds * RATE))
        reliable = found.scores[0] >= ALIGN_BELOW and found.no_speech_prob <= NO_SPEECH
        return bool(long and reliable and not requested and not sampled)

    def _timed_groups(self, ids: Sequence[int], seconds: float) -> Iterator[tuple[list[int], float, float]]:
        """Groups of text tokens, each with its start and end in seconds."""
        zero = self._ids["<|0.00|>"]
        text: list[int] = []
        start = 0.0
        for each in ids:
            if each >= zero:
                time = min(seconds, (each - zero) * TIMESTAMP_STEP)
                if text:
                    yield text, start, max(start, time)
                text, start = [], time
            elif each < len(self._token_bytes):
                text.append(each)
        if text:
            yield text, start, seconds

    def _text_of(self, ids: Sequence[int]) -> str:
        """The text, or nothing where it has no letter or digit."""
        text = b"".join(self._token_bytes[each] for each in ids).decode("utf-8", "replace").strip()
        return text if any(char.isalnum() for char in text) else ""

    def _segments(
        self,
        run: _DecodeRun,
        groups: Sequence[tuple[list[int], float, float]],
        times: list[tuple[float, float]],
        logprobs: list[float],
    ) -> Iterator[Segment]:
        """Segments with words and tokens, as far as they are requested."""
        for ids, start, end in groups:
            token_bytes = [self._token_bytes[each] for each in ids]
            token_logprobs, logprobs = logprobs[: len(ids)], logprobs[len(ids) :]
            timed = [(text, *time) for text, time in zip(token_bytes, times, strict=False)]
            times = times[len(ids) :]
            words = words_of(timed, end) if run.options.words else ()
            tokens = tuple(map(TranscriptToken, ids, token_bytes, token_logprobs)) if run.options.tokens else ()
            yield Segment(self._text_of(ids), start, end, float(np.mean(token_logprobs)), run.language, words, tokens)

    def _align(self, run: _DecodeRun, ids: list[int]) -> tuple[list[tuple[float, float]], list[float]]:
        """Start and end in seconds, and the log-probability, of every token.

        Dynamic time warping over the attention of the heads that follow the audio, as in the code Whisper was published
        with (whisper/timing.py): a token starts where the path first reaches it.
        """
        start = self._start_tokens(run.language, run.options)
        [found] = self._whisper.align(run.encoded, start, [ids], max(1, round(run.seconds * RATE) // HOP))
        starts: dict[int, float] = {}
        for token, frame in found.alignments:
            starts.setdefault(token, frame * TIMESTAMP_STEP)
        edges = [starts.get(place, run.seconds) for place in range(len(ids) + 1)]
        return list(pairwise(edges)), [float(np.log(max(each, 1e-9))) for each in found.text_token_probs]


def _tokens(path: Path) -> tuple[dict[str, int], list[bytes]]:
    """Numbers of the special tokens by name, and the bytes of all others by number.

    ModelError when they are missing. Some files name the tokens of no speech or of the timestamps before the first word
    differently; none of them is used.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        token_bytes = ggml.vocabulary(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    ids = {line: number for number, line in enumerate(lines) if line.startswith("<|") and line.endswith("|>")}
    needed = ("<|startoftranscript|>", "<|startofprev|>", "<|0.00|>")
    if missing := [each for each in needed if each not in ids]:
        raise ModelError(f"{path} has no {missing[0]}; it is not the vocabulary of a Whisper model")
    return ids, token_bytes
