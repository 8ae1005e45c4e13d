"""A copy of a recording that every browser plays and seeks in: MP3, mono, at the rate of the decoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np

from chatapi.audio import RATE, Samples

MEDIA_TYPE = "audio/mpeg"
BIT_RATE = 48_000
"""Bits per second, constant, so that a browser finds a time by its share of the file: 21.6 MB for an hour."""


def write(place: Path, blocks: Iterable[Samples]) -> None:
    """Encode the blocks into a file. Its header states the delay of the encoder, which players then leave out, so that
    its times are those of the blocks. Raises OSError; what `blocks` raises."""
    # The header is written last, at the start of the file; the name of a draft need not end in .mp3.
    with av.open(str(place), "w", format="mp3", options={"id3v2_version": "0"}) as file:
        # PyAV's type of a stream is the union of all kinds of streams.
        stream: Any = file.add_stream("libmp3lame", rate=RATE, layout="mono")
        stream.bit_rate = BIT_RATE
        packing = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=RATE)
        for block in blocks:
            if not len(block):
                continue
            frame = av.AudioFrame.from_ndarray(np.clip(block, -1.0, 1.0)[np.newaxis], format="flt", layout="mono")
            frame.sample_rate = RATE
            for packed in packing.resample(frame):
                file.mux(stream.encode(packed))
        for packed in packing.resample(None):
            file.mux(stream.encode(packed))
        file.mux(stream.encode(None))
