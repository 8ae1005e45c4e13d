"""A chat model on a server with OpenAI's HTTP API: `mlc_llm serve`, vLLM, llama.cpp, Ollama."""

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
from chatapi.engines.llm.upstream_stream import BODY_BYTES, ResponseHead, UpstreamRequest, beginning, events
from chatapi.errors import Busy, ChatapiError, EngineFailed, NotReady, SettingsError, Unprocessable
from chatapi.events import Token, ToolCall
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

CONNECT_SECONDS = 5.0
"""Most seconds that connecting may take."""
BYTES_PER_TOKEN = 4
"""Average of English prose; the server's own tokenizer is not known here."""
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a delta with reasoning, as llama.cpp and vLLM, OpenRouter and newer vLLM, and Ollama name them."""
REMEDY = "openai_upstream.context states what that server takes"
"""How a longer prompt may fit."""


class OpenAIUpstream(ChatOnly):
    """Forwards completions to a server, which need not be running yet. SettingsError when its URL is invalid."""

    capabilities: frozenset[Capability] = frozenset(get_args(Capability))
    """Everything is forwarded; what the server does not support, it rejects or ignores itself."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        del models
        table = settings.openai_upstream
        self.slots = table.slots
        # A password in the URL is sent, and appears in no message.
        password = re.match(r"(https?://)([^/\s@]*)@", table.url)
        self._url = (password[1] + table.url[password.end() :] if password else table.url).rstrip("/")
        if not re.match(r"https?://[^/\s]+", self._url):
            raise SettingsError(f"openai_upstream.url is {table.url!r}; it must be like http://127.0.0.1:11434/v1")
        self.context = table.context
        self._timeout = table.timeout
        self._model = table.model
        self._named = bool(table.model)
        headers = {"Authorization": f"Bearer {table.api_key.get_secret_value()}"} if table.api_key else {}
        self._client = httpx.Client(
            headers=headers,
            auth=tuple(map(unquote, password[2].partition(":")[::2])) if password else None,  # type: ignore[arg-type]
            timeout=httpx.Timeout(table.timeout, connect=min(CONNECT_SECONDS, table.timeout)),
            # One connection per completion: closing it cancels the completion.
            limits=httpx.Limits(max_keepalive_connections=0),
            # Settings come from one place; a proxy from the environment would be asked for a server on the local
            # network.
            trust_env=False,
        )

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        """The completion as it arrives.

        Raises NotReady while the server does not answer, Busy when it is overloaded, EngineFailed for all other errors.
        """
        needed = sum(len(message.text.encode()) // BYTES_PER_TOKEN + 4 for message in messages) + sampling.max_tokens
        if needed > self.context:
            raise ContextOverflow(needed, self.context, REMEDY)
        if stop():
            return
        if self._client.is_closed:
            raise EngineFailed("the openai_upstream engine was closed")
        body = self._body(messages, sampling)
        request = self._client.build_request("POST", f"{self._url}/chat/completions", json=body)
        upstream = UpstreamRequest(self._client, request, "openai_upstream")
        try:
            yield from self._answer(upstream, sampling, stop)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        finally:
            upstream.cancel()

    def close(self) -> None:
        self._client.close()

    def _body(self, messages: Sequence[PromptMessage], sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model_name(),
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
        return {**body, **_optional_parameters(sampling)}

    def _model_name(self) -> str:
        """The model to request: the one in the settings, or the first that the server has."""
        if not self._model:
            served = self._served_models()
            if not served:
                raise NotReady(f"{self._url} serves no model yet; load one there, or set openai_upstream.model")
            self._model = served[0]
        return self._model

    def _served_models(self) -> list[str]:
        try:
            response = self._client.get(f"{self._url}/models")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code == 404:
            raise EngineFailed(
                f"{self._url} has no list of models, so it is not a chat server; openai_upstream.url ends with /v1"
            )
        if response.status_code != httpx.codes.OK:
            raise self._error_of(ResponseHead.of(response), response.text[:BODY_BYTES], Sampling(max_tokens=0))
        try:
            return [str(model["id"]) for model in response.json().get("data") or ()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineFailed(f"{self._url}/models is not a list of models") from error

    def _answer(self, request: UpstreamRequest, sampling: Sampling, stop: Stop) -> Iterator[TokenChunk]:
        blocks = request.blocks(stop)
        head = next(blocks, None)
        if not isinstance(head, ResponseHead):
            return
        if head.status != httpx.codes.OK or "event-stream" not in head.kind:
            text = beginning(blocks)
            if stop():
                return
            if head.status != httpx.codes.OK:
                raise self._error_of(head, text, sampling)
            yield from _complete_answer(text, self._url)
            return
        yield from self._streamed(events(blocks), request, sampling, stop)

    def _streamed(
        self, events: Iterator[str], request: UpstreamRequest, sampling: Sampling, stop: Stop
    ) -> Iterator[TokenChunk]:
        reason: str | None = None
        usage: TokenUsage | None = None
        count = 0
        collector = _ToolCallCollector()
        for event in events:
            if stop():
                return
            request.restart_timeout()
            if event.strip() == "[DONE]":
                reason = reason or "stop"
                break
            chunk = _parsed(event, self._url)
            if chunk.get("error") or chunk.get("object") == "error":
                code = _error_object(event).get("code")
                raise self._error_of(ResponseHead(code if isinstance(code, int) else 500, "", None), event, sampling)
            usage = _usage(chunk) or usage
            for choice in chunk.get("choices") or ():
                reason = choice.get("finish_reason") or reason
                delta = choice.get("delta") or {}
                collector.add(delta.get("tool_calls") or ())
                text = (delta.get("content") or "").replace("\ufffd", "")
                reasoning = _reasoning(delta)
                count += bool(text)
                if text or reasoning or delta.get("tool_calls"):
                    # A chunk without text shows the caller that the server is working.
                    yield TokenChunk(text, tokens=_tokens(choice) if text else (), reasoning=reasoning)
        if stop():
            return
        if reason is None:
            raise EngineFailed(f"{self._url} disconnected after {count} chunks of a completion")
        yield TokenChunk(
            "", collector.reason(reason), usage or TokenUsage(completion_tokens=count), calls=collector.calls()
        )

    def _error_of(self, head: ResponseHead, text: str, sampling: Sampling) -> Exception:
        """The exception for an error of the server."""
        stated = _error_object(text)
        message = str(stated.get("message") or stated.get("detail") or text.strip()[:300] or "nothing more")
        if head.status in (401, 403):
            return EngineFailed(f"{self._url} rejects the API key: set openai_upstream.api_key to a valid one")
        if _too_long(stated, message):
            return _overflow(stated, message, sampling.max_tokens, self.context)
        if head.status == 404 or (head.status == 400 and re.search(r"model.*not (served|found|exist)", message)):
            return self._no_such_model(message)
        if head.status == 503 and "loading" in message.lower():
            return NotReady(f"{self._url} is still loading its model", retry_after=head.retry_after)
        if head.status in (429, 503):
            return Busy(f"{self._url} is overloaded: {message}", retry_after=head.retry_after)
        if head.status in (400, 422) and _optional_parameters(sampling):
            param = stated.get("param")
            return Unprocessable(
                f"the upstream chat server rejects the request: {message}",
                details={"param": param if isinstance(param, str) else None},
            )
        return EngineFailed(f"{self._url} answered {head.status}: {message}")

    def _no_such_model(self, message: str) -> Exception:
        model = self._model
        if not self._named:
            # It was the first of the list once; the server may have been restarted with another model.
            self._model = ""
        try:
            served = ", ".join(self._served_models()) or "none"
        except ChatapiError as error:
            return error
        return EngineFailed(f"{self._url} has no model {model!r} ({message}); openai_upstream.model can be: {served}")

    def _unreachable(self, error: httpx.HTTPError) -> Exception:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return NotReady(f"nothing answers at {self._url}: start that server, or set openai_upstream.url")
        if isinstance(error, httpx.TimeoutException):
            return EngineFailed(f"{self._url} sent nothing for {self._timeout:g} seconds (openai_upstream.timeout)")
        return EngineFailed(f"{self._url} disconnected; the log says why")


class _ToolCallCollector:
    """Collects the tool calls of a completion from their parts."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[str, str, str]] = {}

    def add(self, deltas: Sequence[Mapping[str, Any]]) -> None:
        for place, delta in enumerate(deltas):
            at, function = int(delta.get("index", place)), delta.get("function") or {}
            number, name, arguments = self._parts.get(at, ("", "", ""))
            whole = arguments + (function.get("arguments") or "")
            self._parts[at] = (delta.get("id") or number, function.get("name") or name, whole)

    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall(*self._parts[at]) for at in sorted(self._parts))

    def reason(self, stated: str | None) -> str:
        if stated == "length":
            return stated
        return "tool_calls" if self._parts else "stop"


def _message(message: PromptMessage) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.calls:
        functions = [(call.id, {"name": call.name, "arguments": call.arguments}) for call in message.calls]
        fields["tool_calls"] = [{"id": call, "type": "function", "function": function} for call, function in functions]
        fields["content"] = message.text or None
    if message.call:
        fields["tool_call_id"] = message.call
    return fields


def _optional_parameters(sampling: Sampling) -> dict[str, Any]:
    """The parameters that a request sets explicitly."""
    named = ("top_p", "frequency_penalty", "presence_penalty")
    parameters: dict[str, Any] = {
        name: getattr(sampling, name) for name in named if getattr(sampling, name) is not None
    }
    if sampling.logit_bias:
        parameters["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        parameters |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if sampling.schema is not None:
        form = {"name": "answer", "schema": sampling.schema, "strict": sampling.strict}
        any_object = sampling.schema == {"type": "object"}
        kind = {"type": "json_object"} if any_object else {"type": "json_schema", "json_schema": form}
        parameters["response_format"] = kind
    if sampling.tools:
        parameters["tools"] = [
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
        parameters["tool_choice"] = named_one if choice.startswith(":") else choice
        if not sampling.parallel:
            parameters["parallel_tool_calls"] = False
    return parameters


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
        raise EngineFailed(f"{url} sent an event that is not a JSON object: {event[:100]!r}")
    return chunk


def _complete_answer(text: str, url: str) -> Iterator[TokenChunk]:
    """A completion in one piece, from a server that does not stream."""
    chunk = _parsed(text, url)
    try:
        choice = chunk["choices"][0]
        message = choice["message"]
        answer = str(message.get("content") or "")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineFailed(f"{url} sent something that is not a chat completion: {text[:100]!r}") from error
    collector = _ToolCallCollector()
    collector.add(message.get("tool_calls") or ())
    reason = collector.reason(choice.get("finish_reason"))
    usage = _usage(chunk) or TokenUsage()
    yield TokenChunk(answer, reason, usage, _tokens(choice), collector.calls(), _reasoning(message))


def _reasoning(message: Mapping[str, Any]) -> str:
    """The reasoning in a message or delta, where the server separates it from the text."""
    return next((text for name in REASONING_FIELDS if isinstance(text := message.get(name), str) and text), "")


def _usage(chunk: Mapping[str, Any]) -> TokenUsage | None:
    stated = chunk.get("usage")
    if not isinstance(stated, Mapping):
        return None
    cached = (stated.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (stated.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return TokenUsage(stated.get("prompt_tokens") or 0, stated.get("completion_tokens") or 0, cached, reasoning)


def _error_object(text: str) -> Mapping[str, Any]:
    """The error object: OpenAI, llama.cpp and Ollama put it under `error`, mlc_llm and older vLLM at the top."""
    try:
        tree = json.loads(text)
    except ValueError:
        tree = {}
    if not isinstance(tree, Mapping):
        return {}
    inner = tree.get("error")
    return inner if isinstance(inner, Mapping) else {"message": inner} if inner else tree


def _too_long(stated: Mapping[str, Any], message: str) -> bool:
    """Whether the error is that prompt and completion exceed the context: by llama.cpp's type, OpenAI's code, or the
    text."""
    named = ("exceed_context_size_error", "context_length_exceeded")
    words = r"maximum context length|input length limit|context (length|size|window)|max_tokens must be at least 1"
    return stated.get("type") in named or stated.get("code") in named or bool(re.search(words, message, re.IGNORECASE))


def _overflow(stated: Mapping[str, Any], message: str, reserve: int, context: int) -> ContextOverflow:
    """The overflow with the server's own numbers, as far as it gives them."""
    if isinstance(stated.get("n_prompt_tokens"), int) and isinstance(stated.get("n_ctx"), int):
        return ContextOverflow(stated["n_prompt_tokens"] + reserve, stated["n_ctx"])
    limit = re.search(r"(?:context length is|length limit|context (?:size|length|window)(?: of)?) \(?(\d+)", message)
    fits = int(limit[1]) if limit else context
    return ContextOverflow(max([fits + 1, *(int(number) for number in re.findall(r"\d+", message))]), fits)
