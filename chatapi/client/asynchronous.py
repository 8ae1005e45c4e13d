"""The client that lets others work while it waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio.to_thread
import httpx

from chatapi.client import connecting, wire
from chatapi.client.connecting import PATIENCE, ServerAddress, Verify
from chatapi.client.sse import Events
from chatapi.client.wire import (
    ChatEntry,
    ClientError,
    Completion,
    Event,
    HttpRequest,
    ModelEntry,
    Reply,
    Sound,
    TurnOptions,
    VoiceName,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncClient:
    """A box. Everything raises ClientError. Close it, or use it in an `async with`."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, verify: Verify = True, timeout: float = PATIENCE
    ) -> None:
        """What is left out comes from CHATAPI_URL and CHATAPI_API_KEY, else it is the box here. `timeout`: seconds
        without news."""
        self._where = ServerAddress.of(url, key, verify, timeout)
        self._http = httpx.AsyncClient(**self._where.given())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def completion(
        self,
        prompt: str | None = None,
        *,
        audio: Sound | None = None,
        reply: Reply = "text",
        **options: Unpack[TurnOptions],
    ) -> Completion:
        """Ask, in text or with a recording, and wait for the whole answer."""
        accept = wire.WAV if reply == "voice" else wire.JSON
        async with self._opened(await self._turn(prompt, audio, reply, accept, False, options)) as answer:
            if reply == "voice":
                return wire.spoken(await self._whole(answer, wire.LARGEST_SOUND), answer.headers)
            return wire.completion(await self._whole(answer))

    @asynccontextmanager
    async def stream(
        self,
        prompt: str | None = None,
        *,
        audio: Sound | None = None,
        reply: Reply = "text",
        **options: Unpack[TurnOptions],
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The same as it happens; the last event is End. Leaving the block before stops the answer."""
        async with self._opened(await self._turn(prompt, audio, reply, wire.EVENTS, True, options)) as answer:
            yield self._events(answer)

    @asynccontextmanager
    async def wav(
        self, prompt: str | None = None, *, audio: Sound | None = None, **options: Unpack[TurnOptions]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A spoken answer as it is spoken: the beginning of a WAV, whose header knows no length, and what follows."""
        asked = await self._turn(prompt, audio, "voice", wire.WAV, True, options)
        async with self._opened(asked) as answer:
            yield self._pieces(answer)

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
        """Models the box knows."""
        return wire.models(await self._document("/models"))

    async def voices(self) -> list[VoiceName]:
        """Voices to ask for; none before it is ready."""
        return wire.voices(await self._document("/models"))

    async def conversation(self, conversation: str) -> list[ChatEntry]:
        """What was said in it."""
        return wire.messages(await self._document(wire.conversation_path(conversation)))

    async def forget(self, conversation: str) -> None:
        """Have the box forget it."""
        async with self._opened(HttpRequest("DELETE", wire.conversation_path(conversation), "")):
            pass

    @staticmethod
    async def _turn(
        prompt: str | None, audio: Sound | None, reply: Reply, accept: str, stream: bool, options: TurnOptions
    ) -> HttpRequest:
        sound = None if audio is None else await anyio.to_thread.run_sync(wire.read_sound, audio)
        return wire.turn(prompt, sound, reply, accept, stream, options)

    async def _document(self, path: str) -> bytes:
        async with self._opened(HttpRequest("GET", path, wire.JSON)) as answer:
            return await self._whole(answer)

    @asynccontextmanager
    async def _opened(self, request: HttpRequest) -> AsyncIterator[httpx.Response]:
        async with AsyncExitStack() as held:
            # Not around what is done with it: whoever asks something else meanwhile has errors of their own.
            with connecting.translated(self._where.shown):
                answer = await held.enter_async_context(self._http.stream(**connecting.arguments(request)))
            if not answer.is_success:
                raise wire.refused(answer.status_code, answer.headers, await self._beginning(answer))
            if request.accept and (kind := connecting.kind_of(answer.headers)) != request.accept:
                raise wire.stranger(f"it sends {kind or 'nothing known'} instead of {request.accept}")
            yield answer

    async def _beginning(self, answer: httpx.Response) -> bytes:
        came = b""
        async for piece in self._pieces(answer):
            came += piece
            if len(came) > wire.LARGEST_REFUSAL:
                break
        return came

    async def _whole(self, answer: httpx.Response, most: int = wire.LARGEST_DOCUMENT) -> bytes:
        pieces, came = [], 0
        async for piece in self._pieces(answer):
            came = connecting.limit(came, piece, most)
            pieces.append(piece)
        return b"".join(pieces)

    async def _events(self, answer: httpx.Response) -> AsyncIterator[Event]:
        events = Events()
        async for piece in self._pieces(answer):
            for event in events.feed(piece):
                yield event
        events.close()

    async def _pieces(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        with connecting.translated(self._where.shown, begun=True):
            async for piece in answer.aiter_raw():
                yield piece
