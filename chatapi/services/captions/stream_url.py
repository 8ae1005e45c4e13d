"""The audio of a stream at a URL: a broadcast over HTTP, such as Icecast's, an HLS stream, or a playlist of one."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
from anyio.streams.memory import MemoryObjectSendStream

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import live_blocks
from chatapi.errors import BadInput, ChatapiError, NotFound, WaitAndRetry, collapse_exception_group
from chatapi.services.captions import hls
from chatapi.services.captions.guarded_http import SMALL_BYTES, GuardedHttp, content

QUEUED_BLOCKS = 64
"""Decoded blocks that wait for the recognizer; then the sender of the stream waits."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Time before the first attempt to connect again, doubled for each further one, and its bound, in seconds."""
LISTED = ("audio/x-mpegurl", "audio/mpegurl", "application/x-mpegurl", "application/vnd.apple.mpegurl", "audio/x-scpls")
"""Media types of playlists."""

OnState = Callable[[str, str], Awaitable[None]]
"""Receives `reconnecting` with the reason, and `live` with the host, when a stream that broke off is back."""


class StreamUrl:
    """A stream at a URL. `private`: whether private addresses are allowed."""

    def __init__(
        self,
        url: str,
        private: bool,
        give_up_seconds: float,
        on_state: OnState,
        trust: ssl.SSLContext | None = None,
        rate: int = RATE,
    ) -> None:
        """`give_up_seconds`: how long it is tried again without audio; `rate`: of the blocks, in Hz."""
        self._url, self._http, self._on_state = url, GuardedHttp(private, trust), on_state
        self._give_up_seconds, self._rate = give_up_seconds, rate
        self._blocks = 0
        """Number of blocks so far."""
        self._live = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncIterator[Samples]]:
        """Mono blocks, which end with a recording. Whenever the stream breaks off, it connects again.

        Reading the blocks raises the errors of the first connection, and WaitAndRetry after `give_up_seconds` without
        audio.
        """
        send, receive = anyio.create_memory_object_stream[Samples](QUEUED_BLOCKS)
        errors: list[ChatapiError] = []
        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(self._run, send, errors)
                yield _checked(receive, errors)
                group.cancel_scope.cancel()
        except Exception as error:
            raise collapse_exception_group(error) from None

    async def _run(self, send: MemoryObjectSendStream[Samples], errors: list[ChatapiError]) -> None:
        """Connect until the stream has ended or is given up."""
        pause, waited = FIRST_PAUSE, 0.0
        async with send:
            while True:
                before = self._blocks
                try:
                    await self._connect(send)
                    return
                except (WaitAndRetry, NotFound, BadInput) as error:
                    # A broadcast that begins anew may be gone for a moment, or send something else.
                    if self._blocks > before:
                        pause, waited = FIRST_PAUSE, 0.0
                    if not self._blocks or waited >= self._give_up_seconds:
                        errors.append(error)
                        return
                    reason = error.message
                except ChatapiError as error:
                    errors.append(error)
                    return
                self._live = False
                await self._on_state("reconnecting", reason)
                await anyio.sleep(pause)
                waited += pause
                pause = min(LONGEST_PAUSE, pause * 2)

    async def _connect(self, send: MemoryObjectSendStream[Samples]) -> None:
        """One connection, to its end. Raises WaitAndRetry where the stream breaks off."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        errors: list[ChatapiError] = []
        async with anyio.create_task_group() as group:
            group.start_soon(_fill, self._http, self._url, writing, errors)
            await self._decode(reading, send, errors)
            group.cancel_scope.cancel()
        if errors:
            raise errors[0]

    async def _decode(self, reading: int, send: MemoryObjectSendStream[Samples], errors: list[ChatapiError]) -> None:
        """Decode the pipe on a thread, which ends with the pipe."""

        async def pass_on(block: Samples) -> None:
            self._blocks += 1
            if not self._live:
                self._live = True
                await self._on_state("live", "")
            await send.send(block)

        def run(blocks: Iterator[Samples]) -> None:
            for block in blocks:
                anyio.from_thread.run(pass_on, block)

        blocks = live_blocks(reading, rate=self._rate)
        try:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await anyio.to_thread.run_sync(run, blocks)
        except ChatapiError as error:
            # Why the stream broke off says more than what the decoder made of it.
            errors.append(error)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(blocks.close)
            os.close(reading)


async def _checked(receive: AsyncIterator[Samples], errors: list[ChatapiError]) -> AsyncIterator[Samples]:
    async for block in receive:
        yield block
    if errors:
        raise errors[0]


async def _fill(http: GuardedHttp, url: str, writing: int, errors: list[ChatapiError]) -> None:
    """Write the media into a pipe until it ends; the end of the pipe ends the decoder."""
    try:
        async with aclosing(_media(http, url)) as chunks:
            async for chunk in chunks:
                await _write(writing, chunk)
    except BrokenPipeError:
        # The decoder has ended, and says why.
        return
    except ChatapiError as error:
        errors.append(error)
    finally:
        os.close(writing)


async def _write(writing: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        await anyio.wait_writable(writing)
        with suppress(BlockingIOError):
            view = view[os.write(writing, view) :]


async def _media(http: GuardedHttp, url: str, depth: int = 0) -> AsyncGenerator[bytes, None]:
    """The bytes of the media at a URL, to its end. Raises WaitAndRetry where a broadcast, which has none, ends."""
    async with http.opened(url) as answer:
        listed = answer.headers.get("content-type", "").partition(";")[0].strip().lower() in LISTED
        chunks = answer.aiter_raw()
        head = await anext(chunks, b"")
        if not listed and not head.lstrip().startswith((hls.MARK, b"[playlist]")):
            if head:
                yield head
            async for chunk in chunks:
                yield chunk
            _require_complete(answer)
            return
        here, text = str(answer.extensions["url"]), await content(answer, head[:SMALL_BYTES], chunks)
    if text.lstrip().startswith(hls.MARK) and b"#EXT-X-" in text:
        async with aclosing(hls.segments(http, here, text)) as segments:
            async for chunk in segments:
                yield chunk
        return
    if depth:
        raise BadInput("the playlist leads to another playlist", code="bad_playlist")
    async with aclosing(_media(http, _entry(text, here), depth + 1)) as media:
        async for chunk in media:
            yield chunk


def _entry(text: bytes, base: str) -> str:
    """The first address of an M3U or PLS playlist. Raises BadInput (bad_playlist)."""
    for line in text.decode("utf-8", "replace").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.lower().startswith("file") and name[4:].isdigit():
            return str(httpx.URL(base).join(value.strip()))
        if line.strip() and not line.startswith(("#", "[")) and not (equals and "/" not in name):
            return str(httpx.URL(base).join(line.strip()))
    raise BadInput("the playlist names no address", code="bad_playlist")


def _require_complete(answer: httpx.Response) -> None:
    """Raises WaitAndRetry for the answer of a broadcaster, which has no end: it broke off. A recording without a stated
    length ends like that too, and must not begin again."""
    broadcaster = "icecast" in answer.headers.get("server", "").lower()
    if broadcaster or any(name.startswith(("icy-", "ice-")) for name in answer.headers):
        raise WaitAndRetry("the broadcast ended", retry_after=1, code="source_unreachable")
