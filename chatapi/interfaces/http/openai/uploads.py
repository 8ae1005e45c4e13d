"""Uploaded forms with a file, as OpenAI's clients send them.

Routes do not declare these forms to FastAPI, which would accept the complete parts of a truncated form, and more and
larger fields than any client sends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from chatapi.audio.decode import Source
from chatapi.errors import BadInput, Unprocessable, Unsupported
from chatapi.interfaces.http.json_body import media_type
from chatapi.storage.atomic_files import writing

MOST_FIELDS = 50
"""Most parts of a form beside the file."""
MOST_TEXT = 64 << 10
"""Largest such part, in bytes."""
EPILOGUE = 512
"""Bytes that may follow the end of a form."""
IN_MEMORY = MultiPartParser.spool_max_size
"""Largest file that Starlette keeps in memory, in bytes."""


@dataclass(frozen=True)
class Upload:
    """A received form, which must be closed."""

    source: Source
    """The file: its bytes, or an open file when it is large."""
    fields: Mapping[str, Any]
    """Field name -> text, or a list or a dictionary where the form has several parts of that name."""
    form: FormData

    async def aclose(self) -> None:
        """Closes the file and the form."""
        if not isinstance(self.source, bytes):
            self.source.close()  # type: ignore[union-attr]
        await self.form.close()


async def receive_form(request: Request) -> Upload:
    """Receives the form of a request. Raises CallerError for an invalid form, StorageError when the disk is full."""
    if (kind := media_type(request)) != "multipart/form-data":
        raise Unsupported(
            f"the media type {kind or '(none)'} is not supported; send multipart/form-data with a part named file",
            code="unsupported_media_type",
        )
    parser = MultiPartParser(
        request.headers, _complete_body(request), max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_TEXT
    )
    try:
        with writing(Path(tempfile.gettempdir())):
            form = await parser.parse()
    except MultiPartException as error:
        raise BadInput(f"the form cannot be read: {error.message}", code="invalid_form") from None
    except ClientDisconnect:
        raise _incomplete() from None
    try:
        file, fields = _file(form), _fields(form)
        # Last, because it may open a file that only an Upload closes.
        return Upload(await _source(file), fields, form)
    except BaseException:
        await form.close()
        raise


async def _complete_body(request: Request) -> AsyncGenerator[bytes, None]:
    """The body. Raises BadInput when it is truncated, because the parser would accept the complete parts of it."""
    _, options = parse_options_header(request.headers["content-type"])
    end = b"--" + options.get(b"boundary", b"") + b"--"
    kept = len(end) + EPILOGUE
    tail = b""
    async for chunk in request.stream():
        tail = chunk[-kept:] if len(chunk) >= kept else (tail + chunk)[-kept:]
        yield chunk
    if end not in tail:
        raise _incomplete()


def _incomplete() -> BadInput:
    return BadInput("the form is incomplete", code="invalid_form")


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
