"""Speech synthesis by Coqui TTS, through coqui-tts: on the GPU where torch has CUDA, else on the processor.

Read in https://github.com/idiap/coqui-ai-TTS at 7cde79ec (0.27.2), TTS/utils/synthesizer.py and manage.py, and tried
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

from chatapi.audio import Audio, Samples, levelled
from chatapi.engines import Stop, Voice, never
from chatapi.errors import EngineFailed, ModelError, NotFound, SettingsError, Unprocessable
from chatapi.settings import Settings
from chatapi.storage import atomic_files
from chatapi.text import espeak

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

LOADED = 2
"""Models kept in memory, some hundred MB each."""
UNPACKED_BYTES = 4 << 30
"""Most that a model's archive may hold."""
WEIGHTS = (".pth", ".pth.tar")
OTHERS = ("speaker", "_se.")
"""In the names of a model's other files that end so: its speakers, and what tells them apart."""


@dataclass(frozen=True)
class _CoquiVoice:
    """Where a voice is found."""

    weights: Path
    config: Path
    speaker: str | None
    """Its name in a model of many speakers."""


class Coqui:
    """Speaks with every model it was given, of one language each. ModelError when one cannot be read."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the coqui engine needs a model and was given none; `chatapi models` lists them")
        self._cuda = _cuda(settings.coqui.device)
        self._speed = settings.coqui.speed
        self._places: dict[str, _CoquiVoice] = {}
        offered: list[Voice] = []
        for model in models:
            for voice, place in _voices(model, settings.data / "coqui" / model.name):
                offered.append(voice)
                self._places[voice.name] = place
        self.voices = tuple(offered)
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Path, Any] = OrderedDict()
        self._scales: dict[Path, float] = {}
        """How long each VITS model speaks at speed 1."""
        for _ in self.synthesize("Ready.", self.voices[0].name):
            """The first run of a model is slower than all others."""

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        """A chunk a sentence, all equally loud; `stop` is asked between them.

        Unknown (unknown_voice) for a voice that is not in `voices`; Unprocessable (speed_not_supported) for a speed
        where the model is no VITS.
        """
        place = self._places.get(voice)
        if place is None:
            raise NotFound(f"there is no voice {voice!r}; there are: {', '.join(self._places)}", code="unknown_voice")
        if stop() or not _sayable(text):
            return
        model = self._model(place)
        self._pace(model.tts_model, place, voice, speed)
        for sentence in model.split_into_sentences(espeak.guarded(text)):
            if stop():
                return
            if _sayable(sentence):
                samples = _spoken(model, sentence, place)
                if len(samples):
                    yield Audio(levelled(samples), int(model.output_sample_rate))

    def close(self) -> None:
        """Free the models."""
        with self._lock:
            self._loaded.clear()

    def _model(self, place: _CoquiVoice) -> Any:
        with self._lock:
            model = self._loaded.pop(place.weights, None)
            if model is None:
                while len(self._loaded) >= LOADED:
                    self._loaded.popitem(last=False)
                model = self._load(place)
            self._loaded[place.weights] = model
            return model

    def _load(self, place: _CoquiVoice) -> Any:
        try:
            model = Synthesizer(
                tts_checkpoint=str(place.weights), tts_config_path=str(place.config), use_cuda=self._cuda
            )
        except Exception as error:
            raise ModelError(f"{place.weights} cannot be loaded by Coqui TTS: {error}") from error
        if hasattr(model.tts_model, "length_scale"):
            self._scales[place.weights] = float(model.tts_model.length_scale) / self._speed
        return model

    def _pace(self, vits: Any, place: _CoquiVoice, voice: str, speed: float) -> None:
        """Only VITS has a scale for its lengths; the others speak as fast as they learned to."""
        if place.weights in self._scales:
            vits.length_scale = self._scales[place.weights] / speed
        elif speed != 1:
            raise Unprocessable(
                f"the voice {voice!r} has one speed only; leave speed at 1 or take a VITS voice",
                code="speed_not_supported",
                details={"param": "speed"},
            )


def _spoken(model: Any, sentence: str, place: _CoquiVoice) -> Samples:
    try:
        with torch.inference_mode():
            spoken = model.tts(sentence, speaker_name=place.speaker, split_sentences=False)
    except Exception as error:
        raise EngineFailed(f"Coqui TTS cannot say {len(sentence)} characters with {place.weights.name}") from error
    # It puts nearly half a second of zeros behind each sentence.
    return np.trim_zeros(np.asarray(spoken, np.float32), "b")


def _sayable(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _cuda(wanted: str) -> bool:
    here = bool(torch.cuda.is_available())
    if wanted == "cuda" and not here:
        raise SettingsError("coqui.device is cuda, and this torch has no CUDA that works; set it to auto or cpu")
    return here and wanted != "cpu"


def _voices(model: InstalledModel, folder: Path) -> Iterator[tuple[Voice, _CoquiVoice]]:
    """Each voice of a model: one, or as many as it has speakers."""
    files = _files(model, folder)
    weights = next(
        (path for name, path in files.items() if name.endswith(WEIGHTS) and not any(each in name for each in OTHERS)),
        None,
    )
    described = files.get("config.json")
    if weights is None or described is None:
        raise ModelError(f"voice {model.name} needs a .pth and a config.json file; it has: {', '.join(files)}")
    try:
        config = json.loads(described.read_text(encoding="utf-8"))
        rate = int(config["audio"]["sample_rate"])
        speakers = _speakers(config, files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{described} does not describe a Coqui model: {error!r}") from error
    with atomic_files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write_whole(folder / "config.json", json.dumps(config))
    for speaker in speakers or (None,):
        name = f"{model.name}/{speaker}" if speaker else model.name
        yield Voice(name, model.languages[0], rate), _CoquiVoice(weights, folder / "config.json", speaker)


def _speakers(config: dict[str, Any], files: Mapping[str, Path]) -> Sequence[str]:
    """The names of its speakers. Their file is named in `config` by where its maker had it: that is put right here."""
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
    """The model's files by name; those of an archive are unpacked once, into `folder`."""
    archive = next((path for path in model.files.values() if path.suffix == ".zip"), None)
    if archive is None:
        return model.files
    place = folder / "unpacked"
    if not place.is_dir():
        with atomic_files.writing(folder):
            _unpack(archive, place)
    return {path.name: path for path in sorted(place.iterdir())}


def _unpack(archive: Path, place: Path) -> None:
    """Its files, without their folders. `place` is there only once all of them are."""
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            if "config.json" not in {PurePosixPath(member.filename).name for member in members}:
                raise ModelError(f"{archive} is not a whole archive of a Coqui model: it holds no config.json")
            whole = sum(member.file_size for member in members)
            if whole > UNPACKED_BYTES:
                raise ModelError(f"{archive} would unpack to {whole} bytes; {UNPACKED_BYTES} are the most taken")
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
