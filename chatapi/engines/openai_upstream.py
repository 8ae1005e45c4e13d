"""A chat model on a server that speaks OpenAI's HTTP: `mlc_llm serve`, vLLM, llama.cpp, Ollama."""

from __future__ import annotations

import json
import queue
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

from chatapi.engines import ChatOnly, ContextOverflow, Message, Piece, Sampling, Stop, Usage, never
from chatapi.errors import Busy, ChatapiError, EngineFailed, NotReady, SettingsFault
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import Model

CONNECT_SECONDS = 5.0
ASK_SECONDS = 0.1
"""How often `stop` is asked while the server is silent."""
EVENT_BYTES = 1 << 20
"""Longest event taken."""
WHOLE_BYTES = 1 << 20
"""Most that is read of an answer that is no stream."""
BYTES_A_TOKEN = 4
"""About what English prose has; the server's own tokenizer is not known here."""


class OpenAIUpstream(ChatOnly):
    """Asks a server, which need not be up yet. SettingsFault when its address is no address."""

    def __init__(self, settings: Settings, models: Sequence[Model]) -> None:
        del models
        table = settings.openai_upstream
        self.slots = table.slots
        self._url = table.url.rstrip("/")
        if not re.match(r"https?://[^/\s]+", self._url):
            raise SettingsFault(f"openai_upstream.url is {table.url!r}; it looks like http://127.0.0.1:11434/v1")
        self._context = table.context
        self._timeout = table.timeout
        self._model = table.model
        self._named = bool(table.model)
        headers = {"Authorization": f"Bearer {table.api_key.get_secret_value()}"} if table.api_key else {}
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(table.timeout, connect=min(CONNECT_SECONDS, table.timeout)),
            # A connection of its own for every answer: cutting it off is how the server is told to stop.
            limits=httpx.Limits(max_keepalive_connections=0),
            # Settings come from one place; a proxy out of the environment would be asked for the box next door.
            trust_env=False,
        )

    def generate(self, messages: Sequence[Message], sampling: Sampling, stop: Stop = never) -> Iterator[Piece]:
        """The answer as it arrives.

        Raises NotReady while nothing answers there, Busy when it has too much to do, EngineFailed for all else.
        """
        needed = sum(len(message.text.encode()) // BYTES_A_TOKEN + 4 for message in messages) + sampling.max_tokens
        if needed > self._context:
            raise ContextOverflow(needed, self._context)
        if stop():
            return
        if self._client.is_closed:
            raise EngineFailed("the openai_upstream engine was closed")
        body = self._body(messages, sampling)
        exchange = _Exchange(
            self._client, self._client.build_request("POST", f"{self._url}/chat/completions", json=body)
        )
        try:
            yield from self._answer(exchange, sampling.max_tokens, stop)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        finally:
            exchange.leave()

    def close(self) -> None:
        self._client.close()

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._name(),
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop_texts:
            body["stop"] = list(sampling.stop_texts)
        return body

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
            raise self._refused(_Head.of(response), response.text[:WHOLE_BYTES], 0)
        try:
            return [str(model["id"]) for model in response.json().get("data") or ()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineFailed(f"{self._url}/models does not answer with a list of models") from error

    def _answer(self, exchange: _Exchange, reserve: int, stop: Stop) -> Iterator[Piece]:
        blocks = exchange.blocks(stop)
        head = next(blocks, None)
        if not isinstance(head, _Head):
            return
        if head.status != httpx.codes.OK or "event-stream" not in head.kind:
            text = _beginning(blocks)
            if stop():
                return
            if head.status != httpx.codes.OK:
                raise self._refused(head, text, reserve)
            yield from _whole(text, self._url)
            return
        yield from self._streamed(_events(blocks), exchange, reserve, stop)

    def _streamed(self, events: Iterator[str], exchange: _Exchange, reserve: int, stop: Stop) -> Iterator[Piece]:
        reason: str | None = None
        usage: Usage | None = None
        count = 0
        for event in events:
            if stop():
                return
            exchange.words()
            if event.strip() == "[DONE]":
                reason = reason or "stop"
                break
            chunk = _parsed(event, self._url)
            if chunk.get("error") or chunk.get("object") == "error":
                code = _stated(event).get("code")
                raise self._refused(_Head(code if isinstance(code, int) else 500, "", None), event, reserve)
            usage = _usage(chunk) or usage
            for choice in chunk.get("choices") or ():
                reason = choice.get("finish_reason") or reason
                text = ((choice.get("delta") or {}).get("content") or "").replace("\ufffd", "")
                if text:
                    count += 1
                    yield Piece(text)
        if stop():
            return
        if reason is None:
            raise EngineFailed(f"{self._url} broke off after {count} pieces of an answer")
        yield Piece("", "length" if reason == "length" else "stop", usage or Usage(completion_tokens=count))

    def _refused(self, head: _Head, text: str, reserve: int) -> Exception:
        """What the server's error means here."""
        stated = _stated(text)
        message = str(stated.get("message") or stated.get("detail") or text.strip()[:300] or "nothing more")
        if head.status in (401, 403):
            return EngineFailed(f"{self._url} refuses the key: set openai_upstream.api_key to one that it knows")
        if _too_long(stated, message):
            return _overflow(stated, message, reserve, self._context)
        if head.status == 404 or (head.status == 400 and re.search(r"model.*not (served|found|exist)", message)):
            return self._no_such_model(message)
        if head.status == 503 and "loading" in message.lower():
            return NotReady(f"{self._url} is still loading its model", retry_after=head.retry_after)
        if head.status in (429, 503):
            return Busy(f"{self._url} has too much to do: {message}", retry_after=head.retry_after)
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
            return NotReady(f"nothing answers at {self._url}: start that server, or set openai_upstream.url ({error})")
        if isinstance(error, httpx.TimeoutException):
            return EngineFailed(f"{self._url} was silent for {self._timeout:g} seconds (openai_upstream.timeout)")
        return EngineFailed(f"{self._url} broke off: {error}")


@dataclass(frozen=True)
class _Head:
    """What comes before the body."""

    status: int
    kind: str
    """Its media type."""
    retry_after: float | None

    @classmethod
    def of(cls, response: httpx.Response) -> _Head:
        stated = response.headers.get("retry-after", "")
        return cls(response.status_code, response.headers.get("content-type", ""), _seconds(stated))


class _Exchange:
    """One request and its response, read on a thread of its own so that silence can be interrupted."""

    def __init__(self, client: httpx.Client, request: httpx.Request) -> None:
        self._blocks: queue.Queue[_Head | bytes | Exception | None] = queue.Queue(64)
        self._ended = False
        self._socket: socket.socket | None = None
        self._left = threading.Event()
        self._timeout = float(request.extensions["timeout"]["read"])
        self._heard = time.monotonic()
        request.extensions["trace"] = self._trace
        self._thread = threading.Thread(target=self._read, args=(client, request), name="openai_upstream", daemon=True)
        self._thread.start()

    def blocks(self, stop: Stop) -> Iterator[_Head | bytes]:
        """The head, then the body as it comes; ends early once `stop` is true. Raises what reading raised."""
        while not self._ended:
            try:
                item = self._blocks.get(timeout=ASK_SECONDS)
            except queue.Empty:
                if stop():
                    return
                item = b""
            if item is None:
                self._ended = True
            elif isinstance(item, httpx.HTTPError):
                raise item
            elif isinstance(item, Exception):
                raise EngineFailed(f"the request could not be sent: {item}") from item
            # Comments keep the connection open and are no words.
            elif time.monotonic() - self._heard > self._timeout:
                raise httpx.ReadTimeout("no words")
            elif item:
                yield item

    def words(self) -> None:
        """Something was said: the time of silence starts anew."""
        self._heard = time.monotonic()

    def leave(self) -> None:
        """Cut the connection, which tells the server that nobody wants the rest, and wait for the thread."""
        self._left.set()
        self._cut()
        while not self._ended:
            self._ended = self._blocks.get() is None
        self._thread.join()

    def _cut(self) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                """It was closed already."""

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Take the socket as soon as there is one: closing a response does not wake the thread that reads it."""
        if name in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._left.is_set():
                self._cut()

    def _read(self, client: httpx.Client, request: httpx.Request) -> None:
        try:
            response = client.send(request, stream=True)
            try:
                self._blocks.put(_Head.of(response))
                for block in response.iter_bytes():
                    self._blocks.put(block)
            finally:
                response.close()
        except Exception as error:
            self._blocks.put(error)
        finally:
            self._blocks.put(None)


def _events(blocks: Iterator[_Head | bytes]) -> Iterator[str]:
    """The data of server-sent events. Only line feeds end a line: JSON may hold other separators as they are."""
    data: list[str] = []
    for line in _lines(blocks):
        field, _, value = line.partition(":")
        if field in ("data", "error"):
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


def _lines(blocks: Iterator[_Head | bytes]) -> Iterator[str]:
    rest = b""
    for block in blocks:
        if isinstance(block, bytes):
            *whole, rest = (rest + block).split(b"\n")
            if len(rest) > EVENT_BYTES:
                raise EngineFailed(f"the chat server sent an event longer than {EVENT_BYTES} bytes")
            for line in whole:
                yield line.removesuffix(b"\r").decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def _beginning(blocks: Iterator[_Head | bytes]) -> str:
    """What is worth reading of a body that is no stream."""
    body = b""
    for block in blocks:
        if isinstance(block, bytes) and len(body) < WHOLE_BYTES:
            body += block
    return body.decode(errors="replace")


def _parsed(event: str, url: str) -> dict[str, Any]:
    try:
        chunk = json.loads(event)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise EngineFailed(f"{url} sent an event that is no JSON object: {event[:100]!r}")
    return chunk


def _whole(text: str, url: str) -> Iterator[Piece]:
    """An answer that came at once, from a server that does not stream."""
    chunk = _parsed(text, url)
    try:
        choice = chunk["choices"][0]
        answer = str(choice["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise EngineFailed(f"{url} answered with something that is no chat completion: {text[:100]!r}") from error
    reason = "length" if choice.get("finish_reason") == "length" else "stop"
    yield Piece(answer, reason, _usage(chunk) or Usage())


def _usage(chunk: Mapping[str, Any]) -> Usage | None:
    stated = chunk.get("usage")
    if not isinstance(stated, Mapping):
        return None
    cached = (stated.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(stated.get("prompt_tokens") or 0, stated.get("completion_tokens") or 0, cached)


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


def _seconds(retry_after: str) -> float | None:
    """A Retry-After header, which is a number of seconds or a date."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
