"""What is CTranslate2's own beyond what holds for every Whisper."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import model
from test_whisper import clip

from chatapi.engines.ctranslate2 import CTranslate2
from chatapi.errors import ModelFault
from chatapi.settings import CTranslate2 as Table
from chatapi.settings import Settings
from chatapi.wer import words

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def english() -> CTranslate2:
    return CTranslate2(Settings(), [model("whisper-tiny.en-ct2")])


def heard(engine: CTranslate2, name: str) -> list[str]:
    return words(" ".join(segment.text for segment in engine.transcribe(clip(name), "en")))


def test_nothing_comes_once_nobody_wants_it_and_it_stays_usable(english: CTranslate2) -> None:
    said = np.concatenate([clip(f"two_cities-{number:02}") for number in range(12)])
    answers = iter([False, False, False, False])
    got = list(english.transcribe(said, "en", lambda: next(answers, True)))
    assert all(segment.end < 31 for segment in got)
    assert heard(english, "en-hello_world") == ["hello", "world"]


def test_one_beam_is_enough_for_what_is_plain(english: CTranslate2) -> None:
    greedy = CTranslate2(Settings(ctranslate2=Table(beams=1, threads=1)), [model("whisper-tiny.en-ct2")])
    assert greedy.threads == 1
    assert heard(greedy, "en-quick_brown_fox") == heard(english, "en-quick_brown_fox")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.bin", b""),
        ("model.bin", b"not a model"),
        ("vocabulary.txt", b"\xff\xfe"),
        ("vocabulary.txt", b"a\nb\n"),
        ("vocabulary.txt", b"a\n<|endoftext|>\n"),
        ("vocabulary.txt", None),
    ],
)
def test_a_file_that_is_not_the_models_is_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    whole = model("whisper-tiny.en-ct2")
    files = {name: Path(shutil.copy(path, tmp_path)) for name, path in whole.files.items()}
    files[file].unlink() if content is None else files[file].write_bytes(content)
    with pytest.raises(ModelFault) as caught:
        CTranslate2(Settings(), [SimpleNamespace(name="broken", languages=("en",), files=files)])
    assert file in caught.value.message or str(tmp_path) in caught.value.message
