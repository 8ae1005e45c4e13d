"""Speech synthesis with Piper voices: VITS models in ONNX, with the phonemes of espeak-ng."""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from piper import PiperVoice
from piper.config import PhonemeType, PiperConfig
from piper.tashkeel import TashkeelDiacritizer

from chatapi.audio import Audio, Samples
from chatapi.audio.loudness import LoudnessNormalizer, loudness, loudness_normalized
from chatapi.engines import Stop, Voice, never, onnx_providers
from chatapi.engines.prepared_graphs import GraphSource
from chatapi.engines.tts import vits
from chatapi.engines.tts.vits import Vits
from chatapi.errors import EngineFailed, ModelError, NotFound, Unprocessable
from chatapi.settings import Settings
from chatapi.storage import atomic_files
from chatapi.system import malloc_trim
from chatapi.text import espeak

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

LOADED_VOICES = 2
"""Voices kept in memory, about 100 MB each."""
TEXT_LENGTH = 400
"""Characters given to espeak-ng at once, so that first audio of a long text comes soon."""
PHONEMES_AT_ONCE = 100
"""Most phonemes synthesized at once: about 6 seconds of audio, for which VITS needs some 120 MB more, until
`release_memory`."""
SHORT_TEXT = "Ready."
WARM_UP_TEXT = "Ready for the next one, whenever you are."
"""About as long as the first sentence of most answers. The memory it takes, some 40 MB, is kept between turns: to
allocate it again would delay first audio by up to 40 ms."""
NEW_LOUDNESS = 0.1
"""Share of a sentence's loudness in the usual loudness of its voice."""
PROVIDERS = ("cuda", "cpu")
"""Best first. Not TensorRT: it compiles for every length of input, which takes minutes."""


@dataclass(frozen=True)
class _PiperVoice:
    """The files of a voice."""

    onnx: Path
    sha256: str
    """Of the ONNX file; empty: not known."""
    config: PiperConfig
    speaker: int | None
    """Its number in a model of several speakers."""


@dataclass(frozen=True)
class _LoadedVoice:
    """A voice in memory."""

    piper: PiperVoice
    """Makes phonemes, and their numbers."""
    vits: Vits


