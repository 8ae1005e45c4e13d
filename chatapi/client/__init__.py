"""A client of a box, for programs in Python: `Client` waits, `AsyncClient` lets others work meanwhile.

    with Client("https://box.local:8000", key="chatapi_...", verify="authority.pem") as box:
        print(box.completion("What is the capital of France?").reply)

It needs httpx and nothing else of this package.
"""

from __future__ import annotations

from chatapi.client.asynchronous import AsyncClient
from chatapi.client.blocking import Client
from chatapi.client.wire import (
    ClientError,
    Completion,
    Delta,
    End,
    Event,
    Message,
    Model,
    Options,
    Progress,
    Sound,
    Speech,
    Start,
    Transcript,
    Usage,
    Voice,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Completion",
    "Delta",
    "End",
    "Event",
    "Message",
    "Model",
    "Options",
    "Progress",
    "Sound",
    "Speech",
    "Start",
    "Transcript",
    "Usage",
    "Voice",
]
