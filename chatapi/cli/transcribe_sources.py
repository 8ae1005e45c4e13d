"""What `chatapi transcribe` is to transcribe, and where its transcripts are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatapi.cli.turn_io import AUDIO_SUFFIXES
from chatapi.errors import BadInput
from chatapi.services.transcription import url_source

MEDIA_SUFFIXES = frozenset((
    *AUDIO_SUFFIXES, ".3gp", ".aif", ".aiff", ".amr", ".avi", ".flv", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2",
    ".mpeg", ".mpg", ".oga", ".ogv", ".ts", ".wma", ".wmv",
))  # fmt: skip
"""Suffixes of the files that are taken from folders; a file that is named may have any."""


@dataclass(frozen=True)
class TranscriptionSource:
    """A recording, and the file name that its transcripts have but for their suffix."""

    path: Path | None
    """None: it is at `url`."""
    url: str
    output: Path

    @property
    def name(self) -> str:
        return self.path.name if self.path is not None else url_source.name_of(url_source.checked(self.url))

    def files(self, formats: Sequence[str]) -> list[Path]:
        """The transcripts of these formats."""
        return [self.output.with_name(f"{self.output.name}.{form}") for form in formats]

    def is_done(self, formats: Sequence[str]) -> bool:
        """Whether each of these transcripts exists and is as new as the recording. Raises OSError."""
        made = [each.stat().st_mtime for each in self.files(formats) if each.is_file()]
        since = self.path.stat().st_mtime if self.path is not None else 0.0
        return len(made) == len(formats) and min(made) >= since

    @property
    def version(self) -> str:
        """Size and time of the recording. Raises OSError."""
        if self.path is None:
            return ""
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"


def is_url(text: str) -> bool:
    """Whether an argument is a URL."""
    return text.startswith(("http://", "https://"))


def sources(arguments: Sequence[str], output: Path | None) -> Iterator[TranscriptionSource]:
    """The recordings that arguments mean: files, folders with all files below them, and URLs. `output`: the folder of
    the transcripts; None: each is beside its recording. Raises BadInput, Unprocessable (invalid_url)."""
    for each in arguments:
        if is_url(each):
            name = Path(url_source.name_of(url_source.checked(each)))
            yield TranscriptionSource(None, each, (output or Path()) / _stem(name))
        elif (path := Path(each)).is_dir():
            for file in recordings(path):
                place = output / file.parent.relative_to(path) if output is not None else file.parent
                yield TranscriptionSource(file, "", place / _base(file))
        elif path.exists():
            yield TranscriptionSource(path, "", (output if output is not None else path.parent) / _base(path))
        else:
            raise BadInput(f"there is no file or folder {each}")


def recordings(folder: Path) -> list[Path]:
    """The media files of a folder and the folders in it, sorted; hidden ones are left out. Raises BadInput."""
    try:
        found = [
            each
            for each in sorted(folder.rglob("*"))
            if each.suffix.lower() in MEDIA_SUFFIXES
            and not any(part.startswith(".") for part in each.relative_to(folder).parts)
            and each.is_file()
        ]
    except OSError as error:
        raise BadInput(f"cannot read {folder}: {error.strerror}") from error
    return found


def _base(file: Path) -> str:
    """The name of a file without its suffix; with it, where another recording beside it differs in that only."""
    others = (each for each in file.parent.glob(f"{_escaped(file.stem)}.*") if each != file)
    return file.name if any(each.suffix.lower() in MEDIA_SUFFIXES for each in others) else file.stem


def _stem(name: Path) -> str:
    return name.stem if name.suffix.lower() in MEDIA_SUFFIXES else name.name


def _escaped(name: str) -> str:
    return "".join(f"[{each}]" if each in "[]*?" else each for each in name)
