"""Captions in a terminal, and in files: partial text is replaced in place, lines stay."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from chatapi.engines import Segment
from chatapi.errors import BadInput, StorageError
from chatapi.events import Transcript
from chatapi.services.transcription import transcript_files

CLEAR, GREY, PLAIN = "\r\x1b[2K", "\x1b[90m", "\x1b[0m"
"""Control sequences (ECMA-48): clears the line, grey, and back."""
OUTPUTS = (".srt", ".vtt", ".txt", ".jsonl")
"""Suffixes of files for captions."""


def timed_line(transcript: Transcript) -> str:
    """A line with its time, and its speaker where there is one."""
    minutes, seconds = divmod(transcript.start, 60)
    who = f"{transcript.speaker}: " if transcript.speaker else ""
    return f"[{int(minutes):02}:{seconds:04.1f}] {who}{transcript.text}"


def line_document(transcript: Transcript) -> dict[str, object]:
    """A line as a JSON object: text, times in seconds, language and speaker."""
    return {
        "text": transcript.text, "start": round(transcript.start, 3), "end": round(transcript.end, 3),
        "language": transcript.language, "speaker": transcript.speaker,
    }  # fmt: skip


class CaptionScreen:
    """Writes captions to standard output. `as_json`: one JSON object a line."""

    def __init__(self, as_json: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._json = as_json
        self.replaces = self._stream.isatty() and not as_json
        """Whether partial text is shown."""
        self._shown = False
        """Whether there is partial text in the last line."""

    def show(self, transcript: Transcript) -> None:
        """Shows a transcript; partial text only in a terminal."""
        if transcript.final:
            line = json.dumps(line_document(transcript), ensure_ascii=False) if self._json else timed_line(transcript)
            self._write(f"{self._cleared()}{_printable(line)}\n")
        elif self.replaces:
            self._shown = True
            self._write(f"{CLEAR}{GREY}{_fitted(_printable(timed_line(transcript)))}{PLAIN}")

    def notice(self, text: str) -> None:
        """Writes a message to standard error."""
        if cleared := self._cleared():
            self._write(cleared)
        print(f"chatapi: {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Removes partial text."""
        if cleared := self._cleared():
            self._write(cleared)

    def _cleared(self) -> str:
        shown, self._shown = self._shown, False
        return CLEAR if shown else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _printable(text: str) -> str:
    """The text without control characters, which a model of somebody else might make of noise."""
    return "".join(each if each.isprintable() else " " for each in text)


def _fitted(text: str) -> str:
    """The end of a text that fits into one line of the terminal, which is replaced as a whole."""
    width = max(10, Console().width - 1)
    if cell_len(text) <= width:
        return text
    kept = text
    while cell_len(kept) > width - 1:
        kept = kept[max(1, (cell_len(kept) - width) // 2) :]
    return set_cell_size(f"…{kept}", min(width, cell_len(kept) + 1))


class CaptionFile:
    """Writes captions into a file, each line as it comes; the suffix names the format."""

    def __init__(self, path: Path) -> None:
        """Raises BadInput for a suffix that is not supported, StorageError."""
        if path.suffix.lower() not in OUTPUTS:
            raise BadInput(f"cannot write {path}: {path.suffix or 'no suffix'} is not supported; supported are: "
                           f"{', '.join(OUTPUTS)}")  # fmt: skip
        renderers: dict[str, Callable[[Transcript], str]] = {
            ".srt": self._srt, ".vtt": self._vtt, ".txt": _text,
            ".jsonl": lambda line: json.dumps(line_document(line), ensure_ascii=False) + "\n",
        }  # fmt: skip
        self._render = renderers[path.suffix.lower()]
        self._path, self._count = path, 0
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        if path.suffix.lower() == ".vtt":
            self._write("WEBVTT\n\n")

    def add(self, transcript: Transcript) -> None:
        """Raises StorageError."""
        self._count += 1
        self._write(self._render(transcript))

    def close(self) -> None:
        self._file.close()

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error

    def _srt(self, line: Transcript) -> str:
        return f"{self._count}\n" + transcript_files.srt([_segment(line)]).partition("\n")[2]

    def _vtt(self, line: Transcript) -> str:
        return transcript_files.vtt([_segment(line)]).partition("\n\n")[2]


def _text(line: Transcript) -> str:
    return f"{transcript_files.captioned(_segment(line))}\n"


def _segment(line: Transcript) -> Segment:
    return Segment(line.text, line.start, line.end, 0.0, line.language, speaker=line.speaker)
