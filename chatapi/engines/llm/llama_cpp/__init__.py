"""llama.cpp as a chat model, in this process, through xllamacpp.

The library is llama.cpp's own server: several slots that share one batch, each with the prompt it computed last, so
that the next turn of a conversation computes only its new tokens. It calls back for every token instead of yielding, so
each completion has a thread that receives the chunks and a queue that the generator reads from.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chatapi.engines import (
    Capability,
    ContextOverflow,
    NoEngineCounts,
    PromptMessage,
    Sampling,
    Stop,
    TokenChunk,
    TokenUsage,
    never,
)
from chatapi.engines.llm.chat_template import chat_template
from chatapi.engines.llm.llama_cpp import request as requests
from chatapi.engines.llm.llama_cpp import server
from chatapi.engines.llm.llama_cpp.generation import LlamaGeneration, RejectedByLibrary
from chatapi.engines.llm.role_rules import RoleRules
from chatapi.errors import EngineFailed, ModelError
from chatapi.events import Token
from chatapi.settings import Settings
from chatapi.text.sentence_splitter import ends

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

TOP_TOKENS = 40
"""Tokens whose probability is requested, to see whether one that ends a sentence is among them."""
CLOSING_SECONDS = 10.0
"""Seconds that `close` waits for completions in progress to end."""


class LlamaCpp(NoEngineCounts):
    """A chat model from a GGUF file. ModelError when it cannot be loaded."""

    continues = True
    capabilities: frozenset[Capability] = frozenset(("top_p", "penalties", "logit_bias", "logprobs", "schema"))
    """Without tools: the library's tool calls depend on the model's template, and it ignores `tool_choice` where the
    template has none. `chatapi.services.turns.tool_call_parser` does not need them."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the llama_cpp engine needs a model and was given none; `chatapi models` lists them")
        table = settings.llama_cpp
        self.slots = table.slots
        self.context = table.context
        self._sampling = {
            **requests.SAMPLING,
            **{key: models[0].options[key] for key in requests.SAMPLING if key in models[0].options},
        }
        self._closing = threading.Event()
        self._generations: set[LlamaGeneration] = set()
        path = server.gguf(models[0])
        self._server: Any = server.load(path, settings)
        self._template = chat_template(path)
        self._roles = RoleRules.of(self._template)
        self._warm_up(settings.llm.system_prompt)

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        """The completion as it is generated; the library's thread polls `stop` too, between steps of the prompt."""
        return self._completion(messages, sampling, stop)

    def end_of_turn_probability(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        """Probability that a full stop comes next. The prompt computed for it stays cached."""
        opened = self._template.opened(requests.chat_messages(self._roles.fitted(messages))) if self._template else None
        if opened is None or stop():
            return
        prompt, rest = opened
        request = {"prompt": prompt, "n_predict": 1, "n_probs": TOP_TOKENS, "temperature": 0, **requests.STREAMED}
        with self._generating("handle_completions", request, stop) as generation:
            reported = False
            for choice in (choice for chunk in generation.chunks() for choice in chunk.get("choices", ())):
                for token in (choice.get("logprobs") or {}).get("content") or ():
                    reported = True
                    yield min(1.0, sum(_ending_probability(each, rest) for each in token["top_logprobs"]))
                if choice.get("finish_reason") == "stop" and not reported:
                    # The most probable token was the end itself, which is not reported.
                    yield 1.0

    def close(self) -> None:
        """Cancels the completions in progress and unloads the model."""
        self._closing.set()
        for generation in tuple(self._generations):
            generation.cancel(CLOSING_SECONDS)
        self._server = None

    def _completion(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop, **options: int
    ) -> Iterator[TokenChunk]:
        if stop():
            return
        request = {
            **requests.chat_request(self._roles.fitted(messages), sampling, self._sampling, self.context),
            **options,
        }
        with self._generating("handle_chat_completions", request, stop) as generation:
            try:
                for chunk in self._chunks(generation, sampling):
                    if stop():
                        return
                    yield chunk
            except RejectedByLibrary as error:
                raise requests.unprocessable(str(error), sampling) from error

    @contextmanager
    def _generating(self, route: str, request: Mapping[str, Any], stop: Stop) -> Iterator[LlamaGeneration]:
        if self._server is None:
            raise EngineFailed("the llama_cpp engine was closed")
        generation = LlamaGeneration(lambda: self._closing.is_set() or stop(), self._on_step)
        self._generations.add(generation)
        try:
            generation.start(getattr(self._server, route), json.dumps(request))
            yield generation
        finally:
            generation.cancel()
            self._generations.discard(generation)

    def _on_step(self) -> None:
        """All completions share a batch: a step of one is a sign of life of all, also of a prompt that waits in it."""
        for generation in tuple(self._generations):
            generation.stop()

    def _chunks(self, generation: LlamaGeneration, sampling: Sampling) -> Iterator[TokenChunk]:
        tokens: list[Token] = []
        reason: str | None = None
        usage: TokenUsage | None = None
        for chunk in generation.chunks():
            if "error" in chunk:
                raise requests.error_of(chunk["error"], sampling) from RejectedByLibrary(str(chunk["error"]))
            if progress := chunk.get("prompt_progress"):
                needed = progress["total"] + sampling.max_tokens
                if needed > self.context:
                    raise ContextOverflow(needed, self.context)
            for choice in chunk.get("choices", ()):
                reason = choice.get("finish_reason") or reason
                # The replacement character stands for a character whose other bytes never came.
                text = (choice["delta"].get("content") or "").replace("\ufffd", "")
                tokens += requests.tokens(choice, sampling)
                if text:
                    yield TokenChunk(text, tokens=tuple(tokens))
                    tokens = []
            usage = requests.usage(chunk["usage"]) if chunk.get("usage") else usage
        if reason is not None:
            yield TokenChunk("", reason, usage)
        elif not generation.stopped:
            raise EngineFailed("llama.cpp ended a completion without a finish reason")

    def _warm_up(self, system: str) -> None:
        """Computes the system prompt in every slot, so that no first turn waits for it."""
        messages = [PromptMessage("system", system), PromptMessage("user", "Hello")]
        try:
            for slot in range(self.slots):
                for _ in self._completion(messages, Sampling(max_tokens=1, temperature=0), never, id_slot=slot):
                    pass
        except ContextOverflow as error:
            raise ModelError(
                f"llm.system_prompt alone needs {error.needed} tokens and llama_cpp.context is {error.context}"
            ) from error


def _ending_probability(token: Mapping[str, Any], rest: str) -> float:
    """The probability of a token that ends a sentence or the message, else 0."""
    return math.exp(token["logprob"]) if ends(token["token"], rest) else 0.0
