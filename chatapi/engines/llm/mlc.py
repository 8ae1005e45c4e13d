"""MLC LLM as a chat model, in this process: a model compiled for this board's GPU.

The library is `mlc_llm.serve.AsyncMLCEngine`. It batches the requests it is given on a thread of its own, and its
radix prefix cache (`EngineConfig.prefix_cache_mode`, the default) keeps what was computed, so that the next turn of a
conversation computes only what is new. It takes the event loop of its first request for its own, so it has one here,
on a thread that lives as long as it does; every answer is a task there and a queue that the generator takes from.

What is said of it was read in https://github.com/mlc-ai/mlc-llm at 79d603f0 and at de560d2, which jetson-containers
builds (packages/llm/mlc/config.py): python/mlc_llm/serve/engine.py, engine_base.py, config.py,
protocol/conversation_protocol.py, cpp/serve/threaded_engine.cc, config.cc, data.cc.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import queue
import re
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_llm.serve import AsyncMLCEngine
from mlc_llm.serve.config import EngineConfig

from chatapi.catalog.compiled import CompiledModel, Target, compiled, find, fitting, verify
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
from chatapi.errors import ChatapiError, EngineFailed, ModelError
from chatapi.settings import MlcSettings as Table
from chatapi.settings import Settings
from chatapi.system import jetson
from chatapi.text.sentence_splitter import ends

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

log = logging.getLogger(__name__)

SAMPLING: Mapping[str, float] = {"top_p": 0.9, "frequency_penalty": 0.3, "presence_penalty": 0.0}
"""What keeps small models from loops; a model's options of the same names win."""
LIKELIEST = 5
"""Tokens whose probability is asked for: the most it tells (COMPLETION_MAX_TOP_LOGPROBS, openai_api_protocol.py)."""
ASK_SECONDS = 0.05
"""How often `stop` is asked while the engine is silent."""
CLOSING_SECONDS = 5.0
"""How long an answer that is left may take to be told so."""
COUNTING_SECONDS = 1.0
"""How long the engine may take to tell its numbers, for which it is asked like for an answer."""
COUNTED = {
    "prefill_seconds": "engine_prefill_time_sum",
    "decode_seconds": "engine_decode_time_sum",
    "prefill_tokens": "prefill_tokens_sum",
    "decode_tokens": "decode_tokens_sum",
}
HERE = "\x02here\x03"
"""Marks the end of a message that is left open; no template and nobody's speech has it."""

Put = Callable[[Any], None]


