"""A client of a box, for programs in Python: `Client` waits, `AsyncClient` lets others work meanwhile.

    with Client("https://box.local:8000", key="chatapi_...", verify="authority.pem") as box:
        print(box.completion("What is the capital of France?").reply)

It needs httpx and nothing else of this package.
"""

from __future__ import annotations

from chatapi.client.asynchronous import AsyncClient
from chatapi.client.blocking import Client
from chatapi.client.wire import (
    ChatEntry,
    ClientError,
    Completion,
    CompletionUsage,
    DeltaEvent,
    EndEvent,
    Event,
    ModelEntry,
    Sound,
    SpeechEvent,
    StartEvent,
    TranscriptEvent,
    TranscriptionProgress,
    TurnOptions,
    VoiceName,
)

__all__ = [
    "AsyncClient",
    "ChatEntry",
    "Client",
    "ClientError",
    "Completion",
    "CompletionUsage",
    "DeltaEvent",
    "EndEvent",
    "Event",
    "ModelEntry",
    "Sound",
    "SpeechEvent",
    "StartEvent",
    "TranscriptEvent",
    "TranscriptionProgress",
    "TurnOptions",
    "VoiceName",
]
