"""The plainest WAV files are read as the decoder reads them, and all others are left to it."""

from __future__ import annotations

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, plain_wav, wav
from chatapi.audio.decode import decode
from conftest import encode_audio, tone

PLAIN = wav(Audio(tone(0.5, 450), RATE))


def test_a_plain_file_is_read_as_the_decoder_reads_it() -> None:
    found = plain_wav.read(PLAIN, RATE)
    assert found is not None and np.array_equal(found, decode(PLAIN).samples)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        PLAIN[:44],
        PLAIN[:-1],
        PLAIN[:-2],
        PLAIN + b"LIST",
        b"X" + PLAIN[1:],
        wav(Audio(tone(0.5, 450, rate=8000), 8000)),
        wav(Audio(tone(1.1, 450), RATE)),
        encode_audio(tone(0.5), RATE, "pcm_s16le", channels=2),
        encode_audio(tone(0.5), RATE, "pcm_f32le"),
    ],
    ids=["empty", "no samples", "half a sample", "cut off", "more", "no RIFF", "rate", "long", "stereo", "float"],
)
def test_any_other_file_is_left_to_the_decoder(content: bytes) -> None:
    assert plain_wav.read(content, RATE) is None