class Mlc:
    """Answers with a model that `chatapi compile` made. ModelError when it cannot be loaded."""

    continues = True
    capabilities: frozenset[Capability] = frozenset(("top_p", "penalties", "logit_bias", "schema"))
    """It tells probabilities only of tokens without spaces and marks, see `whole`, so logprobs are not among them."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the mlc engine needs a model and was given none; `chatapi models` lists them")
        model = models[0]
        folder = compiled(settings.data, model.name).folder
        self.slots = settings.mlc.slots
        self._sampling = {**SAMPLING, **{key: model.options[key] for key in SAMPLING if key in model.options}}
        self._answers: set[_MlcGeneration] = set()
        self._closed = False
        config = configured(folder, _checked(folder, model.name), settings.mlc)
        self._engine: Any = _load(folder, config, settings.mlc.device)
        self.context: int = self._engine.max_input_sequence_length
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mlc", daemon=True)
        self._thread.start()
        self._warm(settings.llm.system)

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        """The answer as it is written. A last message of the assistant's is gone on with."""
        if stop():
            return
        options = {
            **self._sampling,
            **_more(sampling),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stop": list(sampling.stop_texts) or None,
        }
        prompt, _ = self._prompt(messages, opened=messages[-1].role == "assistant")
        with self._asked(prompt, options) as answer:
            yield from _pieces(answer.items(stop))

    def end_of_turn_probability(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        """As the role says: how probable it is that a full stop comes next, among the five likeliest tokens.

        Marks that are not ASCII are not seen: MLC leaves them out of the tokens it tells (TokenToLogProbJSON, data.cc).
        """
        if stop():
            return
        prompt, rest = self._prompt(messages, opened=True)
        # The probabilities it tells are those after the temperature, so 1 is what leaves them as they are.
        options = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "logprobs": LIKELIEST}
        with self._asked(prompt, options) as answer:
            for response in answer.items(stop):
                for choice in response.choices:
                    if choice.logprobs is not None and choice.logprobs.top_logprobs:
                        likely: Mapping[str, float] = choice.logprobs.top_logprobs[0]
                        yield min(1.0, math.fsum(math.exp(p) for token, p in likely.items() if ends(token, rest)))
                        return

    def counts(self) -> Mapping[str, float]:
        """As the role says (`EngineMetrics::AsJSON`, metrics.cc); nothing while the engine does not tell in time."""
        if self._closed:
            return {}
        try:
            asked = asyncio.run_coroutine_threadsafe(self._engine.metrics(), self._loop)
            told = asked.result(COUNTING_SECONDS)
            return {name: float(told[key]) for name, key in COUNTED.items()}
        except Exception as error:
            # Numbers are not worth an answer, whatever is wrong with them; the engine may be closing, too.
            log.debug("MLC tells no numbers: %r", error)
            return {}

    def close(self) -> None:
        """End the answers in progress and free the model."""
        if self._closed:
            return
        self._closed = True
        for answer in tuple(self._answers):
            answer.leave()
        # Before the loop: until then its threads may still call into it.
        self._engine.terminate()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSING_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()
        self._engine = None

    @contextmanager
    def _asked(self, prompt: str, options: Mapping[str, Any]) -> Iterator[_MlcGeneration]:
        answer = _MlcGeneration(self._loop, lambda put: self._write(prompt, options, put))
        self._answers.add(answer)
        try:
            yield answer
        finally:
            answer.leave()
            self._answers.discard(answer)

    async def _write(self, prompt: str, options: Mapping[str, Any], put: Put) -> None:
        """On the engine's loop, where its tokenizer may be used: what it answers goes to `put`, as it comes."""
        prefix = self._engine.conv_template.system_prefix_token_ids or []
        tokens = [*prefix, *self._engine.tokenizer.encode(prompt)]
        needed = len(tokens) + options["max_tokens"]
        if needed > self.context:
            raise ContextOverflow(needed, self.context)
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

        `AsyncMLCEngine.chat` would begin a new message after an assistant's, so it is rendered here, as
        `process_chat_completion_request` in engine_base.py does.
        """
        if self._closed:
            raise EngineFailed("the mlc engine was closed")
        template = self._engine.conv_template.model_copy(deep=True)
        system = "\n\n".join(message.text for message in messages if message.role == "system")
        if system:
            template.system_message = system
        told = [(message.role, message.text) for message in messages if message.role != "system"]
        if opened:
            role, text = told[-1] if told else ("user", "")
            template.messages = [*told[:-1], (role, text + HERE)]
        else:
            template.messages = [*told, ("assistant", None)]
        before, _, after = "".join(template.as_prompt()).partition(HERE)
        return before, after

    def _warm(self, system: str) -> None:
        """Compute the system prompt, so that no first answer waits for it; every conversation's begins with it."""
        messages = [PromptMessage("system", system), PromptMessage("user", "Hello")]
        try:
            for _ in self.generate(messages, Sampling(max_tokens=1, temperature=0)):
                pass
        except ContextOverflow as error:
            self.close()
            raise ModelError(
                f"llm.system alone needs {error.needed} tokens and {error.context} fit the model (mlc.context)"
            ) from error
        except ChatapiError:
            self.close()
            raise


class _MlcGeneration:
    """One request: a task of the engine's loop, and what it wrote so far."""

    def __init__(self, loop: asyncio.AbstractEventLoop, write: Callable[[Put], Coroutine[Any, Any, None]]) -> None:
        # Never longer than the answer, which the context bounds: a slow taker keeps no slot from the next answer.
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = threading.Event()
        self._task = asyncio.run_coroutine_threadsafe(self._run(write), loop)

    def items(self, stop: Stop) -> Iterator[Any]:
        """What comes, until the end or until `stop`. Raises what the task raised."""
        while True:
            try:
                item = self._items.get(timeout=ASK_SECONDS)
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

    def leave(self) -> None:
        """Nobody wants the rest: abort it, and wait until the engine was told."""
        if not self._over.is_set():
            # `AsyncMLCEngine.abort` takes the request from the engine and never ends its stream, so whoever reads that
            # has to be cancelled.
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


def _pieces(responses: Iterator[Any]) -> Iterator[TokenChunk]:
    reason: str | None = None
    for response in responses:
        for choice in response.choices:
            reason = choice.finish_reason or reason
            # What is left of a character whose other bytes never came.
            text = choice.text.replace("\ufffd", "")
            if text:
                yield TokenChunk(text)
        if response.usage is not None:
            if reason not in ("stop", "length"):
                raise EngineFailed(f"MLC ended an answer by {reason or 'nothing'}")
            yield TokenChunk("", reason, _usage(response.usage))


