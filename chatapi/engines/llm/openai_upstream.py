"""A chat model on a server that speaks OpenAI's HTTP: `mlc_llm serve`, vLLM, llama.cpp, Ollama."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import unquote

import httpx

from chatapi.engines import (
    Capability,
    ChatOnly,
    ContextOverflow,
    PromptMessage,
    Sampling,
    Stop,
    TokenChunk,
    TokenUsage,
    never,
)
from chatapi.engines.llm.upstream_stream import WHOLE_BYTES, ResponseHead, UpstreamRequest, beginning, events
from chatapi.errors import Busy, ChatapiError, EngineFailed, NotReady, SettingsError, Unprocessable
from chatapi.events import Token, ToolCall
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

CONNECT_SECONDS = 5.0
BYTES_A_TOKEN = 4
"""About what English prose has; the server's own tokenizer is not known here."""
UNSPOKEN = ("tool_calls", "reasoning_content", "reasoning")
"""What a server writes beside words: calls, and thoughts as llama.cpp and vLLM name them (Ollama: `reasoning`)."""


class OpenAIUpstream(ChatOnly):
    """Asks a server, which need not be up yet. SettingsError when its address is no address."""

    capabilities: frozenset[Capability] = frozenset(get_args(Capability))
    """All of it is passed on; what the server does not do it refuses itself, or passes over."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        del models
        table = settings.openai_upstream
        self.slots = table.slots
        # A password in the address is sent, and stands in no message.
        password = re.match(r"(https?://)([^/\s@]*)@", table.url)
        self._url = (password[1] + table.url[password.end() :] if password else table.url).rstrip("/")
        if not re.match(r"https?://[^/\s]+", self._url):
            raise SettingsError(f"openai_upstream.url is {table.url!r}; it looks like http://127.0.0.1:11434/v1")
        self.context = table.context
        self._timeout = table.timeout
        self._model = table.model
        self._named = bool(table.model)
        headers = {"Authorization": f"Bearer {table.api_key.get_secret_value()}"} if table.api_key else {}
        self._client = httpx.Client(
            headers=headers,
            auth=tuple(map(unquote, password[2].partition(":")[::2])) if password else None,  # type: ignore[arg-type]
            timeout=httpx.Timeout(table.timeout, connect=min(CONNECT_SECONDS, table.timeout)),
            # A connection of its own for every answer: cutting it off is how the server is told to stop.
            limits=httpx.Limits(max_keepalive_connections=0),
            # Settings come from one place; a proxy out of the environment would be asked for the box next door.
            trust_env=False,
        )

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        """The answer as it arrives.

        Raises NotReady while nothing answers there, Busy when it has too much to do, EngineFailed for all else.
        """
        needed = sum(len(message.text.encode()) // BYTES_A_TOKEN + 4 for message in messages) + sampling.max_tokens
        if needed > self.context:
            raise ContextOverflow(needed, self.context)
        if stop():
            return
        if self._client.is_closed:
            raise EngineFailed("the openai_upstream engine was closed")
        body = self._body(messages, sampling)
        request = self._client.build_request("POST", f"{self._url}/chat/completions", json=body)
        asked = UpstreamRequest(self._client, request, "openai_upstream")
        try:
            yield from self._answer(asked, sampling, stop)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        finally:
            asked.leave()

    def close(self) -> None:
        self._client.close()

    def _body(self, messages: Sequence[PromptMessage], sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._name(),
            "messages": [_message(message) for message in messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop_texts:
            body["stop"] = list(sampling.stop_texts)
        return {**body, **_more(sampling)}

    def _name(self) -> str:
        """The model to ask for: the one set, or the first that is served."""
        if not self._model:
            served = self._served()
            if not served:
                raise NotReady(f"{self._url} serves no model yet; load one there, or set openai_upstream.model")
            self._model = served[0]
        return self._model

    def _served(self) -> list[str]:
        try:
            response = self._client.get(f"{self._url}/models")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code == 404:
            raise EngineFailed(
                f"{self._url} lists no models, so it is no chat server; openai_upstream.url goes up to /v1"
            )
        if response.status_code != httpx.codes.OK:
            raise self._refused(ResponseHead.of(response), response.text[:WHOLE_BYTES], Sampling(max_tokens=0))
        try:
            return [str(model["id"]) for model in response.json().get("data") or ()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineFailed(f"{self._url}/models does not answer with a list of models") from error

    def _answer(self, asked: UpstreamRequest, sampling: Sampling, stop: Stop) -> Iterator[TokenChunk]:
        blocks = asked.blocks(stop)
        head = next(blocks, None)
        if not isinstance(head, ResponseHead):
            return
        if head.status != httpx.codes.OK or "event-stream" not in head.kind:
            text = beginning(blocks)
            if stop():
                return
            if head.status != httpx.codes.OK:
                raise self._refused(head, text, sampling)
            yield from _whole(text, self._url)
            return
        yield from self._streamed(events(blocks), asked, sampling, stop)

    def _streamed(
        self, events: Iterator[str], asked: UpstreamRequest, sampling: Sampling, stop: Stop
    ) -> Iterator[TokenChunk]:
        reason: str | None = None
        usage: TokenUsage | None = None
        count = 0
        calling = _Calling()
        for event in events:
            if stop():
                return
            asked.words()
            if event.strip() == "[DONE]":
                reason = reason or "stop"
                break
            chunk = _parsed(event, self._url)
            if chunk.get("error") or chunk.get("object") == "error":
                code = _stated(event).get("code")
                raise self._refused(ResponseHead(code if isinstance(code, int) else 500, "", None), event, sampling)
            usage = _usage(chunk) or usage
            for choice in chunk.get("choices") or ():
                reason = choice.get("finish_reason") or reason
                delta = choice.get("delta") or {}
                calling.add(delta.get("tool_calls") or ())
                text = (delta.get("content") or "").replace("\ufffd", "")
                if text:
                    count += 1
                    yield TokenChunk(text, tokens=_tokens(choice))
                elif any(delta.get(name) for name in UNSPOKEN):
                    # Whoever waits sees that the server is at work.
                    yield TokenChunk("")
        if stop():
            return
        if reason is None:
            raise EngineFailed(f"{self._url} broke off after {count} pieces of an answer")
        yield TokenChunk(
            "", calling.reason(reason), usage or TokenUsage(completion_tokens=count), calls=calling.calls()
        )

    def _refused(self, head: ResponseHead, text: str, sampling: Sampling) -> Exception:
        """What the server's error means here."""
        stated = _stated(text)
        message = str(stated.get("message") or stated.get("detail") or text.strip()[:300] or "nothing more")
        if head.status in (401, 403):
            return EngineFailed(f"{self._url} refuses the key: set openai_upstream.api_key to one that it knows")
        if _too_long(stated, message):
            return _overflow(stated, message, sampling.max_tokens, self.context)
        if head.status == 404 or (head.status == 400 and re.search(r"model.*not (served|found|exist)", message)):
            return self._no_such_model(message)
        if head.status == 503 and "loading" in message.lower():
            return NotReady(f"{self._url} is still loading its model", retry_after=head.retry_after)
        if head.status in (429, 503):
            return Busy(f"{self._url} has too much to do: {message}", retry_after=head.retry_after)
        if head.status in (400, 422) and _more(sampling):
            asked = stated.get("param")
            return Unprocessable(
                f"the chat server behind this box refuses it: {message}",
                details={"param": asked if isinstance(asked, str) else None},
            )
        return EngineFailed(f"{self._url} answered {head.status}: {message}")

    def _no_such_model(self, message: str) -> Exception:
        asked = self._model
        if not self._named:
            # It was the first once; the server may have been restarted with another.
            self._model = ""
        try:
            served = ", ".join(self._served()) or "none"
        except ChatapiError as error:
            return error
        return EngineFailed(f"{self._url} has no model {asked!r} ({message}); openai_upstream.model can be: {served}")

    def _unreachable(self, error: httpx.HTTPError) -> Exception:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return NotReady(f"nothing answers at {self._url}: start that server, or set openai_upstream.url")
        if isinstance(error, httpx.TimeoutException):
            return EngineFailed(f"{self._url} was silent for {self._timeout:g} seconds (openai_upstream.timeout)")
        return EngineFailed(f"{self._url} broke off; the log says why")


