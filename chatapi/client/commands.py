"""A client of command recognition over gRPC; it needs the extra grpc."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from chatapi.client.proto_file import COMMANDS, Method, ProtoFile

TIMEOUT = 30.0
"""Deadline of a call, in seconds; streams have none."""


@functools.cache
def proto() -> ProtoFile:
    """The messages and methods."""
    return ProtoFile(COMMANDS)


class CommandClient:
    """Calls a server at HOST:PORT. Its methods return the messages of `commands.proto` and raise grpc.RpcError."""

    def __init__(self, address: str, key: str = "", authority: Path | None = None) -> None:
        """`authority`: certificates in PEM that the server's is checked with; None: without TLS."""
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        if authority is None:
            self._channel = grpc.insecure_channel(address)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes()))

    def __enter__(self) -> CommandClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def classify(self, audio: bytes) -> Any:
        """Which command a clip is."""
        return self._call("Classify", audio=audio)

    def detections(self, chunks: Iterable[bytes]) -> Iterator[Any]:
        """Commands in a stream of 16-bit PCM, 16 kHz mono."""
        method = proto().methods["ClassifyStream"]
        yield from self._stub(method)((method.request(pcm=each) for each in chunks), metadata=self._metadata)

    def submit(self, audio: bytes, label: str) -> Any:
        """Store a sample of a word."""
        return self._call("SubmitSample", audio=audio, label=label)

    def train(self) -> Any:
        """Start a training."""
        return self._call("Train")

    def watch(self, training: str) -> Iterator[Any]:
        """The states of a training until it has ended."""
        yield from self._stream("WatchTraining", id=training)

    def cancel(self, training: str) -> Any:
        """Cancel a training."""
        return self._call("CancelTraining", id=training)

    def models(self) -> Any:
        """The versions, and which one is active."""
        return self._call("ListModels")

    def activate(self, version: int) -> Any:
        """Activate a version."""
        return self._call("ActivateModel", version=version)

    def roll_back(self) -> Any:
        """Activate the version before the active one."""
        return self._call("RollBack")

    def samples(self, label: str = "", state: str = "") -> Iterator[Any]:
        """All samples, the newest first."""
        before = ""
        while True:
            page = self._call("ListSamples", label=label, state=state, limit=1000, before=before)
            yield from page.samples
            if not (before := page.next):
                return

    def export(self) -> Iterator[bytes]:
        """A tar archive of the samples, in parts."""
        return (part.data for part in self._stream("ExportSamples"))

    def delete(self, sample: str) -> None:
        """Delete a sample."""
        self._call("DeleteSample", id=sample)

    def _call(self, name: str, **fields: Any) -> Any:
        method = proto().methods[name]
        return self._stub(method)(method.request(**fields), timeout=TIMEOUT, metadata=self._metadata)

    def _stream(self, name: str, **fields: Any) -> Iterator[Any]:
        method = proto().methods[name]
        yield from self._stub(method)(method.request(**fields), metadata=self._metadata)

    def _stub(self, method: Method) -> Any:
        path = f"/{proto().service}/{method.name}"
        kind = f"{'stream' if method.streams_in else 'unary'}_{'stream' if method.streams_out else 'unary'}"
        make = getattr(self._channel, kind)
        return make(path, method.request.SerializeToString, method.response.FromString)
