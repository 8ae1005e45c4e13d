"""Forms (multipart/form-data), received with limits, and complete or not at all.

Routes do not declare forms to FastAPI, which would accept the complete parts of a truncated form, and more and larger
fields than any client sends.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from chatapi.errors import BadInput
from chatapi.interfaces.http.spooling import Spool
from chatapi.storage.atomic_files import writing

MEDIA_TYPE = "multipart/form-data"
IN_MEMORY = MultiPartParser.spool_max_size
"""Largest file kept in memory, in bytes."""
EPILOGUE = 512
"""Bytes that may follow the end of a form."""


@dataclass(frozen=True)
class FormLimits:
    """The most that a form may have."""

    files: int
    fields: int
    """Number of parts that are no files."""
    field_bytes: int
    """Size of such a part."""
    all_fields_bytes: int | None = None
    """Sum of their sizes; None: it is not limited."""


class _Parser(MultiPartParser):
    """Writes files with `open_file`: the system's temporary directory may be in memory."""

    open_file: Callable[[], Any]
    most: int | None = None
    """Largest sum of the parts that are no files, in bytes."""
    fields_bytes = 0

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if (part := self._current_part).file is not None:
            part.file.file.close()
            part.file.file = self.open_file()
            self._files_to_close_on_error[-1] = part.file.file  # type: ignore[call-overload]

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self.fields_bytes += end - start
            if self.most is not None and self.fields_bytes > self.most:
                raise MultiPartException(f"the parts beside the file have more than {self.most} bytes")
        super().on_part_data(data, start, end)


async def receive_parts(request: Request, limits: FormLimits, target: Path | None = None) -> FormData:
    """The form of a request, which must be closed. `target`: where its file is written as it arrives; None: small files
    are in memory, and large ones in temporary files.

    Raises BadInput (invalid_form), StorageError when the disk is full.
    """
    if target is None:
        folder = await anyio.to_thread.run_sync(Spool.of(request).folder, _stated_bytes(request))
    else:
        folder = target.parent
    parser = _Parser(
        request.headers, _complete_body(request), max_files=limits.files, max_fields=limits.fields,
        max_part_size=limits.field_bytes,
    )  # fmt: skip
    parser.most = limits.all_fields_bytes
    # The form closes it.
    parser.open_file = partial(tempfile.SpooledTemporaryFile, IN_MEMORY, dir=folder)
    if target is not None:
        parser.open_file = partial(target.open, "w+b")
    try:
        with writing(folder):
            return await parser.parse()
    except MultiPartException as error:
        raise BadInput(f"the form cannot be read: {error.message}", code="invalid_form") from None
    except ClientDisconnect:
        raise _incomplete() from None


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


def _stated_bytes(request: Request) -> int:
    """The length of the body by its header; 0: it states none."""
    stated = request.headers.get("content-length", "")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 16 else 0
