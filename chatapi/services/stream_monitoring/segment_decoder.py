"""Decodes the segments of a stream one by one, and yet without a click where they join.

The first frame of AAC needs the one before it: decoded by itself, it fades in, which a detector hears as a click every
10 s. So a segment is decoded behind the one before it, whose samples are then dropped; MPEG-TS may be joined like that.
"""

from __future__ import annotations

import logging

from chatapi.audio import Samples
from chatapi.audio.decode import decode
from chatapi.engines import SOUND_RATE
from chatapi.errors import BadInput, TooLarge, Unprocessable
from chatapi.services.stream_monitoring.hls_tree import LONGEST_SEGMENT, TreeSegment
from chatapi.services.stream_monitoring.pieces import TOLERANCE, Found, Missing, checked

log = logging.getLogger(__name__)

TRANSPORT_STREAM = b"\x47"
"""Begins MPEG-TS, segments of which may be joined."""


class SegmentDecoder:
    """The segments of one place, in order. Its method blocks; each file is decoded in a child process."""

    def __init__(self) -> None:
        self._before = ("", -1)
        """Folder and number of the last segment that was decoded whole."""
        self._data, self._count = b"", 0
        """Its bytes and its samples."""

    def pieces(self, segment: TreeSegment, data: bytes, folder: str) -> list[Found]:
        """A segment as pieces and gaps."""
        follows = self._before == (folder, segment.number - 1) and data.startswith(TRANSPORT_STREAM)
        try:
            samples = self._joined(data, segment.seconds) if follows else None
            if samples is None:
                samples = decode(data, LONGEST_SEGMENT, SOUND_RATE).samples
        except (BadInput, Unprocessable, TooLarge) as error:
            log.warning("segment cannot be decoded", extra={"segment": segment.name, "reason": error.message})
            self._before = ("", -1)
            return [Missing(segment.start, segment.seconds, "corrupt", folder)]
        whole = abs(len(samples) / SOUND_RATE - segment.seconds) <= TOLERANCE
        self._before = (folder, segment.number) if whole else ("", -1)
        self._data, self._count = data, len(samples)
        return checked(segment.start, segment.seconds, samples, folder)

    def _joined(self, data: bytes, seconds: float) -> Samples | None:
        """The samples of a segment behind the one before it; None where that does not give about as many as stated."""
        try:
            both = decode(self._data + data, 2 * LONGEST_SEGMENT, SOUND_RATE).samples
        except (BadInput, Unprocessable, TooLarge):
            return None
        own = both[self._count :]
        return own if abs(len(own) / SOUND_RATE - seconds) <= TOLERANCE else None
