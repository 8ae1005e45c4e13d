"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

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


class Client:
    """A client of one server. All methods raise ClientError. For any number of threads; close it, or use it in a
    `with`."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, verify: Verify = True, timeout: float = TIMEOUT
    ) -> None:
        """`url` and `key` default to CHATAPI_URL and CHATAPI_API_KEY, then to the server on this machine. `timeout`:
        longest time without data, in seconds."""
        self._address = ServerAddress.of(url, key, verify, timeout)
        self._http = httpx.Client(**self._address.options())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def completion(
        self,
        prompt: str | None = None,
        *,
        audio: AudioInput | None = None,
        reply: Reply = "text",
        **options: Unpack[TurnOptions],
    ) -> Completion:
        """Send a prompt or a recording, and wait for the whole answer."""
        accept = wire.WAV if reply == "voice" else wire.JSON
        with self._opened(self._turn(prompt, audio, reply, accept, False, options)) as answer:
            if reply == "voice":
                return wire.spoken_completion(self._whole(answer, wire.LARGEST_AUDIO), answer.headers)
            return wire.completion(self._whole(answer))

    @contextmanager
    def stream(
        self,
        prompt: str | None = None,
        *,
        audio: AudioInput | None = None,
        reply: Reply = "text",
        **options: Unpack[TurnOptions],
    ) -> Iterator[Iterator[Event]]:
        """Send a prompt or a recording, and stream events; the last one is EndEvent. Leaving the context cancels the
        answer."""
        with self._opened(self._turn(prompt, audio, reply, wire.EVENTS, True, options)) as answer:
            yield self._events(answer)

    @contextmanager
    def wav(
        self, prompt: str | None = None, *, audio: AudioInput | None = None, **options: Unpack[TurnOptions]
    ) -> Iterator[Iterator[bytes]]:
        """Stream a spoken answer as a WAV, whose header has no length."""
        request = self._turn(prompt, audio, "voice", wire.WAV, True, options)
        with self._opened(request) as answer:
            yield self._chunks(answer)

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
        """The models in the server's catalog."""
        return wire.models(self._document("/models"))

    def voices(self) -> list[VoiceName]:
        """The voices; none before the server is ready."""
        return wire.voices(self._document("/models"))

    def conversation(self, conversation: str) -> list[ChatEntry]:
        """The messages of a conversation."""
        return wire.messages(self._document(wire.conversation_path(conversation)))

    def delete_conversation(self, conversation: str) -> None:
        """Delete a conversation."""
        with self._opened(HttpRequest("DELETE", wire.conversation_path(conversation), "")):
            pass

    @staticmethod
    def _turn(
        prompt: str | None, audio: AudioInput | None, reply: Reply, accept: str, stream: bool, options: TurnOptions
    ) -> HttpRequest:
        recording = None if audio is None else wire.read_audio(audio)
        return wire.turn(prompt, recording, reply, accept, stream, options)

    def _document(self, path: str) -> bytes:
        with self._opened(HttpRequest("GET", path, wire.JSON)) as answer:
            return self._whole(answer)

    @contextmanager
    def _opened(self, request: HttpRequest) -> Iterator[httpx.Response]:
        with ExitStack() as stack:
            # Errors of the code inside the context are its own and are not translated.
            with connecting.translated(self._address.shown):
                answer = stack.enter_context(self._http.stream(**connecting.arguments(request)))
            if not answer.is_success:
                raise wire.error_response(answer.status_code, answer.headers, self._beginning(answer))
            if request.accept and (kind := connecting.media_type(answer.headers)) != request.accept:
                raise wire.not_chatapi(f"it sends {kind or 'no media type'} instead of {request.accept}")
            yield answer

    def _beginning(self, answer: httpx.Response) -> bytes:
        received = b""
        for chunk in self._chunks(answer):
            received += chunk
            if len(received) > wire.LARGEST_ERROR:
                break
        return received

    def _whole(self, answer: httpx.Response, most: int = wire.LARGEST_DOCUMENT) -> bytes:
        chunks, received = [], 0
        for chunk in self._chunks(answer):
            received = connecting.limit(received, chunk, most)
            chunks.append(chunk)
        return b"".join(chunks)

    def _events(self, answer: httpx.Response) -> Iterator[Event]:
        parser = EventParser()
        for chunk in self._chunks(answer):
            yield from parser.feed(chunk)
        parser.close()

    def _chunks(self, answer: httpx.Response) -> Iterator[bytes]:
        with connecting.translated(self._address.shown, started=True):
            yield from answer.iter_raw()
