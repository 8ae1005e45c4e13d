"""Forms of voice conversion: reference clips, a recording, and texts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.requests import Request

from chatapi.audio.decode import Source
from chatapi.errors import Unprocessable, Unsupported
from chatapi.interfaces.http.forms import MEDIA_TYPE, FormLimits, receive_parts
from chatapi.interfaces.http.json_body import media_type
from chatapi.interfaces.http.spooling import Spool
from chatapi.services.voice_conversion.references import MOST_CLIPS, ReferenceClip

SOURCES = ("source", "data", "file")
"""Names of the part with the recording that is converted."""
CLIPS = ("clips", "targets", "clip", "target")
"""Names of the parts with reference clips; the first is ours, the second that of kNN-VC on TorchServe."""
LIMITS = FormLimits(files=MOST_CLIPS + 1, fields=20, field_bytes=64 << 10)


@dataclass
class VoiceForm:
    """A received form."""

    source: Source | None = None
    clips: list[ReferenceClip] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def required_source(self) -> Source:
        """Raises Unprocessable (missing_file)."""
        if self.source is None:
            message = "the part source is missing; send the recording in it"
            raise Unprocessable(message, code="missing_file", details={"param": "source"})
        return self.source


async def receive_voice_form(request: Request, texts: Collection[str], sourced: bool) -> VoiceForm:
    """Receives a form. `texts`: names of the parts that are no files; `sourced`: whether it has a recording.

    Raises Unsupported for another media type, BadInput (invalid_form), Unprocessable for unknown and repeated parts,
    StorageError when the disk is full.
    """
    if (kind := media_type(request)) != MEDIA_TYPE:
        message = f"the media type {kind or '(none)'} is not supported; send {MEDIA_TYPE}"
        raise Unsupported(message, code="unsupported_media_type")
    form, spool, found = await receive_parts(request, LIMITS), Spool.of(request), VoiceForm()
    try:
        for part, value in form.multi_items():
            name = part.removesuffix("[]")
            if isinstance(value, str):
                if name not in texts or name in found.texts:
                    raise _unexpected(part, "a text", texts)
                found.texts[name] = value
            elif isinstance(value, UploadFile) and name in CLIPS:
                label = (value.filename or "").replace("\\", "/").rpartition("/")[2][:200]
                found.clips.append(ReferenceClip(label or f"clip {len(found.clips) + 1}", await spool.part(value)))
            elif sourced and name in SOURCES and found.source is None:
                found.source = await spool.part(value)
            else:
                raise _unexpected(part, "a file", (*CLIPS[:1], *(SOURCES[:1] if sourced else ())))
    finally:
        await form.close()
    return found


def _unexpected(part: str, kind: str, known: Collection[str]) -> Unprocessable:
    message = f"the part {part[:100]!r} as {kind} is not supported or given twice; supported are {', '.join(known)}"
    return Unprocessable(message, details={"param": part[:100]})
