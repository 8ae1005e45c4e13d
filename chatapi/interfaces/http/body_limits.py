"""Limits on the size and time of request bodies: those of all requests, and those of uploaded recordings."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers

from chatapi.settings import Settings

UPLOADS = ("/transcriptions", "/uploads", "/uploads/{upload}")
"""Routes whose bodies, unless they are JSON, are written to a disk as they arrive, so that they hold no memory."""
FORM_BYTES = 1 << 20
"""What a form may have beside its file, in bytes."""


@dataclass(frozen=True)
class BodyLimits:
    """Limits of one request's body."""

    held: bool
    """Whether it counts against the bytes that are held at once."""
    bytes: int
    seconds: float
    """Longest time in which it arrives."""
    silent_seconds: float
    """Longest time without data."""

    @classmethod
    def of_held(cls, most: int, seconds: float) -> BodyLimits:
        """Those of a body of at most so many bytes that is held in memory."""
        return cls(True, most, seconds, seconds)

    @classmethod
    def of_upload(cls, settings: Settings, route: str, headers: Headers) -> BodyLimits | None:
        """Those of a recording that is uploaded; None: the body is none. `route`: as in the policy."""
        uploads = settings.transcription
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if route not in UPLOADS or kind.endswith("json"):
            return None
        return cls(False, uploads.upload_bytes + FORM_BYTES, uploads.upload_seconds, settings.server.body_seconds)
