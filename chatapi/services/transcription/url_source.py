"""Recordings at a URL: only public addresses are connected to, unless the settings allow private ones.

A download that breaks off goes on where it stopped, if the server can do that.

A name is resolved once for each request, every address of it is checked, and the connection goes to a checked address:
a name that resolves to another address meanwhile leads nowhere else. Redirects are followed by the same rules.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import httpx

from chatapi.errors import BadInput, NotFound, TooLarge, TooSlow, Unprocessable, WaitAndRetry
from chatapi.storage import atomic_files
from chatapi.system.public_address import is_public
from chatapi.system.version import version

REDIRECTS = 5
"""Largest number of redirects that are followed."""
SILENT_SECONDS = 30.0
"""Longest time to connect, until the head of an answer is complete, and without data, in seconds."""
REPORT_SECONDS = 1.0
"""Longest time between two reports while data arrives, in seconds."""
URL_CHARS = 4000
"""Longest URL, in characters."""
NAME_CHARS = 120
"""Longest name that a URL gives a recording, in characters."""

MOST_BREAKS = 20
"""Largest number of times that one download goes on after it broke off."""
BREAK_SECONDS = 1.0
"""Time before it goes on, in seconds."""
CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)")

Progress = Callable[[int, int], None]
"""Receives the bytes so far, and those that the server states (0: none)."""


@dataclass(frozen=True)
class UrlRules:
    """What may be fetched."""

    private: bool
    """Whether private addresses are allowed."""
    most_bytes: int
    most_seconds: float


def checked(text: str) -> httpx.URL:
    """The URL. Raises Unprocessable (invalid_url)."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError):
        raise _invalid("url is not a URL") from None
    if len(text) > URL_CHARS:
        raise _invalid(f"url has {len(text)} characters; at most {URL_CHARS} are accepted")
    if url.scheme not in ("http", "https") or not url.host:
        raise _invalid("url must begin with http:// or https:// and name a host")
    if url.userinfo:
        raise _invalid("url must not have a user or a password")
    return url


def name_of(url: httpx.URL) -> str:
    """What a recording is called: the last part of the path, without the query, which may be secret; or the host."""
    last = unquote(url.path).rstrip("/").rpartition("/")[2]
    return (last if last.isprintable() and last else url.host)[:NAME_CHARS]


def resolved(url: httpx.URL, private: bool) -> str:
    """An address of the host. Blocking. Raises Unprocessable (url_not_public), WaitAndRetry (source_unreachable)."""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise WaitAndRetry(f"the host {url.host} is not known", retry_after=10, code="source_unreachable") from None
    addresses = [str(each[4][0]) for each in found]
    if not private and not all(map(is_public, addresses)):
        raise Unprocessable(
            f"the host {url.host} has an address that is not public; transcription.private_urls allows it",
            code="url_not_public",
            details={"param": "url"},
        )
    return addresses[0]


