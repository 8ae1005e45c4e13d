"""Captions that clients start and any number of viewers watch: from the box's microphone, a stream at a URL, or audio
that a client pushes in a Realtime session."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup

from chatapi.audio import Samples
from chatapi.errors import BadInput, Busy, ChatapiError, InternalError, NotFound, NotReady, Unprocessable, WrongMode
from chatapi.events import LiveEvent, Transcript
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.captions.captioner import DEFAULT_CAPTION_OPTIONS, CaptionOptions, captioning
from chatapi.services.captions.stream_url import StreamUrl
from chatapi.services.event_feed import EventFeed
from chatapi.services.transcription import url_source
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.settings import Settings

log = logging.getLogger(__name__)

CaptionSource = Literal["microphone", "stream", "push"]
Microphone = Callable[[], AbstractAsyncContextManager[AsyncIterator[Samples]]]
"""Opens the box's microphone: blocks of 16 kHz mono."""
SWEEP_SECONDS = 5.0
"""Interval between two looks for captions that are too old, in seconds."""


@dataclass(frozen=True)
class CaptionRequest:
    """What is to be captioned."""

    source: CaptionSource
    title: str = ""
    url: str = ""
    """Of a stream."""
    options: CaptionOptions = DEFAULT_CAPTION_OPTIONS
    owner: str = ""


@dataclass(eq=False)
class Captions:
    """Captions that run, or ended and are kept for a time."""

    id: str
    request: CaptionRequest
    feed: EventFeed
    state: str = "starting"
    """starting, waiting (for audio that is pushed), live, reconnecting, ended or failed."""
    seconds: float = 0.0
    """End of the last line, in seconds of the stream."""
    lines: int = 0
    created_at: float = field(default_factory=time.time)
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None
    """When they ended, on the monotonic clock."""
    failure: ChatapiError | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    pushing: bool = False
    """Whether a session pushes its audio now."""
    used: float = field(default_factory=time.monotonic)
    """When a session last pushed audio, on the monotonic clock."""

    @property
    def running(self) -> bool:
        return self.ended is None

    def set_state(self, state: str, message: str = "") -> None:
        """Tells viewers of a new state."""
        if state != self.state:
            self.state = state
            self.feed.keep("state", {"state": state, **({"message": message} if message else {})})

    def add(self, transcript: Transcript) -> None:
        """Tells viewers of a partial or final transcript."""
        data = {
            "start": round(transcript.start, 3), "end": round(transcript.end, 3), "text": transcript.text,
            "language": transcript.language, **({"speaker": transcript.speaker} if transcript.speaker else {}),
        }  # fmt: skip
        if not transcript.final:
            self.feed.partial(data)
            return
        self.lines, self.seconds = self.lines + 1, transcript.end
        self.feed.keep("line", data)


