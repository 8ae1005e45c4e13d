"""A made hydrophone server: Orcasound's tree of HLS folders with any fault, and the list of folders as S3 gives it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import av
import numpy as np

from chatapi.engines import SOUND_RATE
from media_files import encode


@cache
def segment(seconds: float = 10, hertz: float = 0, level: float = 0.05) -> bytes:
    """A segment as hydrophones send it: AAC in MPEG-TS at 48 kHz, of a tone (0: noise)."""
    count = round(seconds * SOUND_RATE)
    if hertz:
        samples = level * np.sin(2 * np.pi * hertz * np.arange(count) / SOUND_RATE)
    else:
        samples = np.random.default_rng(1).normal(0, level, count)
    return encode([samples.astype(np.float32)], SOUND_RATE, "aac", "mpegts")


def undivided(samples: np.ndarray, folder: Path) -> list[bytes]:
    """Sound that is encoded as a whole and divided into segments of 10 s, as hydrophones do it. `folder`: scratch."""
    pattern = str(folder / "live%03d.ts")
    options = {"hls_time": "10", "hls_list_size": "0", "hls_segment_filename": pattern}
    with av.open(str(folder / "live.m3u8"), "w", format="hls", options=options) as out:
        stream = out.add_stream("aac", rate=SOUND_RATE, layout="mono")
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="flt", layout="mono")
        frame.sample_rate = SOUND_RATE
        to_codec = av.AudioResampler(format=stream.format, layout="mono", rate=SOUND_RATE, frame_size=1024)
        for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode())
    return [file.read_bytes() for file in sorted(folder.glob("live*.ts"))]


@dataclass
class Folder:
    """A folder of the tree; segments may be added while it is served."""

    names: list[str] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    contents: dict[str, bytes | None] = field(default_factory=dict)
    """Name -> its bytes; None: 404."""

    def add(self, content: bytes | None, seconds: float = 10) -> str:
        """Adds a segment, with the duration that the playlist states. Returns its name."""
        name = f"live{len(self.names)}.ts"
        self.contents[name] = content
        self.durations.append(seconds)
        self.names.append(name)
        return name

    def playlist(self) -> str:
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:11", "#EXT-X-MEDIA-SEQUENCE:0"]
        for name, seconds in zip(self.names, self.durations, strict=False):
            lines += [f"#EXTINF:{seconds:.6f},", name]
        return "\n".join(lines) + "\n"


@dataclass
class TreeServer:
    """The trees of places, and what was asked for."""

    port: int = 0
    places: dict[str, dict[str, Folder]] = field(default_factory=dict)
    """Place -> folder's epoch -> folder."""
    latest: dict[str, str] = field(default_factory=dict)
    """Place -> content of latest.txt, where it is not that of the newest folder."""
    down: int = 0
    """Requests that are answered with 503 from now on."""
    lists: bool = True
    requests: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/bucket"

    def folder(self, place: str, epoch: float) -> Folder:
        """Begins a folder, which is the newest if no other is newer."""
        return self.places.setdefault(place, {}).setdefault(str(int(epoch)), Folder())

    def answer(self, path: str, query: dict[str, list[str]]) -> bytes | None:
        parts = path.strip("/").split("/")
        if parts == ["bucket"] and "prefix" in query and self.lists:
            return self._listed(query["prefix"][0])
        if len(parts) < 3 or parts[1] not in self.places:
            return None
        folders = self.places[parts[1]]
        if parts[2] == "latest.txt":
            return (self.latest.get(parts[1]) or max(folders, key=int)).encode() + b"\n"
        if len(parts) != 5 or parts[3] not in folders:
            return None
        folder = folders[parts[3]]
        return folder.playlist().encode() if parts[4] == "live.m3u8" else folder.contents.get(parts[4])

    def _listed(self, prefix: str) -> bytes:
        place, _, digits = prefix.partition("/hls/")
        found = sorted(each for each in self.places.get(place, {}) if each.startswith(digits))
        rows = "".join(f"<CommonPrefixes><Prefix>{place}/hls/{each}/</Prefix></CommonPrefixes>" for each in found)
        return f"<?xml version='1.0'?><ListBucketResult>{rows}</ListBucketResult>".encode()


class _Handler(BaseHTTPRequestHandler):
    tree: TreeServer

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.tree.requests.append(url.path)
        if self.tree.down > 0:
            self.tree.down -= 1
            self.send_error(503)
            return
        data = self.tree.answer(url.path, parse_qs(url.query))
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving_trees() -> Iterator[TreeServer]:
    """A server until the block ends."""
    tree = TreeServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"tree": tree}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # readers disconnect
    tree.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield tree
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