class _Calling:
    """The functions that an answer wants called, as their parts come."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[str, str, str]] = {}

    def add(self, deltas: Sequence[Mapping[str, Any]]) -> None:
        for place, delta in enumerate(deltas):
            at, function = int(delta.get("index", place)), delta.get("function") or {}
            number, name, arguments = self._parts.get(at, ("", "", ""))
            written = arguments + (function.get("arguments") or "")
            self._parts[at] = (delta.get("id") or number, function.get("name") or name, written)

    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall(*self._parts[at]) for at in sorted(self._parts))

    def reason(self, stated: str | None) -> str:
        if stated == "length":
            return stated
        return "tool_calls" if self._parts else "stop"


def _message(message: PromptMessage) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.calls:
        functions = [(call.id, {"name": call.name, "arguments": call.arguments}) for call in message.calls]
        told["tool_calls"] = [{"id": call, "type": "function", "function": function} for call, function in functions]
        told["content"] = message.text or None
    if message.call:
        told["tool_call_id"] = message.call
    return told


def _more(sampling: Sampling) -> dict[str, Any]:
    """What is asked beyond the plainest."""
    named = ("top_p", "frequency_penalty", "presence_penalty")
    more: dict[str, Any] = {name: getattr(sampling, name) for name in named if getattr(sampling, name) is not None}
    if sampling.logit_bias:
        more["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        more |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if sampling.schema is not None:
        form = {"name": "answer", "schema": sampling.schema, "strict": sampling.strict}
        any_object = sampling.schema == {"type": "object"}
        kind = {"type": "json_object"} if any_object else {"type": "json_schema", "json_schema": form}
        more["response_format"] = kind
    if sampling.tools:
        more["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    **({"strict": True} if tool.strict else {}),
                },
            }
            for tool in sampling.tools
        ]
        choice = sampling.tool_choice
        named_one = {"type": "function", "function": {"name": choice[1:]}}
        more["tool_choice"] = named_one if choice.startswith(":") else choice
        if not sampling.parallel:
            more["parallel_tool_calls"] = False
    return more


def _tokens(choice: Mapping[str, Any]) -> tuple[Token, ...]:
    return tuple(_token(each) for each in (choice.get("logprobs") or {}).get("content") or ())


def _token(stated: Mapping[str, Any]) -> Token:
    text = str(stated["token"])
    raw = bytes(stated["bytes"]) if stated.get("bytes") is not None else text.encode()
    return Token(text, float(stated["logprob"]), raw, tuple(map(_token, stated.get("top_logprobs") or ())))


def _parsed(event: str, url: str) -> dict[str, Any]:
    try:
        chunk = json.loads(event)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise EngineFailed(f"{url} sent an event that is no JSON object: {event[:100]!r}")
    return chunk


def _whole(text: str, url: str) -> Iterator[TokenChunk]:
    """An answer that came at once, from a server that does not stream."""
    chunk = _parsed(text, url)
    try:
        choice = chunk["choices"][0]
        message = choice["message"]
        answer = str(message.get("content") or "")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineFailed(f"{url} answered with something that is no chat completion: {text[:100]!r}") from error
    calling = _Calling()
    calling.add(message.get("tool_calls") or ())
    reason = calling.reason(choice.get("finish_reason"))
    yield TokenChunk(answer, reason, _usage(chunk) or TokenUsage(), _tokens(choice), calling.calls())


def _usage(chunk: Mapping[str, Any]) -> TokenUsage | None:
    stated = chunk.get("usage")
    if not isinstance(stated, Mapping):
        return None
    cached = (stated.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return TokenUsage(stated.get("prompt_tokens") or 0, stated.get("completion_tokens") or 0, cached)


def _stated(text: str) -> Mapping[str, Any]:
    """The error's object: OpenAI, llama.cpp and Ollama put it under `error`, mlc_llm and older vLLM at the top."""
    try:
        tree = json.loads(text)
    except ValueError:
        tree = {}
    if not isinstance(tree, Mapping):
        return {}
    inner = tree.get("error")
    return inner if isinstance(inner, Mapping) else {"message": inner} if inner else tree


def _too_long(stated: Mapping[str, Any], message: str) -> bool:
    """Whether it says that prompt and answer do not fit: llama.cpp's type, OpenAI's code, or the others' words."""
    named = ("exceed_context_size_error", "context_length_exceeded")
    words = r"maximum context length|input length limit|context (length|size|window)|max_tokens must be at least 1"
    return stated.get("type") in named or stated.get("code") in named or bool(re.search(words, message, re.IGNORECASE))


def _overflow(stated: Mapping[str, Any], message: str, reserve: int, context: int) -> ContextOverflow:
    """With the server's own numbers as far as it gives any."""
    if isinstance(stated.get("n_prompt_tokens"), int) and isinstance(stated.get("n_ctx"), int):
        return ContextOverflow(stated["n_prompt_tokens"] + reserve, stated["n_ctx"])
    limit = re.search(r"(?:context length is|length limit|context (?:size|length|window)(?: of)?) \(?(\d+)", message)
    fits = int(limit[1]) if limit else context
    return ContextOverflow(max([fits + 1, *(int(number) for number in re.findall(r"\d+", message))]), fits)
