"""Request bodies: small ones in memory, large ones in temporary files that are deleted with the request."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.requests import Request

from chatapi.audio.decode import Source
from chatapi.storage.atomic_files import free, writing

IN_MEMORY = 1 << 20
"""Largest body kept in memory, and size of one write of a larger one, in bytes."""


class Spool:
    """The temporary files of one request."""

    KEY = "chatapi.spool"
    """Its key in the request's ASGI scope."""

    def __init__(self, data: Path, parsing: anyio.CapacityLimiter) -> None:
        """`data`: the data directory, which is on a disk, while the system's temporary directory may be in memory.
        `parsing`: limits large bodies that are parsed at once."""
        self._data = data
        self.parsing = parsing
        self._files: list[BinaryIO] = []

    @classmethod
    def of(cls, request: Request) -> Spool:
        """The spool of a request; the middleware closes it when the request ends."""
        found: Spool = request.scope[cls.KEY]
        return found

    async def body(self, request: Request) -> Source:
        """The whole body; an open file when it is large. Raises StorageError when the disk is full."""
        return await self.collect(request.stream())

    async def collect(self, chunks: AsyncIterable[bytes]) -> Source:
        """All chunks joined; an open file when they are large. Raises StorageError."""
        buffer = bytearray()
        file: BinaryIO | None = None
        async for chunk in chunks:
            buffer += chunk
            if len(buffer) > IN_MEMORY:
                if file is None:
                    file = await anyio.to_thread.run_sync(self.open)
                await anyio.to_thread.run_sync(self._write, file, buffer)
                buffer = bytearray()
        if file is None:
            return bytes(buffer)
        await anyio.to_thread.run_sync(self._write, file, buffer)
        return file

    async def part(self, upload: UploadFile) -> Source:
        """An uploaded file of a form; an open file when it is large."""
        if upload.size is not None and upload.size <= IN_MEMORY:
            return await upload.read()
        # A duplicate, because the form closes its files before their audio is decoded.
        return self.register(_duplicate(upload))

    def stored(self, content: bytes) -> Source:
        """The content; an open file when it is large. Raises StorageError. Blocking; call it on a thread."""
        if len(content) <= IN_MEMORY:
            return content
        file = self.open()
        self._write(file, content)
        return file

    def open(self) -> BinaryIO:
        """A new unnamed temporary file. Raises StorageError. Blocking; call it on a thread."""
        folder = self.folder()
        with writing(folder):
            return self.register(tempfile.TemporaryFile(dir=folder))

    def folder(self, size: int = 0) -> Path:
        """Where a file of so many bytes is written: in the data directory, or, when that is missing, full or read-only,
        in the system's temporary directory. Blocking."""
        with suppress(OSError):
            if os.access(self._data, os.W_OK | os.X_OK) and free(self._data) > size:
                return self._data
        return Path(tempfile.gettempdir())

    def register(self, file: BinaryIO) -> BinaryIO:
        """Registers a file that `close` closes."""
        self._files.append(file)
        return file

    def close(self) -> None:
        """Closes, and thereby deletes, all files."""
        for file in self._files:
            file.close()
        self._files.clear()

    def _write(self, file: BinaryIO, data: bytes | bytearray) -> None:
        with writing(self._data):
            file.write(data)
            file.flush()


def _duplicate(upload: UploadFile) -> BinaryIO:
    file: BinaryIO = os.fdopen(os.dup(upload.file.fileno()), "rb")
    file.seek(0)
    return file
