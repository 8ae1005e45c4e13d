"""Names and records of detections, as OrcaHello's storage and moderation read them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Literal
from zoneinfo import ZoneInfo

from chatapi.engines.sound_detector import orcahello
from chatapi.services.stream_monitoring.config import PlaceConfig
from chatapi.services.stream_monitoring.database import detection_id, ms
from chatapi.services.stream_monitoring.decision import Decision

Schema = Literal["v1", "v2"]
NAME_ROUNDING = 0.01
"""Seconds by which a time may be below a whole second that it means."""


def clip_name(place: PlaceConfig, start: float) -> str:
    """The name of a clip without suffix: place and local time; V1 writes dashes in the place's name."""
    slug = place.location.id if place.generation == orcahello.OLD else place.location.id.replace("_", "-")
    local = datetime.fromtimestamp(start + NAME_ROUNDING, ZoneInfo(orcahello.TIME_ZONE))
    return f"{slug}_{local.strftime(orcahello.NAME_FORMAT)}"


def record(
    place: PlaceConfig, start: float, model: str, decision: Decision, address: str, schema: Schema = "v1"
) -> dict[str, Any]:
    """The record of a positive clip; `address`: of the store that has its files."""
    name, location = clip_name(place, start), place.location
    moment = datetime.fromtimestamp(start, timezone.utc)
    found: dict[str, Any] = {
        "id": detection_id(location.id, ms(start), model),
        "modelId": model,
        "audioUri": f"{address}/{orcahello.AUDIO_CONTAINER}/{name}.wav",
        "imageUri": f"{address}/{orcahello.IMAGE_CONTAINER}/{name}.png",
        "reviewed": False,
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "whaleFoundConfidence": decision.confidence,
        "location": {
            "id": location.id, "name": location.name, "longitude": location.longitude, "latitude": location.latitude,
        },
        "source_guid": location.id,
        "predictions": _predictions(place, decision),
    }  # fmt: skip
    return found if schema == "v1" else _moderated(found)


def _predictions(place: PlaceConfig, decision: Decision) -> list[dict[str, Any]]:
    """The positive parts. The old generation numbers them, V1 numbers all parts."""
    positive = [(number, part) for number, part in enumerate(decision.parts) if part.positive]
    if place.generation == orcahello.OLD:
        positive = list(enumerate(part for _, part in positive))
    return [
        {"id": number, "startTime": part.start, "duration": part.duration, "confidence": part.confidence}
        for number, part in positive
    ]


def _moderated(found: dict[str, Any]) -> dict[str, Any]:
    """The record in schema v2: a state and what moderators add, instead of `reviewed`."""
    found = {key: value for key, value in found.items() if key != "reviewed"}
    return {
        **found,
        "state": "Unreviewed",
        "locationName": found["location"]["name"],
        "comments": None,
        "dateModerated": None,
        "moderator": None,
        "tags": [],
        "interestLabel": None,
    }
