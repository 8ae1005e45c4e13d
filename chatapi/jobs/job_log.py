"""A job's log: a text file of bounded size that drops its oldest lines."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from chatapi.observability.redaction import redacted
from chatapi.system import private_files

LINE_CHARS = 4000
"""Largest length of a line, in characters; of a longer one the end is dropped."""


class JobLog:
    """The log of one job; one process writes it at a time, any number may read it."""

    def __init__(self, file: Path, limit: int) -> None:
        """`limit`: largest size, in bytes; the newer half is in `file`, the older half beside it."""
        self.file, self._half = file, limit // 2
        self._older = file.with_name(f"{file.name}.older")

    def write(self, line: str) -> None:
        """Append a line without its secrets. Raises OSError."""
        stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        content = f"{stamp} {redacted(line)[:LINE_CHARS]}\n".encode(errors="replace")
        private_files.touch(self.file)
        with self.file.open("ab") as file:
            if file.tell() and file.tell() + len(content) > self._half:
                self.file.replace(self._older)
                private_files.touch(self.file)
                self._append(content)
            else:
                file.write(content)

    def _append(self, content: bytes) -> None:
        with self.file.open("ab") as file:
            file.write(content)

    def read(self) -> str:
        """The whole log; empty: nothing was written. Raises OSError."""
        found = b"".join(file.read_bytes() for file in (self._older, self.file) if file.exists())
        return found.decode(errors="replace")
