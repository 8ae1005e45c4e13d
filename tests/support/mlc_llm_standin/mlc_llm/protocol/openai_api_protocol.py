"""The messages of python/mlc_llm/protocol/openai_api_protocol.py that text completions consist of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

COMPLETION_MAX_TOP_LOGPROBS = 5


class StreamOptions(BaseModel):
    include_usage: bool | None


class CompletionLogProbs(BaseModel):
    text_offset: list[int] | None
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    extra: dict[str, Any] | None = None


class CompletionRequest(BaseModel):
    model: str | None = None
    prompt: str | list[int]
    best_of: int = 1
    echo: bool = False
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    max_tokens: int | None = None
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    response_format: dict[str, Any] | None = None
    debug_config: dict[str, Any] | None = None

    @field_validator("logprobs")
    @classmethod
    def _few(cls, asked: int | None) -> int | None:
        if asked is not None and not 0 <= asked <= COMPLETION_MAX_TOP_LOGPROBS:
            raise ValueError(f'"logprobs" must be in range [0, {COMPLETION_MAX_TOP_LOGPROBS}]')
        return asked


class CompletionResponseChoice(BaseModel):
    finish_reason: Literal["stop", "length", "preempt"] | None = None
    index: int = 0
    logprobs: CompletionLogProbs | None = None
    text: str


class CompletionResponse(BaseModel):
    id: str
    choices: list[CompletionResponseChoice]
    model: str | None = None
    object: str = "text_completion"
    usage: CompletionUsage | None = None
