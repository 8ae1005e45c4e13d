"""Damaged media through the job API: named errors, or a transcript that says what was skipped."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import av
import numpy as np
import pytest

from conftest import RunningServer
from fuzz.media import bomb
from media_files import recorded
from running_interface import running_jobs
from test_transcriptions import ended, submitted

SECONDS = 6.0


@pytest.fixture
def server(fake_server: RunningServer) -> Iterator[RunningServer]:
    with running_jobs(fake_server):
        yield fake_server


def _silent_film() -> bytes:
    """An MP4 with a picture track alone."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return file.getvalue()


def _protected() -> bytes:
    """An MP4 whose track states that it is encrypted, as those of music shops do; its frames are noise."""
    found = recorded("m4a", seconds=SECONDS)
    start = found.index(b"mdat") + 4
    noise = np.random.default_rng(5).bytes(2000)
    return (found[:start] + noise + found[start + len(noise) :]).replace(b"mp4a", b"enca", 1)


def _holed() -> bytes:
    """An MP3 whose middle is zeros."""
    found = bytearray(recorded("mp3", seconds=SECONDS))
    third = len(found) // 3
    found[third : 2 * third] = bytes(third)
    return bytes(found)


def _changing_rate() -> bytes:
    """AAC of 48 kHz, which goes on with 24 kHz."""
    return recorded("adts", seconds=3) + recorded("adts", rate=24_000, seconds=3)


UNREADABLE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "no audio track": ("film.mp4", _silent_film, "no audio track"),
    "encrypted": ("song.m4a", _protected, "is encrypted"),
    "no index": ("talk.m4a", lambda: recorded("m4a", seconds=SECONDS)[:-2000], "has no index"),
    "decompression bomb": ("bomb.m4a", bomb, "states at least"),
    "picture": ("photo.mp3", lambda: b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(2000), "not audio"),
}
"""Name -> file name, content, and a part of the message."""
READABLE: dict[str, tuple[str, Callable[[], bytes], float]] = {
    "wrong extension": ("talk.mp3", lambda: recorded("flac", seconds=SECONDS), SECONDS),
    "truncated": ("talk.mp3", lambda: recorded("mp3", seconds=SECONDS)[: -len(recorded("mp3", seconds=2))], 4.0),
    "damaged frames": ("talk.mp3", _holed, 4.0),
    "changing sample rate": ("talk.aac", _changing_rate, 6.0),
}
"""Name -> file name, content, and the seconds that can be decoded."""


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_decoded_fails_once_with_a_named_error(server: RunningServer, kind: str) -> None:
    name, content, part = UNREADABLE[kind]
    failed = ended(server, submitted(server, files={"file": (name, content())}))
    assert failed["state"] == "failed" and failed["attempts"] == 1
    assert failed["failure"]["code"] == "bad_audio" and part in failed["failure"]["message"]


@pytest.mark.parametrize("kind", READABLE)
def test_what_can_be_decoded_is_transcribed(server: RunningServer, kind: str) -> None:
    name, content, seconds = READABLE[kind]
    job = submitted(server, files={"file": (name, content())})
    done = ended(server, job)
    assert done["state"] == "done"
    document = server.client.get(f"/jobs/{job}/result").json()
    assert document["segments"] and document["duration"] >= seconds - 0.5
    assert ("audio_skipped" in document) is (kind == "damaged frames")
