"""Forms: large files on the data directory's disk, and forms beyond the limits or without their end."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message

from chatapi.errors import BadInput
from chatapi.interfaces.http.forms import IN_MEMORY, FormLimits, receive_parts
from chatapi.interfaces.http.spooling import Spool

LIMITS = FormLimits(files=1, fields=1, field_bytes=100)
END = b"--b--\r\n"


def part(name: str, content: bytes, file: str = "") -> bytes:
    named = f'; filename="{file}"' if file else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"


def place_of(descriptor: int) -> str:
    """The path of an open file."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


async def received(data: Path, chunks: Sequence[bytes], target: Path | None = None) -> tuple[bytes, str]:
    """The content of the part `file`, and where it was written; empty: in memory."""
    waiting = [*chunks]

    async def receive() -> Message:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    spool = Spool(data, anyio.CapacityLimiter(1))
    request = Request({"type": "http", "headers": headers, Spool.KEY: spool}, receive)
    form = await receive_parts(request, LIMITS, target)
    try:
        file = form["file"]
        assert isinstance(file, UploadFile)
        content = await file.read()
        rolled = getattr(file.file, "_rolled", True)
        return content, place_of(file.file.fileno()) if rolled else ""
    finally:
        await form.close()
        spool.close()


def receive_form(data: Path, *chunks: bytes, target: Path | None = None) -> tuple[bytes, str]:
    return anyio.run(received, data, chunks, target)


def test_large_file_is_written_to_the_data_directory(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "missing"
    data.mkdir()
    large = bytes(IN_MEMORY + 1)
    content, place = receive_form(data, part("file", large, "a.wav"), END)
    assert content == large and place.startswith(f"{data}/")
    content, place = receive_form(elsewhere, part("file", large, "a.wav"), END)
    assert content == large and place.startswith(f"{tempfile.gettempdir()}/")
    assert receive_form(data, part("file", large[:-1], "a.wav"), END) == (large[:-1], "")


def test_file_with_a_target_is_written_there(tmp_path: Path) -> None:
    target = tmp_path / "source"
    assert receive_form(tmp_path, part("file", b"abc", "a.wav"), END, target=target) == (b"abc", str(target))
    assert target.read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ((part("file", b"abc", "a.wav"),), "the form is incomplete"),
        ((part("file", b"abc", "a.wav"), END[:-4]), "the form is incomplete"),
        ((part("file", b"a", "a.wav"), part("more", b"a", "b.wav"), END), "Too many files"),
        ((part("one", b"a"), part("two", b"a"), END), "Too many fields"),
        ((part("one", b"a" * 101), END), "the form cannot be read"),
    ],
)
def test_truncated_or_too_large_form_is_rejected(tmp_path: Path, chunks: Sequence[bytes], message: str) -> None:
    with pytest.raises(BadInput, match=message) as raised:
        receive_form(tmp_path, *chunks)
    assert raised.value.code == "invalid_form" and not [*tmp_path.iterdir()]