class Piper:
    """Synthesizes with the voices of all its models. ModelError when one cannot be read."""

    is_warm = True

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the piper engine needs a voice and was given none; `chatapi models` lists them")
        self._settings = settings
        self._threads = settings.piper.threads or min(4, _cores())
        self._speed = settings.piper.speed
        self._files: dict[str, _PiperVoice] = {}
        voices: list[Voice] = []
        for model in models:
            for voice, files in _voices(model):
                voices.append(voice)
                self._files[voice.name] = files
        self.voices = tuple(voices)
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Path, _LoadedVoice] = OrderedDict()
        self._loudness: dict[tuple[Path, int | None], float] = {}
        """Usual loudness of the sentences of each speaker."""
        for _ in self.synthesize(WARM_UP_TEXT, self.voices[0].name):
            """The first run of a model is slower than all others."""

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        """Chunks of at most a sentence, all sentences at about the same loudness. NotFound (unknown_voice) for a voice
        that is not in `voices`."""
        files = self._files.get(voice)
        if files is None:
            raise NotFound(f"there is no voice {voice!r}; there are: {', '.join(self._files)}", code="unknown_voice")
        for part in _parts(_without_silent(text), TEXT_LENGTH, (_ENDS, _SPACES)):
            if stop():
                return
            if any(character.isalnum() for character in part):
                yield from self._synthesize_part(files, "".join(part), stop, self._speed * speed)

    def release_memory(self, stop: Stop = never) -> None:
        """Releases the memory of synthesis, except what first audio of the next answer needs."""
        with self._lock:
            names = [next(name for name, files in self._files.items() if files.onnx == onnx) for onnx in self._loaded]
        for name in names:
            if stop():
                return
            self._warm_up(name, SHORT_TEXT, _shrinking_options())
        malloc_trim.trim()
        if names and not stop():
            self._warm_up(names[-1], WARM_UP_TEXT)

    def _warm_up(self, voice: str, text: str, options: Any = None) -> None:
        """Synthesizes a text and discards the audio."""
        files = self._files[voice]
        model = self._model(files)
        if model.vits.providers[0] == onnx_providers.NAMES["cpu"]:
            for phonemes in _phonemes(model.piper, text):
                for _ in self._run(model, files, phonemes, self._speed, options):
                    """The memory is allocated now."""

    def close(self) -> None:
        """Unloads the voices."""
        with self._lock:
            self._loaded.clear()

    def _model(self, files: _PiperVoice) -> _LoadedVoice:
        with self._lock:
            model = self._loaded.pop(files.onnx, None)
            if model is None:
                while len(self._loaded) >= LOADED_VOICES:
                    self._loaded.popitem(last=False)
                cut = _vits(files, self._threads, self._settings)
                model = _LoadedVoice(PiperVoice(session=cut.session, config=files.config), cut)
            self._loaded[files.onnx] = model
            return model

    def _synthesize_part(self, files: _PiperVoice, text: str, stop: Stop, speed: float) -> Iterator[Audio]:
        model = self._model(files)
        # Memory grows with the length of the audio; at a quarter of the speed it would take four times as much.
        most = int(PHONEMES_AT_ONCE * min(1.0, 2 * speed))
        for sentence in _phonemes(model.piper, text):
            for phonemes in _parts(sentence, most, (_PAUSES, _SPACES)):
                for samples in self._normalized(model, files, self._run(model, files, phonemes, speed), stop):
                    if len(samples):
                        yield Audio(samples, files.config.sample_rate)
                if stop():
                    return

    def _normalized(
        self, model: _LoadedVoice, files: _PiperVoice, parts: Iterator[Samples], stop: Stop
    ) -> Iterator[Samples]:
        """A sentence, scaled: part by part where the usual loudness of the voice is known, else whole."""
        usual = self._loudness.get((files.onnx, files.speaker))
        normalizer = LoudnessNormalizer(usual) if usual is not None and model.vits.is_cut else None
        given: list[Samples] = []
        while not stop():
            part = next(parts, None)
            if part is None:
                whole = np.concatenate(given) if given else np.zeros(0, np.float32)
                if measured := loudness(whole):
                    usual = measured if usual is None else usual + NEW_LOUDNESS * (measured - usual)
                    self._loudness[files.onnx, files.speaker] = usual
                if normalizer is None:
                    yield loudness_normalized(whole)
                return
            given.append(part)
            if normalizer is not None:
                yield normalizer.add(part)

    def _run(
        self, model: _LoadedVoice, files: _PiperVoice, phonemes: Sequence[str], speed: float, options: Any = None
    ) -> Iterator[Samples]:
        ids = model.piper.phonemes_to_ids(list(phonemes))
        config = files.config
        scales = [config.noise_scale, config.length_scale / speed, config.noise_w_scale]
        feeds: dict[str, Any] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(scales, np.float32),
        }
        if files.speaker is not None:
            feeds["sid"] = np.array([files.speaker], np.int64)
        try:
            yield from model.vits.run(feeds, options)
        except Exception as error:
            raise EngineFailed(f"the voice {files.onnx.name} failed on {len(ids)} phonemes") from error


_ENDS = frozenset(".!?…。！？\n")
_PAUSES = frozenset(".!?,;:")
_SPACES = frozenset(" ")


