"""The server that a stress test loads: a box of chatapi, or any server in TorchServe's shape; and its memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import anyio.to_thread
import httpx
import psutil

from chatapi.bench.stress.inputs import StressRequest
from chatapi.errors import BadInput

Shape = Literal["chatapi", "torchserve"]
CONSENT = "a stress test with public recordings"
RESIDENT = re.compile(r"^process_resident_memory_bytes(?:\{[^}]*\})? ([\d.eE+]+)$", re.MULTILINE)
USED = re.compile(r"^MemoryUsed\{[^}]*\} ([\d.eE+]+)", re.MULTILINE)
"""TorchServe's metric, in megabytes, of the whole machine."""


@dataclass(frozen=True)
class StressTarget:
    """Where the requests go."""

    url: str
    shape: Shape
    model: str
    """knn_vc, asr or completion."""
    name: str
    """The name of the model in the predictions of TorchServe."""

    def arguments(self, request: StressRequest) -> dict[str, Any]:
        """The request, as httpx takes it."""
        targets = [("targets", (f"{place}.wav", each, "audio/wav")) for place, each in enumerate(request.targets)]
        source = ("source.wav", request.source, "audio/wav")
        if self.model == "completion":
            return {"url": f"{self.url}/completion", "json": {"prompt": request.prompt, "max_tokens": 32}}
        if self.shape == "torchserve":
            url = f"{self.url}/predictions/{self.name}"
            if self.model == "asr":
                return {"url": url, "content": request.source, "headers": {"Content-Type": "audio/wav"}}
            return {"url": url, "files": [("source", source), *targets]}
        if self.model == "asr":
            return {
                "url": f"{self.url}/v1/audio/transcriptions",
                "files": [("file", source)],
                "data": {"model": "whisper-1"},
            }
        return {"url": f"{self.url}/conversions", "files": [("source", source), *targets], "data": {"consent": CONSENT}}


async def shape_of(client: httpx.AsyncClient, url: str) -> Shape:
    """Which API the server at a URL has. Raises BadInput when it does not answer."""
    try:
        answer = await client.get(f"{url}/ping")
    except httpx.HTTPError as error:
        raise BadInput(f"{url} does not answer: {error or type(error).__name__}") from error
    # A box of chatapi has no /ping.
    return "torchserve" if answer.status_code != httpx.codes.NOT_FOUND and "status" in answer.text else "chatapi"


async def memory_of(client: httpx.AsyncClient, source: str) -> int | None:
    """The memory in bytes that a source states: the id of a process with its children, or the URL of `/health` or of
    Prometheus metrics; None where it states none."""
    if source.isdigit():
        return await anyio.to_thread.run_sync(_memory_of_process, int(source))
    try:
        answer = await client.get(source)
        if answer.headers.get("content-type", "").startswith("application/json"):
            found = answer.json().get("memory_bytes")
            return int(found) if found is not None else None
    except (httpx.HTTPError, ValueError, AttributeError):
        return None
    if match := RESIDENT.search(answer.text):
        return int(float(match[1]))
    match = USED.search(answer.text)
    return int(float(match[1]) * 1e6) if match else None


def _memory_of_process(pid: int) -> int | None:
    try:
        first = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (first, *first.children(recursive=True)))
    except psutil.Error:
        return None
