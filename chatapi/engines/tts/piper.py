"""Piper voices: VITS models in ONNX, fed with the phonemes of espeak-ng."""

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

from chatapi.audio import Audio, Samples, levelled
from chatapi.engines import Stop, Voice, never, onnx_providers
from chatapi.errors import EngineFailed, ModelError, NotFound, Unprocessable
from chatapi.settings import Settings
from chatapi.system import malloc_trim
from chatapi.text import espeak

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

LOADED = 2
"""Voices kept in memory, about 100 MB each."""
TEXT = 400
"""Characters given to espeak-ng at once, so that the first sound of a long text comes soon."""
PHONEMES = 100
"""Most that are spoken at once: about 6 seconds of sound, for which VITS needs some 120 MB more; they are kept until
nobody speaks."""
READY = "Ready."
KEPT = "Ready for the next one, whenever you are."
"""As long as the first piece of an answer mostly is. The memory it takes, some 40 MB, is kept when nobody speaks: to
take it anew would cost the first sound up to 40 ms."""
PROVIDERS = ("cuda", "cpu")
"""Best first. Not TensorRT: it compiles anew for every length of sentence, which takes minutes."""


@dataclass(frozen=True)
class _PiperVoice:
    """Where a voice is found."""

    onnx: Path
    config: PiperConfig
    speaker: int | None
    """Its number in a model of many speakers."""


class Piper:
    """Speaks with every voice it was given. ModelError when one cannot be read."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the piper engine needs a voice and was given none; `chatapi models` lists them")
        self._settings = settings
        self._threads = settings.piper.threads or min(4, _cores())
        self._speed = settings.piper.speed
        self._places: dict[str, _PiperVoice] = {}
        offered: list[Voice] = []
        for model in models:
            for voice, place in _voices(model):
                offered.append(voice)
                self._places[voice.name] = place
        self.voices = tuple(offered)
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Path, PiperVoice] = OrderedDict()
        for _ in self.synthesize(KEPT, self.voices[0].name):
            """The first run of a model is slower than all others."""

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        """A chunk a sentence, all equally loud. NotFound (unknown_voice) for a voice that is not in `voices`."""
        place = self._places.get(voice)
        if place is None:
            raise NotFound(f"there is no voice {voice!r}; there are: {', '.join(self._places)}", code="unknown_voice")
        for part in _parts(_speakable(text), TEXT, (_ENDS, _SPACES)):
            if stop():
                return
            if any(character.isalnum() for character in part):
                yield from self._part(place, "".join(part), stop, self._speed * speed)

    def give_back(self, stop: Stop = never) -> None:
        """The memory of all that was spoken, but for what the first sound of the next answer needs."""
        with self._lock:
            names = [next(name for name, place in self._places.items() if place.onnx == onnx) for onnx in self._loaded]
        for name in names:
            if stop():
                return
            self._rehearse(name, READY, _shrinking())
        malloc_trim.trim()
        if names and not stop():
            self._rehearse(names[-1], KEPT)

    def _rehearse(self, voice: str, text: str, options: Any = None) -> None:
        """Speak to nobody."""
        place = self._places[voice]
        model = self._model(place)
        if model.session.get_providers()[0] == onnx_providers.NAMES["cpu"]:
            for phonemes in _phonemes(model, text):
                self._spoken(model, place, phonemes, self._speed, options)

    def close(self) -> None:
        """Free the voices."""
        with self._lock:
            self._loaded.clear()

    def _model(self, place: _PiperVoice) -> PiperVoice:
        with self._lock:
            model = self._loaded.pop(place.onnx, None)
            if model is None:
                while len(self._loaded) >= LOADED:
                    self._loaded.popitem(last=False)
                model = PiperVoice(session=_session(place.onnx, self._threads, self._settings), config=place.config)
            self._loaded[place.onnx] = model
            return model

    def _part(self, place: _PiperVoice, text: str, stop: Stop, speed: float) -> Iterator[Audio]:
        model = self._model(place)
        # Memory goes with the length of the sound; at a quarter of the speed it would take four times as much.
        most = int(PHONEMES * min(1.0, 2 * speed))
        for sentence in _phonemes(model, text):
            for phonemes in _parts(sentence, most, (_PAUSES, _SPACES)):
                if stop():
                    return
                samples = self._spoken(model, place, phonemes, speed)
                if len(samples):
                    yield Audio(samples, place.config.sample_rate)

    def _spoken(
        self, model: PiperVoice, place: _PiperVoice, phonemes: Sequence[str], speed: float, options: Any = None
    ) -> Samples:
        ids = model.phonemes_to_ids(list(phonemes))
        config = place.config
        scales = [config.noise_scale, config.length_scale / speed, config.noise_w_scale]
        feeds: dict[str, Any] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(scales, np.float32),
        }
        if place.speaker is not None:
            feeds["sid"] = np.array([place.speaker], np.int64)
        try:
            output = model.session.run(None, feeds, options)[0]
        except Exception as error:
            raise EngineFailed(f"the voice {place.onnx.name} failed on {len(ids)} phonemes") from error
        return levelled(output.reshape(-1).astype(np.float32, copy=False))


_ENDS = frozenset(".!?…。！？\n")
_PAUSES = frozenset(".!?,;:")
_SPACES = frozenset(" ")


def _parts(items: Sequence[str], limit: int, breaks: Sequence[frozenset[str]]) -> Iterator[Sequence[str]]:
    """Stretches of at most `limit` items; each is cut after its last item out of the first of `breaks` it has any of.

    A break in the first half is passed over, so that there are not many tiny stretches.
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


