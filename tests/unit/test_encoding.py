"""Encoded files, decoded again by PyAV."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.audio import Audio, Samples
from chatapi.audio.decode import decode
from chatapi.audio.encoding import FORMATS, PCM_RATE, Encoder
from chatapi.errors import Unprocessable
from conftest import tone

RATES = (16_000, 22_050, 44_100)


def encoded(name: str, samples: Samples, rate: int, pieces: int = 5) -> bytes:
    file = Encoder(name, rate)
    parts = [file.feed(Audio(part, rate)) for part in np.array_split(samples, pieces)]
    return b"".join([*parts, file.finish()])


def read(name: str, file: bytes, rate: int) -> Samples:
    if name == "pcm":
        return Audio(np.frombuffer(file, "<i2").astype(np.float32) / 32767, PCM_RATE).at(rate).samples
    return decode(file, rate=rate).samples


def pitch(samples: Samples, rate: int) -> float:
    """The loudest frequency, in hertz."""
    return float(np.abs(np.fft.rfft(samples)).argmax()) * rate / len(samples)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", FORMATS)
def test_encoded_audio_decodes_to_its_length_and_pitch(name: str, rate: int) -> None:
    sound = read(name, encoded(name, tone(2, 440, rate), rate), rate)
    # MP3 and AAC start with up to two frames of silence, and end with a whole frame.
    assert 2 - 0.01 < len(sound) / rate < 2.16
    assert pitch(sound, rate) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(np.square(sound))) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("name", FORMATS)
def test_most_of_the_file_is_written_before_its_end(name: str) -> None:
    file = Encoder(name, 16_000)
    first = file.feed(Audio(tone(1), 16_000))
    rest = file.feed(Audio(tone(1), 16_000))
    last = file.finish()
    assert first
    # A codec and its container buffer only a few frames.
    assert len(last) < (len(first) + len(rest)) / 4


@pytest.mark.parametrize(("name", "codec"), [("opus", "opus"), ("mp3", "mp3float"), ("aac", "aac"), ("flac", "flac")])
def test_file_states_its_codec(name: str, codec: str) -> None:
    with av.open(io.BytesIO(encoded(name, tone(1), 16_000))) as opened:
        [stream] = opened.streams
        assert stream.codec_context.name == codec
        assert stream.channels == 1


@given(cuts=st.lists(st.integers(0, 3000), max_size=6), name=st.sampled_from(["wav", "pcm", "flac"]))
@settings(max_examples=30, deadline=None)
def test_file_does_not_depend_on_the_chunk_size(cuts: list[int], name: str) -> None:
    rate, sound = PCM_RATE, tone(0.125, 440, PCM_RATE)
    file = Encoder(name, rate)
    parts = [file.feed(Audio(part, rate)) for part in np.split(sound, sorted(cuts))]
    whole = read(name, b"".join([*parts, file.finish()]), rate)
    assert np.abs(whole - sound).max() < 1e-4


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_file_without_audio_has_a_header(name: str) -> None:
    with av.open(io.BytesIO(Encoder(name, 22_050).finish())) as opened:
        [stream] = opened.streams
        assert (stream.type, stream.codec_context.sample_rate) == ("audio", 22_050)
        assert list(opened.decode(audio=0)) == []


@pytest.mark.parametrize("name", ["pcm", "opus", "mp3", "aac"])
def test_headerless_format_without_audio_is_empty(name: str) -> None:
    assert Encoder(name, 22_050).finish() == b""


def test_audio_of_another_rate_is_resampled_to_the_first() -> None:
    file = Encoder("wav", 16_000)
    whole = file.feed(Audio(tone(1), 16_000)) + file.feed(Audio(tone(1, rate=8000), 8000)) + file.finish()
    assert decode(whole).seconds == pytest.approx(2, abs=0.01)


def test_audio_beyond_full_scale_is_clipped() -> None:
    loud = 3 * tone(1, level=1.0)
    assert np.abs(read("flac", encoded("flac", loud, 16_000), 16_000)).max() <= 1


def test_unknown_format_is_rejected_with_the_supported_ones() -> None:
    with pytest.raises(Unprocessable, match="format 'midi' is not supported; supported are: wav, pcm, flac"):
        Encoder("midi", 16_000)
