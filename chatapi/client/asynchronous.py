"""The asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio.to_thread
import httpx

from chatapi.client import connecting, wire
from chatapi.client.connecting import TIMEOUT, ServerAddress, Verify
from chatapi.client.sse import EventParser
from chatapi.client.wire import (
    AudioInput,
    ChatEntry,
    ClientError,
    Completion,
    Event,
    HttpRequest,
    ModelEntry,
    Reply,
    TurnOptions,
    VoiceName,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncClient:
    """A client of one server. All methods raise ClientError. Close it, or use it in an `async with`."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, verify: Verify = True, timeout: float = TIMEOUT
    ) -> None:
        """`url` and `key` default to CHATAPI_URL and CHATAPI_API_KEY, then to the server on this machine. `timeout`:
        longest time without data, in seconds."""
        self._address = ServerAddress.of(url, key, verify, timeout)
        self._http = httpx.AsyncClient(**self._address.options())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def completion(
        self,
        prompt: str | None = None,
        *,
        audio: AudioInput | None = None,
        reply: Reply = "text",
        **options: Unpack[TurnOptions],
    ) -> Completion:
        """Send a prompt or a recording, and wait for the whole answer."""
        accept = wire.WAV if reply == "voice" else wire.JSON
        async with self._opened(await self._turn(prompt, audio, reply, accept, False, options)) as answer:
            if reply == "voice":
                return wire.spoken_completion(await self._whole(answer, wire.LARGEST_AUDIO), answer.headers)
            return wire.completion(await self._whole(answer))

    @asynccontextmanager
    async def stream(
        self,
        prompt: str | None = None,
        *,
        audio: AudioInput | None = None,
        reply: Reply = "text",
        **options: Unpack[TurnOptions],
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Send a prompt or a recording, and stream events; the last one is EndEvent. Leaving the context cancels the
        answer."""
        async with self._opened(await self._turn(prompt, audio, reply, wire.EVENTS, True, options)) as answer:
            yield self._events(answer)

    @asynccontextmanager
    async def wav(
        self, prompt: str | None = None, *, audio: AudioInput | None = None, **options: Unpack[TurnOptions]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a spoken answer as a WAV, whose header has no length."""
        request = await self._turn(prompt, audio, "voice", wire.WAV, True, options)
        async with self._opened(request) as answer:
            yield self._chunks(answer)

    async def ready(self) -> bool:
        """Whether every model is loaded and warm."""
        try:
            await self._document("/ready")
        except ClientError as error:
            if error.code == "not_ready":
                return False
            raise
        return True

    async def models(self) -> list[ModelEntry]:
        """The models in the server's catalog."""
        return wire.models(await self._document("/models"))

    async def voices(self) -> list[VoiceName]:
        """The voices; none before the server is ready."""
        return wire.voices(await self._document("/models"))

    async def conversation(self, conversation: str) -> list[ChatEntry]:
        """The messages of a conversation."""
        return wire.messages(await self._document(wire.conversation_path(conversation)))

    async def delete_conversation(self, conversation: str) -> None:
        """Delete a conversation."""
        async with self._opened(HttpRequest("DELETE", wire.conversation_path(conversation), "")):
            pass

    @staticmethod
    async def _turn(
        prompt: str | None, audio: AudioInput | None, reply: Reply, accept: str, stream: bool, options: TurnOptions
    ) -> HttpRequest:
        recording = None if audio is None else await anyio.to_thread.run_sync(wire.read_audio, audio)
        return wire.turn(prompt, recording, reply, accept, stream, options)

    async def _document(self, path: str) -> bytes:
        async with self._opened(HttpRequest("GET", path, wire.JSON)) as answer:
            return await self._whole(answer)

    @asynccontextmanager
    async def _opened(self, request: HttpRequest) -> AsyncIterator[httpx.Response]:
        async with AsyncExitStack() as stack:
            # Errors of the code inside the context are its own and are not translated.
            with connecting.translated(self._address.shown):
                answer = await stack.enter_async_context(self._http.stream(**connecting.arguments(request)))
            if not answer.is_success:
                raise wire.error_response(answer.status_code, answer.headers, await self._beginning(answer))
            if request.accept and (kind := connecting.media_type(answer.headers)) != request.accept:
                raise wire.not_chatapi(f"it sends {kind or 'no media type'} instead of {request.accept}")
            yield answer

    async def _beginning(self, answer: httpx.Response) -> bytes:
        received = b""
        async for chunk in self._chunks(answer):
            received += chunk
            if len(received) > wire.LARGEST_ERROR:
                break
        return received

    async def _whole(self, answer: httpx.Response, most: int = wire.LARGEST_DOCUMENT) -> bytes:
        chunks, received = [], 0
        async for chunk in self._chunks(answer):
            received = connecting.limit(received, chunk, most)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _events(self, answer: httpx.Response) -> AsyncIterator[Event]:
        parser = EventParser()
        async for chunk in self._chunks(answer):
            for event in parser.feed(chunk):
                yield event
        parser.close()

    async def _chunks(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        with connecting.translated(self._address.shown, started=True):
            async for chunk in answer.aiter_raw():
                yield chunk
