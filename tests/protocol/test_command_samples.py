"""The sample store of commands: quality, deduplication, limits, quarantine, export, deletion, durability."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.decode import decode
from chatapi.engines import COMMAND_SAMPLES
from chatapi.errors import ChatapiError, NotFound
from chatapi.services.command_recognition import sample_store
from chatapi.services.command_recognition.database import CommandDatabase
from chatapi.services.command_recognition.sample_quality import CheckedClip, check
from chatapi.services.command_recognition.sample_store import SampleStore, Submitter, checked_label
from chatapi.settings.services import CommandTeachingSettings
from conftest import tone

BY = Submitter("key-1", "test")


def opened(data: Path, **limits: int) -> SampleStore:
    return SampleStore(data, CommandDatabase(data), CommandTeachingSettings(**limits))


def clip(number: int = 0) -> CheckedClip:
    return CheckedClip(tone(0.5, 300 + number), -10.0, 0.0, 0.5, trimmed=False)


def checked(samples: Samples) -> CheckedClip:
    loud = [float(np.abs(samples[first : first + 512]).max() > 1e-4) for first in range(0, len(samples), 512)]
    return check(samples, loud)


def around(word: Samples, before: float, after: float) -> Samples:
    return np.concatenate([np.zeros(int(before * RATE), np.float32), word, np.zeros(int(after * RATE), np.float32)])


def test_a_sample_is_there_after_reopening(tmp_path: Path) -> None:
    sample, duplicate = opened(tmp_path).add(clip(), "lamp", BY)
    assert not duplicate and sample.state == "accepted"
    again = opened(tmp_path)
    assert again.find(None) == [sample] and again.get(sample.id, "key-1") == sample
    assert np.allclose(again.samples_of(sample), tone(0.5, 300), atol=1e-4)
    assert np.allclose(decode(again.sound(sample)).samples, tone(0.5, 300), atol=1e-4)
    mode = [each.stat().st_mode & 0o077 for each in tmp_path.rglob("*")]
    assert not any(mode), mode


def test_the_same_sound_is_stored_once_and_not_under_another_label(tmp_path: Path) -> None:
    store = opened(tmp_path)
    sample, _ = store.add(clip(), "lamp", BY)
    assert store.add(clip(), "lamp", Submitter("key-2", "test")) == (sample, True)
    with pytest.raises(ChatapiError) as raised:
        store.add(clip(), "music", BY)
    assert raised.value.code == "sample_relabelled"
    store.delete(sample.id, "key-1")
    moved, duplicate = store.add(clip(), "music", BY)
    assert (moved.label, duplicate, moved.id) == ("music", False, sample.id)


@pytest.mark.parametrize(
    ("samples", "code"),
    [
        (tone(0.1), "sample_too_short"),
        (np.zeros(RATE, np.float32), "no_speech"),
        (tone(2.0), "sample_too_long"),
        (tone(0.5, level=0.002), "sample_quiet"),
        (np.clip(tone(0.5, level=1.0) * 4, -1, 1), "sample_clipped"),
    ],
    ids=["short", "silent", "long", "quiet", "clipped"],
)
def test_a_bad_clip_is_rejected_with_its_reason(samples: Samples, code: str) -> None:
    with pytest.raises(ChatapiError) as raised:
        checked(samples)
    assert raised.value.code == code


@pytest.mark.parametrize(("before", "after"), [(1.2, 0.3), (0.0, 2.0), (2.0, 0.0), (0.05, 0.9)])
def test_silence_around_a_word_is_trimmed_and_the_word_is_whole(before: float, after: float) -> None:
    word = tone(0.6)
    found = checked(around(word, before, after))
    assert found.trimmed and len(found.samples) == COMMAND_SAMPLES
    assert np.isclose(np.square(found.samples).sum(), np.square(word).sum(), rtol=0.02)


def test_every_fourth_accepted_sample_of_a_word_is_held_out(tmp_path: Path) -> None:
    store = opened(tmp_path)
    found = [store.add(clip(number), "lamp", BY)[0].held_out for number in range(8)]
    assert found == [False, False, False, True] * 2


def test_limits_of_a_key_and_of_all(tmp_path: Path) -> None:
    store = opened(tmp_path, max_samples=5, max_per_key=2, max_words=2)
    for number in range(2):
        store.add(clip(number), "lamp", BY)
    with pytest.raises(ChatapiError, match=r"commands\.max_per_key"):
        store.add(clip(2), "lamp", BY)
    store.add(clip(3), "music", Submitter("key-2", "test"))
    with pytest.raises(ChatapiError, match=r"commands\.max_words"):
        store.add(clip(4), "zero", Submitter("key-2", "test"))
    for number in range(5, 7):
        store.add(clip(number), "lamp", Submitter(f"key-{number}", "test"))
    with pytest.raises(ChatapiError, match=r"commands\.max_samples"):
        store.add(clip(9), "lamp", Submitter("key-9", "test"))


def test_a_key_with_many_doubtful_samples_is_quarantined(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for number in range(10):
        store.add(clip(number), "lamp", BY, "sounds_like music" if number % 3 else "")
    further, _ = store.add(clip(20), "lamp", BY)
    assert (further.state, further.reason) == ("quarantined", "key_doubtful")
    other, _ = store.add(clip(21), "lamp", Submitter("key-2", "test"))
    assert other.state == "accepted"
    assert store.review(further.id, accepted=True).state == "accepted"
    assert store.get(further.id, None).reason == ""


def test_a_key_sees_and_deletes_only_its_own_samples(tmp_path: Path) -> None:
    store = opened(tmp_path)
    sample, _ = store.add(clip(), "lamp", BY)
    assert store.find("key-2") == [] and store.find("key-1") == [sample]
    with pytest.raises(NotFound):
        store.delete(sample.id, "key-2")
    store.delete(sample.id, "key-1")
    assert store.find(None) == []
    assert not list((tmp_path / "commands/samples").iterdir())


def test_pages_and_filters(tmp_path: Path) -> None:
    store = opened(tmp_path)
    added = [store.add(clip(number), "lamp" if number % 2 else "music", BY)[0] for number in range(6)]
    first = store.find(None, most=4)
    assert [*first, *store.find(None, most=4, before=first[-1].id)] == added[::-1]
    assert {each.label for each in store.find(None, label="lamp")} == {"lamp"}
    assert sample_store.label_counts(added) == {"lamp": 3, "music": 3}


def test_export_has_sounds_and_a_line_for_each(tmp_path: Path) -> None:
    store = opened(tmp_path / "data")
    sample, _ = store.add(clip(), "lamp", BY)
    with (tmp_path / "samples.tar").open("wb") as file:
        assert store.export(file, None) == 1
    with tarfile.open(tmp_path / "samples.tar") as archive:
        lines = archive.extractfile("samples.jsonl")
        assert lines is not None
        [line] = [json.loads(each) for each in lines]
        sound = archive.extractfile(line["file"])
        assert sound is not None and sound.read() == store.sound(sample)
    assert (line["label"], line["owner"], line["interface"]) == ("lamp", "key-1", "test")


@pytest.mark.parametrize("label", ["", " ", "a/b", "a,b", "a\nb", "x" * 41])
def test_a_bad_label_is_rejected(label: str) -> None:
    with pytest.raises(ChatapiError, match="label"):
        checked_label(label)
    assert checked_label(" Lamp ") == "lamp"


def test_a_damaged_database_is_set_aside(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add(clip(), "lamp", BY)
    store._database.close()
    (tmp_path / "commands.sqlite3").write_bytes(b"no database" * 1000)
    again = opened(tmp_path)
    assert again.find(None) == []
    assert list(tmp_path.glob("commands.damaged-*"))
    assert again.add(clip(), "lamp", BY)[0].state == "accepted"


def test_audio_is_kept_as_it_was_judged() -> None:
    audio = Audio(checked(tone(0.5)).samples, RATE)
    assert len(audio.pcm16()) == RATE
