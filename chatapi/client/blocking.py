"""The client that waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

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


class Client:
    """A box. Everything raises ClientError. For any number of threads; close it, or use it in a `with`."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, verify: Verify = True, timeout: float = PATIENCE
    ) -> None:
        """What is left out comes from CHATAPI_URL and CHATAPI_API_KEY, else it is the box here. `timeout`: seconds
        without news."""
        self._where = ServerAddress.of(url, key, verify, timeout)
        self._http = httpx.Client(**self._where.given())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def completion(
        self,
        prompt: str | None = None,
        *,
        audio: Sound | None = None,
        reply: Reply = "text",
        **options: Unpack[TurnOptions],
    ) -> Completion:
        """Ask, in text or with a recording, and wait for the whole answer."""
        accept = wire.WAV if reply == "voice" else wire.JSON
        with self._opened(self._turn(prompt, audio, reply, accept, False, options)) as answer:
            if reply == "voice":
                return wire.spoken(self._whole(answer, wire.LARGEST_SOUND), answer.headers)
            return wire.completion(self._whole(answer))

    @contextmanager
    def stream(
        self,
        prompt: str | None = None,
        *,
        audio: Sound | None = None,
        reply: Reply = "text",
        **options: Unpack[TurnOptions],
    ) -> Iterator[Iterator[Event]]:
        """The same as it happens; the last event is End. Leaving the block before stops the answer."""
        with self._opened(self._turn(prompt, audio, reply, wire.EVENTS, True, options)) as answer:
            yield self._events(answer)

    @contextmanager
    def wav(
        self, prompt: str | None = None, *, audio: Sound | None = None, **options: Unpack[TurnOptions]
    ) -> Iterator[Iterator[bytes]]:
        """A spoken answer as it is spoken: the beginning of a WAV, whose header knows no length, and what follows."""
        asked = self._turn(prompt, audio, "voice", wire.WAV, True, options)
        with self._opened(asked) as answer:
            yield self._pieces(answer)

    def ready(self) -> bool:
        """Whether every model is loaded and warm."""
        try:
            self._document("/ready")
        except ClientError as error:
            if error.code == "not_ready":
                return False
            raise
        return True

    def models(self) -> list[ModelEntry]:
        """Models the box knows."""
        return wire.models(self._document("/models"))

    def voices(self) -> list[VoiceName]:
        """Voices to ask for; none before it is ready."""
        return wire.voices(self._document("/models"))

    def conversation(self, conversation: str) -> list[ChatEntry]:
        """What was said in it."""
        return wire.messages(self._document(wire.conversation_path(conversation)))

    def forget(self, conversation: str) -> None:
        """Have the box forget it."""
        with self._opened(HttpRequest("DELETE", wire.conversation_path(conversation), "")):
            pass

    @staticmethod
    def _turn(
        prompt: str | None, audio: Sound | None, reply: Reply, accept: str, stream: bool, options: TurnOptions
    ) -> HttpRequest:
        sound = None if audio is None else wire.read_sound(audio)
        return wire.turn(prompt, sound, reply, accept, stream, options)

    def _document(self, path: str) -> bytes:
        with self._opened(HttpRequest("GET", path, wire.JSON)) as answer:
            return self._whole(answer)

    @contextmanager
    def _opened(self, request: HttpRequest) -> Iterator[httpx.Response]:
        with ExitStack() as held:
            # Not around what is done with it: whoever asks something else meanwhile has errors of their own.
            with connecting.translated(self._where.shown):
                answer = held.enter_context(self._http.stream(**connecting.arguments(request)))
            if not answer.is_success:
                raise wire.refused(answer.status_code, answer.headers, self._beginning(answer))
            if request.accept and (kind := connecting.kind_of(answer.headers)) != request.accept:
                raise wire.stranger(f"it sends {kind or 'nothing known'} instead of {request.accept}")
            yield answer

    def _beginning(self, answer: httpx.Response) -> bytes:
        came = b""
        for piece in self._pieces(answer):
            came += piece
            if len(came) > wire.LARGEST_REFUSAL:
                break
        return came

    def _whole(self, answer: httpx.Response, most: int = wire.LARGEST_DOCUMENT) -> bytes:
        pieces, came = [], 0
        for piece in self._pieces(answer):
            came = connecting.limit(came, piece, most)
            pieces.append(piece)
        return b"".join(pieces)

    def _events(self, answer: httpx.Response) -> Iterator[Event]:
        events = Events()
        for piece in self._pieces(answer):
            yield from events.feed(piece)
        events.close()

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        with connecting.translated(self._where.shown, begun=True):
            yield from answer.iter_raw()
