"""llama.cpp as a chat model, in this process, through xllamacpp.

The library is llama.cpp's own server: several slots that share one batch, each with the prompt it worked on last, so
that the next turn of a conversation computes only what is new. It calls back for every token instead of yielding, so
each answer has a thread that receives them and a queue that the generator takes them from.
"""

from __future__ import annotations

import json
import math
import os
import queue
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
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
from chatapi.engines.llm import json_schemas
from chatapi.engines.llm.chat_template import chat_template
from chatapi.errors import EngineFailed, ModelError, Unprocessable
from chatapi.events import Token
from chatapi.settings import Settings
from chatapi.system import openmp
from chatapi.text.sentence_splitter import ends

with openmp.sleeping():
    import xllamacpp

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

STEP = 128
"""Prompt tokens computed at once: the longest that stopping has to wait for, about 0.4 s on two laptop cores."""
SAMPLING: Mapping[str, float] = {
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "repeat_penalty": 1.1,
    "repeat_last_n": 32,
    "dry_multiplier": 0.8,
    "dry_allowed_length": 3,
}
"""What keeps the smallest models from lists and loops; a model's options of the same names win."""
BREAKERS = ("\n",)
"""What a repetition does not reach across. For each of them llama.cpp reads its whole vocabulary before every answer:
with its own four the first token comes 30 ms later than without, with one 8 ms."""
CACHE_MIB = 32
"""Memory for prompts of conversations that lost their slot to another; without it two that take turns are computed
anew every time. The library's own default is 8192."""
KV_CACHE = {"q8_0": xllamacpp.ggml_type.GGML_TYPE_Q8_0, "f16": xllamacpp.ggml_type.GGML_TYPE_F16}
STREAMED: Mapping[str, bool] = {"stream": True, "return_progress": True}
"""Makes it call back between the steps of a long prompt, where alone it can be stopped and shows that it works."""
LIKELIEST = 40
"""Tokens whose probability is asked for, to see whether one that ends a sentence is among them."""
CLOSING_SECONDS = 10.0
"""How long `close` waits for answers in progress to notice."""
SOCKET = "llama.sock"
SOCKET_BYTES = 100
"""Longest name of a socket that every system takes."""

Chunk = dict[str, Any]
"""One message of the library: a piece of OpenAI's `chat.completion.chunk`, or an `error`."""


