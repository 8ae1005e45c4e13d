"""The parameters of transcription jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from chatapi.engines import TranscriptionOptions
from chatapi.jobs import JobRecord, JobRequest
from chatapi.runtime.admission import Priority
from chatapi.services.transcription.transcriber import TranscriptionRequest, prompt_text
from chatapi.services.transcription.transcript_files import TranscriptFormat

KIND = "transcription"


@dataclass(frozen=True)
class TranscriptionParameters:
    """What is to be transcribed, and how; stored with the job."""

    name: str
    """What the recording is called."""
    path: str = ""
    """Absolute path of the recording; empty: it is uploaded, or at `url`."""
    url: str = ""
    version: str = ""
    """Size and time of the file at `path`; another version is transcribed anew."""
    language: str | None = None
    """ISO 639-1 code, or auto; None: the one of the settings."""
    translate: bool = False
    words: bool = False
    """Whether segments have their words, with times."""
    prompt: str = ""
    hotwords: tuple[str, ...] = ()
    """Words that become likelier in the transcript, such as names; they follow the prompt."""
    speakers: bool = False
    """Whether the transcript has speaker labels."""
    speaker_count: int | None = None
    """How many people speak; None: it is found out."""
    known_speakers: tuple[str, ...] = ()
    """Names of speakers of whom the job's folder has a sample, in this order."""
    formats: tuple[TranscriptFormat, ...] = ("json",)
    """Formats that the client wants; the first is the default of the result."""

    @property
    def request(self) -> TranscriptionRequest:
        prompt = prompt_text(self.prompt, self.hotwords)
        # The times of words show where the speaker changes.
        options = TranscriptionOptions(prompt, translate=self.translate, words=self.words or self.speakers)
        return TranscriptionRequest(self.language, options, timed=True)

    @classmethod
    def of(cls, job: JobRecord) -> TranscriptionParameters:
        return cls.of_json(job.parameters)

    @classmethod
    def of_json(cls, given: Mapping[str, Any]) -> TranscriptionParameters:
        """Members that it does not know are left out."""
        known = {name: value for name, value in given.items() if name in cls.__dataclass_fields__}
        known |= {name: tuple(known[name]) for name in ("hotwords", "known_speakers", "formats") if name in known}
        return cls(**known)

    def job(self, owner: str = "", subject: str = "", command: str = "", id_: str = "") -> JobRequest:
        """The request for a job."""
        return JobRequest(KIND, asdict(self), Priority.BULK, subject, command, owner, id_)

    @property
    def text_options(self) -> dict[str, Any]:
        """What the text depends on beside the recording."""
        found = {name: getattr(self, name) for name in ("language", "translate", "prompt", "hotwords")}
        return {**found, "words": self.request.options.words}
