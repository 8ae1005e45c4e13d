"""What kNN-VC's clients send to TorchServe: a recording and clips of the voice, in a form or as JSON with base64."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.requests import Request

from chatapi.audio.decode import Source
from chatapi.errors import BadInput, TooLarge, Unprocessable
from chatapi.interfaces.http.forms import MEDIA_TYPE, FormLimits, receive_parts
from chatapi.interfaces.http.json_body import decode_base64, json_object, media_type
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.torchserve.inputs import MOST_JSON
from chatapi.services.voice_conversion.references import MOST_CLIPS, ReferenceClip

SOURCES = ("source", "data", "src", "input", "audio", "file")
"""Names of the recording that is converted."""
TARGETS = re.compile(r"(target|reference|ref|clip)s?(_?wavs?|_?audios?)?([\[_-]?\d*\]?)", re.IGNORECASE)
"""Names of the clips of the voice: `targets` again and again, or with numbers, as in a gRPC request."""
FORM = FormLimits(files=MOST_CLIPS + 1, fields=20 + MOST_CLIPS, field_bytes=8 << 20)
EXPECTED = "the recording as `source` and clips of the voice as `targets`"


@dataclass
class ConversionInput:
    """A received request; nothing of it is stored."""

    source: Source | None = None
    clips: list[ReferenceClip] = field(default_factory=list)

    def add(self, name: str, content: Source) -> None:
        """Takes a recording by the name of its part. Raises Unprocessable, TooLarge."""
        if TARGETS.fullmatch(name):
            if len(self.clips) == MOST_CLIPS:
                raise TooLarge(f"the request has more than {MOST_CLIPS} targets", code="too_many_clips")
            self.clips.append(ReferenceClip(f"target {len(self.clips) + 1}", content))
        elif name in SOURCES and self.source is None:
            self.source = content
        else:
            message = f"{name[:100]!r} is not supported or given twice; send {EXPECTED}"
            raise Unprocessable(message, details={"param": name[:100]})

    def checked(self) -> tuple[Source, list[ReferenceClip]]:
        """The recording and the clips. Raises BadInput (missing_file, missing_clips)."""
        if self.source is None:
            raise BadInput(f"the request has no source; send {EXPECTED}", code="missing_file")
        if not self.clips:
            raise BadInput(f"the request has no targets; send {EXPECTED}", code="missing_clips")
        return self.source, self.clips


async def receive(request: Request) -> ConversionInput:
    """Receives the input of a request. Raises CallerError, StorageError when the disk is full."""
    spool, kind = Spool.of(request), media_type(request)
    if kind == MEDIA_TYPE:
        return await _form(request, spool)
    body = await spool.body(request)
    if kind == "application/json" or kind.endswith("+json"):
        return await anyio.to_thread.run_sync(lambda: _json(body, spool), limiter=spool.parsing)
    raise BadInput(f"a conversion needs two recordings; send {EXPECTED} in a form or as JSON", code="missing_clips")


def received(fields: Mapping[str, bytes]) -> ConversionInput:
    """The input of a gRPC request. Raises CallerError."""
    found = ConversionInput()
    for name, content in sorted(fields.items()):
        found.add(name, content)
    return found


async def _form(request: Request, spool: Spool) -> ConversionInput:
    form, found = await receive_parts(request, FORM), ConversionInput()
    try:
        for name, value in form.multi_items():
            plain = name.removesuffix("[]")
            content = await spool.part(value) if isinstance(value, UploadFile) else _decoded(plain, value)
            found.add(plain, content)
    finally:
        await form.close()
    return found


def _json(body: Source, spool: Spool) -> ConversionInput:
    size = len(body) if isinstance(body, bytes) else None
    if size is not None and size > MOST_JSON:
        raise TooLarge(f"the JSON is larger than {MOST_JSON} bytes; send a form", code="body_too_large")
    found = ConversionInput()
    for name, value in json_object(body, f"{EXPECTED}, in base64").items():
        for each in value if isinstance(value, list) else [value]:
            found.add(name, spool.stored(_decoded(name, _text(each))))
    return found


def _text(value: Any) -> Any:
    """Base64, or the object with it that some clients send."""
    if isinstance(value, dict):
        return next((value[name] for name in ("b64", "data", "body") if name in value), None)
    return value


def _decoded(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise Unprocessable(f"{name[:100]} must be a recording in base64", details={"param": name[:100]})
    try:
        return decode_base64(text)
    except ValueError:
        raise Unprocessable(f"{name[:100]} is not base64", details={"param": name[:100]}) from None
