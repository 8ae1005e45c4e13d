"""`Synthesizer` with the signatures of coqui-tts 0.28.0; it hums a tone for every letter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

SILENCE = 10_000
"""Zeros behind every sentence, as the original puts them there."""
LETTER = 600
"""Samples a letter."""


class Synthesizer:
    def __init__(
        self,
        *,
        tts_checkpoint: Any = None,
        tts_config_path: Any = None,
        tts_speakers_file: Any = None,
        vocoder_checkpoint: Any = None,
        vocoder_config: Any = None,
        encoder_checkpoint: Any = None,
        encoder_config: Any = None,
        vc_checkpoint: Any = None,
        vc_config: Any = None,
        voice_dir: Any = None,
        use_cuda: bool = False,
    ) -> None:
        if not Path(tts_checkpoint).read_bytes().startswith(b"PK"):
            raise RuntimeError("PytorchStreamReader failed reading zip archive")
        config = json.loads(Path(tts_config_path).read_text(encoding="utf-8"))
        self.output_sample_rate = config["audio"]["sample_rate"]
        self.use_cuda = use_cuda
        file = config.get("speakers_file")
        self._speakers = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        self.tts_model = SimpleNamespace(length_scale=1.0)

    def split_into_sentences(self, text: str, language: str | None = None) -> list[str]:
        return [part for part in re.split(r"(?<=[.!?])\s+", text) if part]

    def tts(
        self,
        text: str = "",
        speaker_name: str | None = "",
        language_name: str | None = None,
        speaker_wav: Any = None,
        style_wav: Any = None,
        style_text: Any = None,
        source_wav: Any = None,
        source_speaker_name: Any = None,
        *,
        split_sentences: bool = True,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        if bool(self._speakers) != bool(speaker_name):
            raise ValueError("Looks like you are using a multi-speaker model, or are not")
        letters = sum(character.isascii() and character.isalpha() for character in text)
        if not letters:
            raise IndexError("Dimension out of range (expected to be in range of [-2, 1], but got 2)")
        hertz = 150 + 50 * self._speakers.get(speaker_name, 0)
        times = np.arange(int(letters * LETTER * self.tts_model.length_scale)) / self.output_sample_rate
        hum = (0.05 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
        return [*hum, *([0] * SILENCE)]
