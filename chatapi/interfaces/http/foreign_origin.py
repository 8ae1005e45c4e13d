"""Why a page may not call the server, and the setting that allows it: also where a proxy hides the cause."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from chatapi.settings import ServerSettings

FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "forwarded", "via")
"""Headers that only proxies add."""
LOCAL = ("localhost", "127.0.0.1", "::1")


def message(origin: str, headers: Headers, server: ServerSettings) -> str:
    """The message for a page of this origin."""
    host = headers.get("host", "")
    name, stated = _name(origin), _name(f"//{host}")
    # The only other reason is the scheme.
    if origin.partition("://")[2] == host:
        return f"{origin} is this server without HTTPS; open https://{host} instead"
    if name and name == stated and host == stated and ":" in urlsplit(origin).netloc:
        return (
            f"the page of {origin} reaches the server with the Host {host}, without its port. If a proxy is in front "
            "of the server, have it pass on what the browser sent (nginx: proxy_set_header Host $http_host). If it is "
            "a page of another server, add its origin to server.cors_origins"
        )
    if name and name != stated and (name in server.hosts or _is_behind_a_proxy(name, stated, headers, server)):
        return (
            f"the page of {origin} reaches the server with the Host {host}. If a proxy is in front of the server, have "
            f"it pass on the browser's Host (nginx: proxy_set_header Host $http_host), and add {name} to server.hosts. "
            "If it is a page of another site that may call this server, add its origin to server.cors_origins"
        )
    return f"pages of {origin} are not allowed; add it to server.cors_origins"


def _is_behind_a_proxy(name: str, stated: str, headers: Headers, server: ServerSettings) -> bool:
    """Whether a proxy may have replaced the name that the browser asked for by its own name for this server."""
    if any(header in headers for header in FORWARDED):
        return True
    # A browser on this machine could only see such a page under one of these names.
    return stated in LOCAL and name not in LOCAL and not server.cors_origins


def _name(url: str) -> str:
    """The host name in a URL, in lower case; empty for one that cannot be read, and for the origin null."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
