"""Echo detection: whether an utterance is the box's own speech, by its transcript, its time and its audio."""

from __future__ import annotations

import logging

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.services.live.backchannel import POSSIBLE_ECHO_LIKENESS, likeness
from chatapi.services.live.playback import PlaybackPosition
from chatapi.services.live.utterance import Utterance

log = logging.getLogger(__name__)

ECHO_AHEAD = 0.5
"""Speech after the playback position that an echo may already contain, in seconds."""
MAX_DELAY, MAX_DELAY_UNREPORTED = 1.0, 3.0
"""Longest delay of an echo after the playback, in seconds: where the client reports its playback position, and where it
does not."""
COMPARED_SECONDS, MIN_COMPARED_SECONDS = 1.5, 0.6
"""Length of the end of an utterance that is compared with the playback, in seconds, and the shortest that can be."""
MARGIN = 0.25
"""Length by which the compared parts of the playback are longer at both ends, in seconds."""
COMPARED_RATE = 8000
"""Sample rate of the comparison, in Hz."""
BAND = (300, 3400)
"""Frequencies that are compared, in Hz: every microphone and every codec transmits them."""
MIN_SHARPNESS = 10.0
"""Sharpness of the correlation from which an utterance is an echo, relative to chance.

See docs/measurements/live.md.
"""


def echo_likeness(transcript: str, utterance: Utterance, playback: PlaybackPosition, now: float) -> float:
    """Returns the share of the transcript's words that were just played; 0 where the utterance cannot be their echo.

    `now` is the audio received, in seconds.
    """
    if _too_late(utterance, playback, now):
        return 0.0
    end = playback.played(now) + ECHO_AHEAD
    share = likeness(transcript, playback.words(end))
    if share < POSSIBLE_ECHO_LIKENESS:
        return share
    played = playback.samples(end, 2 * COMPARED_SECONDS + MAX_DELAY_UNREPORTED)
    found = sharpness(utterance.last_speech(COMPARED_SECONDS), played)
    fields = {"likeness": round(share, 2), "sharpness": found and round(found, 1)}
    log.debug("speech resembles the answer", extra=fields)
    return share if found is None or found >= MIN_SHARPNESS else 0.0


def _too_late(utterance: Utterance, playback: PlaybackPosition, now: float) -> bool:
    """Whether the utterance ends later after the playback than any echo."""
    silent_since = playback.silent_since(now)
    if silent_since is None:
        return False
    return utterance.end_seconds > silent_since + (MAX_DELAY if playback.reported else MAX_DELAY_UNREPORTED)


def sharpness(recorded: Samples, played: Samples) -> float | None:
    """Returns how sharply the recorded samples correlate with a part of the playback, relative to chance.

    Uses the phase of the cross spectrum (GCC-PHAT), because a room and a codec change the amplitudes. None: too short.
    """
    reference, signal = (Audio(each, RATE).at(COMPARED_RATE).samples for each in (played, recorded))
    if len(signal) < MIN_COMPARED_SECONDS * COMPARED_RATE or not len(reference):
        return None
    length, margin = len(signal), round(MARGIN * COMPARED_RATE)
    size = 1 << (2 * (length + margin) - 1).bit_length()
    frequencies = np.fft.rfftfreq(size, 1 / COMPARED_RATE)
    band = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
    spectrum = np.fft.rfft(signal * np.hanning(length), size)
    padded = np.pad(reference, (margin, margin))
    best = 0.0
    for start in range(0, max(1, len(padded) - length), 2 * margin):
        window = padded[start : start + length + 2 * margin]
        cross = np.where(band, spectrum * np.conj(np.fft.rfft(window, size)), 0)
        peak = np.abs(np.fft.irfft(cross / np.maximum(np.abs(cross), 1e-9), size)).max()
        best = max(best, float(peak) * size / 2 / np.count_nonzero(band))
    return float(best * np.sqrt((BAND[1] - BAND[0]) * length / COMPARED_RATE))
