"""Downloading one file over HTTP: resumed, bounded, verified, and in its place only when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from chatapi.catalog.manifest import File, secure
from chatapi.errors import ModelError
from chatapi.storage import atomic_files

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each retry after a connection broke; after the last one the download fails."""
RENEWING = 1 << 20
"""Bytes that an attempt must bring to reset the count of retries."""
TIMEOUT = httpx.Timeout(30, connect=10)
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes that may be temporary."""


class Unreachable(ModelError):
    """The file could not be fetched; this says nothing about its content."""

    code = "model_unreachable"


class _Broken(Exception):
    """The connection failed, not the content: a retry makes sense."""


def download(
    address: str,
    target: Path,
    expected: File,
    count: atomic_files.Count = atomic_files.silent,
    pauses: Sequence[float] = PAUSES,
) -> str:
    """Downloads `address` to `target`, unless it exists, and returns its sha256.

    A partial download is kept in `target`.part and resumed. Raises Unreachable when it cannot be fetched, ModelError
    when it is not the expected file; then nothing of it is kept.
    """
    if target.exists():
        found = atomic_files.digest(target, count)
        if expected.sha256 in (None, found):
            return found
        target.unlink()
    transfer = _Transfer(address, target, expected, count)
    left = list(pauses)
    with _client() as client:
        while True:
            before = transfer.present
            try:
                return transfer.attempt(client)
            except _Broken as error:
                if transfer.present - before >= RENEWING:
                    left = list(pauses)
                if not left:
                    raise Unreachable(f"{error} ({len(pauses) + 1} tries)") from error
                time.sleep(left.pop(0))


def _client() -> httpx.Client:
    try:
        return httpx.Client(
            timeout=TIMEOUT,
            follow_redirects=True,
            headers={"User-Agent": "chatapi", "Accept-Encoding": "identity"},
            event_hooks={"request": [_refuse_insecure]},
        )
    except (ImportError, ValueError) as error:
        raise Unreachable(f"the configured proxy cannot be used: {error}") from error


def login(address: str) -> dict[str, str]:
    """The authorization header of Hugging Face; httpx does not send it to another host."""
    token = os.environ.get("HF_TOKEN", "").strip()
    url = httpx.URL(address)
    known = token.isascii() and token.isprintable() and (url.scheme, url.host) == ("https", "huggingface.co")
    return {"Authorization": f"Bearer {token}"} if token and known else {}


def _refuse_insecure(request: httpx.Request) -> None:
    if not secure(str(request.url)):
        raise Unreachable(f"{request.url} is not allowed: only https, or http from this machine")


@dataclass
class _Transfer:
    address: str
    target: Path
    expected: File
    count: atomic_files.Count

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def state(self) -> Path:
        """The server's validator (ETag or Last-Modified) of the partial file."""
        return self.target.with_name(self.target.name + ".part.json")

    @property
    def present(self) -> int:
        """Bytes of the partial file."""
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def host(self) -> str:
        return httpx.URL(self.address).host

    def attempt(self, client: httpx.Client) -> str:
        start, validator = self._resumable()
        if start and start == self.expected.size:
            return self._finish(atomic_files.digest(self.part, self.count), resumed=True)
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and validator:
            headers["If-Range"] = validator
        headers.update(login(self.address))
        try:
            with client.stream("GET", self.address, headers=headers) as response:
                resumed = self._accept(response, start)
                return self._finish(self._receive(response, start if resumed else 0), resumed)
        except httpx.ConnectError as error:
            raise _Broken(f"cannot reach {self.host}: {str(error) or 'no answer'}") from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise _Broken(f"{self.host} disconnected after {self.present} bytes: {reason}") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.address}: {error}") from error

    def _resumable(self) -> tuple[int, str]:
        """Where to resume, and the validator that the server must still have.

        Without a digest of the whole file, only a part that the server's own validator ties to the same file is
        resumed.
        """
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            state = {}
        validator = str(state.get("validator", "")) if state.get("address") == self.address else ""
        if self.present > self.expected.limit or not (validator or self.expected.sha256):
            self._discard()
        return self.present, validator

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _accept(self, response: httpx.Response, start: int) -> bool:
        """Whether the response resumes from `start`; False: it starts from zero."""
        status = response.status_code
        if status == 416:
            self._discard()
            raise _Broken(f"{self.host} has no bytes after {start}")
        if status in PASSING:
            raise _Broken(f"{self.host} answered {status} {response.reason_phrase}")
        if status in (401, 403):
            raise Unreachable(
                f"{self.address} answered {status} {response.reason_phrase}: it requires a login; accept the "
                f"conditions there and set HF_TOKEN to your token, or download the files yourself and name their "
                "folder in a manifest of your own, as models/README.md shows"
            )
        if status not in (200, 206):
            raise Unreachable(f"{self.address} answered {status} {response.reason_phrase}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Unreachable(f"{self.address} sent a content encoding that was not requested")
        resumed = status == 206
        if resumed and not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
            self._discard()
            raise _Broken(f"{self.host} sent another range than requested")
        self._check_stated(response, start if resumed else 0)
        return resumed

    def _check_stated(self, response: httpx.Response, start: int) -> None:
        stated = response.headers.get("Content-Length", "")
        if not stated.isdecimal():
            if not (self.expected.size or self.expected.sha256):
                raise Unreachable(f"{self.address} does not state its length, and nothing else would show its end")
            return
        total = start + int(stated)
        wrong = total != self.expected.size if self.expected.size else total > self.expected.limit
        if wrong:
            self._discard()
            raise ModelError(f"{self.address} has {total} bytes, expected {self._expected_size()}")

    def _expected_size(self) -> str:
        return f"{self.expected.size}" if self.expected.size else f"at most {self.expected.at_most}"

    def _receive(self, response: httpx.Response, start: int) -> str:
        sha = hashlib.sha256()
        with self.part.open("r+b" if start else "wb") as file:
            while start and (chunk := file.read(atomic_files.CHUNK)):
                sha.update(chunk)
            strong = response.headers.get("ETag", "")
            validator = strong if strong.startswith('"') else response.headers.get("Last-Modified", "")
            atomic_files.write_whole(self.state, json.dumps({"address": self.address, "validator": validator}))
            done = start
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > self.expected.limit:
                    self._discard()
                    raise ModelError(f"{self.address} sent more than {self.expected.limit} bytes")
                file.write(chunk)
                sha.update(chunk)
                self.count(done, self.expected.limit)
        if self.expected.size and done < self.expected.size:
            raise _Broken(f"{self.host} ended after {done} of {self.expected.size} bytes")
        return sha.hexdigest()

    def _finish(self, sha256: str, resumed: bool) -> str:
        if self.expected.sha256 and sha256 != self.expected.sha256:
            self._discard()
            if resumed:
                raise _Broken(f"the earlier part of {self.target.name} does not match the rest")
            raise ModelError(f"{self.address} has the sha256 {sha256}; {self.expected.sha256} is pinned")
        atomic_files.sync(self.part)
        self.part.replace(self.target)
        self.state.unlink(missing_ok=True)
        return sha256
