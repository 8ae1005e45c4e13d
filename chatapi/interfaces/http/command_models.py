"""What the routes of command recognition answer with."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from chatapi.interfaces.http.response_models import ResponseModel


class ClassificationModel(ResponseModel):
    """What a clip is."""

    label: str
    """One of the commands, or unknown."""
    probability: float = Field(ge=0, le=1)
    """Probability of the label."""
    probabilities: dict[str, float]
    """Probability of every label, the likeliest first."""
    model: str
    """The model in use."""
    version: int
    """The version of the taught classifier; 0: the model itself."""


class CommandsModel(ResponseModel):
    """The commands that are recognized."""

    labels: list[str]
    """The words; any other sound is unknown."""
    model: str
    """The model in use."""
    version: int
    """The active version; 0: the model itself."""


class SampleModel(ResponseModel):
    """A sample of a command."""

    id: str
    digest: str
    """SHA-256 of its samples, in hex."""
    label: str
    state: str
    """accepted or quarantined."""
    reason: str
    """Why it is quarantined; empty: it is not."""
    owner: str
    """Id of the key that submitted it."""
    interface: str
    submitted: float
    """Seconds since 1970."""
    seconds: float
    """Length, in seconds."""
    level_db: float
    """Level of its speech, in dBFS."""
    clipped: float
    """Share of clipped samples, 0 to 1."""
    speech_seconds: float
    """Speech in it, in seconds."""
    trimmed: bool
    """Whether silence at the ends of the clip was cut off."""
    held_out: bool
    """Whether it only judges versions."""


class SubmissionModel(ResponseModel):
    """What became of a submitted clip."""

    sample: SampleModel
    duplicate: bool
    """Whether the same sound was submitted before."""
    classification: ClassificationModel
    """What the active version takes it for."""


class SamplesModel(ResponseModel):
    """Samples, the newest first."""

    samples: list[SampleModel]
    next: str | None
    """`before` of the next page; null: this is the last one."""


class VersionModel(ResponseModel):
    """A version of the taught classifier."""

    number: int
    job: str
    """The training that made it."""
    parent: int
    """The version that was active when it was trained; 0: the model itself."""
    created: float
    """Seconds since 1970."""
    features: str
    """The form of the embeddings that it takes."""
    labels: list[str]
    samples: int
    """Number of samples that it was trained on."""
    figures: dict[str, Any]
    """`new`, `old` and `first`: accuracy, false_accepts, held_out, words and confusion of this version, of its parent
    and of the model; `curve`: steps and loss."""
    verdict: list[str]
    """Why it was not activated; empty: it was good enough."""
    sha256: str
    active: bool


class ActivationModel(ResponseModel):
    """A switch to a version."""

    version: int
    at: float
    """Seconds since 1970."""
    cause: str
    """trained, activated, rolled_back or unknown_share."""
    unknown_share: float | None
    """Share of unknown among the latest classifications of the version before; null: there were too few."""


class VersionsModel(ResponseModel):
    """The versions of the taught classifier."""

    active: int
    """0: the model itself."""
    versions: list[VersionModel]
    """The newest first."""
    activations: list[ActivationModel]
    """The latest switches, the newest first."""
