"""Speech recognition by Whisper on CTranslate2: int8 on a processor, an encoder as long as the clip, five beams.

faster-whisper stands on the same library; it always hears 30 seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from chatapi.audio import RATE, Samples
from chatapi.audio.mel import HOP, log_mel, mel_filters
from chatapi.catalog import ggml
from chatapi.engines import Segment, Stop, TranscriptionOptions, TranscriptToken
from chatapi.engines.asr.whisper import (
    FRAME,
    NO_SPEECH,
    TOKENS_A_SECOND,
    WINDOW,
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
    import ctranslate2  # type: ignore[import-untyped]

TRIMMED = 576
"""Frames of the encoder for a short clip, instead of 1500; chosen with SURE and the beams on tests/corpus, split tune,
and `chatapi bench hearing` measures them on the held-out clips."""
DOUBTED = 1000
"""Frames for a short clip of which the trimmed encoder's text is not sure, instead of 1500: takes 0.6 of the time.

Word errors of the short clips of tests/corpus, clean and noisy: 4.6 and 9.1 % (tune), 4.0 and 8.8 % (held-out); with
1500 frames 4.1, 8.8, 4.5 and 8.8 %. Of 122 noises, hums, tones and silences neither makes a word.
"""
PADDED = 200
"""Frames of silence that follow a longer sound, instead of as many as fill 1500: noise that ends long before them is
taken for the end of what is said."""
SURE = -0.35
"""Mean log-probability below which a trimmed run is done again with a longer encoder, and nothing is believed where the
model thinks that nobody speaks.

Of 241 clips of tests/corpus (split tune, tiny.en and base) it thinks so of none, at most 0.42; of silence, noise, hum,
tones and clicks always, 0.64 to 0.95, and what it writes there has -0.43 to -5, but for a loop.
"""
GUESS = -0.9
"""The same below which nothing is believed that a longer encoder gave; the worst clip of tests/corpus that was
understood gives -0.75."""
CLEAR = -0.5
"""Score of the decoder, its times included, from which a long sound's text is believed without aligning it.

The score is below the log-probability of the words alone, by 0.03 to 0.3 on joined clips of tests/corpus; what is
written of silence, noise and hum has -0.9 to -1.5.
"""
WARMER = (0.4, 0.8)
"""Temperatures tried one after the other where the likeliest text is a guess or goes round in circles."""
CONTEXT = 448
"""Tokens the decoder hears of and writes together."""
LONGEST_PROMPT = CONTEXT // 2 - 1
"""Tokens of what was said before, as in the code Whisper was published with."""
TICK = 0.02
"""Seconds between two of Whisper's times."""
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Where GPT-2's vocabulary, which Whisper has, lets tokens end: https://github.com/openai/gpt-2."""


@dataclass(frozen=True)
class _DecodeRun:
    """What a run over one window needs to know."""

    encoded: Any
    """The encoder's output, shape (1, frames, width)."""
    prompt: list[int]
    language: str
    seconds: float
    hearing: TranscriptionOptions


