"""Inputs for the server as bytes, which can be saved and replayed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["http", "bytes", "websocket", "wyoming", "cli"]
BOUNDARY = "ffuzzboundaryf"


@dataclass(frozen=True)
class Input:
    """The bytes sent on one connection, or a file for the command line."""

    kind: Kind
    interface: str
    """The name of its interface in the summary."""
    name: str
    """How it was generated."""
    frames: tuple[bytes, ...] = field(repr=False)
    """http: one whole request; bytes: anything, sent on a new connection; websocket and wyoming: one event each;
    cli: the file."""
    whole: bool = True
    """Whether it is a well-formed message, whose answer must have a code."""
    take: int = -1
    """Bytes of the answer after which the client disconnects; -1: never."""

    @property
    def count(self) -> int:
        """Number of inputs: each event of a session counts."""
        return len(self.frames) if self.kind in ("websocket", "wyoming") else 1

    def save(self, path: Path, **more: Any) -> None:
        """Saves it to a file."""
        frames = [base64.b64encode(each).decode() for each in self.frames]
        path.write_text(json.dumps({**asdict(self), "frames": frames, **more}, indent=1))


def load_input(path: Path) -> Input:
    """Loads an input that `save` wrote."""
    document = json.loads(path.read_text())
    known = {name: document[name] for name in ("kind", "interface", "name", "whole", "take")}
    return Input(**known, frames=tuple(base64.b64decode(each) for each in document["frames"]))


def request(method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """A complete HTTP request. The path is encoded as UTF-8."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + (body or b"")


def form(fields: Sequence[tuple[str, str | bytes]], files: Sequence[tuple[str, str, bytes]] = ()) -> bytes:
    """A multipart body."""
    parts = [
        (f'Content-Disposition: form-data; name="{name}"\r\n\r\n', value.encode() if isinstance(value, str) else value)
        for name, value in fields
    ]
    parts += [
        (f'Content-Disposition: form-data; name="{n}"; filename="{f}"\r\nContent-Type: audio/wav\r\n\r\n', data)
        for n, f, data in files
    ]
    whole = b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + head.encode() + body + b"\r\n" for head, body in parts)
    return whole + b"--" + BOUNDARY.encode() + b"--\r\n"


FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
JSON = {"Content-Type": "application/json"}


def as_json(value: Any) -> bytes:
    """JSON as clients send it: characters that UTF-8 cannot encode are escaped."""
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return b"{}"


def wyoming(kind: str, data: Mapping[str, Any] | None = None, payload: bytes = b"") -> bytes:
    """A well-formed Wyoming event."""
    body = json.dumps(data).encode() if data is not None else b""
    header = {"type": kind, "version": "1.5.2"}
    lengths = {"data_length": len(body)} if body else {}
    payloads = {"payload_length": len(payload)} if payload else {}
    return json.dumps({**header, **lengths, **payloads}).encode() + b"\n" + body + payload
