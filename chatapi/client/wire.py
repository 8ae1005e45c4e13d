"""The protocol of both clients, without I/O: requests, responses and errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict, TypeVar
from urllib.parse import quote, unquote

T = TypeVar("T")
AudioInput = bytes | str | PathLike[str] | BinaryIO
"""A recording in any format that the server decodes: its bytes, the path of its file, or the open file."""
Reply = Literal["text", "voice"]

JSON, WAV, EVENTS = "application/json", "audio/wav", "text/event-stream"
LARGEST_DOCUMENT = 16 << 20
"""Largest JSON response, in bytes."""
LARGEST_AUDIO = 256 << 20
"""Largest audio response, in bytes."""
LARGEST_ERROR = 64 << 10
"""Largest error response, in bytes."""


class ClientError(Exception):
    """A request failed; the message is one sentence."""

    def __init__(self, code: str, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        """The server's code, such as unauthorized, busy or no_speech; or unreachable, timed_out, broken_off (the answer
        is incomplete), not_chatapi (another server answers), bad_request (the request cannot be sent)."""
        self.message = message
        self.status = status
        """HTTP status; None: no complete response."""
        self.retry_after = retry_after
        """Time to wait before a retry, in seconds; None: not given."""


class TurnOptions(TypedDict, total=False):
    """Options of a turn; the server decides those that are None or left out."""

    conversation: str | None
    """Id of a conversation to continue."""
    system: str | None
    """System prompt."""
    max_tokens: int | None
    """Longest answer, in tokens."""
    temperature: float | None
    """Sampling temperature, 0 to 2."""
    seed: int | None
    """Seed of the sampling."""
    voice: str | None
    """Name of a voice."""
    language: str | None
    """ISO 639-1 code of the spoken language."""


@dataclass(frozen=True)
class CompletionUsage:
    """Number of tokens of a turn."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    conversation: str
    """Id of the conversation, to continue it."""
    transcript: str | None
    """Transcript of the recording; None: the prompt was text."""
    reply: str
    """Text of the answer; of a spoken answer only the beginning, up to 4000 characters of an encoded header."""
    finish_reason: str
    usage: CompletionUsage
    timings: Mapping[str, float | None]
    """Time from the turn's acceptance to each stage, in seconds."""
    audio: bytes | None = field(default=None, repr=False)
    """The spoken answer, a WAV; None: the answer is text."""


@dataclass(frozen=True)
class StartEvent:
    """The turn was admitted."""

    conversation: str
    """Id of the conversation."""


@dataclass(frozen=True)
class TranscriptEvent:
    """A transcript of the recording, partial or final."""

    text: str
    final: bool
    start: float
    """Start of the segment, in seconds from the start of the recording."""
    end: float
    """End of the segment, in seconds from the start of the recording."""
    language: str
    """ISO 639-1 code."""


@dataclass(frozen=True)
class DeltaEvent:
    """The next part of the answer's text."""

    text: str


@dataclass(frozen=True)
class SpeechEvent:
    """A part of the answer's speech."""

    pcm: bytes = field(repr=False)
    """16-bit little-endian samples of one channel."""
    rate: int
    """Sample rate, in Hz."""
    text: str
    """The spoken text."""


@dataclass(frozen=True)
class TranscriptionProgress:
    """Progress of a long recording's transcription."""

    done: float
    """Seconds of the recording that are done."""
    total: float
    """Duration of the recording, in seconds."""


@dataclass(frozen=True)
class EndEvent:
    """The answer is complete; this is the last event."""

    completion: Completion


Event = StartEvent | TranscriptEvent | DeltaEvent | SpeechEvent | TranscriptionProgress | EndEvent


@dataclass(frozen=True)
class ModelEntry:
    """A model of the server's catalog."""

    name: str
    role: str
    engine: str
    title: str
    languages: tuple[str, ...]
    """ISO 639-1 codes."""
    installed: bool
    active: bool
    """Whether the server uses it."""


@dataclass(frozen=True)
class VoiceName:
    """A voice of the server."""

    name: str
    language: str
    rate: int
    """Sample rate, in Hz."""
    default: bool


@dataclass(frozen=True)
class ChatEntry:
    """A message of a conversation."""

    role: str
    """user or assistant."""
    text: str


@dataclass(frozen=True)
class HttpRequest:
    """A request to the server."""

    method: str
    path: str
    accept: str
    """Expected media type of the response; empty: any."""
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None


MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"RIFF", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (4, b"ftyp", "audio/mp4"),
    (0, b"\x1a\x45\xdf\xa3", "audio/webm"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff", "audio/mpeg"),
)
"""Offset in a file, magic number, and media type."""


def read_audio(audio: AudioInput) -> bytes:
    """The bytes of a recording. Blocking. Raises ClientError (bad_request) when it cannot be read."""
    if isinstance(audio, bytes):
        return audio
    try:
        return Path(audio).read_bytes() if isinstance(audio, (str, PathLike)) else audio.read()
    except OSError as error:
        raise ClientError("bad_request", f"the recording cannot be read: {error}") from error


