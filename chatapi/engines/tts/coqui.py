"""Speech synthesis with Coqui TTS, through coqui-tts: on the GPU where torch has CUDA, else on the CPU.

Based on https://github.com/idiap/coqui-ai-TTS at 7cde79ec (0.27.2), TTS/utils/synthesizer.py and manage.py, and tested
with 0.28.0.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from TTS.utils.synthesizer import Synthesizer

from chatapi.audio import Audio, Samples
from chatapi.audio.loudness import loudness_normalized
from chatapi.engines import Stop, Voice, never
from chatapi.errors import EngineFailed, ModelError, NotFound, SettingsError, Unprocessable
from chatapi.settings import Settings
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory
from chatapi.text import espeak

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

LOADED_MODELS = 2
"""Models kept in memory, some hundred MB each."""
UNPACKED_BYTES = 4 << 30
"""Most bytes that a model's archive may unpack to."""
WEIGHTS = (".pth", ".pth.tar")
OTHER_WEIGHTS = ("speaker", "_se.")
"""Substrings in the names of a model's other files with these suffixes: its speakers and its speaker encoder."""


@dataclass(frozen=True)
class _CoquiVoice:
    """The files of a voice."""

    weights: Path
    config: Path
    speaker: str | None
    """Its name in a model of several speakers."""


class Coqui:
    """Synthesizes with the voices of all its models, each of one language. ModelError when a model cannot be read."""

    is_warm = True

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the coqui engine needs a model and was given none; `chatapi models` lists them")
        self._cuda = _cuda(settings.coqui.device)
        self._speed = settings.coqui.speed
        self._files: dict[str, _CoquiVoice] = {}
        voices: list[Voice] = []
        for model in models:
            for voice, files in _voices(model, DataDirectory(settings.data).coqui / model.name):
                voices.append(voice)
                self._files[voice.name] = files
        self.voices = tuple(voices)
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Path, Any] = OrderedDict()
        self._scales: dict[Path, float] = {}
        """Length scale of each VITS model at speed 1."""
        for _ in self.synthesize("Ready.", self.voices[0].name):
            """The first run of a model is slower than all others."""

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        """A chunk per sentence, all at the same loudness; polls `stop` between them.

        NotFound (unknown_voice) for a voice that is not in `voices`; Unprocessable (speed_not_supported) for a speed
        other than 1 where the model is not VITS.
        """
        files = self._files.get(voice)
        if files is None:
            raise NotFound(f"there is no voice {voice!r}; there are: {', '.join(self._files)}", code="unknown_voice")
        if stop() or not _has_words(text):
            return
        model = self._model(files)
        self._set_speed(model.tts_model, files, voice, speed)
        for sentence in model.split_into_sentences(espeak.guarded(text)):
            if stop():
                return
            if _has_words(sentence):
                samples = _run(model, sentence, files)
                if len(samples):
                    yield Audio(loudness_normalized(samples), int(model.output_sample_rate))

    def close(self) -> None:
        """Unloads the models."""
        with self._lock:
            self._loaded.clear()

    def _model(self, files: _CoquiVoice) -> Any:
        with self._lock:
            model = self._loaded.pop(files.weights, None)
            if model is None:
                while len(self._loaded) >= LOADED_MODELS:
                    self._loaded.popitem(last=False)
                model = self._load(files)
            self._loaded[files.weights] = model
            return model

    def _load(self, files: _CoquiVoice) -> Any:
        try:
            model = Synthesizer(
                tts_checkpoint=str(files.weights), tts_config_path=str(files.config), use_cuda=self._cuda
            )
        except Exception as error:
            raise ModelError(f"{files.weights} cannot be loaded by Coqui TTS: {error}") from error
        if hasattr(model.tts_model, "length_scale"):
            self._scales[files.weights] = float(model.tts_model.length_scale) / self._speed
        return model

    def _set_speed(self, vits: Any, files: _CoquiVoice, voice: str, speed: float) -> None:
        """Sets the speed. Only VITS has a length scale; other models have one speed."""
        if files.weights in self._scales:
            vits.length_scale = self._scales[files.weights] / speed
        elif speed != 1:
            raise Unprocessable(
                f"the voice {voice!r} has one speed only; leave speed at 1 or take a VITS voice",
                code="speed_not_supported",
                details={"param": "speed"},
            )


