"""Every audio format is decoded, and other files are rejected with the reason."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.audio import RATE, Audio, wav, wav_header
from chatapi.audio.decode import blocks, decode
from chatapi.errors import BadInput, TooLarge
from conftest import encode_audio, tone


def loudness(audio: Audio) -> float:
    middle = audio.samples[len(audio.samples) // 4 : -len(audio.samples) // 4]
    return float(np.sqrt(np.mean(middle**2)))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_wav_of_any_depth_and_rate_decodes_to_the_same_audio(codec: str, rate: int) -> None:
    audio = decode(encode_audio(tone(0.5, rate=rate), rate, codec))
    assert audio.rate == RATE
    assert audio.seconds == pytest.approx(0.5, abs=0.01)
    assert loudness(audio) == pytest.approx(0.3 / np.sqrt(2), rel=0.03)


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_channels_are_averaged(channels: int) -> None:
    audio = decode(encode_audio(tone(0.5), RATE, "pcm_s16le", channels=channels))
    assert loudness(audio) == pytest.approx(0.3 / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("flac", "flac"), ("ogg", "libopus"), ("mp3", "libmp3lame"), ("mp4", "aac"), ("webm", "libopus"), ("adts", "aac"),
     ("wav", "pcm_mulaw"), ("wav", "adpcm_ms")],
)  # fmt: skip
def test_compressed_formats_are_decoded(container: str, codec: str) -> None:
    audio = decode(encode_audio(tone(1.0, rate=48_000), 48_000, codec, container))
    assert audio.seconds == pytest.approx(1.0, abs=0.1)
    assert loudness(audio) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("container", ["amr", "3gp"])
def test_amr_of_telephones_is_decoded_whole_and_cut(container: str) -> None:
    file = encode_audio(tone(1.0, rate=8_000), 8_000, "libopencore_amrnb", container)
    audio = decode(file)
    assert audio.seconds == pytest.approx(1.0, abs=0.1)
    # A codec for voices: a pure tone loses a quarter.
    assert loudness(audio) == pytest.approx(0.3 / np.sqrt(2), rel=0.3)
    if container == "amr":
        assert decode(file[: len(file) // 2]).seconds == pytest.approx(0.5, abs=0.1)


def test_written_wav_decodes_to_the_same_samples() -> None:
    sound = Audio(tone(0.25), RATE)
    np.testing.assert_allclose(decode(wav(sound)).samples, sound.samples, atol=1 / 32000)


def test_stream_of_unknown_length_is_decoded_to_its_end() -> None:
    sound = Audio(tone(0.25), RATE)
    assert decode(wav_header(RATE) + sound.pcm16()).seconds == 0.25
    zero = bytearray(wav(sound))
    struct.pack_into("<I", zero, 40, 0)
    assert decode(bytes(zero)).seconds == 0.25


def test_samples_that_are_not_finite_are_replaced() -> None:
    samples = tone(0.5)
    samples[100:200], samples[300] = np.nan, np.inf
    audio = decode(encode_audio(samples, RATE, "pcm_f32le"))
    assert np.isfinite(audio.samples).all()
    assert np.abs(audio.samples).max() <= 1.0


GOOD = wav(Audio(tone(0.5), RATE))


def with_field(offset: int, form: str, value: int) -> bytes:
    changed = bytearray(GOOD)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "0 bytes"),
        (b"RIFF", "not audio in a supported format"),
        (b"<html>no such file</html>", "text, not audio"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.wav\n", "text, not audio"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "text, not audio"),
        (GOOD[:12], "ends in its header"),
        (GOOD[:30], "format chunk"),
        (GOOD[:36], "ends in its header"),
        (GOOD[:44], "has a header but no samples"),
        (with_field(22, "<H", 0), "0 channels"),
        (with_field(22, "<H", 200), "200 channels"),
        (with_field(24, "<I", 0), "sample rate 0 Hz"),
        (with_field(24, "<I", 4_000_000_000), "sample rate 4000000000 Hz"),
        (with_field(32, "<H", 0), "0 bytes for 1 samples of 16 bits"),
        (b"fLaC" + bytes(100), "damaged"),
        (b"OggS" + bytes(100), "damaged"),
        (b"\x00\x00\x00\x20ftypM4A " + bytes(100), "has no index"),
        (b"\x1aE\xdf\xa3" + bytes(100), "damaged"),
    ],
)
def test_invalid_file_is_rejected_with_the_reason(file: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as raised:
        decode(file)
    assert raised.value.code == "bad_audio"


def test_video_without_an_audio_track_is_rejected() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=10, width=16, height=16, pix_fmt="yuv420p")
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    with pytest.raises(BadInput, match="no audio track"):
        decode(file.getvalue())


def test_audio_past_the_limit_is_rejected_without_decoding_the_rest() -> None:
    long = encode_audio(np.zeros(RATE * 600, np.float32), RATE, "flac", "flac")
    with pytest.raises(TooLarge, match="longer than 2 seconds") as raised:
        decode(long, limit=2)
    assert raised.value.code == "audio_too_long"


def test_long_file_is_decoded_in_blocks(tmp_path: Path) -> None:
    file = tmp_path / "long.flac"
    file.write_bytes(encode_audio(np.zeros(48_000 * 60, np.float32), 48_000, "flac", "flac"))
    sizes = [len(block) for block in blocks(file)]
    assert sum(sizes) == 60 * RATE
    assert max(sizes) < 10 * RATE


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing\.wav"):
        decode(tmp_path / "nothing.wav")


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"RIFF....WAVE", b"RIFF\0\0\0\0WAVEfmt ", b"fLaC", b"OggS", b"ID3\4"]),
)
def test_arbitrary_bytes_are_decoded_or_rejected(rest: bytes, magic: bytes) -> None:
    try:
        decode(magic + rest, limit=10)
    except (BadInput, TooLarge) as error:
        assert error.message


@given(
    st.integers(0, 43), st.binary(min_size=1, max_size=6), st.integers(0, len(GOOD)),
)  # fmt: skip
def test_changed_header_is_decoded_or_rejected(offset: int, change: bytes, length: int) -> None:
    damaged = GOOD[:offset] + change + GOOD[offset + len(change) :]
    try:
        audio = decode(damaged[:length], limit=10)
        assert np.isfinite(audio.samples).all()
    except (BadInput, TooLarge) as error:
        assert error.message
