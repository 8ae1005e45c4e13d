"""A monitored place as clients see it: its state, what was heard since the start, and its latest spectrum."""

from __future__ import annotations

import base64
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio

from chatapi.engines import SOUND_RATE
from chatapi.errors import WrongMode
from chatapi.observability.metrics.monitoring import PlaceReading
from chatapi.services.stream_monitoring import spectrum
from chatapi.services.stream_monitoring.config import PlaceConfig
from chatapi.services.stream_monitoring.monitor import JudgedClip
from chatapi.services.stream_monitoring.pieces import Found, Missing, Piece
from chatapi.services.stream_monitoring.place_run import PlaceRun

MonitorState = Literal["starting", "live", "no_audio", "retrying", "paused", "ended", "failed"]
"""retrying: after a fault; ended: a recording, to its end."""
CLIENT = "client"
"""Origin of a monitor that a client started; others have the path of their file."""
COLUMNS_PER_SECOND = 4
"""Frames of the spectrum that is shown."""
KEPT_SECONDS = 300.0
"""Seconds of the spectrum that are kept for pages that are opened later."""


@dataclass(eq=False)
class MonitoredPlace:
    """A place, while its monitor exists. Belongs to one event loop."""

    place: PlaceConfig
    table: Mapping[str, Any]
    """Its configuration."""
    origin: str
    created: float = field(default_factory=time.time)
    """Seconds since 1970."""
    creator: str = ""
    state: MonitorState = "starting"
    reason: str = ""
    """Why there is no audio, or why it failed."""
    address: str = ""
    """Where the audio comes from."""
    heard_until: float = 0.0
    """Seconds since 1970; 0: nothing yet."""
    scored_until: float = 0.0
    last_detection: float = 0.0
    """When it began, in seconds since 1970; 0: none since the start."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """heard, scored, or the reason of what is missing -> seconds since the start of this process."""
    detections: int = 0
    """Since the start of this process."""
    muted: int = 0
    run: PlaceRun | None = None
    """While it runs."""
    scope: anyio.CancelScope | None = None
    stopped: anyio.Event = field(default_factory=anyio.Event)
    """Set when its task has ended."""
    stopping: bool = False
    columns: deque[dict[str, Any]] = field(default_factory=deque)
    """The latest spectra, one of each piece."""

    @property
    def id(self) -> str:
        """That of its place."""
        return self.place.location.id

    @property
    def lag(self) -> float:
        """Seconds of audio that were heard and not yet scored."""
        return max(0.0, self.heard_until - self.scored_until) if self.scored_until else 0.0

    def require_own(self) -> None:
        """Raises WrongMode (monitor_of_file) where clients cannot change it."""
        if self.origin != CLIENT:
            raise WrongMode(
                f"{self.id} is monitored by the file {Path(self.origin).name} of the server; change that",
                code="monitor_of_file",
            )

    def add(self, found: Found) -> dict[str, Any] | None:
        """Count what was heard; the spectrum of a piece as an event's data."""
        if isinstance(found, Missing):
            self.seconds[found.reason] += found.seconds
            return None
        self.seconds["heard"] += found.seconds
        self.heard_until = found.end
        if not self.scored_until:
            self.scored_until = found.start
        return self._keep(found)

    def add_clip(self, clip: JudgedClip) -> None:
        """Count a clip."""
        self.seconds["scored"] += clip.seconds
        self.scored_until = clip.start + clip.seconds
        if clip.detected:
            self.detections += 1
            self.last_detection = clip.start
        elif clip.mute:
            self.muted += 1

    def _keep(self, piece: Piece) -> dict[str, Any]:
        levels = spectrum.band_levels(piece.samples, SOUND_RATE // COLUMNS_PER_SECOND)
        data = {
            "id": self.id, "start": round(piece.start, 3), "seconds": round(piece.seconds, 3),
            "levels": base64.b64encode(spectrum.as_bytes(levels)).decode(),
        }  # fmt: skip
        self.columns.append(data)
        while self.columns and self.columns[0]["start"] < piece.end - KEPT_SECONDS:
            self.columns.popleft()
        return data

    def reading(self) -> PlaceReading:
        """For metrics."""
        seconds = dict(self.seconds)
        heard, scored = seconds.pop("heard", 0.0), seconds.pop("scored", 0.0)
        has_audio = self.state not in ("no_audio", "retrying", "failed")
        return PlaceReading(self.id, heard, scored, seconds, self.detections, self.muted, self.lag, has_audio)

    def document(self) -> dict[str, Any]:
        """The JSON object of the monitor."""
        location, place = self.place.location, self.place
        return {
            "id": self.id,
            "name": location.name,
            "longitude": location.longitude,
            "latitude": location.latitude,
            "state": self.state,
            "reason": self.reason,
            "live": place.is_live,
            "origin": "client" if self.origin == CLIENT else "file",
            "created": round(self.created, 3),
            "source": self.address,
            "generation": place.generation,
            "clip_seconds": place.clip_seconds,
            "heard_until": round(self.heard_until, 3) or None,
            "scored_until": round(self.scored_until, 3) or None,
            "last_detection": round(self.last_detection, 3) or None,
            "lag_seconds": round(self.lag, 3),
            "heard_seconds": round(self.seconds["heard"], 3),
            "scored_seconds": round(self.seconds["scored"], 3),
            "missing_seconds": {
                reason: round(value, 3)
                for reason, value in sorted(self.seconds.items())
                if reason not in ("heard", "scored")
            },
            "detections": self.detections,
            "muted": self.muted,
        }
