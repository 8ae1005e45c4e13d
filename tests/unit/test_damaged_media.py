"""Files of recorders, browsers and players are decoded: tagged, joined, truncated and damaged ones."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.errors import BadInput
from conftest import encode_audio, tone
from media_files import (
    APE,
    ENCODINGS,
    ID3,
    ID3_WITH_FOOTER,
    ID3_WITH_PICTURE,
    ID3V1,
    LYRICS3,
    audible,
    encode,
    recorded,
    seconds_of,
)

SECONDS = 3.0
ALL = [*ENCODINGS, "fragmented", "vorbis"]
TAGS = [ID3, ID3 + ID3, ID3_WITH_FOOTER, APE, ID3V1, b"\n", b"\r\n\r\n", bytes(128), bytes(4096), ID3 + bytes(100)]
JOINED = [
    "wav",
    "flac",
    "mp3",
    "adts",
    "m4a",
    "opus",
    "webm",
    "mkv",
    "ts",
    "fragmented",
    "vorbis",
    "aiff",
    "caf",
    "wma",
]
FRAMES = ("mp3", "adts", "ts", "latm", "ac3")
HIDDEN: dict[str, tuple[str, ...]] = {
    "flac": FRAMES[1:], "flv": FRAMES[1:], "mp3": FRAMES[1:], "adts": ("mp3", *FRAMES[2:]),
    "ts": ("flac", "mp3", "adts", "latm", "ac3"), "latm": (*FRAMES[:3], "ac3"), "ac3": FRAMES[1:4],
}  # fmt: skip
"""Container -> those that are not noticed behind it: streams of frames without a header of a file, where nothing says
where the first one ends."""
FORMS = [((48_000, 1), (48_000, 1)), ((44_100, 1), (48_000, 1)), ((48_000, 1), (16_000, 1)), ((48_000, 1), (48_000, 2))]


@pytest.mark.parametrize("name", ALL)
def test_tags_and_blanks_around_a_file_are_skipped(name: str) -> None:
    check_tags(name, ID3 + bytes(130), b"\n" + LYRICS3 + ID3V1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tag", [*TAGS, ID3_WITH_PICTURE, b"\xef\xbb\xbf"], ids=range(12))
def test_every_tag_before_a_file_is_skipped(name: str, tag: bytes) -> None:
    check_tags(name, tag, b"")


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tag", [*TAGS, LYRICS3 + ID3V1, APE + ID3V1], ids=range(12))
def test_every_tag_after_a_file_is_skipped(name: str, tag: bytes) -> None:
    check_tags(name, b"", tag)


def check_tags(name: str, before: bytes, behind: bytes) -> None:
    decoded = decode(before + recorded(name) + behind)
    assert seconds_of(decoded, 440) == pytest.approx(SECONDS, abs=0.15)
    assert decoded.skipped.bytes == 0


def test_a_tag_that_states_a_wrong_length_does_not_hide_the_file() -> None:
    wrong = ID3[:6] + b"\x7f\x7f\x7f\x7f" + ID3[10:]
    assert audible(decode(wrong + recorded("mp3"))) == pytest.approx(SECONDS, abs=0.15)


@pytest.mark.parametrize("name", ["mp3", "adts"])
def test_a_recording_that_starts_within_a_frame_is_decoded(name: str) -> None:
    assert audible(decode(recorded(name)[150:])) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("name", JOINED)
def test_joined_files_are_decoded_to_the_end(name: str) -> None:
    check_joined(name, (48_000, 1), (16_000, 2), ID3V1 + ID3)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize(("first", "second"), FORMS)
@pytest.mark.parametrize("between", [b"", ID3, ID3V1, bytes(1000), b"\n"], ids=range(5))
def test_joined_files_of_any_form_are_decoded_to_the_end(
    name: str, first: tuple[int, int], second: tuple[int, int], between: bytes
) -> None:
    check_joined(name, first, second, between)


def check_joined(name: str, first: tuple[int, int], second: tuple[int, int], between: bytes) -> None:
    if name in ("opus", "webm"):
        first, second = (48_000, first[1]), (48_000, second[1])
    decoded = decode(recorded(name, *first) + between + recorded(name, *second, hertz=880.0))
    # The parser of ADTS takes a few frames to notice that their form has changed.
    assert seconds_of(decoded, 440) == pytest.approx(SECONDS, abs=0.2)
    assert seconds_of(decoded, 880) == pytest.approx(SECONDS, abs=0.5 if name == "adts" else 0.2)


@pytest.mark.parametrize(
    ("first", "second"),
    [("wav", "mp3"), ("wav", "flac"), ("wav", "m4a"), ("wav", "opus"), ("mp3", "wav"), ("adts", "wav"), ("m4a", "wav"),
     ("opus", "m4a"), ("webm", "flac"), ("flac", "mp3"), ("fragmented", "adts"), ("ts", "webm"), ("latm", "aiff")],
)  # fmt: skip
def test_files_of_two_containers_are_decoded_to_the_end(first: str, second: str) -> None:
    check_two_containers(first, second, b"")
    check_two_containers(first, second, ID3V1 + b"\n")


@pytest.mark.slow
@pytest.mark.parametrize("first", ALL)
def test_files_of_any_two_containers_are_decoded_to_the_end(first: str) -> None:
    for second in ALL:
        if second not in HIDDEN.get(first, ("ac3",)):
            check_two_containers(first, second, b"")


def check_two_containers(first: str, second: str, between: bytes) -> None:
    decoded = decode(recorded(first) + between + recorded(second, hertz=880.0))
    assert seconds_of(decoded, 440) == pytest.approx(SECONDS, abs=0.2), (first, second)
    assert seconds_of(decoded, 880) == pytest.approx(SECONDS, abs=0.2), (first, second)


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "adts", "opus", "webm"])
@pytest.mark.parametrize("fraction", [0.999, 0.9, 0.5])
def test_a_truncated_file_is_decoded_as_far_as_it_goes(name: str, fraction: float) -> None:
    file = recorded(name, seconds=6.0)
    assert audible(decode(file[: int(len(file) * fraction)])) == pytest.approx(6.0 * fraction, abs=0.6)


@pytest.mark.parametrize("missing", [1, 2, 100, 16_000])
def test_a_wav_that_states_more_than_it_has_is_decoded(missing: int) -> None:
    assert audible(decode(recorded("wav")[:-missing])) == pytest.approx(SECONDS, abs=0.3)
    stated = bytearray(wav(Audio(tone(SECONDS), RATE)))
    struct.pack_into("<I", stated, 40, len(stated) - 44 + missing)
    assert audible(decode(bytes(stated))) == pytest.approx(SECONDS, abs=0.05)


def test_samples_that_look_like_a_wav_do_not_cut_an_mp4_off() -> None:
    file, start = recorded("m4a"), recorded("wav")[:60]
    middle = file.index(b"mdat") + 2000
    spliced = file[:middle] + start + file[middle + len(start) :]
    assert audible(decode(spliced)) == pytest.approx(SECONDS, abs=0.3)


def test_a_caf_without_a_sample_rate_is_rejected_as_damaged() -> None:
    file = bytearray(recorded("caf"))
    rate = file.index(b"desc") + 12
    assert struct.unpack_from(">d", file, rate) == (48_000.0,)
    struct.pack_into(">d", file, rate, 0.0)
    with pytest.raises(BadInput) as caught:
        decode(bytes(file))
    assert caught.value.code == "bad_audio"


@pytest.mark.parametrize("length", [1 << 40, 1 << 62, -5])
def test_a_chunk_longer_than_any_file_is_the_last_one(length: int) -> None:
    file = bytearray(recorded("caf"))
    struct.pack_into(">q", file, file.index(b"data") + 4, length)
    assert audible(decode(bytes(file))) == pytest.approx(SECONDS, abs=0.15)


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9, 0.99])
def test_truncated_fragmented_mp4_is_decoded_as_far_as_it_goes(fraction: float) -> None:
    whole = recorded("fragmented", seconds=6.0)
    assert audible(decode(whole)) == pytest.approx(6.0, abs=0.1)
    assert audible(decode(whole[: int(len(whole) * fraction)])) == pytest.approx(6.0 * fraction, abs=1.2)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mpegts", "aac"), ("mpegts", "mp2"), ("aiff", "pcm_s16be"), ("au", "pcm_s16be"), ("caf", "pcm_s16le"),
     ("asf", "wmav2"), ("avi", "pcm_s16le"), ("avi", "libmp3lame"), ("w64", "pcm_s16le"), ("mov", "pcm_s16le"),
     ("3gp", "aac"), ("matroska", "libopus"), ("ac3", "ac3"), ("flv", "libmp3lame"), ("mp2", "mp2"), ("mov", "alac"),
     ("tta", "tta")],
)  # fmt: skip
def test_containers_of_recorders_and_players_are_decoded(container: str, codec: str) -> None:
    rate, channels = (44_100, 2) if container in ("flv", "asf") else (48_000, 1)
    rate = 8_000 if "amr" in codec else rate
    file = encode_audio(tone(SECONDS, rate=rate), rate, codec, container, channels)
    assert audible(decode(file)) == pytest.approx(SECONDS, abs=0.15)


def gsm_frames(count: int) -> bytes:
    """Frames of GSM 06.10 of 20 ms each, with pseudorandom parameters."""
    random = np.random.default_rng(3)
    return b"".join(b"\xd5" + random.bytes(32) for _ in range(count))


def test_gsm_without_a_container_is_decoded() -> None:
    decoded = decode(gsm_frames(150))
    assert decoded.seconds == pytest.approx(3.0, abs=0.05) and np.abs(decoded.samples).max() > 0.01
    assert decode(gsm_frames(150)[:-10]).seconds == pytest.approx(3.0, abs=0.05)
    with pytest.raises(BadInput):
        decode(b"\xd5" + bytes(2000))


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_channels_of_opposite_phase_do_not_cancel(name: str, noise: float) -> None:
    codec, container = ENCODINGS[name]
    sound = tone(SECONDS, rate=48_000)
    both = np.stack([sound, -sound]) + np.random.default_rng(1).normal(0, noise, (2, len(sound))).astype(np.float32)
    file = encode([both], 48_000, codec, container)
    assert audible(decode(file)) == pytest.approx(SECONDS, abs=0.1)


def test_second_track_is_decoded_when_the_first_is_silent() -> None:
    sound = tone(SECONDS, rate=48_000)
    assert audible(decode(encode([np.zeros_like(sound), sound], 48_000, "aac", "mp4"))) == pytest.approx(
        SECONDS, abs=0.1
    )
    low, high = tone(SECONDS, 220, 48_000), tone(SECONDS, 880, 48_000)
    decoded = decode(encode([low, high], 48_000, "aac", "mp4")).samples[RATE : 2 * RATE]
    assert int(np.abs(np.fft.rfft(decoded)).argmax()) == pytest.approx(220, abs=2)


def test_undecodable_data_is_counted() -> None:
    file = bytearray(recorded("m4a", seconds=6.0))
    assert not decode(bytes(file)).skipped
    start = file.index(b"mdat") + 4
    file[start + 8000 : start + 9000] = b"\xff" * 1000
    assert decode(bytes(file)).skipped.packets > 0


@pytest.mark.parametrize("file", [bytes(5000), b"\n" * 100, ID3, ID3 * 20, b"\xff\xfb" * 3, b"\xff" * 5000])
def test_file_without_audio_is_rejected(file: bytes) -> None:
    with pytest.raises(BadInput):
        decode(file)
