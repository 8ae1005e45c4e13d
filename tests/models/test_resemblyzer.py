"""Resemblyzer's voice encoder in ONNX: its vectors, its conversion, and the speakers of real dialogues."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import decode
from chatapi.bench.diarization_error import TimedSpeaker, diarization_error
from chatapi.bench.wer import words
from chatapi.catalog import resemblyzer
from chatapi.engines.speaker.resemblyzer import Resemblyzer
from chatapi.errors import ModelError
from chatapi.services.transcription.speakers import KnownSpeaker, SpeakerOptions
from chatapi.services.transcription.transcriber import TranscriptionRequest
from chatapi.settings import Settings
from conftest import DEFAULTS, installed_model
from paths import CORPUS

pytestmark = pytest.mark.real
REAL = CORPUS / "real"
REFERENCE = Path(__file__).parent / "resemblyzer_reference.txt"


def clip(name: str) -> Samples:
    return decode(REAL / f"{name}.flac").samples


@pytest.fixture(scope="module")
def encoder() -> Resemblyzer:
    return Resemblyzer(Settings(), [installed_model("resemblyzer")])


def test_vectors_are_those_of_resemblyzer_itself(encoder: Resemblyzer) -> None:
    expected = np.loadtxt(REFERENCE, dtype=np.float32)
    found = np.array(list(encoder.embeddings(clip("en-quick_brown_fox")[:44_800] * np.float32(0.1))))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4


def test_a_short_utterance_is_nearest_to_its_own_voice(encoder: Resemblyzer) -> None:
    people = {"two_cities": ("two_cities-00", "two_cities-07"), "jfk": ("jfk-16", "jfk-18")}
    voices = {name: np.mean(list(encoder.embeddings(clip(first))), axis=0) for name, (first, _) in people.items()}
    for name, (_, other) in people.items():
        [vector] = encoder.embeddings(clip(other)[RATE // 2 : RATE * 13 // 10])
        assert max(voices, key=lambda each: float(vector @ voices[each])) == name


def test_a_checkpoint_of_something_else_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="not a torch checkpoint"):
        resemblyzer.convert(tmp_path / "other.pt", tmp_path / "made.onnx")
    assert not (tmp_path / "made.onnx").exists()


LINES = (
    ("two_cities-00", "reader"), ("jfk-16", "president"), ("two_cities-01", "reader"), ("austen-0870-19", "austen"),
    ("jfk-18", "president"), ("two_cities-05", "reader"), ("austen-0890-21", "austen"), ("jfk-17", "president"),
)  # fmt: skip


def dialogue() -> tuple[bytes, list[TimedSpeaker]]:
    """A recording of three people, half a second between two of them, and its speaker turns."""
    parts: list[Samples] = []
    turns: list[TimedSpeaker] = []
    seconds = 0.0
    for name, speaker in LINES:
        samples = clip(name)
        parts += [np.zeros(RATE // 2, np.float32), samples]
        turns.append(TimedSpeaker(seconds + 0.5, seconds + 0.5 + len(samples) / RATE, speaker))
        seconds = turns[-1].end
    return wav(Audio(np.concatenate(parts), RATE)), turns


@pytest.fixture(params=["thread", "process"])
async def appliance(request: pytest.FixtureRequest, data: Path) -> AsyncIterator[Appliance]:
    for name in ("silero-vad-v6", "resemblyzer", "whisper-tiny.en-ct2"):
        installed_model(name)
    chosen = settings.load([*DEFAULTS, f"data={data}", f"speaker.worker={request.param}"], environ={}).settings
    async with Appliance(chosen).running() as appliance:
        await appliance.load({"vad", "asr"})
        yield appliance


@pytest.mark.anyio
async def test_three_people_are_told_apart_and_known_ones_named(appliance: Appliance) -> None:
    recording, turns = dialogue()
    labels = await appliance.speaker_labeller.labels(recording)
    found = [TimedSpeaker(turn.start, turn.end, labels.names[turn.speaker]) for turn in labels.turns]
    assert {turn.speaker for turn in found} == {"A", "B", "C"} and found[0].speaker == "A"
    assert diarization_error(turns, found).confusion < 0.5
    known = (KnownSpeaker("Charles", clip("two_cities-09")), KnownSpeaker("nobody", clip("zh-pangrama")))
    labels = await appliance.speaker_labeller.labels(recording, SpeakerOptions.of(3, known))
    assert set(labels.names) == {"Charles", "A", "B"}
    assert labels.names[labels.turns[0].speaker] == "Charles"


@pytest.mark.anyio
async def test_a_transcript_says_who_says_what(appliance: Appliance) -> None:
    recording, _ = dialogue()
    chunks: list[str] = []
    service = appliance.transcription_service
    async with service.transcribe_file(recording, TranscriptionRequest("en"), speakers=SpeakerOptions()) as transcribed:
        found = [chunk async for chunk in transcribed]
    labels = found[-1].labels
    assert labels is not None and labels.fault is None
    segments = labels.apply([segment for chunk in found for segment in chunk.segments])
    for speaker, said in itertools.groupby(segments, lambda each: each.speaker):
        chunks.append(f"{speaker}: " + " ".join(words(" ".join(each.text for each in said))))
    assert [chunk[0] for chunk in chunks] == list("ABACBACB")
    assert "best of times" in chunks[0] and "fellow america" in chunks[1] and "wisdom" in chunks[2]
