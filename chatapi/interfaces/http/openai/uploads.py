"""Uploaded forms with a file, as OpenAI's clients send them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from chatapi.audio.decode import Source
from chatapi.errors import BadInput, Unprocessable, Unsupported
from chatapi.interfaces.http.forms import IN_MEMORY, MEDIA_TYPE, FormLimits, receive_parts
from chatapi.interfaces.http.json_body import media_type
from chatapi.interfaces.http.openai import known_speakers

MOST_FIELDS = 50
"""Most parts of a form beside the file."""
MOST_TEXT = 64 << 10
"""Largest such part, in bytes."""
LARGE = {known_speakers.REFERENCES: known_speakers.MOST_URL}
"""Fields that may be larger, with their largest size in bytes."""
MOST_STORED = 8 << 20
"""Largest sum of such parts, in bytes, where the file is stored: its size then is no bound for what memory holds."""


@dataclass(frozen=True)
class Upload:
    """A received form, which must be closed."""

    source: Source
    """The file: its bytes, an open file when it is large, or where it was to be written."""
    fields: Mapping[str, Any]
    """Field name -> text, or a list or a dictionary where the form has several parts of that name."""
    form: FormData

    async def aclose(self) -> None:
        """Closes the file and the form."""
        if not isinstance(self.source, (bytes, Path)):
            self.source.close()
        await self.form.close()


async def receive_form(request: Request, target: Path | None = None) -> Upload:
    """Receives the form of a request. `target`: where its file is written as it arrives; None: a temporary place.

    Raises CallerError for an invalid form, StorageError when the disk is full."""
    if (kind := media_type(request)) != MEDIA_TYPE:
        raise Unsupported(
            f"the media type {kind or '(none)'} is not supported; send {MEDIA_TYPE} with a part named file",
            code="unsupported_media_type",
        )
    most = FormLimits(1, MOST_FIELDS, max(LARGE.values()), MOST_STORED if target is not None else None)
    form = await receive_parts(request, most, target)
    try:
        file, fields = _file(form), _fields(form)
        # Last, because it may open a file that only an Upload closes.
        return Upload(await _source(file) if target is None else target, fields, form)
    except BaseException:
        await form.close()
        raise


def _file(form: FormData) -> UploadFile:
    """The uploaded recording. Raises Unprocessable (missing_file)."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        what = "is text; send it as a file" if file is not None else "is missing; send the recording in it"
        raise Unprocessable(f"the part file {what}", code="missing_file", details={"param": "file"})
    return file


async def _source(file: UploadFile) -> Source:
    """Small files as bytes; for large files, which are on the disk, a file handle of its own."""
    if file.size is not None and file.size <= IN_MEMORY:
        return await file.read()
    return os.fdopen(os.dup(file.file.fileno()), "rb")


def _fields(form: FormData) -> dict[str, Any]:
    """All fields except the file. Raises Unprocessable for contradicting fields and further files."""
    fields: dict[str, Any] = {}
    files = 0
    for name, value in form.multi_items():
        if name == "file":
            files += 1
        elif isinstance(value, UploadFile):
            raise Unprocessable(f"the part {name} is a file; only file may be one", details={"param": name})
        elif len(value) > (most := LARGE.get(name.partition("[")[0], MOST_TEXT)):
            raise BadInput(f"the form cannot be read: the part {name} exceeds {most} bytes", code="invalid_form")
        else:
            _put(fields, name, value)
    if files > 1:
        raise Unprocessable("file is given more than once", details={"param": "file"})
    return fields


def _put(fields: dict[str, Any], name: str, value: str) -> None:
    """Adds a field: a repeated name, `name[]` and `name[0]` make a list, `name[key]` a dictionary."""
    outer, bracket, inner = name.partition("[")
    inner = inner.removesuffix("]")
    before = fields.get(outer)
    if bracket and inner and not inner.isdecimal():
        table = fields.setdefault(outer, {})
        if not isinstance(table, dict) or inner in table:
            raise Unprocessable(f"{name} is given more than once", details={"param": outer})
        table[inner] = value
    elif isinstance(before, dict):
        raise Unprocessable(f"{name} is given more than once", details={"param": outer})
    elif before is None:
        fields[outer] = [value] if bracket else value
    else:
        fields[outer] = [*(before if isinstance(before, list) else [before]), value]
