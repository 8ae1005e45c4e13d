"""Runs a VITS model in chunks: its encoder and flow once, then its decoder on windows of the latent, so that the
first audio of a sentence does not wait for its last.

VITS: Kim et al., Conditional Variational Autoencoder with Adversarial Learning for End-to-End Text-to-Speech,
https://arxiv.org/abs/2106.06103; its decoder is the generator of HiFi-GAN, https://arxiv.org/abs/2010.05646.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from chatapi.audio import Samples
from chatapi.engines import onnx_graph

FIRST_DECODER_WEIGHT = "dec.conv_pre.weight"
"""The weight of the first convolution of the decoder, in every export of a Piper voice."""
LATE_WEIGHT = "dec.ups.1.weight"
"""The weight of the second upsampling. The layers before it see far, but take a seventh of the decoder's time; those
from it on see little. So each part gets the context it needs, and a join costs a quarter of the time."""
WINDOWS = (24, 96, 256)
"""Frames of the latent that are decoded at once; a frame has 256 samples, 12 ms at 22050 Hz. The first are short, so
that audio comes early and the next is there before it ends; longer ones than the last need memory and fit no cache."""
CONTEXT = 14
"""Frames that the decoder sees on both sides of a window, which makes its samples those of the whole: the first
convolution reaches 3 frames, the first upsampling 1, and the kernels of 11 samples with dilations of 1, 3 and 5 after
each upsampling 60 samples: 7.5, 0.9, 0.5 and 0.2 frames with the factors 8, 8, 2 and 2 of the largest Piper voices.
Smaller voices reach 11 frames."""
PARTS = f"vits {FIRST_DECODER_WEIGHT} {LATE_WEIGHT}"
"""Names what `parts` makes, for `GraphSource.recipe`."""
LATE_CONTEXT = 2
"""How many of these frames the layers from the second upsampling on see: 1.8 of the largest voices, 1 of smaller."""


class Vits:
    """A loaded model."""

    def __init__(self, sessions: Sequence[Any]) -> None:
        """`sessions`: those of the `parts`, or that of the whole model."""
        self.session, *decoder = sessions
        self._decoder = [
            _Part.opened(session, context) for session, context in zip(decoder, (CONTEXT, LATE_CONTEXT), strict=False)
        ]

    @property
    def is_cut(self) -> bool:
        """Whether a sentence has several parts."""
        return bool(self._decoder)

    @property
    def providers(self) -> list[str]:
        """The execution providers, the one in use first."""
        found: list[str] = self.session.get_providers()
        return found

    def run(self, feeds: dict[str, Any], options: Any = None) -> Iterator[Samples]:
        """The samples of a sentence in parts: one for a model that cannot be cut. Raises ONNX Runtime's errors."""
        output = self.session.run(None, feeds, options)[0]
        if not self._decoder:
            yield _samples(output)
            return
        frames = output.shape[-1]
        for start, end in windows(frames):
            low, high, signal = 0, frames, output
            for part in self._decoder:
                begin, finish = max(0, start - part.context), min(frames, end + part.context)
                given = _frames(signal, high - low, begin - low, finish - low)
                signal, low, high = part.run(given, feeds, options), begin, finish
            yield _samples(_frames(signal, high - low, start - low, end - low))


@dataclass(frozen=True)
class _Part:
    """A part of the decoder."""

    session: Any
    context: int
    """Frames that it sees on both sides, itself and with the parts after it."""
    signal: str
    """The name of its input that has the frames."""
    shared: tuple[str, ...]
    """The names of its inputs that are the model's."""

    @classmethod
    def opened(cls, session: Any, context: int) -> _Part:
        signal, *shared = (each.name for each in session.get_inputs())
        return cls(session, context, signal, tuple(shared))

    def run(self, signal: Any, feeds: dict[str, Any], options: Any) -> Any:
        shared = {name: feeds[name] for name in self.shared}
        return self.session.run(None, {self.signal: signal, **shared}, options)[0]


def windows(frames: int) -> Iterator[tuple[int, int]]:
    """The start and the end of each window, in frames."""
    start, sizes = 0, chain(WINDOWS, repeat(WINDOWS[-1]))
    while start < frames:
        size = next(sizes)
        # A short rest is not worth the context of another window.
        end = frames if frames - start <= size + size // 2 else start + size
        yield start, end
        start = end


def _frames(signal: Any, frames: int, start: int, end: int) -> Any:
    """The frames from `start` to `end` of a signal of so many; a frame has several values after an upsampling."""
    size = signal.shape[-1] // frames
    return np.ascontiguousarray(signal[..., start * size : end * size])


def parts(onnx: Path) -> tuple[bytes, ...]:
    """The model before its decoder, and the one or two parts of the decoder; none for another kind of model."""
    try:
        found = onnx_graph.cut(onnx.read_bytes(), FIRST_DECODER_WEIGHT, shared=("sid",))
        if found is None:
            return ()
        encoder, decoder = found
        return encoder, *(onnx_graph.cut(decoder, LATE_WEIGHT, shared=("sid",)) or (decoder,))
    except ValueError:
        return ()


def _samples(output: Any) -> Samples:
    samples: Samples = output.reshape(-1).astype(np.float32, copy=False)
    return samples
