"""MLC LLM as a chat model, in this process: a model compiled for this board's GPU.

The library is `mlc_llm.serve.AsyncMLCEngine`. It batches its requests on a thread of its own, and its radix prefix
cache (`EngineConfig.prefix_cache_mode`, the default) keeps what was computed, so that the next turn of a conversation
computes only its new tokens. It binds to the event loop of its first request, so it has one here, on a thread that
lives as long as the engine; every completion is a task there and a queue that the generator reads from.

Comments about the library refer to https://github.com/mlc-ai/mlc-llm at 79d603f0 and at de560d2, which
jetson-containers builds (packages/llm/mlc/config.py): python/mlc_llm/serve/engine.py, engine_base.py, config.py,
protocol/conversation_protocol.py, cpp/serve/threaded_engine.cc, config.cc, data.cc.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import queue
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chatapi.catalog.compiled import compiled
from chatapi.engines import (
    Capability,
    ContextOverflow,
    PromptMessage,
    Sampling,
    Stop,
    TokenChunk,
    TokenUsage,
    never,
    still_wanted,
)
from chatapi.engines.llm import json_schemas
from chatapi.engines.llm.chat_template import opened_reasoning
from chatapi.engines.llm.mlc.loading import configured, load, metadata_of
from chatapi.errors import ChatapiError, EngineFailed, ModelError
from chatapi.settings import Settings
from chatapi.text.sentence_splitter import ends

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

log = logging.getLogger(__name__)

SAMPLING: Mapping[str, float] = {"top_p": 0.9, "frequency_penalty": 0.3, "presence_penalty": 0.0}
"""Defaults that keep small models from loops; a model's options of the same names override them."""
TOP_TOKENS = 5
"""Tokens whose probability is requested: the most that MLC reports (COMPLETION_MAX_TOP_LOGPROBS,
openai_api_protocol.py)."""
POLL_SECONDS = 0.05
"""Seconds between polls of `stop` while the engine is silent."""
CLOSING_SECONDS = 5.0
"""Most seconds to wait until a cancelled request is aborted."""
COUNTERS_SECONDS = 1.0
"""Most seconds that the engine may take to report its counters, which are requested like a completion."""
REMEDY = "mlc.context raises it, up to what the model was compiled for"
"""How a longer prompt may fit."""
COUNTERS = {
    "prefill_seconds": "engine_prefill_time_sum",
    "decode_seconds": "engine_decode_time_sum",
    "prefill_tokens": "prefill_tokens_sum",
    "decode_tokens": "decode_tokens_sum",
}
END_MARK = "\x02here\x03"
"""Marks the end of a message that is left open; no template and no user's text contains it."""

Put = Callable[[Any], None]


