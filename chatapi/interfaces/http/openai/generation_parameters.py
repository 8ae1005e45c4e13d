"""The parameters of sampling and streaming that OpenAI's text endpoints have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from chatapi.interfaces.http.openai.chat_messages import text_or_parts
from chatapi.interfaces.http.openai.parameter_parsing import RequestObject
from chatapi.services.turns.completion import MAX_TEMPERATURE

StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = Annotated[
    Annotated[StopText, Tag("=text")] | Annotated[list[StopText], Field(max_length=4), Tag("=parts")],
    Discriminator(text_or_parts),
]


LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]],
    Field(max_length=1000),
]


class StreamOptions(RequestObject):
    include_usage: bool = False
    """Whether a last chunk reports the token usage."""
    include_obfuscation: bool | None = None
    """Accepted without an effect: the box sends no obfuscation."""


class SamplingParameters(RequestObject):
    """How tokens are sampled, for all text endpoints."""

    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)] | None = None
    """Default: the box's llm.temperature."""
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1
    """1, OpenAI's default, uses the default of the model."""


class GenerationParameters(SamplingParameters):
    """What chat and text completions have in common."""

    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 0
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 0
    """0 for both penalties uses the default of the model."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logit_bias: LogitBias | None = None
    """Token id of the model in use -> bias."""