def _speakable(text: str) -> str:
    """The text without what has no sound: emoji, control and format characters; they become spaces.

    Piper would take `[[` for the start of raw phonemes, so brackets go too.
    """
    return "".join(" " if _silent(character) else character for character in text)


def _silent(character: str) -> bool:
    if character in "[]":
        return True
    kind = unicodedata.category(character)
    if kind == "So":
        # Arrows, dingbats and emoji begin at U+2190; before it are the signs of degrees, trademarks and the like.
        return character >= "\u2190"
    # Within words, Persian and Indian scripts have U+200C and U+200D.
    return (kind.startswith("C") and character not in "\n\u200c\u200d") or kind in ("Sk", "Zl", "Zp")


def _phonemes(model: PiperVoice, text: str) -> list[list[str]]:
    """Phonemes, a list a sentence. Raises Unprocessable (phonemizer_crashed, phonemizer_timeout), EngineFailed."""
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
    """Arabic with the vowels that it is written without; other languages as they are."""
    if model.config.espeak_voice != "ar" or not model.use_tashkeel:
        return text
    if model.tashkeel_diacritizier is None:
        model.tashkeel_diacritizier = TashkeelDiacritizer()
    diacritized: str = model.tashkeel_diacritizier(text, taskeen_threshold=model.taskeen_threshold)
    return diacritized


def _voices(model: InstalledModel) -> Iterator[tuple[Voice, _PiperVoice]]:
    """Each voice of a model: one, or as many as it has speakers, the default speaker first."""
    onnx = next((path for path in model.files.values() if path.suffix == ".onnx"), None)
    described = next((path for path in model.files.values() if path.name.endswith(".onnx.json")), None)
    if onnx is None or described is None:
        names = ", ".join(path.name for path in model.files.values())
        raise ModelError(f"voice {model.name} needs an .onnx and an .onnx.json file; it has: {names or 'none'}")
    try:
        tree = json.loads(described.read_text(encoding="utf-8"))
        config = PiperConfig.from_dict(tree)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{described} does not describe a Piper voice: {error!r}") from error
    stated = tree.get("language") or {}
    language = stated.get("family") or config.espeak_voice.partition("-")[0]
    if config.num_speakers <= 1:
        yield Voice(model.name, language, config.sample_rate), _PiperVoice(onnx, config, None)
        return
    speakers = dict(config.speaker_id_map) or {str(number): number for number in range(config.num_speakers)}
    for speaker, number in sorted(speakers.items(), key=lambda item: (item[1] != config.default_speaker_id, item[1])):
        name = f"{model.name}/{speaker}"
        yield Voice(name, language, config.sample_rate), _PiperVoice(onnx, config, number)


def _session(onnx: Path, threads: int, settings: Settings) -> Any:
    """The model, ready to run. ModelError when it is damaged."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning would keep cores from the language model between and within sentences.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Patterns are remembered for each length of input, and every sentence has another.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        return onnx_providers.session(onnx, options, settings, PROVIDERS)
    except Exception as error:
        raise ModelError(f"{onnx} cannot be loaded: {error}") from error


def _shrinking() -> Any:
    """Options of a run after which ONNX Runtime gives back what it keeps, which it would keep for ever."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