class CaptionService:
    """Runs captions at the priority of requests, below that of live turns. Belongs to one event loop, in which `run`
    runs."""

    def __init__(self, engines: Engines, transcriber: FileTranscriber, settings: Settings, metrics: Metrics) -> None:
        self._services = (engines, transcriber, settings)
        self._settings, self._metrics = settings.captions, metrics
        self.microphone: Microphone | None = None
        """The audio device interface sets it."""
        self._all: dict[str, Captions] = {}
        self._group: TaskGroup | None = None
        """While `run` runs."""
        self._viewers = 0

    async def run(self) -> None:
        """Runs what `start` adds, until cancelled."""
        async with anyio.create_task_group() as self._group:
            try:
                await self._sweep()
            finally:
                self._group = None

    def start(self, request: CaptionRequest) -> Captions:
        """New captions, which begin at once. Raises NotReady, Busy (too_many_captions), Unprocessable, WrongMode
        (microphone_in_use)."""
        if self._group is None:
            raise NotReady("captions are not running")
        limit = self._settings.sessions
        running = [each for each in self._all.values() if each.running]
        if len(running) >= limit:
            message = f"{len(running)} captions run; the limit is {limit} (captions.sessions)"
            raise Busy(message, code="too_many_captions", retry_after=10)
        if request.source == "microphone":
            if self.microphone is None:
                raise Unprocessable("this box has no microphone for captions", details={"param": "source"})
            if any(each.request.source == "microphone" for each in running):
                raise WrongMode("the microphone has captions already; watch those", code="microphone_in_use")
        if request.source == "stream":
            url_source.checked(request.url)
        captions = Captions(f"cap_{secrets.token_urlsafe(12)}", request, EventFeed(self._settings.history))
        self._all[captions.id] = captions
        if request.source == "push":
            captions.set_state("waiting")
        else:
            self._group.start_soon(self._run, captions)
        return captions

    def all(self) -> list[Captions]:
        """The newest first."""
        return sorted(self._all.values(), key=lambda each: each.begun, reverse=True)

    def get(self, id_: str) -> Captions:
        """Raises NotFound (unknown_captions)."""
        if (found := self._all.get(id_)) is None:
            raise NotFound(f"there are no captions {id_!r}, or they have been deleted", code="unknown_captions")
        return found

    def delete(self, captions: Captions) -> None:
        """Ends captions, and forgets them."""
        self._all.pop(captions.id, None)
        self._end(captions, "ended")
        captions.scope.cancel()

    @contextmanager
    def viewing(self, captions: Captions) -> Iterator[EventFeed]:
        """The feed for one more viewer. Raises Busy (too_many_viewers)."""
        limit = self._settings.viewers
        if self._viewers >= limit:
            raise Busy(f"{limit} viewers watch captions already (captions.viewers)", code="too_many_viewers",
                       retry_after=10)  # fmt: skip
        self._viewers += 1
        captions.feed.viewers += 1
        try:
            yield captions.feed
        finally:
            self._viewers -= 1
            captions.feed.viewers -= 1

    @contextmanager
    def pushed(self, captions: Captions) -> Iterator[Callable[[LiveEvent], None]]:
        """Receives the events of a session that pushes the audio, until the block ends. Raises BadInput, WrongMode
        (captions_in_use)."""
        if captions.request.source != "push":
            raise BadInput(f"the captions {captions.id} get their audio from {captions.request.source}")
        if captions.pushing or not captions.running:
            what = "have ended" if not captions.running else "get audio from another session"
            raise WrongMode(f"the captions {captions.id} {what}", code="captions_in_use")
        captions.pushing = True
        captions.set_state("live")
        offset = captions.seconds

        def add(event: LiveEvent) -> None:
            if isinstance(event, Transcript) and captions.running:
                captions.add(event if not offset else _later(event, offset))

        try:
            yield add
        finally:
            captions.pushing, captions.used = False, time.monotonic()
            if captions.running:
                captions.set_state("waiting")

    async def _run(self, captions: Captions) -> None:
        failure: ChatapiError | None = None
        with captions.scope:
            try:
                await self._transcribe(captions)
            except ChatapiError as error:
                failure = error
            except Exception:
                log.exception("captions ended by an unexpected error")
                failure = InternalError("internal error; the log has the details")
        if failure is not None:
            self._metrics.error(failure)
            log.warning("captions failed: %s", failure.message)
            captions.failure = failure
        self._end(captions, "failed" if failure is not None else "ended")

    async def _transcribe(self, captions: Captions) -> None:
        async def send(transcript: Transcript) -> None:
            captions.add(transcript)

        async def on_state(state: str, message: str) -> None:
            captions.set_state(state, message)

        async with (
            captioning(self._services, captions.request.options, send, Priority.REQUEST) as captioner,
            self._blocks(captions.request, on_state) as blocks,
        ):
            async for block in blocks:
                if captions.state == "starting":
                    captions.set_state("live")
                await captioner.feed(block)
            await captioner.finish()

    @asynccontextmanager
    async def _blocks(self, request: CaptionRequest, on_state: Any) -> AsyncIterator[AsyncIterator[Samples]]:
        if request.source == "microphone" and self.microphone is not None:
            async with self.microphone() as blocks:
                yield blocks
            return
        table = self._settings
        async with StreamUrl(request.url, table.private_urls, table.give_up_seconds, on_state).opened() as blocks:
            yield blocks

    async def _sweep(self) -> None:
        """Ends what is too old, and forgets what has ended."""
        table = self._settings
        while True:
            await anyio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for captions in list(self._all.values()):
                idle = captions.request.source == "push" and not captions.pushing and not captions.feed.viewers
                old = now - captions.begun > table.max_seconds or (idle and now - captions.used > table.keep_seconds)
                if captions.running and old:
                    self._end(captions, "ended")
                    captions.scope.cancel()
                elif captions.ended is not None and now - captions.ended > table.keep_seconds:
                    self._all.pop(captions.id, None)

    def _end(self, captions: Captions, state: str) -> None:
        if captions.ended is None:
            captions.ended = time.monotonic()
            captions.set_state(state, captions.failure.message if captions.failure is not None else "")
            captions.feed.close()


def _later(event: Transcript, seconds: float) -> Transcript:
    """A transcript of a session that goes on where another one ended."""
    return replace(event, start=event.start + seconds, end=event.end + seconds)