class Mlc:
    """A chat model that `chatapi compile` made. ModelError when it cannot be loaded."""

    continues = True
    capabilities: frozenset[Capability] = frozenset(("top_p", "penalties", "logit_bias", "schema"))
    """Without logprobs: MLC reports probabilities only of tokens without spaces and non-ASCII punctuation, see
    `end_of_turn_probability`."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the mlc engine needs a model and was given none; `chatapi models` lists them")
        model = models[0]
        folder = compiled(settings.data, model.name).folder
        self.slots = settings.mlc.slots
        self._sampling = {**SAMPLING, **{key: model.options[key] for key in SAMPLING if key in model.options}}
        self._generations: set[_MlcGeneration] = set()
        self._closed = False
        config = configured(folder, metadata_of(folder, model.name), settings.mlc)
        self._engine: Any = load(folder, config, settings.mlc.device)
        self.context: int = self._engine.max_input_sequence_length
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mlc", daemon=True)
        self._thread.start()
        self._warm_up(settings.llm.system_prompt)

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        """The completion as it is generated. A last message of the assistant is continued."""
        if stop():
            return
        options = {
            **self._sampling,
            **_optional_parameters(sampling),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stop": list(sampling.stop_texts) or None,
        }
        continues = messages[-1].role == "assistant"
        prompt, _ = self._prompt(messages, opened=continues)
        # What the prompt holds of the answer already.
        opening = "" if continues or sampling.schema is not None else opened_reasoning(prompt)
        with self._generating(prompt, options) as generation:
            for chunk in _chunks(generation.items(stop)):
                if opening and chunk.text:
                    yield TokenChunk(opening)
                    opening = ""
                yield chunk

    def end_of_turn_probability(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        """Probability that a full stop comes next, among the five most probable tokens.

        Punctuation that is not ASCII is not seen: MLC omits it from the tokens it reports (TokenToLogProbJSON,
        data.cc).
        """
        if stop():
            return
        prompt, rest = self._prompt(messages, opened=True)
        # The reported probabilities are those after the temperature, so temperature 1 leaves them unchanged.
        options = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "logprobs": TOP_TOKENS}
        with self._generating(prompt, options) as generation:
            for response in generation.items(stop):
                for choice in response.choices:
                    if choice.logprobs is not None and choice.logprobs.top_logprobs:
                        top: Mapping[str, float] = choice.logprobs.top_logprobs[0]
                        yield min(1.0, math.fsum(math.exp(p) for token, p in top.items() if ends(token, rest)))
                        return

    def counts(self) -> Mapping[str, float]:
        """MLC's counters (`EngineMetrics::AsJSON`, metrics.cc); nothing where the engine does not report them in
        time."""
        if self._closed:
            return {}
        try:
            future = asyncio.run_coroutine_threadsafe(self._engine.metrics(), self._loop)
            metrics = future.result(COUNTERS_SECONDS)
            return {name: float(metrics[key]) for name, key in COUNTERS.items()}
        except Exception as error:
            # Counters are not worth a failed turn, whatever is wrong with them; the engine may also be closing.
            log.debug("MLC reports no counters: %r", error)
            return {}

    def close(self) -> None:
        """Cancels the completions in progress and unloads the model."""
        if self._closed:
            return
        self._closed = True
        for generation in tuple(self._generations):
            generation.cancel()
        # Before stopping the loop: until then the engine's threads may still call into it.
        self._engine.terminate()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSING_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()
        self._engine = None

    @contextmanager
    def _generating(self, prompt: str, options: Mapping[str, Any]) -> Iterator[_MlcGeneration]:
        generation = _MlcGeneration(self._loop, lambda put: self._write(prompt, options, put))
        self._generations.add(generation)
        try:
            yield generation
        finally:
            generation.cancel()
            self._generations.discard(generation)

    async def _write(self, prompt: str, options: Mapping[str, Any], put: Put) -> None:
        """Runs on the engine's loop, where its tokenizer may be used, and passes each response to `put`."""
        prefix = self._engine.conv_template.system_prefix_token_ids or []
        tokens = [*prefix, *self._engine.tokenizer.encode(prompt)]
        needed = len(tokens) + options["max_tokens"]
        if needed > self.context:
            raise ContextOverflow(needed, self.context, REMEDY)
        request = uuid.uuid4().hex
        stream = await self._engine.completions.create(
            prompt=tokens, stream=True, stream_options={"include_usage": True}, request_id=request, **options
        )
        try:
            async for response in stream:
                put(response)
        except asyncio.CancelledError:
            await self._engine.abort(request)
            raise
        finally:
            await stream.aclose()

    def _prompt(self, messages: Sequence[PromptMessage], *, opened: bool) -> tuple[str, str]:
        """The prompt in the model's own template, and what would follow a last message that is left open.

        `AsyncMLCEngine.chat` would start a new message after an assistant's, so the prompt is rendered here, as
        `process_chat_completion_request` in engine_base.py does.
        """
        if self._closed:
            raise EngineFailed("the mlc engine was closed")
        template = self._engine.conv_template.model_copy(deep=True)
        system = "\n\n".join(message.text for message in messages if message.role == "system")
        if system:
            template.system_message = system
        chat = [(message.role, message.text) for message in messages if message.role != "system"]
        if opened:
            role, text = chat[-1] if chat else ("user", "")
            template.messages = [*chat[:-1], (role, text + END_MARK)]
        else:
            template.messages = [*chat, ("assistant", None)]
        before, _, after = "".join(template.as_prompt()).partition(END_MARK)
        return before, after

    def _warm_up(self, system: str) -> None:
        """Computes the system prompt, with which every conversation starts, so that no first turn waits for it."""
        messages = [PromptMessage("system", system), PromptMessage("user", "Hello")]
        try:
            for _ in self.generate(messages, Sampling(max_tokens=1, temperature=0)):
                pass
        except ContextOverflow as error:
            self.close()
            raise ModelError(
                f"llm.system_prompt alone needs {error.needed} tokens and the model's context is {error.context} "
                "(mlc.context)"
            ) from error
        except ChatapiError:
            self.close()
            raise


