"""Fetching one file over HTTP: resumed, bounded, checked, and there only when it is whole."""

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
"""Seconds before each new try after a connection broke; after the last one it is given up."""
RENEWING = 1 << 20
"""Bytes a try must have brought for the count of tries to start again."""
TIMEOUT = httpx.Timeout(30, connect=10)
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP answers that may be another one soon."""


class Unreachable(ModelError):
    """It could not be had from there; what was wrong with it, if anything, is not known."""

    code = "model_unreachable"


class _Broken(Exception):
    """The connection, not the content: trying again makes sense."""


def download(
    address: str,
    target: Path,
    expected: File,
    count: atomic_files.Count = atomic_files.silent,
    pauses: Sequence[float] = PAUSES,
) -> str:
    """Fetch `address` into `target`, unless it is there, and return its sha256.

    What has arrived is kept in `target`.part and gone on from. Raises Unreachable when it cannot be had, ModelError
    when it is not what was expected; then nothing of it is kept.
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
        raise Unreachable(f"the proxy that is set cannot be used: {error}") from error


def login(address: str) -> dict[str, str]:
    """Headers that say who fetches, for the host that knows them; httpx does not hand them on to another one."""
    token = os.environ.get("HF_TOKEN", "").strip()
    url = httpx.URL(address)
    known = token.isascii() and token.isprintable() and (url.scheme, url.host) == ("https", "huggingface.co")
    return {"Authorization": f"Bearer {token}"} if token and known else {}


def _refuse_insecure(request: httpx.Request) -> None:
    if not secure(str(request.url)):
        raise Unreachable(f"{request.url} is refused: only https is fetched, or http from this machine itself")


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
        """What the server said the part belongs to."""
        return self.target.with_name(self.target.name + ".part.json")

    @property
    def present(self) -> int:
        """Bytes of the part."""
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
            raise _Broken(f"{self.host} broke off after {self.present} bytes: {reason}") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.address}: {error}") from error

    def _resumable(self) -> tuple[int, str]:
        """Where to go on, and what the server must still have for it.

        Without a digest to check the whole by, only a part that the server's own validator ties to the same file is
        gone on from.
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
        """Whether the answer goes on from `start`; False: it starts from zero."""
        status = response.status_code
        if status == 416:
            self._discard()
            raise _Broken(f"{self.host} has no bytes after {start}")
        if status in PASSING:
            raise _Broken(f"{self.host} answered {status} {response.reason_phrase}")
        if status in (401, 403):
            raise Unreachable(
                f"{self.address} answered {status} {response.reason_phrase}: its owner wants a login; accept the "
                f"conditions there and set HF_TOKEN to a token of yours, or fetch the files yourself and name their "
                "folder in a manifest of your own, as models/README.md shows"
            )
        if status not in (200, 206):
            raise Unreachable(f"{self.address} answered {status} {response.reason_phrase}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Unreachable(f"{self.address} came encoded though it was asked for as it is")
        resumed = status == 206
        if resumed and not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
            self._discard()
            raise _Broken(f"{self.host} sent another range than was asked for")
        self._check_stated(response, start if resumed else 0)
        return resumed

    def _check_stated(self, response: httpx.Response, start: int) -> None:
        stated = response.headers.get("Content-Length", "")
        if not stated.isdecimal():
            if not (self.expected.size or self.expected.sha256):
                raise Unreachable(f"{self.address} does not say how long it is, and nothing else would show its end")
            return
        total = start + int(stated)
        wrong = total != self.expected.size if self.expected.size else total > self.expected.limit
        if wrong:
            self._discard()
            raise ModelError(f"{self.address} has {total} bytes; {self._wanted()} expected")

    def _wanted(self) -> str:
        return f"{self.expected.size} are" if self.expected.size else f"at most {self.expected.at_most} are"

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
                raise _Broken(f"what had been fetched of {self.target.name} before does not fit the rest")
            raise ModelError(f"{self.address} has the sha256 {sha256}; {self.expected.sha256} is pinned")
        atomic_files.sync(self.part)
        self.part.replace(self.target)
        self.state.unlink(missing_ok=True)
        return sha256
