"""Recordings on web pages. yt-dlp finds them in a guarded process (`page_child`); they are fetched as any other URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chatapi.errors import BadInput, TooSlow, Unprocessable
from chatapi.services.transcription import url_source
from chatapi.services.transcription.guarded_proxy import guarded_proxy

FIND_SECONDS = 90.0
"""Longest time in which the recording of a page is found, in seconds."""
MOST_OUTPUT = 1 << 20
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "SSL_CERT_FILE", "SSL_CERT_DIR")
HEAD_BYTES = 1024


@dataclass(frozen=True)
class PageRecording:
    """A recording that a page shows."""

    url: str
    headers: dict[str, str]
    """What its server wants to be sent."""
    title: str


def is_page(path: Path) -> bool:
    """Whether a file is a web page. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")) and b"html" in head


def find(url: str, private: bool) -> PageRecording:
    """The recording on a page. Blocking. `private`: whether private addresses are allowed.

    Raises Unprocessable (page_without_recording, invalid_url), BadInput where yt-dlp is not installed, TooSlow.
    """
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(str(Path(each).resolve()) for each in sys.path),
        "HOME": "/nonexistent",
    }
    with guarded_proxy(private) as (port, password):
        given = json.dumps({"url": url, "port": port, "password": password}).encode()
        command = [sys.executable, "-m", "chatapi.services.transcription.page_child"]
        try:
            done = subprocess.run(
                command, input=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
                cwd="/", timeout=FIND_SECONDS, check=False, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TooSlow(f"the recording of the page was not found within {FIND_SECONDS:g} seconds") from None
    try:
        result = json.loads(done.stdout[:MOST_OUTPUT])
    except ValueError:
        raise _none("yt-dlp ended without an answer") from None
    if result.get("missing"):
        raise BadInput("web pages need yt-dlp: pip install 'chatapi-appliance[yt-dlp]'", code="extra_missing")
    if "error" in result:
        raise _none(str(result["error"]))
    url_source.checked(result["url"])
    return PageRecording(result["url"], dict(result["headers"]), result["title"])


def _none(message: str) -> Unprocessable:
    return Unprocessable(message, code="page_without_recording", details={"param": "url"})
