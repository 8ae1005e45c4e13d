"""A form with a file, as OpenAI's clients send it: what it says, and the file where it lies."""

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

from chatapi.audio import Source
from chatapi.errors import BadInput, Unprocessable, Unsupported
from chatapi.interfaces.http.json_body import media_type
from chatapi.storage.atomic_files import writing

MOST_FIELDS = 50
"""Parts a form may have beside the file."""
MOST_TEXT = 64 << 10
"""Bytes of one of them."""
EPILOGUE = 512
"""Bytes that may stand behind a form's end."""
IN_MEMORY = MultiPartParser.spool_max_size
"""Bytes of the largest file that Starlette keeps in memory."""


@dataclass(frozen=True)
class Upload:
    """A form that has arrived; it must be closed."""

    source: Source
    """The file: its bytes, or where it is too large for memory, opened."""
    fields: Mapping[str, Any]
    """Text by name; `name[]` and `name[key]` as lists and tables."""
    form: FormData

    async def aclose(self) -> None:
        """Give back the file's place."""
        if not isinstance(self.source, bytes):
            self.source.close()  # type: ignore[union-attr]
        await self.form.close()


async def received(request: Request) -> Upload:
    """The form of a request. Raises CallerError saying what is wrong with it, StorageError where the disk is full."""
    if (kind := media_type(request)) != "multipart/form-data":
        raise Unsupported(
            f"the media type {kind or '(none)'} is not taken; send multipart/form-data with a part named file",
            code="unsupported_media_type",
        )
    parser = MultiPartParser(
        request.headers, _whole(request), max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_TEXT
    )
    try:
        with writing(Path(tempfile.gettempdir())):
            form = await parser.parse()
    except MultiPartException as error:
        raise BadInput(f"the form cannot be read: {error.message}", code="invalid_form") from None
    except ClientDisconnect:
        raise _unfinished() from None
    try:
        file, fields = _file(form), _fields(form)
        # Last, because it may open a file that only an Upload closes.
        return Upload(await _source(file), fields, form)
    except BaseException:
        await form.close()
        raise


async def _whole(request: Request) -> AsyncGenerator[bytes, None]:
    """The body. Raises BadInput where it has no end: the parser would take it for what is whole of it."""
    _, options = parse_options_header(request.headers["content-type"])
    end = b"--" + options.get(b"boundary", b"") + b"--"
    kept = len(end) + EPILOGUE
    tail = b""
    async for chunk in request.stream():
        tail = chunk[-kept:] if len(chunk) >= kept else (tail + chunk)[-kept:]
        yield chunk
    if end not in tail:
        raise _unfinished()


def _unfinished() -> BadInput:
    return BadInput("the form ended before it was whole", code="invalid_form")


def _file(form: FormData) -> UploadFile:
    """The recording. Raises Unprocessable (missing_file)."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        what = "is text; send it as a file" if file is not None else "is missing; send the recording in it"
        raise Unprocessable(f"the part file {what}", code="missing_file", details={"param": "file"})
    return file


async def _source(file: UploadFile) -> Source:
    """What fits memory as bytes; of the rest, which lies on the disk, a handle of its own."""
    if file.size is not None and file.size <= IN_MEMORY:
        return await file.read()
    return os.fdopen(os.dup(file.file.fileno()), "rb")


def _fields(form: FormData) -> dict[str, Any]:
    """All but the file. Raises Unprocessable where something is given twice, or as a file."""
    found: dict[str, Any] = {}
    files = 0
    for name, value in form.multi_items():
        if name == "file":
            files += 1
        elif isinstance(value, UploadFile):
            raise Unprocessable(f"the part {name} is a file; only file may be one", details={"param": name})
        else:
            _put(found, name, value)
    if files > 1:
        raise Unprocessable("file is given more than once", details={"param": "file"})
    return found


def _put(found: dict[str, Any], name: str, value: str) -> None:
    outer, bracket, inner = name.partition("[")
    inner = inner.removesuffix("]")
    if not bracket:
        twice = name in found
        found[name] = value
    elif not inner:
        listed = found.setdefault(outer, [])
        twice = not isinstance(listed, list)
        if not twice:
            listed.append(value)
    else:
        table = found.setdefault(outer, {})
        twice = not isinstance(table, dict) or inner in table
        if not twice:
            table[inner] = value
    if twice:
        raise Unprocessable(f"{name} is given more than once", details={"param": outer})
