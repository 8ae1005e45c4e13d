"""Echo detection: whether an utterance is the box's own voice, by its words, its time and its sound."""

from __future__ import annotations

import logging

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.services.live.backchannel import RESEMBLES, likeness
from chatapi.services.live.playback import PlaybackPosition
from chatapi.services.live.utterance import Utterance

log = logging.getLogger(__name__)

LATE = 0.5
"""Seconds of the answer after what has been heard that its echo may already hold."""
DELAY, UNREPORTED = 1.0, 3.0
"""Seconds by which an echo may come later than what is played, for a listener who reports what has been heard and for
one who does not."""
COMPARED, SHORTEST = 1.5, 0.6
"""Seconds of the end of an utterance that are compared with what was played, and the least that can be."""
MARGIN = 0.25
"""Seconds by which the stretches of the answer that are compared with it are longer, on both sides."""
NARROW = 8000
"""Samples a second at which sounds are compared."""
BAND = (300, 3400)
"""Hertz that are compared: what every microphone and every codec has."""
EVIDENCE = 10.0
"""How sharply an echo is found, times what chance gives.

Of 12 sentences of the default voice as echo in a room (0.25 s of reverberation, -20 to -6 dB), with 0.65 s of each 10
to 27, with 0.8 s 15 to 31, with 1.5 s 29 to 43. Of the same words said anew, raised by 15 %, at most 9 (at the same
pitch 12); of clips of tests/corpus at most 8; of somebody who speaks while an echo at -12 dB goes on at most 9.
"""


def echoed(text: str, utterance: Utterance, playback: PlaybackPosition, now: float) -> float:
    """Share of the words that are the last ones of what is played; 0 where the utterance cannot be their echo.

    `now` is the clock of samples received, in seconds.
    """
    if _too_late(utterance, playback, now):
        return 0.0
    upto = playback.heard(now) + LATE
    share = likeness(text, playback.words(upto))
    if share < RESEMBLES:
        return share
    sharp = sharpness(utterance.spoken(COMPARED), playback.sound(upto, 2 * COMPARED + UNREPORTED))
    log.debug(
        "speech resembles the answer", extra={"likeness": round(share, 2), "sharpness": sharp and round(sharp, 1)}
    )
    return share if sharp is None or sharp >= EVIDENCE else 0.0


def _too_late(utterance: Utterance, playback: PlaybackPosition, now: float) -> bool:
    """Whether it goes on for longer after the answer fell silent than any echo."""
    quiet = playback.quiet_since(now)
    if quiet is None:
        return False
    return utterance.end > quiet + (DELAY if playback.reported else UNREPORTED)


def sharpness(heard: Samples, played: Samples) -> float | None:
    """How sharply a stretch of what was played is found in what was heard, times what chance gives.

    By the phase of their cross spectrum (GCC-PHAT): a room and a codec change the amplitudes. None: too short to tell.
    """
    ours, theirs = (Audio(each, RATE).at(NARROW).samples for each in (played, heard))
    if len(theirs) < SHORTEST * NARROW or not len(ours):
        return None
    length, margin = len(theirs), round(MARGIN * NARROW)
    size = 1 << (2 * (length + margin) - 1).bit_length()
    frequencies = np.fft.rfftfreq(size, 1 / NARROW)
    band = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
    spectrum = np.fft.rfft(theirs * np.hanning(length), size)
    padded = np.pad(ours, (margin, margin))
    best = 0.0
    for start in range(0, max(1, len(padded) - length), 2 * margin):
        stretch = padded[start : start + length + 2 * margin]
        cross = np.where(band, spectrum * np.conj(np.fft.rfft(stretch, size)), 0)
        found = np.abs(np.fft.irfft(cross / np.maximum(np.abs(cross), 1e-9), size)).max()
        best = max(best, float(found) * size / 2 / np.count_nonzero(band))
    return float(best * np.sqrt((BAND[1] - BAND[0]) * length / NARROW))