class LlamaCpp(NoEngineCounts):
    """Answers with a GGUF model. ModelError when it cannot be loaded."""

    continues = True
    capabilities: frozenset[Capability] = frozenset(("top_p", "penalties", "logit_bias", "logprobs", "schema"))
    """Its own handling of tools depends on the model's template, and passes over a `tool_choice` where it finds none
    there: `chatapi.services.turns.tool_call_parser` does without."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the llama_cpp engine needs a model and was given none; `chatapi models` lists them")
        table = settings.llama_cpp
        self.slots = table.slots
        self.context = table.context
        self._sampling = {**SAMPLING, **{key: models[0].options[key] for key in SAMPLING if key in models[0].options}}
        self._closing = threading.Event()
        self._answers: set[_LlamaGeneration] = set()
        path = _gguf(models[0])
        self._server: Any = _load(path, settings)
        self._template = chat_template(path)
        self._warm(settings.llm.system)

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        """The answer as it is written. `stop` is asked on a thread of its own too, between steps of the prompt."""
        return self._written(messages, sampling, stop)

    def end_of_turn_probability(self, messages: Sequence[PromptMessage], stop: Stop = never) -> Iterator[float]:
        """As the role says: how probable it is that a full stop comes next. The prompt read for it is kept."""
        opened = self._template.opened(_told(messages)) if self._template else None
        if opened is None or stop():
            return
        prompt, rest = opened
        request = {"prompt": prompt, "n_predict": 1, "n_probs": LIKELIEST, "temperature": 0, **STREAMED}
        with self._asked("handle_completions", request, stop) as answer:
            told = False
            for choice in (choice for chunk in answer.chunks() for choice in chunk.get("choices", ())):
                for token in (choice.get("logprobs") or {}).get("content") or ():
                    told = True
                    yield min(1.0, sum(_ends(each, rest) for each in token["top_logprobs"]))
                if choice.get("finish_reason") == "stop" and not told:
                    # The likeliest was the end itself, which is no token of the answer.
                    yield 1.0

    def close(self) -> None:
        """End the answers in progress and free the model."""
        self._closing.set()
        for answer in tuple(self._answers):
            answer.leave(CLOSING_SECONDS)
        self._server = None

    def _written(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop, **options: int
    ) -> Iterator[TokenChunk]:
        if stop():
            return
        request = {**self._request(messages, sampling), **options}
        with self._asked("handle_chat_completions", request, stop) as answer:
            try:
                for piece in self._pieces(answer, sampling):
                    if stop():
                        return
                    yield piece
            except _RejectedByLibrary as error:
                raise _unusable(str(error), sampling) from error

    @contextmanager
    def _asked(self, route: str, request: Mapping[str, Any], stop: Stop) -> Iterator[_LlamaGeneration]:
        if self._server is None:
            raise EngineFailed("the llama_cpp engine was closed")
        answer = _LlamaGeneration(lambda: self._closing.is_set() or stop(), self._stepped)
        self._answers.add(answer)
        try:
            answer.start(getattr(self._server, route), json.dumps(request))
            yield answer
        finally:
            answer.leave()
            self._answers.discard(answer)

    def _stepped(self) -> None:
        """All share a batch: a step of one is one of all, also of a prompt that waits for a place in it."""
        for answer in tuple(self._answers):
            answer.stop()

    def _request(self, messages: Sequence[PromptMessage], sampling: Sampling) -> dict[str, Any]:
        request: dict[str, Any] = {
            "messages": _told(messages),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stop": list(sampling.stop_texts),
            **STREAMED,
            "stream_options": {"include_usage": True},
            "dry_sequence_breakers": BREAKERS,
            **self._sampling,
        }
        if sampling.seed is not None:
            request["seed"] = sampling.seed
        return {**request, **_more(sampling, self.context)}

    def _pieces(self, answer: _LlamaGeneration, sampling: Sampling) -> Iterator[TokenChunk]:
        tokens: list[Token] = []
        reason: str | None = None
        usage: TokenUsage | None = None
        for chunk in answer.chunks():
            if "error" in chunk:
                raise _refusal(chunk["error"], sampling) from _RejectedByLibrary(str(chunk["error"]))
            if progress := chunk.get("prompt_progress"):
                needed = progress["total"] + sampling.max_tokens
                if needed > self.context:
                    raise ContextOverflow(needed, self.context)
            for choice in chunk.get("choices", ()):
                reason = choice.get("finish_reason") or reason
                # What is left of a character whose other bytes never came.
                text = (choice["delta"].get("content") or "").replace("\ufffd", "")
                tokens += _tokens(choice, sampling)
                if text:
                    yield TokenChunk(text, tokens=tuple(tokens))
                    tokens = []
            usage = _usage(chunk["usage"]) if chunk.get("usage") else usage
        if reason is not None:
            yield TokenChunk("", reason, usage)
        elif not answer.stopped:
            raise EngineFailed("llama.cpp ended an answer without saying why")

    def _warm(self, system: str) -> None:
        """Compute the system prompt in every slot, so that no first answer waits for it."""
        messages = [PromptMessage("system", system), PromptMessage("user", "Hello")]
        try:
            for slot in range(self.slots):
                for _ in self._written(messages, Sampling(max_tokens=1, temperature=0), never, id_slot=slot):
                    pass
        except ContextOverflow as error:
            raise ModelError(
                f"llm.system alone needs {error.needed} tokens and llama_cpp.context is {error.context}"
            ) from error


class _RejectedByLibrary(Exception):
    """What the library does not take, in its words."""


class _LlamaGeneration:
    """One answer being written, on a thread of its own."""

    def __init__(self, stop: Stop, stepped: Callable[[], None]) -> None:
        self.stop = stop
        self._stepped = stepped
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        # Never longer than the answer, which the context bounds: a slow taker keeps no slot from the next answer.
        self._chunks: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self.stopped = False

    def start(self, route: Callable[..., Any], request: str) -> None:
        self._thread = threading.Thread(target=self._write, args=(route, request), name="llama_cpp", daemon=True)
        self._thread.start()

    def chunks(self) -> Iterator[Chunk]:
        while (item := self._chunks.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield json.loads(item)

    def leave(self, timeout: float | None = None) -> None:
        """Nobody wants the rest: end it, and wait until its slot is free."""
        self._left.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _write(self, route: Callable[..., Any], request: str) -> None:
        try:
            route(request, self._take)
        except ValueError as error:
            self._chunks.put(_RejectedByLibrary(str(error)))
        except RuntimeError as error:
            failure = EngineFailed("llama.cpp failed; the log says why")
            failure.__cause__ = error
            self._chunks.put(failure)
        finally:
            self._chunks.put(None)

    def _take(self, chunk: str) -> bool:
        """Called by the library after every step; True ends the answer."""
        try:
            self.stopped = self._left.is_set() or self.stop()
            if not self.stopped:
                self._chunks.put(chunk)
                self._stepped()
        except BaseException as error:  # the library swallows what a callback raises
            self._chunks.put(error)
            self.stopped = True
        return self.stopped


def _told(messages: Sequence[PromptMessage]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def _ends(likely: Mapping[str, Any], rest: str) -> float:
    """The probability of a token if it ends a sentence or the message."""
    return math.exp(likely["logprob"]) if ends(likely["token"], rest) else 0.0


def _gguf(model: InstalledModel) -> Path:
    """The model's file; of one that is split into several, the first."""
    found: list[Path] = sorted(path for path in model.files.values() if path.suffix == ".gguf")
    if not found:
        names = ", ".join(path.name for path in model.files.values())
        raise ModelError(f"model {model.name} has no .gguf file among: {names or 'no files at all'}")
    return found[0]


