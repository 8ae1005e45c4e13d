"""Files of recorders, browsers and players are decoded: tagged, joined, truncated and damaged ones."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.errors import BadInput
from conftest import encode_audio, tone

SECONDS = 3.0
ENCODINGS = {
    "wav": ("pcm_s16le", "wav"),
    "flac": ("flac", "flac"),
    "mp3": ("libmp3lame", "mp3"),
    "adts": ("aac", "adts"),
    "m4a": ("aac", "mp4"),
    "opus": ("libopus", "ogg"),
    "webm": ("libopus", "webm"),
}


def recorded(name: str, rate: int = 48_000, channels: int = 1, seconds: float = SECONDS) -> bytes:
    codec, container = ENCODINGS[name]
    return encode_audio(tone(seconds, rate=rate), rate, codec, container, channels)


def audible(audio: Audio) -> float:
    """Seconds of audio that are not silent."""
    frames = audio.samples[: len(audio.samples) // 160 * 160].reshape(-1, 160)
    return float((np.abs(frames).max(axis=1) > 0.05).sum()) * 160 / RATE


ID3 = b"ID3\x04\0\0\0\0\x02\x01" + bytes(257)
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
LYRICS3 = b"LYRICSBEGIN" + b"INDLYR00003abc" + b"000025LYRICS200"


@pytest.mark.parametrize("name", ["mp3", "flac", "adts", "opus", "wav", "m4a"])
@pytest.mark.parametrize("before", [ID3, ID3 + ID3, b"\n", bytes(4096), ID3 + bytes(100)], ids=range(5))
def test_tags_and_blanks_before_a_file_are_skipped(name: str, before: bytes) -> None:
    assert audible(decode(before + recorded(name))) == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("name", list(ENCODINGS))
@pytest.mark.parametrize("behind", [b"\n", bytes(4096), ID3V1, LYRICS3 + ID3V1, ID3], ids=range(5))
def test_tags_and_blanks_after_a_file_are_skipped(name: str, behind: bytes) -> None:
    assert audible(decode(recorded(name) + behind)) == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("name", ["mp3", "adts"])
def test_a_recording_that_starts_within_a_frame_is_decoded(name: str) -> None:
    assert audible(decode(recorded(name)[150:])) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "adts", "opus", "webm"])
@pytest.mark.parametrize(
    ("first", "second"),
    [((48_000, 1), (48_000, 1)), ((44_100, 1), (48_000, 1)), ((48_000, 1), (16_000, 1)), ((48_000, 1), (48_000, 2))],
)
def test_joined_files_are_decoded_to_the_end(name: str, first: tuple[int, int], second: tuple[int, int]) -> None:
    if name == "flac" and first != second:
        pytest.skip("FLAC states its form once, and FFmpeg's demuxer cannot take another")
    if name == "webm" and first != second:
        pytest.skip("the second header of a WebM is not read")
    before = ID3 if name == "mp3" else b""
    both = b"".join(before + recorded(name, *form) for form in (first, second) if name != "opus" or form[0] != 44_100)
    parts = 2 if name != "opus" or first[0] != 44_100 else 1
    assert audible(decode(both)) == pytest.approx(SECONDS * parts, abs=0.3)


def vorbis(rate: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as out:
        stream = out.add_stream("vorbis", rate=rate, layout="stereo", options={"strict": "experimental"})
        frame = av.AudioFrame.from_ndarray(np.repeat(tone(SECONDS, rate=rate), 2)[np.newaxis], "flt", "stereo")
        frame.sample_rate = rate
        to_codec = av.AudioResampler(format="fltp", layout="stereo", rate=rate, frame_size=64)
        for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return file.getvalue()


def test_joined_vorbis_is_decoded_to_the_end() -> None:
    assert audible(decode(vorbis(48_000) + vorbis(44_100))) == pytest.approx(2 * SECONDS, abs=0.3)


@pytest.mark.parametrize("name", list(ENCODINGS))
@pytest.mark.parametrize("size", [20, 300])
def test_only_the_damaged_part_is_lost(name: str, size: int) -> None:
    file = bytearray(recorded(name, seconds=6.0))
    middle = len(file) // 2
    file[middle : middle + size] = np.random.default_rng(3).bytes(size)
    # A page of Ogg and a cluster of WebM hold a second and more.
    assert audible(decode(bytes(file))) > (4.0 if name in ("opus", "webm") else 5.5)


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


def fragmented() -> bytes:
    """MP4 in fragments of one second, as Safari records it."""
    file = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000"}
    with av.open(file, "w", format="mp4", options=options) as out:
        stream = out.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(6.0, rate=48_000)[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = 48_000
        to_codec = av.AudioResampler(format="fltp", layout="mono", rate=48_000, frame_size=1024)
        for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9, 0.99])
def test_truncated_fragmented_mp4_is_decoded_as_far_as_it_goes(fraction: float) -> None:
    whole = fragmented()
    assert audible(decode(whole)) == pytest.approx(6.0, abs=0.1)
    assert audible(decode(whole[: int(len(whole) * fraction)])) == pytest.approx(6.0 * fraction, abs=1.2)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mpegts", "aac"), ("mpegts", "mp2"), ("aiff", "pcm_s16be"), ("au", "pcm_s16be"), ("caf", "pcm_s16le"),
     ("asf", "wmav2"), ("avi", "pcm_s16le"), ("avi", "libmp3lame"), ("w64", "pcm_s16le"), ("mov", "pcm_s16le"),
     ("3gp", "aac"), ("matroska", "libopus"), ("ac3", "ac3"), ("flv", "libmp3lame"), ("mp2", "mp2"), ("mov", "alac")],
)  # fmt: skip
def test_containers_of_recorders_and_players_are_decoded(container: str, codec: str) -> None:
    rate, channels = (44_100, 2) if container in ("flv", "asf") else (48_000, 1)
    file = encode_audio(tone(SECONDS, rate=rate), rate, codec, container, channels)
    assert audible(decode(file)) == pytest.approx(SECONDS, abs=0.15)


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_channels_of_opposite_phase_do_not_cancel(name: str, noise: float) -> None:
    codec, container = ENCODINGS[name]
    sound = tone(SECONDS, rate=48_000)
    both = np.stack([sound, -sound]) + np.random.default_rng(1).normal(0, noise, (2, len(sound))).astype(np.float32)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(both.T.reshape(1, -1).astype(np.float32), format="flt", layout="stereo")
        frame.sample_rate = 48_000
        to_codec = av.AudioResampler(
            format=stream.format, layout="stereo", rate=48_000, frame_size=stream.frame_size or 0
        )
        for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    assert audible(decode(file.getvalue())) == pytest.approx(SECONDS, abs=0.1)


def two_tracks(first: np.ndarray, second: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        streams = [out.add_stream("aac", rate=48_000, layout="mono") for _ in range(2)]
        for stream, sound in zip(streams, (first, second), strict=True):
            frame = av.AudioFrame.from_ndarray(sound[np.newaxis], format="flt", layout="mono")
            frame.sample_rate = 48_000
            to_codec = av.AudioResampler(format="fltp", layout="mono", rate=48_000, frame_size=1024)
            for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
                out.mux(stream.encode(ready))
            out.mux(stream.encode(None))
    return file.getvalue()


def test_second_track_is_decoded_when_the_first_is_silent() -> None:
    sound = tone(SECONDS, rate=48_000)
    assert audible(decode(two_tracks(np.zeros_like(sound), sound))) == pytest.approx(SECONDS, abs=0.1)
    low, high = tone(SECONDS, 220, 48_000), tone(SECONDS, 880, 48_000)
    decoded = decode(two_tracks(low, high)).samples[RATE : 2 * RATE]
    assert int(np.abs(np.fft.rfft(decoded)).argmax()) == pytest.approx(220, abs=2)


def test_undecodable_data_is_counted() -> None:
    file = bytearray(recorded("m4a", seconds=6.0))
    assert decode(bytes(file)).damaged == 0
    start = file.index(b"mdat") + 4
    file[start + 8000 : start + 9000] = b"\xff" * 1000
    assert decode(bytes(file)).damaged > 0


@pytest.mark.parametrize("file", [bytes(5000), b"\n" * 100, ID3, ID3 * 20, b"\xff\xfb" * 3, b"\xff" * 5000])
def test_file_without_audio_is_rejected(file: bytes) -> None:
    with pytest.raises(BadInput):
        decode(file)
