"""HTTP answers that are read while they arrive, by the rules of `url_source`: each address is checked, the connection
goes to the checked address, and every redirect is checked again."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import httpx

from chatapi.errors import BadInput, NotFound, TooLarge, WaitAndRetry
from chatapi.services.transcription import url_source
from chatapi.system.version import version

HEAD_SECONDS = 30.0
"""Longest time to connect, and until the head of an answer is complete, in seconds."""
SILENT_SECONDS = 30.0
"""Longest time without data, in seconds."""
SMALL_BYTES = 1 << 20
"""Largest playlist, in bytes."""


class GuardedHttp:
    """Opens URLs. `private`: whether private addresses are allowed; `trust`: whose certificates are valid, None: those
    of the usual authorities."""

    def __init__(self, private: bool, trust: ssl.SSLContext | None = None) -> None:
        self._private, self._trust = private, trust

    @asynccontextmanager
    async def opened(self, text: str, headers: dict[str, str] | None = None) -> AsyncIterator[httpx.Response]:
        """The answer of a URL, with its final URL in `extensions["url"]`.

        Raises Unprocessable (invalid_url, url_not_public), NotFound and BadInput (source_rejected), WaitAndRetry
        (source_unreachable) where another attempt may succeed, also from within the block when the stream breaks off.
        """
        url = url_source.checked(text)
        for _ in range(url_source.REDIRECTS + 1):
            address = await anyio.to_thread.run_sync(url_source.resolved, url, self._private, abandon_on_cancel=True)
            try:
                async with self._answer(url, address, headers or {}) as answer:
                    if not answer.has_redirect_location:
                        _require_success(answer, url)
                        answer.extensions["url"] = url
                        yield answer
                        return
                    url = url_source.checked(str(url.join(answer.headers["location"])))
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ssl.SSLError) as error:
                reason = f"{url.host} cannot be reached or broke off ({type(error).__name__})"
                raise WaitAndRetry(reason, retry_after=10, code="source_unreachable") from None
        raise BadInput(f"the URL leads to more than {url_source.REDIRECTS} redirects", code="source_rejected")

    async def small(self, url: str) -> tuple[str, bytes]:
        """The final URL and the content of a playlist. Raises as `opened` does, and TooLarge."""
        async with self.opened(url) as answer:
            return str(answer.extensions["url"]), await content(answer)

    @asynccontextmanager
    async def _answer(self, url: httpx.URL, address: str, more: dict[str, str]) -> AsyncIterator[httpx.Response]:
        headers = {
            "host": url.netloc.decode("ascii"),
            "user-agent": f"chatapi/{version()}",
            # What is sent is what counts against the limits.
            "accept-encoding": "identity",
            **more,
        }
        request = httpx.Request(
            "GET", url.copy_with(host=address), headers=headers, extensions={"sni_hostname": url.host}
        )
        limits = httpx.Timeout(HEAD_SECONDS, read=SILENT_SECONDS)
        # Proxies and passwords of the environment are not for this.
        async with httpx.AsyncClient(verify=self._trust or True, trust_env=False, timeout=limits) as client:
            request.extensions["timeout"] = limits.as_dict()
            try:
                with anyio.fail_after(HEAD_SECONDS):
                    answer = await client.send(request, stream=True, follow_redirects=False)
            except TimeoutError:
                message = f"{url.host} did not answer within {HEAD_SECONDS:g} seconds"
                raise WaitAndRetry(message, retry_after=10, code="source_unreachable") from None
            try:
                yield answer
            finally:
                with anyio.CancelScope(shield=True):
                    await answer.aclose()


async def content(answer: httpx.Response, head: bytes = b"", chunks: AsyncIterator[bytes] | None = None) -> bytes:
    """All of a small answer; `head` and `chunks`: what was read of it, and the rest. Raises TooLarge."""
    found = head
    async for chunk in chunks if chunks is not None else answer.aiter_raw():
        found += chunk
        if len(found) > SMALL_BYTES:
            raise TooLarge(f"the playlist is larger than {SMALL_BYTES} bytes", details={"limit_bytes": SMALL_BYTES})
    return found


def _require_success(answer: httpx.Response, url: httpx.URL) -> None:
    status = answer.status_code
    if answer.is_success:
        return
    message = f"{url.host} answered with the status {status}"
    if status in (408, 425, 429) or status >= 500:
        raise WaitAndRetry(message, retry_after=10, code="source_unreachable")
    raise (NotFound if status in (404, 410) else BadInput)(message, code="source_rejected")
