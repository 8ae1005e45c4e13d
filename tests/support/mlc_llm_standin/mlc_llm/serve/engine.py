"""`AsyncMLCEngine` with the signatures of python/mlc_llm/serve/engine.py and the manners of threaded_engine.cc."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
import time
import weakref
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlc_llm.protocol import openai_api_protocol as protocol
from mlc_llm.protocol.conversation_protocol import Conversation
from mlc_llm.protocol.error_protocol import BadRequestError

from .bigrams import Bigrams, Tokenizer, drawn
from .config import EngineConfig

STEP_SECONDS = 0.0005
SUMS = (
    "engine_prefill_time_sum", "engine_decode_time_sum", "engine_jump_forward_time_sum", "prompt_tokens_sum",
    "completion_tokens_sum", "prefill_tokens_sum", "decode_tokens_sum", "jump_forward_tokens_sum",
)  # fmt: skip


@dataclass
class _Request:
    """One of the batch."""

    id: str
    asked: protocol.CompletionRequest
    prompt: list[int]
    stops: list[str]
    rng: random.Random
    written: list[int] = field(default_factory=list)
    text: str = ""
    cached: int = 0
    begun: bool = False


class EngineMetrics:
    """As in python/mlc_llm/serve/engine_base.py."""

    def __init__(self, metrics: dict[str, Any]) -> None:
        self.metrics = metrics

    def __getitem__(self, key: str) -> Any:
        return self.metrics[key]


class AsyncCompletion:
    def __init__(self, engine: weakref.ReferenceType[AsyncMLCEngine]) -> None:
        self.engine = engine

    async def create(
        self,
        *,
        prompt: str | list[int],
        model: str | None = None,
        best_of: int = 1,
        echo: bool = False,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        logprobs: int | None = None,
        logit_bias: dict[int, float] | None = None,
        max_tokens: int | None = None,
        n: int = 1,
        seed: int | None = None,
        stop: str | list[str] | None = None,
        stream: bool = False,
        stream_options: dict[str, Any] | None = None,
        suffix: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        user: str | None = None,
        response_format: dict[str, Any] | None = None,
        request_id: str | None = None,
        extra_body: dict[str, Any] | None = None,
    ) -> Any:
        """Only streams are stood in for."""
        given = {name: value for name, value in locals().items() if name in protocol.CompletionRequest.model_fields}
        engine = self.engine()
        assert engine is not None and stream and request_id is not None
        return engine._streamed(protocol.CompletionRequest(**given), request_id)


class AsyncMLCEngine:
    def __init__(
        self,
        model: str,
        device: Any = "auto",
        *,
        model_lib: str | None = None,
        mode: str = "local",
        engine_config: EngineConfig | None = None,
        enable_tracing: bool = False,
    ) -> None:
        config = engine_config or EngineConfig()
        if config.mode not in (None, mode):
            raise ValueError(f'The argument "mode" of engine constructor is "{mode}"')
        if not Path(model_lib or "").is_file():
            raise FileNotFoundError(f"The `model_lib` you passed in is not a file: {model_lib}.\n")
        described = json.loads((Path(model) / "mlc-chat-config.json").read_text(encoding="utf-8"))
        self.conv_template = Conversation.model_validate(described["conv_template"])
        self.tokenizer = Tokenizer(model)
        self.completions = AsyncCompletion(weakref.ref(self))
        self.device, self.mode, self.engine_config = device, mode, config
        self.seen: list[protocol.CompletionRequest] = []
        self.aborted: list[str] = []
        self.widest = 0
        """Most requests that were stepped together."""
        self.paused = threading.Event()
        """While it is set nothing is stepped."""
        self._streams: dict[str, asyncio.Queue[Any]] = {}
        self._batch: dict[str, _Request] = {}
        self._sequences: list[list[int]] = []
        # Those of `EngineMetrics::AsJSON` (cpp/serve/metrics.cc) that are there from the start.
        self._sums = dict.fromkeys(SUMS, 0.0)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit, self._work, self._reloaded = threading.Event(), threading.Event(), threading.Event()
        self._terminated = False
        self._background_loop_thread = threading.Thread(target=self._background, args=(model_lib, described))
        self._background_loop_thread.start()
        self._reloaded.wait()
        self.max_input_sequence_length = min(config.max_single_sequence_length or 0, self._most)

    def __del__(self) -> None:
        self.terminate()

    def terminate(self) -> None:
        if getattr(self, "_terminated", True):
            return
        self._terminated = True
        self._exit.set()
        self._work.set()
        self._background_loop_thread.join()

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self._streams.pop(request_id, None)
        with self._lock:
            self._batch.pop(request_id, None)

    async def metrics(self) -> EngineMetrics:
        """The real one asks for an answer to a special request, which comes from the engine's own thread."""
        if self._terminated:
            raise ValueError("The AsyncThreadedEngine has terminated.")
        while self.paused.is_set():
            await asyncio.sleep(STEP_SECONDS)
        return EngineMetrics(dict(self._sums))

    async def _streamed(self, asked: protocol.CompletionRequest, name: str) -> AsyncGenerator[Any, Any]:
        if self._terminated:
            raise ValueError("The AsyncThreadedEngine has terminated.")
        self._loop = self._loop or asyncio.get_event_loop()
        prompt = asked.prompt if isinstance(asked.prompt, list) else self.tokenizer.encode(asked.prompt)
        if len(prompt) > self.max_input_sequence_length:
            raise BadRequestError(
                f"Request prompt has {len(prompt)} tokens in total, "
                f"larger than the model input length limit {self.max_input_sequence_length}."
            )
        self.seen.append(asked)
        stops = [asked.stop] if isinstance(asked.stop, str) else list(asked.stop or ())
        arrivals = self._streams[name] = asyncio.Queue()
        with self._lock:
            stops += self.conv_template.stop_str
            self._batch[name] = _Request(name, asked, prompt, stops, random.Random(asked.seed))
        self._work.set()
        try:
            while (response := await arrivals.get()) is not None:
                yield response
        except BaseException:
            await self.abort(name)
            raise

    def _background(self, library: str, described: dict[str, Any]) -> None:
        """What the engine's own thread does; an error in loading ends it, and nobody else is told."""
        head = Path(library).read_bytes()
        if head.endswith(b"large"):
            raise ValueError(
                "Traceback (most recent call last):\n  File threaded_engine.cc, line 285\n"
                "ValueError: Check failed: (output_res.IsOk()) is false: Insufficient GPU memory error: The available "
                "single GPU memory is 100.000 MB, which is less than the sum of model weight size (200.000 MB) and "
                'temporary buffer size (1.000 MB).\n1. You can set a larger "gpu_memory_utilization" value.'
            )
        if not head.startswith(b"\x7fELF"):
            raise RuntimeError(f"Failed to load dynamic shared library {library}: invalid ELF header")
        self._most: int = self.engine_config.max_total_sequence_length or 0
        self._most = min(self._most, int(described["context_window_size"]))
        self._model = Bigrams(self.tokenizer)
        self._reloaded.set()
        while not self._exit.is_set():
            self._work.wait()
            if not self.paused.is_set():
                self._step()
            time.sleep(STEP_SECONDS)

    def _step(self) -> None:
        """One more token of every request that there is room for."""
        with self._lock:
            batch = list(self._batch.values())[: self.engine_config.max_num_sequence]
            if not batch:
                self._work.clear()
                return
            self.widest = max(self.widest, len(batch))
            for request in batch:
                self._write(request)

    def _write(self, request: _Request) -> None:
        if not request.begun:
            request.begun = True
            known = max((_common(request.prompt, sequence) for sequence in self._sequences), default=0)
            request.cached = min(known, len(request.prompt) - 1)
            self._sums["prefill_tokens_sum"] += len(request.prompt) - request.cached
            self._sums["engine_prefill_time_sum"] += STEP_SECONDS
        else:
            self._sums["decode_tokens_sum"] += 1
            self._sums["engine_decode_time_sum"] += STEP_SECONDS
        asked = request.asked
        likely = self._model.next((request.prompt + request.written)[-1])
        token = drawn(likely, 1.0 if asked.temperature is None else asked.temperature, request.rng)
        request.written.append(token)
        ended = token == self._model.end
        text = "" if ended else self.tokenizer.decode([token])
        request.text += text
        stopped = next((stop for stop in request.stops if stop in request.text), None)
        reason = "stop" if ended or stopped else None
        if stopped:
            text = ""
        elif reason is None and asked.max_tokens is not None and len(request.written) >= asked.max_tokens:
            reason = "length"
        logprobs = self._likeliest(token, likely, asked.logprobs) if asked.logprobs is not None else None
        if text or reason:
            choice = protocol.CompletionResponseChoice(finish_reason=reason, text=text, logprobs=logprobs)
            self._send(request.id, protocol.CompletionResponse(id=request.id, choices=[choice]))
        if reason:
            self._finish(request)

    def _finish(self, request: _Request) -> None:
        del self._batch[request.id]
        kept = self.engine_config.max_num_sequence or 1
        self._sequences = [*self._sequences, request.prompt + request.written][-kept:]
        prompt, written = len(request.prompt), len(request.written)
        extra = {"prompt_tokens": prompt, "completion_tokens": written, "prefill_tokens": prompt - request.cached}
        usage = protocol.CompletionUsage(
            prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written, extra=extra
        )
        if request.asked.stream_options and request.asked.stream_options.include_usage:
            self._send(request.id, protocol.CompletionResponse(id=request.id, choices=[], usage=usage))
        self._send(request.id, None)

    def _likeliest(self, token: int, likely: list[tuple[int, float]], most: int) -> protocol.CompletionLogProbs:
        told = {_told(self.tokenizer.decode([each])): math.log(found) for each, found in likely[:most]}
        name = _told(self.tokenizer.decode([token]))
        return protocol.CompletionLogProbs(
            text_offset=None, token_logprobs=[told.get(name, -10.0)], tokens=[name], top_logprobs=[told]
        )

    def _send(self, name: str, response: Any) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._receive, name, response)

    def _receive(self, name: str, response: Any) -> None:
        if (stream := self._streams.get(name)) is not None:
            stream.put_nowait(response)
            if response is None:
                del self._streams[name]


def _told(token: str) -> str:
    return "".join(character for character in token if 33 <= ord(character) <= 126)


def _common(one: list[int], other: list[int]) -> int:
    same = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        same += 1
    return same
