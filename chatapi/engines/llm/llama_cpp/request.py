"""Translation of sampling parameters to requests of llama.cpp's server, and of its chunks and errors back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatapi.engines import ContextOverflow, PromptMessage, Sampling, TokenUsage
from chatapi.engines.llm import json_schemas
from chatapi.errors import EngineFailed, Unprocessable
from chatapi.events import Token

SAMPLING: Mapping[str, float] = {
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "repeat_last_n": 64,
    "frequency_penalty": 0.2,
    "repeat_penalty": 1.0,
    "dry_multiplier": 0.0,
    "dry_allowed_length": 3,
}
"""Defaults; a model's options of the same names override them. The frequency penalty keeps the smallest models from
loops. See docs/measurements/engines.md."""
BREAKERS = ("\n",)
"""Texts that end a repetition, where a model's options set `dry_multiplier`. For each of them llama.cpp reads its whole
vocabulary before every completion: with its own four the first token comes 30 ms later than without, with one 8 ms."""
STREAMED: Mapping[str, bool] = {"stream": True, "return_progress": True}
"""Makes the library call back between the steps of a long prompt: without it a prompt cannot be cancelled and shows no
progress."""


CHARACTERS = 3
"""Characters of a token, estimated low."""
MESSAGE_TOKENS = 16
"""Tokens that a chat template adds to a message, estimated high."""


def estimated_tokens(messages: Sequence[PromptMessage]) -> int:
    """Tokens of a prompt, until the library has counted them."""
    return sum(len(message.text) // CHARACTERS + MESSAGE_TOKENS for message in messages)


def chat_messages(messages: Sequence[PromptMessage]) -> list[dict[str, str]]:
    """The messages as the chat template takes them."""
    return [{"role": message.role, "content": message.text} for message in messages]


def chat_request(
    messages: Sequence[PromptMessage], sampling: Sampling, defaults: Mapping[str, float], context: int
) -> dict[str, Any]:
    """The body of a chat completion request; `defaults` are the model's sampling parameters."""
    request: dict[str, Any] = {
        "messages": chat_messages(messages),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "stop": list(sampling.stop_texts),
        **STREAMED,
        "stream_options": {"include_usage": True},
        **defaults,
    }
    if defaults["dry_multiplier"]:
        request["dry_sequence_breakers"] = BREAKERS
    if sampling.seed is not None:
        request["seed"] = sampling.seed
    return {**request, **_optional_parameters(sampling, context)}


def _optional_parameters(sampling: Sampling, context: int) -> dict[str, Any]:
    """The parameters that a request sets explicitly; they override the defaults against loops."""
    parameters: dict[str, Any] = {}
    if sampling.top_p is not None:
        parameters |= {"top_p": sampling.top_p, "top_k": 0, "min_p": 0.0}
    if sampling.schema is not None:
        json_schemas.check(sampling.schema)
        form = {"name": "answer", "schema": sampling.schema}
        parameters["response_format"] = {"type": "json_schema", "json_schema": form}
        # Keys, quotes and braces repeat in JSON.
        parameters |= {"frequency_penalty": 0.0, "repeat_penalty": 1.0, "dry_multiplier": 0.0}
    if (sampling.frequency_penalty, sampling.presence_penalty) != (None, None):
        parameters |= {
            "frequency_penalty": sampling.frequency_penalty or 0.0,
            "presence_penalty": sampling.presence_penalty or 0.0,
            "repeat_penalty": 1.0,
            # The whole text, as OpenAI counts.
            "repeat_last_n": context,
        }
    if sampling.logit_bias:
        parameters["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        # With 0 the library reports no tokens at all.
        parameters |= {"logprobs": True, "top_logprobs": max(1, sampling.logprobs)}
    return parameters


def tokens(choice: Mapping[str, Any], sampling: Sampling) -> list[Token]:
    """The tokens of a chunk's choice, where the request asks for them."""
    if sampling.logprobs is None:
        return []
    reported = (choice.get("logprobs") or {}).get("content") or ()
    return [_token(each, each["top_logprobs"][: sampling.logprobs]) for each in reported]


def _token(reported: Mapping[str, Any], top: Sequence[Mapping[str, Any]] = ()) -> Token:
    return Token(reported["token"], reported["logprob"], bytes(reported["bytes"]), tuple(_token(each) for each in top))


def error_of(error: Mapping[str, Any], sampling: Sampling, remedy: str) -> Exception:
    """The exception for an error of the library. `remedy`: how a longer prompt may fit."""
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflow(error["n_prompt_tokens"] + sampling.max_tokens, error["n_ctx"], remedy)
    message = str(error.get("message", error))
    if sampling.schema is not None and error.get("type") == "invalid_request_error":
        return unprocessable(message, sampling)
    return EngineFailed("llama.cpp rejected the request; the log says why")


def unprocessable(message: str, sampling: Sampling) -> Unprocessable:
    """The exception for a request that the library rejects."""
    if sampling.schema is None:
        return Unprocessable(
            f"the model's chat template rejects these messages: {message}", details={"param": "messages"}
        )
    reason = message.rpartition("JSON schema error at ")[2].rpartition("failed: ")[2]
    return Unprocessable(
        f"llama.cpp cannot follow this JSON schema: {reason}",
        code="invalid_json_schema",
        details={"param": "response_format"},
    )


def usage(reported: Mapping[str, Any]) -> TokenUsage:
    """The token counts of a completion."""
    cached = (reported.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return TokenUsage(reported["prompt_tokens"], reported["completion_tokens"], cached)
