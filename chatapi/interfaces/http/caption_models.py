"""The JSON documents of captions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from chatapi.interfaces.http.described import DescribedModel
from chatapi.interfaces.http.openai import known_speakers
from chatapi.interfaces.http.response_models import ResponseModel
from chatapi.services.captions.service import Captions
from chatapi.services.transcription import url_source

LISTED_LINES = 200
"""Most lines in the document of captions: the last ones."""


class CaptionRequestModel(DescribedModel):
    """Captions that are to be started."""

    model_config = ConfigDict(extra="forbid")

    source: Literal["microphone", "stream", "push"]
    """microphone: the box's; stream: a broadcast at `url`; push: a Realtime session sends the audio, whose
    `session.update` has `session.chatapi.captions` with the id."""
    url: Annotated[str, Field(max_length=url_source.URL_CHARS)] = ""
    """Of a stream: http:// or https://, a broadcast such as Icecast's, an HLS stream, or a playlist of one."""
    title: Annotated[str, Field(max_length=200)] = ""
    """What viewers see as the title."""
    language: Annotated[str, Field(min_length=1, max_length=20)] | None = None
    """ISO 639-1 code of the spoken language, or auto: detected."""
    prompt: Annotated[str, Field(max_length=8000)] = ""
    """Context: its names and style become likelier."""
    speakers: bool = False
    """Whether lines have speaker labels: A, B and so on, by their first words."""
    known_speaker_names: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=known_speakers.MOST)
    ] = ()
    """Names of speakers of whom known_speaker_references has a sample."""
    known_speaker_references: Annotated[
        tuple[Annotated[str, Field(max_length=known_speakers.MOST_URL)], ...], Field(max_length=known_speakers.MOST)
    ] = ()
    """2 to 10 s of speech of each of known_speaker_names, as data URLs."""

    @model_validator(mode="after")
    def _check(self) -> CaptionRequestModel:
        if (self.source == "stream") != bool(self.url):
            raise ValueError("url is required for a stream, and only for one")
        if self.known_speaker_names and not self.speakers:
            raise ValueError("known_speaker_names needs speakers true")
        if self.source == "push" and (self.speakers or self.language or self.prompt):
            raise ValueError("the Realtime session that pushes the audio has language, prompt and speakers")
        return self


class CaptionFailureModel(ResponseModel):
    """Why captions failed."""

    code: str
    message: str


class CaptionLineModel(ResponseModel):
    """A line of captions."""

    number: int
    """Of its event; `Last-Event-ID` resumes behind it."""
    start: float
    """Seconds from the start of the audio."""
    end: float
    text: str
    language: str
    speaker: str


class CaptionModel(ResponseModel):
    """Captions."""

    id: str
    source: Literal["microphone", "stream", "push"]
    title: str
    state: str
    """starting, waiting (for a session that pushes audio), live, reconnecting, ended or failed."""
    created: float
    """In seconds since 1970."""
    seconds: float
    """End of the last line, in seconds of the audio."""
    lines: int
    """Number of lines so far."""
    viewers: int
    speakers: bool
    failure: CaptionFailureModel | None


class CaptionDetails(CaptionModel):
    """Captions with their last lines."""

    transcript: list[CaptionLineModel]


class CaptionList(ResponseModel):
    """Captions, the newest first."""

    captions: list[CaptionModel]


def caption_document(captions: Captions) -> dict[str, Any]:
    """The JSON object of captions. The URL of a stream may be secret, and is not in it."""
    request, failure = captions.request, captions.failure
    return {
        "id": captions.id,
        "source": request.source,
        "title": request.title,
        "state": captions.state,
        "created": captions.created_at,
        "seconds": round(captions.seconds, 3),
        "lines": captions.lines,
        "viewers": captions.feed.viewers,
        "speakers": request.options.speakers,
        "failure": None if failure is None else {"code": failure.code, "message": failure.message},
    }


def details_document(captions: Captions) -> dict[str, Any]:
    """The JSON object of captions, with their last lines."""
    lines = [
        {"number": each.number, "speaker": "", **each.data} for each in captions.feed.events() if each.name == "line"
    ]
    return {**caption_document(captions), "transcript": lines[-LISTED_LINES:]}