def _run(model: Any, sentence: str, files: _CoquiVoice) -> Samples:
    try:
        with torch.inference_mode():
            spoken = model.tts(sentence, speaker_name=files.speaker, split_sentences=False)
    except Exception as error:
        raise EngineFailed(f"Coqui TTS failed on {len(sentence)} characters with {files.weights.name}") from error
    # Coqui TTS appends nearly half a second of zeros to each sentence.
    return np.trim_zeros(np.asarray(spoken, np.float32), "b")


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _cuda(configured: str) -> bool:
    here = bool(torch.cuda.is_available())
    if configured == "cuda" and not here:
        raise SettingsError("coqui.device is cuda, but this torch has no working CUDA; set it to auto or cpu")
    return here and configured != "cpu"


def _voices(model: InstalledModel, folder: Path) -> Iterator[tuple[Voice, _CoquiVoice]]:
    """The voices of a model: one, or one per speaker."""
    files = _files(model, folder)
    weights = next(
        (
            path
            for name, path in files.items()
            if name.endswith(WEIGHTS) and not any(each in name for each in OTHER_WEIGHTS)
        ),
        None,
    )
    description = files.get("config.json")
    if weights is None or description is None:
        raise ModelError(f"voice {model.name} needs a .pth and a config.json file; it has: {', '.join(files)}")
    try:
        config = json.loads(description.read_text(encoding="utf-8"))
        rate = int(config["audio"]["sample_rate"])
        speakers = _speakers(config, files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{description} does not describe a Coqui model: {error!r}") from error
    with atomic_files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write_whole(folder / "config.json", json.dumps(config))
    for speaker in speakers or (None,):
        name = f"{model.name}/{speaker}" if speaker else model.name
        yield Voice(name, model.languages[0], rate), _CoquiVoice(weights, folder / "config.json", speaker)


def _speakers(config: dict[str, Any], files: Mapping[str, Path]) -> Sequence[str]:
    """The names of the model's speakers.

    `config` names their file by its path on the machine of the model's author; the path is replaced by the local one.
    """
    for table in (config, config.get("model_args") or {}):
        named = Path(table.get("speakers_file") or "").name
        if named in files:
            table["speakers_file"] = str(files[named])
    path = Path(config.get("speakers_file") or (config.get("model_args") or {}).get("speakers_file") or "")
    if not path.is_file():
        return ()
    if path.suffix == ".json":
        found = json.loads(path.read_text(encoding="utf-8"))
    else:
        found = torch.load(path, weights_only=True)
    return tuple(str(name) for name in found)


def _files(model: InstalledModel, folder: Path) -> Mapping[str, Path]:
    """The model's files by name; an archive is unpacked once, into `folder`."""
    archive = next((path for path in model.files.values() if path.suffix == ".zip"), None)
    if archive is None:
        return model.files
    place = folder / "unpacked"
    if not place.is_dir():
        with atomic_files.writing(folder):
            _unpack(archive, place)
    return {path.name: path for path in sorted(place.iterdir())}


def _unpack(archive: Path, place: Path) -> None:
    """Unpacks the files of an archive, without their folders. `place` exists only once all files are complete."""
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            if "config.json" not in {PurePosixPath(member.filename).name for member in members}:
                raise ModelError(f"{archive} is not a whole archive of a Coqui model: it holds no config.json")
            whole = sum(member.file_size for member in members)
            if whole > UNPACKED_BYTES:
                raise ModelError(f"{archive} would unpack to {whole} bytes (at most {UNPACKED_BYTES})")
            atomic_files.require(place.parent, whole, f"unpacking {archive.name}")
            draft.mkdir(parents=True)
            for member in members:
                with packed.open(member) as read, (draft / PurePosixPath(member.filename).name).open("wb") as written:
                    shutil.copyfileobj(read, written)
                    written.flush()
                    os.fsync(written.fileno())
    except zipfile.BadZipFile as error:
        raise ModelError(f"{archive} is not a whole archive of a Coqui model: {error}") from error
    draft.replace(place)
    atomic_files.sync(place.parent)