class _MlcGeneration:
    """One request: a task on the engine's loop, and its output so far."""

    def __init__(self, loop: asyncio.AbstractEventLoop, write: Callable[[Put], Coroutine[Any, Any, None]]) -> None:
        # Never longer than the completion, which the context bounds: a slow reader keeps no slot from the next request.
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = threading.Event()
        self._task = asyncio.run_coroutine_threadsafe(self._run(write), loop)

    def items(self, stop: Stop) -> Iterator[Any]:
        """The responses, until the end or until `stop`. Raises what the task raised."""
        while True:
            try:
                item = self._items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not still_wanted(stop):
                    return
                continue
            if stop() or item is None:
                return
            if isinstance(item, (ChatapiError, ContextOverflow)):
                raise item
            if isinstance(item, Exception):
                raise EngineFailed("MLC failed; the log says why") from item
            yield item

    def cancel(self) -> None:
        """Aborts the request and waits until the engine knows."""
        if not self._over.is_set():
            # `AsyncMLCEngine.abort` removes the request from the engine and never ends its stream, so the task that
            # reads it has to be cancelled.
            self._task.cancel()
            self._over.wait(CLOSING_SECONDS)

    async def _run(self, write: Callable[[Put], Coroutine[Any, Any, None]]) -> None:
        try:
            await write(self._items.put)
        except Exception as error:
            self._items.put(error)
        finally:
            self._items.put(None)
            self._over.set()


def _chunks(responses: Iterator[Any]) -> Iterator[TokenChunk]:
    reason: str | None = None
    for response in responses:
        for choice in response.choices:
            reason = choice.finish_reason or reason
            # The replacement character stands for a character whose other bytes never came.
            text = choice.text.replace("\ufffd", "")
            if text:
                yield TokenChunk(text)
        if response.usage is not None:
            if reason not in ("stop", "length"):
                raise EngineFailed(f"MLC ended an answer by {reason or 'nothing'}")
            yield TokenChunk("", reason, _usage(response.usage))


def _optional_parameters(sampling: Sampling) -> dict[str, Any]:
    """The parameters that a request sets explicitly; `RequestResponseFormat` in openai_api_protocol.py takes the schema
    as text."""
    named = ("top_p", "frequency_penalty", "presence_penalty")
    parameters: dict[str, Any] = {
        name: getattr(sampling, name) for name in named if getattr(sampling, name) is not None
    }
    if sampling.logit_bias:
        parameters["logit_bias"] = dict(sampling.logit_bias)
    if sampling.schema is not None:
        json_schemas.check(sampling.schema)
        parameters["response_format"] = {"type": "json_object", "schema": json.dumps(sampling.schema)}
        # Keys, quotes and braces repeat in JSON.
        parameters = {"frequency_penalty": 0.0, **parameters}
    return parameters


def _usage(usage: Any) -> TokenUsage:
    """The token counts; `prefill_tokens` are those that the prefix cache did not have (metrics.h)."""
    computed = (usage.extra or {}).get("prefill_tokens", usage.prompt_tokens)
    cached = max(0, usage.prompt_tokens - computed)
    return TokenUsage(usage.prompt_tokens, usage.completion_tokens, cached)
