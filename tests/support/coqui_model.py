"""A tiny Coqui model, and coqui-tts or its stand-in."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatapi.catalog import InstalledModel
from paths import SUPPORT

STANDIN = SUPPORT / "coqui_standin"
NAME = "made"
RATE = 22_050
FOREIGN_PATH = "/home/maker/speaker_ids.json"
"""The path of the speakers file on another machine."""
NETWORKS = {
    "hidden_channels": 32,
    "hidden_channels_ffn_text_encoder": 32,
    "num_heads_text_encoder": 1,
    "num_layers_text_encoder": 1,
    "num_layers_posterior_encoder": 1,
    "num_layers_flow": 1,
    "upsample_initial_channel_decoder": 32,
    "use_sdp": False,
    "init_discriminator": False,
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def coqui_installed() -> bool:
    """Whether coqui-tts itself is installed."""
    return importlib.util.find_spec("TTS") is not None and importlib.util.find_spec("torch") is not None


@contextmanager
def coqui_tts() -> Iterator[None]:
    """Makes coqui-tts importable: the stand-in when the package is not installed."""
    if coqui_installed():
        yield
        return
    sys.path.insert(0, str(STANDIN))
    try:
        yield
    finally:
        sys.path[:] = [each for each in sys.path if each != str(STANDIN)]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("TTS", "torch")]:
            del sys.modules[name]
        sys.modules.pop("chatapi.engines.tts.coqui", None)


def make_model(folder: Path, speakers: Sequence[str] = (), archived: bool = False, name: str = NAME) -> InstalledModel:
    """An installed model; `archived` puts its files into a zip archive."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {speaker: number for number, speaker in enumerate(speakers)}
    if speakers:
        (folder / "speaker_ids.json").write_text(json.dumps(ids), encoding="utf-8")
    config = _real_config(folder, ids) if STANDIN.as_posix() not in sys.path else _stand_in_config(folder)
    if speakers:
        config["speakers_file"] = FOREIGN_PATH
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    files = {path.name: path for path in folder.iterdir()}
    if archived:
        archive = folder / "model.zip"
        with zipfile.ZipFile(archive, "w") as out:
            for path in files.values():
                out.write(path, f"tts_models--made/{path.name}")
                path.unlink()
        files = {archive.name: archive}
    return InstalledModel(name, "tts", "coqui", folder, files, ("en",), 1, 1, {})


def _stand_in_config(folder: Path) -> dict[str, Any]:
    (folder / "model_file.pth").write_bytes(b"PK")
    return {"model": "vits", "audio": {"sample_rate": RATE}, "model_args": {}}


def _real_config(folder: Path, ids: dict[str, int]) -> dict[str, Any]:
    """An untrained VITS model, which synthesizes noise."""
    import torch
    from TTS.tts.configs.shared_configs import CharactersConfig
    from TTS.tts.configs.vits_config import VitsArgs, VitsConfig
    from TTS.tts.models.vits import Vits

    args = VitsArgs(**NETWORKS)
    characters = CharactersConfig(
        characters_class="TTS.tts.models.vits.VitsCharacters",
        characters=LETTERS,
        punctuations="!?.,;:- '",
        pad="_",
        eos="",
        bos="",
        phonemes="",
    )
    config = VitsConfig(model_args=args, use_phonemes=False, text_cleaner="english_cleaners", characters=characters)
    if ids:
        args.use_speaker_embedding = config.use_speaker_embedding = True
        args.num_speakers = config.num_speakers = len(ids)
        args.speakers_file = config.speakers_file = str(folder / "speaker_ids.json")
    torch.manual_seed(0)
    torch.save({"model": Vits(config).state_dict()}, folder / "model_file.pth")
    config.save_json(str(folder / "config.json"))
    config_document: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config_document
