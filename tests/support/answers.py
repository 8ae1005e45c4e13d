"""The answer of a language model with tools, without a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chatapi.engines import LanguageModel, PromptMessage, Sampling, Stop, TokenChunk, never
from chatapi.errors import Unprocessable
from chatapi.services.turns import tool_call_parser


def generate(
    engine: LanguageModel, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
) -> Iterator[TokenChunk]:
    """The chunks of an answer as `Generator.stream` yields them."""
    call, reader = tool_call_parser.generate(messages, sampling, engine.capabilities)
    try:
        for chunk in call(engine, stop):
            yield reader.read(chunk)
    except Unprocessable as error:
        reader.require_valid(error)
        raise