def fetch(
    text: str,
    target: Path,
    rules: UrlRules,
    progress: Progress,
    trust: ssl.SSLContext | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Fetch a recording into a file. Blocking. `trust`: whose certificates are valid; None: those of the usual
    authorities. `headers`: what is sent beside our own.

    Raises Unprocessable (invalid_url, url_not_public), NotFound and BadInput (source_rejected), TooLarge, TooSlow,
    StorageError; WaitAndRetry (source_unreachable) where another attempt may succeed.
    """
    download = _Download(target, rules, time.monotonic() + rules.most_seconds, progress)
    for _ in range(MOST_BREAKS):
        before = download.count
        try:
            _fetch_once(checked(text), download, rules, trust, headers)
            return
        except WaitAndRetry:
            if not download.resumable or download.count <= before:
                raise
        progress(download.count, download.total)
        time.sleep(BREAK_SECONDS)
    _fetch_once(checked(text), download, rules, trust, headers)


def _fetch_once(
    url: httpx.URL, download: _Download, rules: UrlRules, trust: ssl.SSLContext | None, headers: Mapping[str, str]
) -> None:
    """Follow the redirects, and store what is missing of the download."""
    for _ in range(REDIRECTS + 1):
        with _answer(url, resolved(url, rules.private), trust, {**headers, **download.headers}) as answer:
            if not answer.has_redirect_location:
                _require_success(answer, url)
                download.store(answer)
                return
            url = checked(str(url.join(answer.headers["location"])))
    raise BadInput(f"the URL leads to more than {REDIRECTS} redirects", code="source_rejected")


@contextmanager
def _answer(
    url: httpx.URL, address: str, trust: ssl.SSLContext | None, more: Mapping[str, str]
) -> Iterator[httpx.Response]:
    """The head of the answer of one server. Raises WaitAndRetry."""
    headers = {
        "host": url.netloc.decode("ascii"),
        "user-agent": f"chatapi/{version()}",
        **more,
        # What is sent is what counts against the limit.
        "accept-encoding": "identity",
    }
    pinned, limit = url.copy_with(host=address), _HeadLimit(SILENT_SECONDS)
    extensions = {"sni_hostname": url.host, "trace": limit.trace}
    try:
        with (
            # Proxies and passwords of the environment are not for this.
            httpx.Client(
                verify=trust or True, trust_env=False, follow_redirects=False, timeout=SILENT_SECONDS
            ) as client,
            client.stream("GET", pinned, headers=headers, extensions=extensions) as answer,
        ):
            limit.end()
            yield answer
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError) as error:
        reason = f"{url.host} cannot be reached or broke off ({type(error).__name__})"
        raise WaitAndRetry(reason, retry_after=10, code="source_unreachable") from None
    finally:
        limit.end()


class _HeadLimit:
    """Breaks a connection off whose handshake and head take too long: a timeout of each read never ends a head of which
    a byte comes now and then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._connection: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Receives what httpcore does."""
        if event == "connection.connect_tcp.complete":
            # TLS takes the descriptor; a copy of it belongs to the same connection.
            self._connection = info["return_value"].get_extra_info("socket").dup()
            self._timer = threading.Timer(self._seconds, self._break_off)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """The head is complete, or the connection has ended."""
        if self._timer is not None and self._connection is not None:
            self._timer.cancel()
            self._timer.join()
            self._connection.close()

    def _break_off(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


def _require_success(answer: httpx.Response, url: httpx.URL) -> None:
    status = answer.status_code
    if answer.is_success:
        return
    if status in (408, 425, 429) or status >= 500:
        message = f"{url.host} answered with the status {status}"
        raise WaitAndRetry(message, retry_after=10, code="source_unreachable")
    kind = NotFound if status in (404, 410) else BadInput
    raise kind(f"{url.host} answered with the status {status}", code="source_rejected")


class _Download:
    """A recording that arrives in one answer, or in several where the first ones break off."""

    def __init__(self, target: Path, rules: UrlRules, end: float, progress: Progress) -> None:
        """`end`: when it must be complete, on the monotonic clock, in seconds."""
        self.count = self.total = 0
        """Bytes that are stored, and those that the server states (0: none)."""
        self.resumable = True
        """Whether the server may send the rest alone."""
        self._validator = ""
        self._target, self._rules, self._end, self._progress = target, rules, end, progress

    @property
    def headers(self) -> dict[str, str]:
        """Those that ask for the rest alone, of the same recording."""
        if not (self.count and self.resumable):
            return {}
        same = {"if-range": self._validator} if self._validator else {}
        return {"range": f"bytes={self.count}-", **same}

    def store(self, answer: httpx.Response) -> None:
        """Store the content of an answer. Raises TooLarge, TooSlow, StorageError, and those of httpx."""
        if self.count:
            self._go_on(answer)
        else:
            self._begin(answer)
        count = reported = self.count
        due = time.monotonic()
        # As it arrives: a whole block of a slow server would come after the end of the time, and delay a cancellation.
        for chunk in answer.iter_raw():
            count += len(chunk)
            _require_room(count, self._rules)
            if (now := time.monotonic()) > self._end:
                raise TooSlow(f"the recording did not arrive within {self._rules.most_seconds:g} seconds")
            with atomic_files.writing(self._target.parent), self._target.open("ab") as file:
                file.write(chunk)
            self.count = count
            if now >= due or count - reported >= atomic_files.CHUNK:
                self._progress(count, self.total)
                due, reported = now + REPORT_SECONDS, count
        self._progress(count, self.total)

    def _begin(self, answer: httpx.Response) -> None:
        stated = answer.headers.get("content-length", "")
        self.total = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 16 else 0
        tag = answer.headers.get("etag", "")
        # A weak tag does not promise the same bytes.
        self._validator = tag if tag.startswith('"') else answer.headers.get("last-modified", "")
        _require_room(self.total, self._rules)
        atomic_files.require(self._target.parent, self.total, "the recording")
        with atomic_files.writing(self._target.parent):
            self._target.write_bytes(b"")

    def _go_on(self, answer: httpx.Response) -> None:
        """Expect the rest; a server that sends all of it, or another recording, begins anew, for the last time."""
        found = CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        whole = self.total == 0 or (found is not None and found[2] == str(self.total))
        if answer.status_code == 206 and found is not None and int(found[1]) == self.count and whole:
            return
        self.count, self.resumable = 0, False
        if answer.status_code == 206:
            message = f"{answer.url.host} sent another part of the recording than the rest"
            raise WaitAndRetry(message, retry_after=10, code="source_unreachable")
        self._begin(answer)


def _require_room(count: int, rules: UrlRules) -> None:
    if count > rules.most_bytes:
        message = f"the recording is larger than {rules.most_bytes} bytes (transcription.upload_bytes)"
        raise TooLarge(message, details={"limit_bytes": rules.most_bytes})


def _invalid(message: str) -> Unprocessable:
    return Unprocessable(message, code="invalid_url", details={"param": "url"})