def _load(path: Path, settings: Settings) -> Any:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file: it starts {magic.hex(' ')}")
    # The library serves HTTP as well. On a socket in a private folder that is gone once it listens nobody finds it, and
    # where the folder's name is too long for a socket, its loopback port wants a key that nobody has.
    with tempfile.TemporaryDirectory(prefix="chatapi-") as folder:
        try:
            return xllamacpp.Server(_params(path, settings, Path(folder)))
        except RuntimeError as error:
            raise ModelError(
                f"llama.cpp cannot load {path}: it is damaged, of a kind this version does not know, or does not fit "
                f"the memory with a context of {settings.llama_cpp.context} in {settings.llama_cpp.slots} slots"
            ) from error


def _params(path: Path, settings: Settings, folder: Path) -> Any:
    table = settings.llama_cpp
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    # Read, not mapped: a file that is cut while it is mapped ends the process (SIGBUS).
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.n_ctx = table.context * table.slots
    params.n_parallel = table.slots
    params.n_gpu_layers = table.gpu_layers
    params.n_batch = params.n_ubatch = STEP
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = threads(table.threads)
    params.cache_type_k = params.cache_type_v = KV_CACHE[table.kv_cache]
    params.cache_ram_mib = CACHE_MIB
    params.enable_reasoning = 0
    params.verbosity = -1
    params.api_keys = [secrets.token_hex(32)]
    if len(os.fsencode(folder / SOCKET)) <= SOCKET_BYTES:
        params.hostnames = [str(folder / SOCKET)]
    params.ui = params.endpoint_slots = False
    params.cors_origins = ""
    params.n_threads_http = 1
    return params


def threads(wanted: int) -> tuple[int, int]:
    """Threads for writing and for reading a prompt.

    The threads of a step wait for each other, so one that another engine keeps from its core holds up all. Half of the
    cores write nearly as fast as all: writing is bound by memory.
    """
    if wanted:
        return wanted, wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // 2)), min(8, cores)


def _more(sampling: Sampling, context: int) -> dict[str, Any]:
    """What is asked beyond the plainest; it wins over what keeps small models from loops."""
    more: dict[str, Any] = {}
    if sampling.top_p is not None:
        more |= {"top_p": sampling.top_p, "top_k": 0, "min_p": 0.0}
    if (sampling.frequency_penalty, sampling.presence_penalty) != (None, None):
        more |= {
            "frequency_penalty": sampling.frequency_penalty or 0.0,
            "presence_penalty": sampling.presence_penalty or 0.0,
            "repeat_penalty": 1.0,
            # The whole text, as OpenAI counts.
            "repeat_last_n": context,
        }
    if sampling.logit_bias:
        more["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        # None of the likeliest would mean no tokens at all.
        more |= {"logprobs": True, "top_logprobs": max(1, sampling.logprobs)}
    if sampling.schema is not None:
        json_schemas.check(sampling.schema)
        form = {"name": "answer", "schema": sampling.schema}
        # Keys, quotes and braces come again and again in JSON.
        more |= {"response_format": {"type": "json_schema", "json_schema": form}}
        more |= {"repeat_penalty": 1.0, "dry_multiplier": 0.0}
    return more


def _tokens(choice: Mapping[str, Any], sampling: Sampling) -> list[Token]:
    if sampling.logprobs is None:
        return []
    stated = (choice.get("logprobs") or {}).get("content") or ()
    return [_token(each, each["top_logprobs"][: sampling.logprobs]) for each in stated]


def _token(stated: Mapping[str, Any], likeliest: Sequence[Mapping[str, Any]] = ()) -> Token:
    return Token(stated["token"], stated["logprob"], bytes(stated["bytes"]), tuple(_token(each) for each in likeliest))


def _refusal(error: Mapping[str, Any], sampling: Sampling) -> Exception:
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflow(error["n_prompt_tokens"] + sampling.max_tokens, error["n_ctx"])
    message = str(error.get("message", error))
    if sampling.schema is not None and error.get("type") == "invalid_request_error":
        return _unusable(message, sampling)
    return EngineFailed("llama.cpp refused the request; the log says why")


def _unusable(message: str, sampling: Sampling) -> Unprocessable:
    if sampling.schema is None:
        return Unprocessable(
            f"the model's template does not take these messages: {message}", details={"param": "messages"}
        )
    reason = message.rpartition("JSON schema error at ")[2].rpartition("failed: ")[2]
    return Unprocessable(
        f"llama.cpp cannot hold an answer to this JSON schema: {reason}",
        code="invalid_json_schema",
        details={"param": "response_format"},
    )


def _usage(stated: Mapping[str, Any]) -> TokenUsage:
    cached = (stated.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return TokenUsage(stated["prompt_tokens"], stated["completion_tokens"], cached)
