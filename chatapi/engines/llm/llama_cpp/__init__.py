"""llama.cpp as a chat model, in this process, through xllamacpp.

The library is llama.cpp's own server: several slots that share one batch and one KV cache, each with the prompt it
computed last, so that the next turn of a conversation computes only its new tokens. It calls back for every token
instead of yielding, so each completion has a thread that receives the chunks and a queue that the generator reads from.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

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
from chatapi.engines.llm.context_size import choose as choose_context
from chatapi.engines.llm.llama_cpp import request as requests
from chatapi.engines.llm.llama_cpp import server
from chatapi.engines.llm.llama_cpp.generation import LlamaGeneration, RejectedByLibrary
from chatapi.engines.llm.llama_cpp.sharing import Full, Paused, Share, SharedContext
from chatapi.engines.llm.llama_cpp.slots import Slots, prompt_text
from chatapi.engines.llm.role_rules import RoleRules
from chatapi.errors import ChatapiError, EngineFailed, ModelError
from chatapi.events import Token
from chatapi.settings import Settings
from chatapi.system import memory
from chatapi.text.sentence_splitter import ends

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

Item = TypeVar("Item")

log = logging.getLogger(__name__)

TOP_TOKENS = 40
"""Tokens whose probability is requested, to see whether one that ends a sentence is among them."""
SECOND_SLOT_SECONDS = 2.0
"""Seconds after which a second slot computes the system prompt too: a box that starts has other work before."""
SIGN_SECONDS = 0.1
"""Shortest time between signs of life of all completions, in seconds."""
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
        self._sampling = {
            **requests.SAMPLING,
            **{key: models[0].options[key] for key in requests.SAMPLING if key in models[0].options},
        }
        self._closing = threading.Event()
        self._second_slot: threading.Timer | None = None
        self._generations: set[LlamaGeneration] = set()
        self._signed = 0.0
        """When the completions last showed a sign of life, in seconds of `time.monotonic`."""
        path = server.gguf(models[0])
        server.check(path)
        size = choose_context(table, path, memory.available() - path.stat().st_size)
        self.context = size.tokens
        self._shared, self._slots = SharedContext(size), Slots(table.slots)
        self._spin_control = server.spin_control()
        self._template = chat_template(path)
        self._roles = RoleRules.of(self._template)
        self._opening = self._template.opened_reasoning() if self._template else ""
        with ExitStack() as failed:
            failed.callback(self.close)
            with self._computing():
                self._server: Any = server.load(path, settings, size)
            log.info("context chosen", extra={"model": models[0].name, "tokens": size.tokens, "reason": str(size)})
            self._warm_up(settings.llm.system_prompt)
            failed.pop_all()

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
        with suppress(ContextOverflow, Full):
            yield from self._shared_run(
                messages, 1, stop, lambda share: self._ending_probabilities(request, rest, stop, share)
            )

    def _ending_probabilities(self, request: Mapping[str, Any], rest: str, stop: Stop, share: Share) -> Iterator[float]:
        with self._generating("handle_completions", request, stop, share) as generation:
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
        if self._second_slot is not None:
            self._second_slot.cancel()
        for generation in tuple(self._generations):
            generation.cancel(CLOSING_SECONDS)
        self._server = None
        if self._spin_control is not None:
            self._spin_control.close()

    def _computing(self) -> AbstractContextManager[None]:
        """Inside the context the library's threads compute."""
        return nullcontext() if self._spin_control is None else self._spin_control.working()

    def _completion(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop, unused: bool = False
    ) -> Iterator[TokenChunk]:
        if stop():
            return
        messages, opening = self._continued(messages, sampling)
        request = requests.chat_request(self._roles.fitted(messages), sampling, self._sampling, self.context)
        yield from self._shared_run(
            messages,
            sampling.max_tokens,
            stop,
            lambda share: self._once(request, sampling, stop, share, opening),
            unused,
        )

    def _shared_run(
        self,
        messages: Sequence[PromptMessage],
        max_tokens: int,
        stop: Stop,
        run: Callable[[Share], Iterator[Item]],
        unused: bool = False,
    ) -> Iterator[Item]:
        """What `run` yields, once there is room; again from its start when another's prompt came first, before which it
        has yielded nothing. `unused`: rather in a slot that has no prompt yet."""
        share = self._shared.share(requests.estimated_tokens(messages), max_tokens)
        text = prompt_text(messages)
        try:
            while share.wait(stop):
                with suppress(Paused), self._slots.taken(text, unused) as share.slot:
                    yield from run(share)
                    return
        finally:
            share.end()

    def _once(
        self, request: Mapping[str, Any], sampling: Sampling, stop: Stop, share: Share, opening: str
    ) -> Iterator[TokenChunk]:
        """The completion, after what the prompt holds of it already; or Paused before its first chunk."""
        with self._generating("handle_chat_completions", request, stop, share) as generation:
            try:
                for chunk in self._chunks(generation, sampling):
                    if stop():
                        return
                    if opening and chunk.text:
                        yield TokenChunk(opening)
                        opening = ""
                    # What a completion computed before it was paused was not cached for it.
                    yield (
                        replace(chunk, usage=replace(chunk.usage, cached_tokens=share.cached)) if chunk.usage else chunk
                    )
            except RejectedByLibrary as error:
                raise requests.unprocessable(str(error), sampling) from error
            except Full:
                yield TokenChunk("", "length", TokenUsage(share.prompt, share.written, share.cached))

    def _continued(self, messages: Sequence[PromptMessage], sampling: Sampling) -> tuple[Sequence[PromptMessage], str]:
        """The messages, and what of the answer the prompt holds already: the marker that opens its reasoning.

        It is part of the answer from then on, and a continued answer does not get it twice.
        """
        last = messages[-1]
        if last.role == "assistant":
            return [*messages[:-1], replace(last, text=last.text.removeprefix(self._opening))], ""
        # An answer that follows a schema has no reasoning.
        return messages, self._opening if sampling.schema is None else ""

    @contextmanager
    def _generating(
        self, route: str, request: Mapping[str, Any], stop: Stop, share: Share
    ) -> Iterator[LlamaGeneration]:
        if self._server is None:
            raise EngineFailed("the llama_cpp engine was closed")
        generation = LlamaGeneration(lambda: self._closing.is_set() or stop(), self._on_step, share)
        self._generations.add(generation)
        try:
            with self._computing():
                generation.start(getattr(self._server, route), json.dumps({**request, "id_slot": share.slot}))
                yield generation
        finally:
            generation.cancel()
            self._generations.discard(generation)

    def _on_step(self) -> int:
        """All completions share a batch: a step of one is a sign of life of all, also of a prompt that waits in it.

        Returns the number of completions."""
        generations, now = tuple(self._generations), time.monotonic()
        if now - self._signed >= SIGN_SECONDS:
            self._signed = now
            for generation in generations:
                generation.stop()
        return len(generations)

    def _chunks(self, generation: LlamaGeneration, sampling: Sampling) -> Iterator[TokenChunk]:
        tokens: list[Token] = []
        reason: str | None = None
        usage: TokenUsage | None = None
        for chunk in generation.chunks():
            if "error" in chunk:
                raise requests.error_of(chunk["error"], sampling, self._shared.remedy) from RejectedByLibrary(
                    str(chunk["error"])
                )
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
        """Computes the system prompt, so that no first turn waits for it; soon in a second slot, for one beside it."""
        messages = [PromptMessage("system", system), PromptMessage("user", "Hello")]
        try:
            self._warm_slot(messages)
        except ContextOverflow as error:
            raise ModelError(
                f"llm.system_prompt alone needs {error.needed} tokens and llama_cpp.context is {error.context}"
            ) from error
        if self.slots > 1:
            self._second_slot = threading.Timer(SECOND_SLOT_SECONDS, self._warm_second_slot, (messages,))
            self._second_slot.daemon = True
            self._second_slot.start()

    def _warm_second_slot(self, messages: Sequence[PromptMessage]) -> None:
        # A call that comes now may have the warm slot.
        with suppress(ChatapiError):
            self._warm_slot(messages, unused=True)

    def _warm_slot(self, messages: Sequence[PromptMessage], unused: bool = False) -> None:
        for _ in self._completion(messages, Sampling(max_tokens=1, temperature=0), never, unused):
            """The slot keeps the prompt."""


def _ending_probability(token: Mapping[str, Any], rest: str) -> float:
    """The probability of a token that ends a sentence or the message, else 0."""
    return math.exp(token["logprob"]) if ends(token["token"], rest) else 0.0
