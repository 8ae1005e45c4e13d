"""A clip's spectrogram as a PNG file of 1280 x 480: two pictures of 640 x 480, one of each half of the clip."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples
from chatapi.engines.sound_detector.orcahello import PICTURE_HEIGHT, PICTURE_WIDTH, RATE
from chatapi.engines.sound_detector.polyphase import resampled

FFT = 1024
"""Samples of a Fourier window: rows of about 20 Hz."""
QUIETEST, LOUDEST = 5.0, 99.8
"""Percentiles of the levels that become the darkest and the brightest colour."""
COLOURS = ((0, (4, 4, 20)), (70, (75, 15, 110)), (140, (190, 55, 85)), (205, (250, 160, 45)), (255, (255, 255, 215)))
"""Index in the palette, and red, green and blue."""


def png(samples: Samples, rate: int) -> bytes:
    """The picture of mono samples at `rate` Hz: time to the right, 0 to 10 kHz upwards, level as colour."""
    given = resampled(samples, rate, RATE)
    middle, columns = len(given) // 2, PICTURE_WIDTH // 2
    levels = np.concatenate([_levels(half, columns) for half in (given[:middle], given[middle:])], axis=1)
    low, high = (float(each) for each in np.percentile(levels, (QUIETEST, LOUDEST)))
    pixels = np.clip((levels - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    return _encoded(pixels[::-1])


def _levels(samples: Samples, columns: int) -> npt.NDArray[np.float32]:
    """Levels in dB of shape (PICTURE_HEIGHT, columns), the lowest frequency first."""
    padded = np.pad(samples.astype(np.float32), (FFT // 2, FFT // 2 + columns))
    starts = np.linspace(0, max(0, len(samples) - 1), columns).astype(int)
    frames = padded[starts[:, None] + np.arange(FFT)]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(FFT).astype(np.float32), axis=1))
    rows = np.linspace(0, FFT // 2, PICTURE_HEIGHT).round().astype(int)
    levels: npt.NDArray[np.float32] = (20 * np.log10(np.maximum(spectrum[:, rows], 1e-6))).T.astype(np.float32)
    return levels


def _encoded(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Palette indices of shape (height, width), the top row first, as PNG (W3C, Portable Network Graphics)."""
    height, width = pixels.shape
    places = [place for place, _ in COLOURS]
    channels = [np.interp(np.arange(256), places, [colour[each] for _, colour in COLOURS]) for each in range(3)]
    palette = np.stack(channels, axis=1).round().astype(np.uint8).tobytes()
    # Each row is preceded by its filter: 0, none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
