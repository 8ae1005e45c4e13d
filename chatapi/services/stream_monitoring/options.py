"""How places are monitored, whatever they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from chatapi.services.stream_monitoring.alerts import QuietHours
from chatapi.services.stream_monitoring.config import PlaceConfig
from chatapi.services.stream_monitoring.monitor import Watch
from chatapi.services.stream_monitoring.records import Schema
from chatapi.settings.services import MonitoringSettings


@dataclass(frozen=True)
class MonitoringOptions:
    """What all places of a process share."""

    output: str = ""
    """URL of the store of detections; empty: in the data directory."""
    schema: Schema = "v1"
    private_urls: bool = False
    """Whether streams of this machine and of private networks may be monitored."""
    watch: Watch = field(default_factory=Watch)
    quiet: QuietHours | None = None
    most_monitors: int = 64
    most_viewers: int = 32
    most_clips: int | None = None
    """Of each place; then it ends."""
    base_url: str = ""
    """Instead of the one of each HLS tree; empty: that of its configuration."""

    @staticmethod
    def of(settings: MonitoringSettings) -> MonitoringOptions:
        """Those of the settings."""
        return MonitoringOptions(
            settings.output,
            settings.record_schema,
            settings.private_urls,
            Watch(settings.no_audio_seconds, settings.no_detections_seconds),
            QuietHours.of(settings.quiet_hours),
            settings.monitors,
            settings.viewers,
        )

    def placed(self, place: PlaceConfig) -> PlaceConfig:
        """A place with what overrides its configuration."""
        return replace(place, base_url=self.base_url) if self.base_url and place.base_url else place
