"""The JSON documents of stream monitoring."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from chatapi.interfaces.http.response_models import ResponseModel
from chatapi.services.stream_monitoring.ledger import Detection
from chatapi.services.stream_monitoring.moderation import COMMENT_CHARS, MOST_TAGS, TAG_CHARS
from chatapi.services.stream_monitoring.mutes import Mute

ReviewWord = Literal["unreviewed", "positive", "negative", "unknown"]


class MonitorRequestModel(BaseModel):
    """A configuration as in OrcaHello's YAML files, of one place or of many; further keys of those files are
    understood."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    hls_hydrophone_id: str = ""
    """The place."""
    hls_stream_type: Literal["", "LiveHLS", "DateRangeHLS"] = ""
    source_url: Annotated[str, Field(max_length=4000)] = ""
    """A broadcast, instead of an HLS tree."""
    hls_base_url: Annotated[str, Field(max_length=4000)] = ""
    """Where the tree of HLS folders is, without the place; empty: Orcasound's."""
    location_name: str = ""
    latitude: float | None = None
    longitude: float | None = None


class MonitorModel(ResponseModel):
    """A monitored place; its counts are those since the start of the server."""

    id: str
    name: str
    longitude: float | None
    latitude: float | None
    state: Literal["starting", "live", "no_audio", "retrying", "paused", "ended", "failed"]
    """no_audio: none came for a while; retrying: after a fault; ended: a recording, to its end."""
    reason: str
    """Why there is no audio, or why it failed."""
    live: bool
    """Whether its audio has no end."""
    origin: Literal["client", "file"]
    """Who configured it: a client, which may delete it, or a file of the server."""
    created: float
    """In seconds since 1970, as all times."""
    source: str
    generation: str
    """Of the front end and the rule of decision: orcahello or orcahello-v1."""
    clip_seconds: float
    heard_until: float | None
    scored_until: float | None
    last_detection: float | None
    lag_seconds: float
    """Audio that was heard and is not scored yet."""
    heard_seconds: float
    scored_seconds: float
    missing_seconds: dict[str, float]
    """By reason."""
    detections: int
    muted: int
    """Detections that fell under a mute."""


class MonitorsModel(ResponseModel):
    """The monitors."""

    monitors: list[MonitorModel]
    ignored: list[str]
    """What of the configuration has no effect."""
    faults: list[str]
    """What is wrong with files of the server; their places stay as they were."""
    waiting: int
    """Detections that wait for their store."""
    fault: str
    """Why they wait; empty: they do not."""


class StretchModel(ResponseModel):
    """A stretch of a place's time."""

    start: float
    """In seconds since 1970."""
    end: float
    state: Literal["scored", "heard", "missing", "unmonitored"]
    detail: str
    """The model that scored, or the reason of what is missing."""


class GapModel(ResponseModel):
    """A gap of a second or more."""

    from_: Annotated[float, Field(alias="from")]
    to: float
    reason: str


class CoverageModel(ResponseModel):
    """What was heard at a place between two times."""

    place: str
    from_: Annotated[float, Field(alias="from")]
    to: float
    heard_seconds: float
    """Scored or not."""
    scored_seconds: dict[str, float]
    """By model."""
    missing_seconds: dict[str, float]
    """By reason."""
    unmonitored_seconds: float
    gaps: list[GapModel]
    stretches: list[StretchModel]
    """All of the time, in order; where there are too many, neighbours that are shorter than a pixel are joined."""


class DetectionModel(ResponseModel):
    """A detection."""

    id: str
    place: str
    start: float
    """In seconds since 1970."""
    seconds: float
    """Length of the clip; 0: it is not known."""
    model: str
    name: str
    """Of its files."""
    confidence: float
    """0 to 100."""
    stored: bool
    """Whether its files are in their store; they can be fetched before, too."""
    mute: str
    """Id of the mute that it fell under; it has no files then."""
    state: ReviewWord
    tags: list[str]
    comments: str
    moderator: str
    """Name of the key that reviewed it last."""
    moderated: float | None


class DetectionsModel(ResponseModel):
    """Detections, the newest first."""

    detections: list[DetectionModel]
    next: str | None
    """Value of `before` for the next page."""
    counts: dict[str, int]
    """State of the review -> number, without regard to `state` and to pages."""


class DetectionReviewModel(BaseModel):
    """What a moderator says about a detection; what is not given stays."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    state: ReviewWord | None = None
    """positive: it is the sound that is looked for; negative: it is not."""
    tags: Annotated[tuple[Annotated[str, Field(max_length=TAG_CHARS)], ...], Field(max_length=MOST_TAGS)] | None = None
    comments: Annotated[str, Field(max_length=COMMENT_CHARS)] | None = None


class MuteRequestModel(BaseModel):
    """A rejected detection whose kind of sound is muted at its place."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    detection: Annotated[str, Field(min_length=1, max_length=100)]


class MuteModel(ResponseModel):
    """A kind of sound that is muted at a place."""

    id: str
    place: str
    detection: str
    """Id of the rejected detection that has the sound."""
    name: str
    """Of that detection's files."""
    created: float
    moderator: str
    muted: int
    """Detections that fell under it."""
    last: float | None
    """When the last of them began."""


class MutesModel(ResponseModel):
    """Mutes, the newest first."""

    mutes: list[MuteModel]


def detection_document(each: Detection) -> dict[str, Any]:
    """The JSON object of a detection."""
    review = each.review
    return {
        "id": each.id,
        "place": each.place,
        "start": each.start,
        "seconds": each.seconds,
        "model": each.model,
        "name": each.name,
        "confidence": round(each.confidence, 2),
        "stored": each.stored,
        "mute": each.mute,
        "state": review.state,
        "tags": list(review.tags),
        "comments": review.comments,
        "moderator": review.moderator,
        "moderated": review.at or None,
    }


def mute_document(each: Mute) -> dict[str, Any]:
    """The JSON object of a mute."""
    return {**vars(each), "last": each.last or None}
