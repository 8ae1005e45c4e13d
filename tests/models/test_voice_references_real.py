"""Reference clips and sources as people send them, with the real networks: a clear error, or speech of that length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from chatapi import settings
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import decode
from conftest import FAKE_ENGINES, MODELS, RunningServer, encode_audio, installed_model, serving, tone
from paths import CORPUS

pytestmark = pytest.mark.real
REAL = ("vad.engine=auto", "voice_converter.engine=knn_vc", "speaker.engine=resemblyzer")


def spoken(*names: str) -> Samples:
    return np.concatenate([decode(CORPUS / "real" / f"{name}.flac").samples for name in names])


SPEECH = spoken("two_cities-00", "two_cities-01", "two_cities-02")
SOURCE = spoken("jfk-16")


def music() -> Samples:
    """Chords of a plucked string instrument, 8 s."""
    chords = []
    for root in (220.0, 174.6, 261.6, 196.0):
        decay = np.exp(-np.arange(2 * RATE) / RATE * 1.5).astype(np.float32)
        tones = [tone(2, root * step * part, level=0.1 / part) for step in (1, 1.25, 1.5) for part in (1, 2, 3)]
        chords.append(np.sum(tones, axis=0) * decay)
    return np.concatenate(chords)


CLICK = np.zeros(4 * RATE, np.float32)
CLICK[RATE] = 0.9


@pytest.fixture(scope="module")
def real_voices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    installed_model("knn-vc-whisper-base")
    data = tmp_path_factory.mktemp("data")
    (data / "models").symlink_to(MODELS / "models")
    with serving(settings.load([*FAKE_ENGINES, *REAL, f"data={data}"], environ={}).settings) as running:
        yield running


def convert(server: RunningServer, source: bytes, *targets: bytes) -> Any:
    form = [("source", ("source", source)), *(("targets", (f"{place}", each)) for place, each in enumerate(targets))]
    return server.client.post("/conversions", data={"consent": "mine"}, files=form, timeout=300)


@pytest.mark.parametrize(
    ("clip", "code"),
    [
        (b"", "bad_audio"), (wav(Audio(np.zeros(4 * RATE, np.float32), RATE)), "silent_clip"),
        (wav(Audio(CLICK, RATE)), "no_speech"), (wav(Audio(music(), RATE)), "no_speech"),
        (wav(Audio(SPEECH[:RATE], RATE)), "voice_too_short"),
    ],
    ids=["empty", "silent", "click", "music", "short"],
)  # fmt: skip
def test_a_reference_without_enough_speech_is_rejected_by_name(
    real_voices: RunningServer, clip: bytes, code: str
) -> None:
    for reply in (
        convert(real_voices, wav(Audio(SOURCE, RATE)), clip),
        real_voices.client.post("/voices/quality", files={"clips": ("clip", clip)}),
    ):
        assert 400 <= reply.status_code < 500 and reply.json()["code"] == code, reply.text


@pytest.mark.parametrize("kind", ["itself", "telephone", "half", "music"])
def test_an_unusual_source_gives_speech_of_its_length(real_voices: RunningServer, kind: str) -> None:
    whole, telephone = wav(Audio(SOURCE, RATE)), [Audio(each, RATE).at(8000).samples for each in (SOURCE, SPEECH)]
    flac = encode_audio(SOURCE, RATE, "flac", "flac")
    source, target, least = {
        "itself": (wav(Audio(SPEECH, RATE)), wav(Audio(SPEECH, RATE)), 0.99),
        "telephone": (encode_audio(telephone[0], 8000, "pcm_mulaw"), wav(Audio(telephone[1], 8000)), 0.99),
        "half": (flac[: len(flac) // 2], encode_audio(SPEECH, RATE, "flac", "flac"), 0.3),
        "music": (wav(Audio(music(), RATE)), wav(Audio(SPEECH, RATE)), 0.99),
    }[kind]  # fmt: skip
    reply = convert(real_voices, source, target)
    assert reply.status_code == 200, reply.text
    length = {"itself": len(SPEECH), "music": 8 * RATE}.get(kind, len(decode(whole).samples))
    found = decode(reply.content).samples
    assert least * length <= len(found) <= 1.01 * length and np.isfinite(found).all()
    assert 0.01 < np.sqrt(np.mean(found**2)) < 0.5


def test_two_people_in_a_reference_are_warned_of(real_voices: RunningServer) -> None:
    both = np.concatenate([spoken("austen-0870-19", "austen-0880-20"), spoken("jfk-16", "jfk-17", "jfk-18")])
    reply = real_voices.client.post("/voices/quality", files={"clips": ("clip", wav(Audio(both, RATE)))}, timeout=300)
    assert reply.status_code == 200 and "several_speakers" in reply.json()["warnings"], reply.text
