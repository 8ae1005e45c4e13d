"""Damage at any place of a media file costs only what is damaged, and it is counted."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode, duration
from chatapi.audio.ffmpeg_decoder import ogg_pages
from chatapi.errors import BadInput
from conftest import tone
from media_files import audible, encode, recorded, seconds_of

SECONDS = 6.0
LOST = {
    "wav": 0.01, "aiff": 0.01, "au": 0.01, "caf": 0.01, "w64": 0.01, "mp3": 0.6, "flac": 0.6, "adts": 1.1, "ts": 0.9,
    "m4a": 0.25, "mov": 0.01, "opus": 2.2, "webm": 1.3, "mkv": 1.3, "avi": 0.3, "ac3": 0.3, "latm": 1.4, "wma": 1.3,
    "fragmented": 1.2,
}  # fmt: skip
"""Container -> most seconds that one damaged place costs: frames; 8191 bytes of ADTS or LOAS, which a wrong length can
state, here 0.91 s, and with LOAS the 20 frames until the configuration is repeated, 0.43 s; a superframe of WMA; a
fragment of MP4; a cluster of Matroska; two pages of Ogg, where the damage spans both."""
HEADER, INDEX = 1500, {"m4a": 2500, "mov": 1000, "avi": 4000}
"""Bytes at the start, and at the end of some, without which nothing can be decoded."""


def whole(name: str) -> bytes:
    return recorded(name, seconds=SECONDS)


def damaged(name: str, place: float, size: int, noise: bool) -> bytes:
    """The file with `size` bytes replaced, at a place from 0, after its header, to 1, before its index."""
    file = bytearray(whole(name))
    room = len(file) - HEADER - INDEX.get(name, 0) - size
    at = HEADER + int(place * room)
    file[at : at + size] = np.random.default_rng(size).bytes(size) if noise else bytes(size)
    return bytes(file)


def check_damaged(name: str, place: float, size: int, noise: bool) -> None:
    decoded = decode(damaged(name, place, size, noise))
    assert audible(decoded) >= SECONDS - 0.1 - LOST[name]
    assert decoded.seconds <= SECONDS + 0.2


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize(("place", "size", "noise"), [(0.5, 20, True), (0.3, 300, False)])
def test_only_what_is_damaged_is_lost(name: str, place: float, size: int, noise: bool) -> None:
    check_damaged(name, place, size, noise)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOST)
@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), size=st.sampled_from((1, 20, 300)), noise=st.booleans())
def test_damage_at_any_place_costs_only_what_is_damaged(name: str, place: float, size: int, noise: bool) -> None:
    check_damaged(name, place, size, noise)


@pytest.mark.parametrize("name", [*(name for name in LOST if name not in INDEX), "vorbis"])
@pytest.mark.parametrize("fraction", [0.999, 0.61])
def test_a_file_that_is_cut_off_is_decoded_as_far_as_it_goes(name: str, fraction: float) -> None:
    file = whole(name)
    missing = 5.0 if name == "vorbis" and fraction < 0.9 else 1.1
    assert audible(decode(file[: int(len(file) * fraction)])) > SECONDS * fraction - missing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fragmented", "webm", "mkv", "opus", "ts"])
@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0.05, 1))
def test_a_recording_of_a_browser_may_end_anywhere(name: str, fraction: float) -> None:
    file = whole(name)
    assert audible(decode(file[: HEADER + int((len(file) - HEADER) * fraction)])) > SECONDS * fraction - 1.2


@pytest.mark.parametrize("missing", [1, 3, 9])
@pytest.mark.parametrize("name", ["m4a", "mov"])
def test_an_index_that_lacks_its_last_bytes_is_used(name: str, missing: int) -> None:
    assert audible(decode(whole(name)[:-missing])) > SECONDS - 0.3


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_an_interrupted_mp4_without_index_is_rejected_with_the_reason(kept: float) -> None:
    file = whole("m4a")
    with pytest.raises(BadInput, match=r"no index \(its moov box\)"):
        decode(file[: int(len(file) * kept)])


@pytest.mark.parametrize("lost", [1, 7, 300])
def test_an_mp4_that_lacks_bytes_in_the_middle_is_decoded_to_there(lost: int) -> None:
    file = whole("m4a")
    middle = len(file) // 2
    assert audible(decode(file[:middle] + file[middle + lost :])) > SECONDS / 2 - 0.2


def test_a_damaged_fragment_costs_itself() -> None:
    file = bytearray(whole("fragmented"))
    third = [at for at in range(len(file)) if file.startswith(b"moof", at)][2]
    for offset in range(4, 300, 24):
        changed = bytearray(file)
        changed[third + offset : third + offset + 20] = bytes(20)
        decoded = decode(bytes(changed))
        assert audible(decoded) > SECONDS - 1.2
        assert decoded.skipped.packets > 0


@pytest.mark.parametrize("name", ["opus", "vorbis"])
def test_the_checksum_of_an_ogg_page_is_that_of_the_standard(name: str) -> None:
    """FFmpeg wrote these pages, so none of them counts as damaged."""
    pages = ogg_pages.walk(io.BytesIO(whole(name)), 0, len(whole(name)))
    assert (pages.damaged, len(pages.repair.patches), pages.end) == (0, 0, len(whole(name)))


@pytest.mark.parametrize("change", [-20_000, -1000, -100, -2, -1, 1, 2, 36, 44, 1000, 16_000])
def test_a_wav_that_states_another_length_is_decoded_to_its_end(change: int) -> None:
    file = bytearray(wav(Audio(tone(SECONDS), RATE)))
    struct.pack_into("<I", file, 40, len(file) - 44 + change)
    decoded = decode(bytes(file))
    assert decoded.seconds == pytest.approx(SECONDS, abs=0.001)
    assert not decoded.skipped


@pytest.mark.parametrize("change", [-20_000, -1, 1, 1000, 0x7FFF0000])
def test_the_length_of_a_riff_does_not_matter(change: int) -> None:
    file = bytearray(wav(Audio(tone(SECONDS), RATE)))
    struct.pack_into("<I", file, 4, len(file) - 8 + change)
    assert decode(bytes(file)).seconds == pytest.approx(SECONDS, abs=0.001)


def test_chunks_behind_the_data_of_a_wav_are_no_audio() -> None:
    chunk = b"LIST" + struct.pack("<I", 4000) + np.random.default_rng(1).bytes(4000)
    assert decode(wav(Audio(tone(1.0), RATE)) + chunk).seconds == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["wav", "flac", "m4a", "opus", "webm", "mp3", "ts", "avi", "latm"])
def test_other_data_before_a_file_is_skipped_and_counted(name: str) -> None:
    junk = b"--boundary\r\nContent-Disposition: form-data; name=file\r\n\r\n"
    decoded = decode(junk + recorded(name))
    assert seconds_of(decoded, 440) == pytest.approx(3.0, abs=0.15)
    # The search finds the first frame, after the tag that FFmpeg writes before it.
    assert len(junk) <= decoded.skipped.bytes <= len(junk) + (100 if name == "mp3" else 0)


def test_other_data_behind_a_file_is_counted() -> None:
    assert decode(recorded("m4a") + b"hello " * 50).skipped.bytes == 0
    decoded = decode(recorded("wav") + recorded("m4a")[:2000])
    assert (decoded.seconds, decoded.skipped.bytes) == (pytest.approx(3.0, abs=0.01), 2000)


def test_a_lost_block_of_zeros_longer_than_ten_seconds_does_not_end_decoding() -> None:
    file = bytearray(recorded("m4a", seconds=25.0))
    start = file.index(b"mdat") + 10_000
    file[start : start + 120_000] = bytes(120_000)
    decoded = decode(bytes(file))
    assert audible(decoded) > 25 * (1 - 140_000 / len(file))
    assert decoded.skipped.packets > 500


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_the_track_with_speech_is_decoded_not_the_one_with_noise(noise: float) -> None:
    sound = tone(3.0, 880, 48_000)
    quiet = np.random.default_rng(5).normal(0, noise, len(sound)).astype(np.float32)
    for order in ([quiet, sound], [sound, quiet]):
        assert seconds_of(decode(encode(order, 48_000, "aac", "mp4")), 880) == pytest.approx(3.0, abs=0.1)


def test_the_duration_of_a_damaged_file_can_be_asked_for() -> None:
    file = bytearray(whole("fragmented"))
    third = [at for at in range(len(file)) if file.startswith(b"moof", at)][2]
    file[third + 20 : third + 60] = bytes(40)
    assert duration(bytes(file)) <= SECONDS + 0.1