def _more(sampling: Sampling) -> dict[str, Any]:
    """What is asked beyond the plainest; `RequestResponseFormat` in openai_api_protocol.py takes the schema as text."""
    named = ("top_p", "frequency_penalty", "presence_penalty")
    more: dict[str, Any] = {name: getattr(sampling, name) for name in named if getattr(sampling, name) is not None}
    if sampling.logit_bias:
        more["logit_bias"] = dict(sampling.logit_bias)
    if sampling.schema is not None:
        json_schemas.check(sampling.schema)
        more["response_format"] = {"type": "json_object", "schema": json.dumps(sampling.schema)}
        # Keys, quotes and braces come again and again in JSON.
        more = {"frequency_penalty": 0.0, **more}
    return more


def _usage(stated: Any) -> TokenUsage:
    """`prefill_tokens` are those that the prefix cache did not have (metrics.h)."""
    computed = (stated.extra or {}).get("prefill_tokens", stated.prompt_tokens)
    cached = max(0, stated.prompt_tokens - computed)
    return TokenUsage(stated.prompt_tokens, stated.completion_tokens, cached)


def _checked(folder: Path, name: str) -> Mapping[str, Any]:
    """What the model's library says of itself. ModelError when it is not all there, or not for this machine."""
    for file in ("made.json", "lib.so", "weights/mlc-chat-config.json"):
        if not (folder / file).is_file():
            raise ModelError(
                f"the model {name} is not compiled for this machine: {folder / file} is missing; "
                f"make it with: chatapi compile {name}",
                code="model_missing",
            )
    # Whether the memory is enough depends on the settings too: `configured` sees to that.
    verdict = verify(folder, Target(jetson.find(), available=0, versions=find().versions), deep=True)
    verdict.require()
    return verdict.lib.metadata.raw if verdict.lib.metadata else {}


def configured(folder: Path, metadata: Mapping[str, Any], table: Table, root: Path = Path("/")) -> EngineConfig:
    """What the engine is told of its batch and its memory; `root` is where the board's files stand."""
    wanted = tokens = table.slots * table.context
    if jetson.find(root) is not None:
        tokens = min(wanted, fitting(metadata, CompiledModel(folder).size(), jetson.meminfo(root), table.context))
    if tokens < wanted:
        log.warning("the memory holds %d tokens of the %d that %d slots may need", tokens, wanted, table.slots)
    return EngineConfig(
        max_num_sequence=min(table.slots, metadata.get("max_batch_size", table.slots)),
        max_single_sequence_length=table.context,
        # Without it MLC takes what fits the GPU's whole memory, which on a Jetson is everybody's.
        max_total_sequence_length=tokens,
        verbose=False,
    )


def _load(folder: Path, config: EngineConfig, device: str) -> Any:
    """The engine. ModelError with MLC's own reason when it cannot be had.

    What fails in loading fails on the engine's own thread, and its constructor then waits for ever (`Reload` and
    `EngineReloadImpl`, threaded_engine.cc): it is called on a thread that may be left behind, and the other's death is
    listened for.
    """
    engine = AsyncMLCEngine.__new__(AsyncMLCEngine)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    mode = "interactive" if config.max_num_sequence == 1 else "local"

    def build() -> None:
        try:
            engine.__init__(
                str(folder / "weights"), device, model_lib=str(folder / "lib.so"), mode=mode, engine_config=config
            )
        except Exception as error:
            ended.put(error)
        else:
            ended.put(None)

    with _deaths(ended.put):
        threading.Thread(target=build, name="mlc-load", daemon=True).start()
        error = ended.get()
    if error is None:
        return engine
    engine.terminate()
    raise ModelError(f"MLC cannot load {folder}: {_reason(error)}") from error


@contextmanager
def _deaths(tell: Callable[[BaseException], None]) -> Iterator[None]:
    """Meanwhile, what ends a thread that was begun meanwhile is told."""
    before, former = set(threading.enumerate()), threading.excepthook

    def hook(death: threading.ExceptHookArgs, /) -> None:
        if death.thread in before or death.exc_value is None:
            former(death)
        else:
            tell(death.exc_value)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = former


def _reason(error: BaseException) -> str:
    """TVM's errors carry a C++ stack; what is wrong stands after `Check failed`, or in the last line behind it."""
    text = str(error).strip() or type(error).__name__
    if found := re.search(r"Check failed:.*?: +(\S.*)", text):
        return found[1].strip()
    return text.splitlines()[-1 if text.startswith("Traceback") else 0].strip()
