"""Bodies of requests: small ones in memory, large ones in files that vanish with their request."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterable
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.requests import Request

from chatapi.audio import Source
from chatapi.storage.atomic_files import writing

IN_MEMORY = 1 << 20
"""Bytes of the largest body that is kept in memory, and of what is written at once of a larger one."""


class Spool:
    """The files of one request."""

    KEY = "chatapi.spool"
    """Where it is in the request's scope."""

    def __init__(self, data: Path, parsing: anyio.CapacityLimiter) -> None:
        """`data`: the data directory, which is on a disk where the system's folder for such files may be memory.
        `parsing`: how many large bodies are parsed at once."""
        self._data = data
        self.parsing = parsing
        self._files: list[BinaryIO] = []

    @classmethod
    def of(cls, request: Request) -> Spool:
        """That of a request; it is closed when the request is over."""
        found: Spool = request.scope[cls.KEY]
        return found

    async def body(self, request: Request) -> Source:
        """The whole body, opened where it is large. Raises StorageError where the disk is full."""
        return await self.collected(request.stream())

    async def collected(self, chunks: AsyncIterable[bytes]) -> Source:
        """All of these bytes together. Raises StorageError."""
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
        """The file of a form, opened where it is large."""
        if upload.size is not None and upload.size <= IN_MEMORY:
            return await upload.read()
        # Of its own, because the form closes its files before the sound in them is decoded.
        return self.keep(_duplicate(upload))

    def kept(self, content: bytes) -> Source:
        """The same, in a file where it is large. Raises StorageError. For a thread."""
        if len(content) <= IN_MEMORY:
            return content
        file = self.open()
        self._write(file, content)
        return file

    def open(self) -> BinaryIO:
        """A new file without a name. Raises StorageError. For a thread."""
        with writing(Path(tempfile.gettempdir())):
            try:
                return self.keep(tempfile.TemporaryFile(dir=self._data))
            except OSError:
                # The data directory is not there, full or read-only.
                return self.keep(tempfile.TemporaryFile())

    def keep(self, file: BinaryIO) -> BinaryIO:
        """It is closed with the others."""
        self._files.append(file)
        return file

    def close(self) -> None:
        """The files are gone."""
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