def turn(
    prompt: str | None, recording: bytes | None, reply: Reply, accept: str, stream: bool, options: TurnOptions
) -> HttpRequest:
    """A request to `/completion`. Raises ClientError (bad_request) unless there is a prompt or a recording."""
    if (prompt is None) == (recording is None):
        raise ClientError("bad_request", "give either a prompt or a recording (audio=...)")
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    chosen |= {"reply": reply, "stream": stream}
    if recording is None:
        document = json.dumps({**chosen, "prompt": prompt}).encode()
        return HttpRequest("POST", "/completion", accept, headers={"Content-Type": JSON}, content=document)
    known = (kind for at, mark, kind in MAGIC if recording[at : at + len(mark)] == mark)
    query = {name: json.dumps(value) if isinstance(value, bool) else str(value) for name, value in chosen.items()}
    return HttpRequest("POST", "/completion", accept, query, {"Content-Type": next(known, "audio/wav")}, recording)


def conversation_path(conversation: str) -> str:
    """The path of a conversation."""
    return f"/conversations/{quote(conversation, safe='')}"


def error_response(status: int, headers: Mapping[str, str], body: bytes) -> ClientError:
    """The error of an unsuccessful response."""
    retry_after = headers.get("retry-after", "")
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else None
    try:
        document = json.loads(body)
        code, message = str(document["code"]), str(document["detail"])
    except (ValueError, RecursionError, LookupError, TypeError):
        redirect = f" and redirects to {headers['location'][:200]!r}" if "location" in headers else ""
        text = f"a server or proxy that is not chatapi answers with status {status}{redirect}; is the address right?"
        return ClientError("not_chatapi", text, status=status, retry_after=seconds)
    return ClientError(code, message, status=status, retry_after=seconds)


def not_chatapi(reason: str) -> ClientError:
    """The error for a response that chatapi does not send."""
    return ClientError("not_chatapi", f"the server is not chatapi: {reason}; is the address right?", status=200)


def parsed(parse: Callable[[], T]) -> T:
    """The result of parsing a response. Raises ClientError (not_chatapi) when it has an unexpected form."""
    try:
        return parse()
    except (ValueError, ArithmeticError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise not_chatapi("its response has an unexpected form") from error


def completion(body: bytes) -> Completion:
    """A completion from a JSON response."""
    return parsed(lambda: completion_of(json.loads(body)))


def spoken_completion(body: bytes, headers: Mapping[str, str]) -> Completion:
    """A completion from a WAV response and its headers."""

    def read() -> Completion:
        known = {
            "conversation": headers["x-chatapi-conversation"],
            "transcript": unquote(headers["x-chatapi-transcript"]) if "x-chatapi-transcript" in headers else None,
            "reply": unquote(headers["x-chatapi-reply"]),
            "finish_reason": headers["x-chatapi-finish-reason"],
            "usage": json.loads(headers["x-chatapi-usage"]),
            "timings": json.loads(headers["x-chatapi-timings"]),
        }
        return completion_of(known, body)

    return parsed(read)


def completion_of(document: Mapping[str, Any], audio: bytes | None = None) -> Completion:
    """A completion from a JSON document. Raises errors that `parsed` translates."""
    usage, transcript = document["usage"], document["transcript"]
    return Completion(
        conversation=text_of(document["conversation"]),
        transcript=None if transcript is None else text_of(transcript),
        reply=text_of(document["reply"]),
        finish_reason=text_of(document["finish_reason"]),
        usage=CompletionUsage(
            int(usage["prompt_tokens"]), int(usage["completion_tokens"]), int(usage["cached_tokens"])
        ),
        timings={name: None if value is None else float(value) for name, value in document["timings"].items()},
        audio=audio,
    )


def text_of(value: object) -> str:
    """A value as text. Raises TypeError for any other type."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def models(body: bytes) -> list[ModelEntry]:
    """The models of a `/models` response."""

    def one(entry: Mapping[str, Any]) -> ModelEntry:
        return ModelEntry(
            name=text_of(entry["name"]),
            role=text_of(entry["role"]),
            engine=text_of(entry["engine"]),
            title=text_of(entry["title"]),
            languages=tuple(entry["languages"]),
            installed=bool(entry["installed"]),
            active=bool(entry["active"]),
        )

    return parsed(lambda: [one(entry) for entry in json.loads(body)["models"]])


def voices(body: bytes) -> list[VoiceName]:
    """The voices of a `/models` response."""

    def one(entry: Mapping[str, Any]) -> VoiceName:
        return VoiceName(text_of(entry["name"]), text_of(entry["language"]), int(entry["rate"]), bool(entry["default"]))

    return parsed(lambda: [one(entry) for entry in json.loads(body)["voices"]])


def messages(body: bytes) -> list[ChatEntry]:
    """The messages of a `/conversations/{id}` response."""
    return parsed(
        lambda: [ChatEntry(text_of(entry["role"]), text_of(entry["text"])) for entry in json.loads(body)["messages"]]
    )


def broken_off(reason: str) -> ClientError:
    """The error for an incomplete answer."""
    return ClientError("broken_off", f"{reason}: the server or the network failed; try again")