class CTranslate2(WhisperTranscriber):
    """Deterministic for temperature 0; ModelError when the weights cannot be loaded."""

    trimmed = TRIMMED

    def __init__(self, settings: Settings, models: Sequence[WhisperModel]) -> None:
        model, table = models[0], settings.ctranslate2
        super().__init__(model, table.threads, table.trim)
        self.slots, self._beams = table.slots, table.beams
        # The decoder's steps are so small that threads wait for one another longer than they compute: tiny.en with five
        # beams takes twice as long on two as on one. Two sounds at once, on one thread each, take no longer than one.
        self.threads = max(1, self.threads // self.slots)
        folder = next(path for path in model.files.values() if path.name == "model.bin").parent
        self._ids, self._spelled = _tokens(folder / "vocabulary.txt")
        try:
            self._whisper = ctranslate2.models.Whisper(
                str(folder),
                device=table.device,
                compute_type=table.compute,
                inter_threads=self.slots,
                intra_threads=self.threads,
            )
        except Exception as error:
            raise ModelError(f"CTranslate2 cannot load {folder}: {error}") from error
        self.translates = bool(self._whisper.is_multilingual)
        self._filters = mel_filters(self._whisper.n_mels)
        ranks = {spelled: rank for rank, spelled in enumerate(self._spelled)}
        self._text = tiktoken.Encoding("whisper", pat_str=PIECES, mergeable_ranks=ranks, special_tokens={})

    def _hear(
        self, window: Samples, language: str | None, hearing: TranscriptionOptions, stop: Stop
    ) -> tuple[Segment, ...]:
        if len(window) < HOP or stop():
            return ()
        try:
            # Whether a trimmed encoder costs words was measured on what is written as it is spoken only.
            if not hearing.translate and (frames := self.window(len(window))):
                run = self._encoded(window, frames * FRAME, language, hearing)
                heard = self._written(run, hearing.temperature)
                sure = heard.logprob >= SURE and not hurried(heard.text, run.seconds)
                if heard.segments and sure and not repeats(heard.text, 2):
                    return heard.segments
                language = run.language
            if stop():
                return ()
            return self._whole(self._encoded(window, self._length(len(window), hearing), language, hearing), stop)
        except (RuntimeError, ValueError) as error:
            raise EngineFailed(f"CTranslate2 could not transcribe with {self._name}") from error

    def _length(self, samples: int, hearing: TranscriptionOptions) -> int:
        """Samples, silence included, that the encoder is given of a sound that a trimmed one is not enough for."""
        if not self._trim or hearing.translate:
            return WINDOW
        return DOUBTED * FRAME if self.short(samples) else min(WINDOW, samples + PADDED * FRAME) // FRAME * FRAME

    def _whole(self, run: _DecodeRun, stop: Stop) -> tuple[Segment, ...]:
        """What a longer encoder's output says: written again less greedily where it is no use."""
        for temperature in (run.hearing.temperature, *(each for each in WARMER if each > run.hearing.temperature)):
            if stop():
                return ()
            heard = self._written(run, temperature)
            if not heard.segments:
                return ()
            hasty = hurried(heard.text, run.seconds)
            if heard.logprob >= GUESS and not hasty and not any(loops(each) for each in heard.segments):
                return heard.segments
        if hasty:
            return ()
        return tuple(each for each in heard.segments if each.logprob >= GUESS and not loops(each))

    def _encoded(self, window: Samples, length: int, language: str | None, hearing: TranscriptionOptions) -> _DecodeRun:
        """The window, filled up with silence to `length` samples, through the encoder."""
        padded = np.pad(window, (0, length - len(window))).astype(np.float32, copy=False)
        features = np.ascontiguousarray(log_mel(padded, self._filters)[np.newaxis])
        encoded = self._whisper.encode(ctranslate2.StorageView.from_array(features))
        language = language or self._language(encoded)
        return _DecodeRun(encoded, self._prompt(language, hearing), language, len(window) / RATE, hearing)

    def _language(self, encoded: Any) -> str:
        """The likeliest language, of those the model's manifest names."""
        if len(self.languages) == 1:
            return self.languages[0]
        [found] = self._whisper.detect_language(encoded)
        likely = {token.strip("<|>"): probability for token, probability in found}
        return max(self.languages, key=lambda code: likely.get(code, 0.0))

    def _prompt(self, language: str, hearing: TranscriptionOptions) -> list[int]:
        before = self._text.encode_ordinary(" " + hearing.prompt.strip())[-LONGEST_PROMPT:] if hearing.prompt else []
        return [*([self._ids["<|startofprev|>"], *before] if before else []), *self._start(language, hearing)]

    def _start(self, language: str, hearing: TranscriptionOptions) -> list[int]:
        """What tells the decoder to begin, and how."""
        begun = [self._ids["<|startoftranscript|>"]]
        if self._whisper.is_multilingual:
            task = "<|translate|>" if hearing.translate else "<|transcribe|>"
            begun += [self._ids[f"<|{language}|>"], self._ids[task]]
        return begun

    def _written(self, run: _DecodeRun, temperature: float) -> WhisperResult:
        """One text of the decoder's."""
        warm = temperature > 0
        most = 16 + round(run.seconds * TOKENS_A_SECOND)
        [found] = self._whisper.generate(
            run.encoded,
            [run.prompt],
            beam_size=1 if warm else self._beams,
            sampling_topk=0 if warm else 1,
            sampling_temperature=temperature if warm else 1.0,
            # Half of it is the most that is written, however short the prompt is.
            max_length=min(CONTEXT, max(2 * most, len(run.prompt) + most)),
            return_scores=True,
            return_no_speech_prob=True,
        )
        stretches = [each for each in self._stretches(found.sequences_ids[0], run.seconds) if self._said(each[0])]
        if not stretches:
            return WhisperResult((), 0.0)
        said = [each for ids, *_ in stretches for each in ids]
        times, logprobs = ([], found.scores * len(said)) if self._clear(run, found, warm) else self._aligned(run, said)
        logprob = float(np.mean(logprobs))
        if found.no_speech_prob > NO_SPEECH and logprob < SURE:
            return WhisperResult((), logprob)
        return WhisperResult(tuple(self._segments(run, stretches, times, logprobs)), logprob)

    def _clear(self, run: _DecodeRun, found: Any, warm: bool) -> bool:
        """Whether nothing has to be aligned, which takes the decoder another pass.

        Never in a short sound: what was said against an answer is judged by the certainty of its words.
        """
        asked = run.hearing.words or run.hearing.tokens
        long = not self.short(round(run.seconds * RATE))
        sure = found.scores[0] >= CLEAR and found.no_speech_prob <= NO_SPEECH
        return bool(long and sure and not asked and not warm)

    def _stretches(self, ids: Sequence[int], seconds: float) -> Iterator[tuple[list[int], float, float]]:
        """Text tokens between two times, and these."""
        zero = self._ids["<|0.00|>"]
        text: list[int] = []
        start = 0.0
        for each in ids:
            if each >= zero:
                time = min(seconds, (each - zero) * TICK)
                if text:
                    yield text, start, max(start, time)
                text, start = [], time
            elif each < len(self._spelled):
                text.append(each)
        if text:
            yield text, start, seconds

    def _said(self, ids: Sequence[int]) -> str:
        """The text, or nothing where it has no letter."""
        text = b"".join(self._spelled[each] for each in ids).decode("utf-8", "replace").strip()
        return text if any(char.isalnum() for char in text) else ""

    def _segments(
        self,
        run: _DecodeRun,
        stretches: Sequence[tuple[list[int], float, float]],
        times: list[tuple[float, float]],
        logprobs: list[float],
    ) -> Iterator[Segment]:
        """With words and tokens as far as they are asked for."""
        for ids, start, end in stretches:
            spelled = [self._spelled[each] for each in ids]
            sure, logprobs = logprobs[: len(ids)], logprobs[len(ids) :]
            timed = [(text, *time) for text, time in zip(spelled, times, strict=False)]
            times = times[len(ids) :]
            words = words_of(timed, end) if run.hearing.words else ()
            tokens = tuple(map(TranscriptToken, ids, spelled, sure)) if run.hearing.tokens else ()
            yield Segment(self._said(ids), start, end, float(np.mean(sure)), run.language, words, tokens)

    def _aligned(self, run: _DecodeRun, ids: list[int]) -> tuple[list[tuple[float, float]], list[float]]:
        """Start and end in seconds, and the log-probability, of every token.

        Dynamic time warping over the attention of the heads that follow the sound, as in the code Whisper was published
        with (whisper/timing.py): a token begins where the path first reaches it.
        """
        start = self._start(run.language, run.hearing)
        [found] = self._whisper.align(run.encoded, start, [ids], max(1, round(run.seconds * RATE) // HOP))
        begun: dict[int, float] = {}
        for token, frame in found.alignments:
            begun.setdefault(token, frame * TICK)
        edges = [begun.get(place, run.seconds) for place in range(len(ids) + 1)]
        return list(pairwise(edges)), [float(np.log(max(each, 1e-9))) for each in found.text_token_probs]


def _tokens(path: Path) -> tuple[dict[str, int], list[bytes]]:
    """Numbers of the special tokens by name, and the bytes of all others by number; ModelError when they are not there.

    Some files write the token of no speech or of the times before the first word in other words; none of them is used.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        spelled = ggml.vocabulary(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    ids = {line: number for number, line in enumerate(lines) if line.startswith("<|") and line.endswith("|>")}
    needed = ("<|startoftranscript|>", "<|startofprev|>", "<|0.00|>")
    if missing := [each for each in needed if each not in ids]:
        raise ModelError(f"{path} has no {missing[0]}; it is not the vocabulary of a Whisper model")
    return ids, spelled