def _parts(items: Sequence[str], limit: int, breaks: Sequence[frozenset[str]]) -> Iterator[Sequence[str]]:
    """Parts of at most `limit` items; each ends after its last item of the first set of `breaks` that occurs in it.

    A break in the first half is ignored, so that there are not many tiny parts.
    """
    start = 0
    while len(items) - start > limit:
        end = start + limit
        for kind in breaks:
            found = next((at for at in range(end - 1, start + limit // 2, -1) if items[at] in kind), None)
            if found is not None:
                end = found + 1
                break
        yield items[start:end]
        start = end
    if start < len(items):
        yield items[start:]


def _without_silent(text: str) -> str:
    """The text with spaces for what has no sound: emoji, control and format characters.

    Piper would take `[[` for the start of raw phonemes, so brackets are replaced too.
    """
    return "".join(" " if _is_silent(character) else character for character in text)


def _is_silent(character: str) -> bool:
    if character in "[]":
        return True
    kind = unicodedata.category(character)
    if kind == "So":
        # Arrows, dingbats and emoji start at U+2190; below are signs such as degrees and trademarks.
        return character >= "\u2190"
    # Persian and Indian scripts use U+200C and U+200D within words.
    return (kind.startswith("C") and character not in "\n\u200c\u200d") or kind in ("Sk", "Zl", "Zp")


def _phonemes(model: PiperVoice, text: str) -> list[list[str]]:
    """Phonemes, a list per sentence. Raises Unprocessable (phonemizer_crashed, phonemizer_timeout), EngineFailed."""
    config = model.config
    try:
        if config.phoneme_type is PhonemeType.ESPEAK:
            sentences = espeak.phonemes(config.espeak_voice, _diacritized(model, text), config.vowel_clusters)
        else:
            sentences = model.phonemize(text)
    except Unprocessable:
        raise
    except Exception as error:
        raise EngineFailed(f"the text cannot be turned into phonemes for {config.espeak_voice}") from error
    return [sentence for sentence in sentences if sentence]


def _diacritized(model: PiperVoice, text: str) -> str:
    """Arabic text with its vowel signs added; other languages unchanged."""
    if model.config.espeak_voice != "ar" or not model.use_tashkeel:
        return text
    if model.tashkeel_diacritizier is None:
        model.tashkeel_diacritizier = TashkeelDiacritizer()
    diacritized: str = model.tashkeel_diacritizier(text, taskeen_threshold=model.taskeen_threshold)
    return diacritized


def _voices(model: InstalledModel) -> Iterator[tuple[Voice, _PiperVoice]]:
    """The voices of a model: one, or one per speaker, the default speaker first."""
    onnx = next((path for path in model.files.values() if path.suffix == ".onnx"), None)
    description = next((path for path in model.files.values() if path.name.endswith(".onnx.json")), None)
    if onnx is None or description is None:
        names = ", ".join(path.name for path in model.files.values())
        raise ModelError(f"voice {model.name} needs an .onnx and an .onnx.json file; it has: {names or 'none'}")
    try:
        tree = json.loads(description.read_text(encoding="utf-8"))
        config = PiperConfig.from_dict(tree)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{description} does not describe a Piper voice: {error!r}") from error
    sha256 = model.digests.get(onnx.name, "")
    language_table = tree.get("language") or {}
    language = language_table.get("family") or config.espeak_voice.partition("-")[0]
    region = str(language_table.get("region") or config.espeak_voice.partition("-")[2][:2]).upper()
    if config.num_speakers <= 1:
        yield Voice(model.name, language, config.sample_rate, region), _PiperVoice(onnx, sha256, config, None)
        return
    speakers = dict(config.speaker_id_map) or {str(number): number for number in range(config.num_speakers)}
    for speaker, number in sorted(speakers.items(), key=lambda item: (item[1] != config.default_speaker_id, item[1])):
        name = f"{model.name}/{speaker}"
        yield Voice(name, language, config.sample_rate, region), _PiperVoice(onnx, sha256, config, number)


def _vits(files: _PiperVoice, threads: int, settings: Settings) -> Vits:
    """Loads a model. ModelError when it is damaged."""

    def options() -> Any:
        made = onnxruntime.SessionOptions()
        made.intra_op_num_threads = threads
        made.inter_op_num_threads = 1
        # Spinning would keep cores from the language model between and within sentences.
        made.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # ONNX Runtime stores a memory pattern for each length of input, and every sentence has another length.
        made.enable_mem_pattern = False
        made.log_severity_level = 3
        return made

    try:
        sha256 = files.sha256 or atomic_files.digest(files.onnx)
        source = GraphSource(files.onnx, sha256, vits.PARTS, lambda: vits.parts(files.onnx))
        return Vits(onnx_providers.sessions(source, options, settings, PROVIDERS))
    except Exception as error:
        raise ModelError(f"{files.onnx} cannot be loaded: {error}") from error


def _shrinking_options() -> Any:
    """Options of a run after which ONNX Runtime releases the memory of its arena, which it otherwise keeps."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
