"""What goes to a box and what comes back, without any connection: both clients are made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict, TypeVar
from urllib.parse import quote, unquote

T = TypeVar("T")
Sound = bytes | str | PathLike[str] | BinaryIO
"""A recording in any format the box takes: its bytes, the path of its file, or the open file."""
Reply = Literal["text", "voice"]

JSON, WAV, EVENTS = "application/json", "audio/wav", "text/event-stream"
LARGEST_DOCUMENT = 16 << 20
LARGEST_SOUND = 256 << 20
LARGEST_REFUSAL = 64 << 10


class ClientError(Exception):
    """Why there is no answer, in one sentence."""

    def __init__(self, code: str, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        """The box's own, such as unauthorized, busy or no_speech; or unreachable, timed_out, broken_off, not_chatapi
        (what answers is something else), bad_request (what cannot be sent)."""
        self.message = message
        self.status = status
        """The HTTP status; None: no answer came, or not a whole one."""
        self.retry_after = retry_after
        """Seconds after which trying again makes sense; None: the box does not say."""


class TurnOptions(TypedDict, total=False):
    """How a turn is to be answered; what is left out, or None, the box decides."""

    conversation: str | None
    system: str | None
    max_tokens: int | None
    temperature: float | None
    seed: int | None
    voice: str | None
    language: str | None


@dataclass(frozen=True)
class CompletionUsage:
    """Tokens an answer took."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    conversation: str
    """The id to go on with."""
    transcript: str | None
    """What was understood of a recording."""
    reply: str
    """Of a spoken answer no more than its beginning, up to 4000 characters as a header writes them."""
    finish_reason: str
    usage: CompletionUsage
    timings: Mapping[str, float | None]
    """Seconds from the turn's acceptance to each stage."""
    audio: bytes | None = field(default=None, repr=False)
    """The spoken answer, a WAV."""


@dataclass(frozen=True)
class StartEvent:
    """The turn was let in."""

    conversation: str


@dataclass(frozen=True)
class TranscriptEvent:
    """What was understood of a recording; times in seconds from its start."""

    text: str
    final: bool
    start: float
    end: float
    language: str


@dataclass(frozen=True)
class DeltaEvent:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class SpeechEvent:
    """A stretch of the answer, spoken."""

    pcm: bytes = field(repr=False)
    """16-bit little-endian samples of one channel."""
    rate: int
    """Samples a second."""
    text: str
    """The words it says."""


@dataclass(frozen=True)
class TranscriptionProgress:
    """How far a long work has come, in its own unit."""

    done: float
    total: float


@dataclass(frozen=True)
class EndEvent:
    """The answer is whole; nothing follows."""

    completion: Completion


Event = StartEvent | TranscriptEvent | DeltaEvent | SpeechEvent | TranscriptionProgress | EndEvent


@dataclass(frozen=True)
class ModelEntry:
    """A model the box knows."""

    name: str
    role: str
    engine: str
    title: str
    languages: tuple[str, ...]
    installed: bool
    active: bool


@dataclass(frozen=True)
class VoiceName:
    """A voice to ask for."""

    name: str
    language: str
    rate: int
    default: bool


@dataclass(frozen=True)
class ChatEntry:
    """Something said in a conversation."""

    role: str
    """user or assistant."""
    text: str


@dataclass(frozen=True)
class HttpRequest:
    """What is sent."""

    method: str
    path: str
    accept: str
    """The one media type that is an answer."""
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
"""Where a file says what it is, how, and what that is."""


def read_sound(sound: Sound) -> bytes:
    """Blocking. Raises ClientError (bad_request) for what cannot be read."""
    if isinstance(sound, bytes):
        return sound
    try:
        return Path(sound).read_bytes() if isinstance(sound, (str, PathLike)) else sound.read()
    except OSError as error:
        raise ClientError("bad_request", f"the recording cannot be read: {error}") from error


def turn(
    prompt: str | None, sound: bytes | None, reply: Reply, accept: str, stream: bool, options: TurnOptions
) -> HttpRequest:
    """A request for `/completion`. Raises ClientError (bad_request) unless there is a prompt or a recording."""
    if (prompt is None) == (sound is None):
        raise ClientError("bad_request", "give either a prompt or a recording (audio=...)")
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    chosen |= {"reply": reply, "stream": stream}
    if sound is None:
        document = json.dumps({**chosen, "prompt": prompt}).encode()
        return HttpRequest("POST", "/completion", accept, headers={"Content-Type": JSON}, content=document)
    known = (kind for at, mark, kind in MAGIC if sound[at : at + len(mark)] == mark)
    query = {name: json.dumps(value) if isinstance(value, bool) else str(value) for name, value in chosen.items()}
    return HttpRequest("POST", "/completion", accept, query, {"Content-Type": next(known, "audio/wav")}, sound)


def conversation_path(conversation: str) -> str:
    """Where a conversation is."""
    return f"/conversations/{quote(conversation, safe='')}"


def refused(status: int, headers: Mapping[str, str], body: bytes) -> ClientError:
    """What an answer with this status, which is not a good one, means."""
    retry_after = headers.get("retry-after", "")
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else None
    try:
        document = json.loads(body)
        code, message = str(document["code"]), str(document["detail"])
    except (ValueError, RecursionError, LookupError, TypeError):
        elsewhere = f", and sends on to {headers['location'][:200]!r}" if "location" in headers else ""
        told = f"what answers is not a box, or something in between: it says {status}{elsewhere}; is the address right?"
        return ClientError("not_chatapi", told, status=status, retry_after=seconds)
    return ClientError(code, message, status=status, retry_after=seconds)


def stranger(why: str) -> ClientError:
    """For what no box says."""
    return ClientError("not_chatapi", f"what answers is not a box: {why}; is the address right?", status=200)


def understood(what: Callable[[], T]) -> T:
    """What reads something that came, whose surprises all mean that it came from something else."""
    try:
        return what()
    except (ValueError, ArithmeticError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise stranger("its answer has another form") from error


def completion(body: bytes) -> Completion:
    """Of a JSON answer."""
    return understood(lambda: completion_of(json.loads(body)))


def spoken(body: bytes, headers: Mapping[str, str]) -> Completion:
    """Of a WAV and the headers beside it."""

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

    return understood(read)


def completion_of(document: Mapping[str, Any], audio: bytes | None = None) -> Completion:
    """Of its members. Raises what `understood` understands."""
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
    """Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def models(body: bytes) -> list[ModelEntry]:
    """Of `/models`."""

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

    return understood(lambda: [one(entry) for entry in json.loads(body)["models"]])


def voices(body: bytes) -> list[VoiceName]:
    """Of `/models`."""

    def one(entry: Mapping[str, Any]) -> VoiceName:
        return VoiceName(text_of(entry["name"]), text_of(entry["language"]), int(entry["rate"]), bool(entry["default"]))

    return understood(lambda: [one(entry) for entry in json.loads(body)["voices"]])


def messages(body: bytes) -> list[ChatEntry]:
    """Of `/conversations/{id}`."""
    return understood(
        lambda: [ChatEntry(text_of(entry["role"]), text_of(entry["text"])) for entry in json.loads(body)["messages"]]
    )


def broken_off(why: str) -> ClientError:
    """For an answer that is not whole."""
    return ClientError("broken_off", f"{why}: the box, or the way to it, is gone; ask again")
