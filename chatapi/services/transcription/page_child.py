"""A process of its own that has yt-dlp find the recording on a web page; it fetches nothing else.

The guard is an audit hook, which no Python code can remove: connections go to the guarded proxy alone, no name is
resolved here, no program is run, nothing is written. yt-dlp gets no JavaScript runtime, no plug-ins, and no components
to download.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

MOST_ENTRIES = 1
"""Recordings of a page: more than one must be named by their own addresses."""
FORMATS = "ba[protocol^=http][protocol!*=dash]/b[protocol^=http][protocol!*=dash]/w[protocol^=http][protocol!*=dash]"
"""Files of their own, audio alone where there is; yt-dlp's format selection."""
MEMORY_BYTES, CPU_SECONDS = 2 << 30, 60
DENIED = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn",
    "socket.bind", "socket.sendto", "socket.sendmsg", "socket.gethostbyname", "socket.gethostbyaddr", "ctypes.dlopen",
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink",
)  # fmt: skip
"""Audit events (docs.python.org/3/library/audit_events.html) that end what it does."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(port: int) -> None:
    """From now on this process connects only to a port of this machine, and neither writes nor runs anything."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        denied = event in DENIED
        if event == "socket.connect":
            denied = tuple(arguments[1][:2]) != ("127.0.0.1", port)
        elif event == "socket.getaddrinfo":
            denied = arguments[0] not in ("127.0.0.1", b"127.0.0.1")
        elif event == "open" and isinstance(arguments[2], int):
            denied = bool(arguments[2] & WRITING) and arguments[0] != os.devnull
        if denied:
            raise PermissionError(f"{event} is not allowed")

    sys.addaudithook(hook)


def found(url: str, port: int, password: str) -> dict[str, Any]:
    """The address of the recording on a page, its title, and the headers that its server wants."""
    # Its native code would connect past the guard.
    sys.modules["curl_cffi"] = None  # type: ignore[assignment]
    os.environ["YTDLP_NO_PLUGINS"] = "1"
    import yt_dlp

    guard(port)
    options = {
        "quiet": True, "no_warnings": True, "noprogress": True, "cachedir": False, "noplaylist": True,
        "playlist_items": f"1-{MOST_ENTRIES + 1}", "format": FORMATS, "socket_timeout": 20, "retries": 1,
        "extractor_retries": 1, "proxy": f"socks5h://chatapi:{password}@127.0.0.1:{port}", "js_runtimes": {},
        "remote_components": [], "enable_file_urls": False, "logger": _Silent(), "check_formats": False,
    }  # fmt: skip
    with yt_dlp.YoutubeDL(options) as reader:
        page = reader.extract_info(url, download=False)
    entries = [page] if page.get("_type", "video") == "video" else [each for each in page.get("entries") or () if each]
    if len(entries) > MOST_ENTRIES:
        return {"error": "the page has more than one recording; name the address of one"}
    if not entries or not entries[0].get("url"):
        return {"error": "the page has no recording that is a file of its own"}
    [entry] = entries
    headers = {name.lower(): str(value) for name, value in (entry.get("http_headers") or {}).items()}
    kept = {name: headers[name] for name in ("user-agent", "referer") if name in headers}
    return {"url": str(entry["url"]), "title": str(entry.get("title") or ""), "headers": kept}


class _Silent:
    """Receives what yt-dlp logs, which may be secret addresses."""

    def debug(self, message: str) -> None: ...

    warning = error = info = debug


def main() -> None:
    """Reads url, port and password as JSON from standard input, and writes the result as JSON."""
    wanted = json.load(sys.stdin)
    try:
        result = found(wanted["url"], wanted["port"], wanted["password"])
    except ImportError:
        result = {"missing": True}
    except Exception as error:
        reason = str(getattr(error, "msg", None) or error).partition("\n")[0].removeprefix("ERROR: ")
        result = {"error": f"yt-dlp finds no recording on the page: {reason[:300]}"}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
