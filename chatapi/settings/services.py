"""The settings tables of captions, notifications, stream monitoring and the teaching of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from chatapi.settings.network import Table

JOB_EVENTS = tuple(f"job.{state}" for state in ("queued", "running", "paused", "cancelled", "failed", "done"))
"""Events of jobs."""


class CaptionSettings(Table):
    """Captions that clients of the server start and watch."""

    sessions: int = Field(4, ge=1, le=64)
    """Number of captions at once; one more is rejected with 503. Those whose audio a client pushes also count in
    live.sessions."""
    viewers: int = Field(64, ge=1, le=1000)
    """Largest number of viewers of all captions at once; one more is rejected with 503."""
    history: int = Field(2000, ge=10, le=100_000)
    """Lines and states of captions that are kept for viewers who come later or come back."""
    keep_seconds: float = Field(3600, gt=0)
    """Time for which captions that have ended are kept, and for which captions without audio wait for it, in
    seconds."""
    max_seconds: float = Field(12 * 3600, gt=0)
    """Age at which captions end, in seconds."""
    give_up_seconds: float = Field(300, ge=0)
    """Time for which a stream that broke off is tried again, in seconds."""
    private_urls: bool = False
    """Whether streams are also fetched from this machine and from private networks."""


class CommandTeachingSettings(Table):
    """Teaching of commands: samples, training and the switch to a new version."""

    max_samples: int = Field(20_000, ge=1)
    """Largest number of stored samples; one more is rejected."""
    max_per_key: int = Field(2000, ge=1)
    """Largest number of them that one API key submitted."""
    max_per_key_per_day: int = Field(500, ge=1)
    """Largest number of samples that one API key submits within a day; one more is rejected with 429."""
    max_words: int = Field(100, ge=1)
    """Largest number of words that have samples."""
    min_samples: int = Field(5, ge=1)
    """Fewest accepted samples of a new word that is taught; words with fewer wait for more."""
    listen: bool = False
    """Whether the box's microphone listens for commands beside the conversation, also while it waits for the wake
    word."""
    actions: tuple[str, ...] = ("stop=stop",)
    """What commands do in live sessions that listen for them, WORD=ACTION: stop the answer, speak it again, speak a
    phrase (`hello=say Good morning`), or tell another program (`lamp=webhook`, which needs webhook.url, or
    `lamp=mqtt home/lamp`, which needs mqtt.url). A command without an action is left to the conversation."""
    rollback_points: float = Field(20, gt=0, le=100)
    """Rise of the share of unknown among the latest 200 classifications, over that of the version before, in percentage
    points, from which the version before is activated again."""


class MqttSettings(Table):
    """The MQTT broker that commands are published to; needs the extra mqtt."""

    url: SecretStr | None = None
    """mqtt://USER:PASSWORD@HOST:PORT, or mqtts:// for TLS; unset: none."""


class MonitoringSettings(Table):
    """Stream monitoring by the server."""

    configs: tuple[Path, ...] = ()
    """YAML files of places that are monitored while the server runs; a file that changes is read again."""
    output: str = Field("", max_length=1000)
    """Where detections are stored: a folder, or a URL such as s3://bucket/folder or az://container; empty: in the data
    directory."""
    record_schema: Literal["v1", "v2"] = "v1"
    """Schema of the stored records: OrcaHello's first one, or the newer one with states of moderation."""
    monitors: int = Field(64, ge=1, le=256)
    """Largest number of places that are monitored; one more is rejected with 503."""
    viewers: int = Field(32, ge=1, le=1000)
    """Largest number of clients that watch the monitors at once; one more is rejected with 503."""
    private_urls: bool = False
    """Whether streams are also fetched from this machine and from private networks."""
    no_audio_seconds: float = Field(300, ge=5)
    """Time without audio after which a live place raises the alarm no_audio, in seconds."""
    no_detections_seconds: float = Field(0, ge=0)
    """Audio without a detection after which a live place raises the alarm no_detections, in seconds of audio; 0:
    never."""
    quiet_hours: str = Field("", pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$")
    """Hours of the day, in this machine's time, in which alerts wait, such as 22:00-07:00; empty: none."""


class NotifySettings(Table):
    """Notifications about jobs by apprise; they need the extra notify."""

    urls: SecretStr | None = None
    """Apprise's URLs of the services to notify, such as ntfy://topic or mailto://user:password@host, separated by
    spaces; unset: none."""
    events: tuple[str, ...] = ("job.done", "job.failed")
    """Events that are sent; besides these there are job.queued, job.running, job.paused and job.cancelled."""
    link: str = Field("", max_length=1000, pattern=r"^(https?://[^/\s]\S*)?$")
    """URL of this server as its users reach it, for the link in notifications; empty: they have none."""

    @field_validator("events")
    @classmethod
    def _events(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return known_events(value)


def known_events(value: tuple[str, ...]) -> tuple[str, ...]:
    """The events. Raises ValueError where one is none."""
    if wrong := [each for each in value if each not in JOB_EVENTS]:
        raise ValueError(f"must be of {', '.join(JOB_EVENTS)}; {wrong[0]!r} is no event")
    return value
