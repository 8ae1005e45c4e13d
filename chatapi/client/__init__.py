"""A Python client for a chatapi server: the blocking `Client` and the asynchronous `AsyncClient`.

    with Client("https://box.local:8000", key="chatapi_...", verify="authority.pem") as box:
        print(box.completion("What is the capital of France?").reply)

It needs httpx and no other package of chatapi.
"""

from __future__ import annotations

from chatapi.client.asynchronous import AsyncClient
from chatapi.client.blocking import Client
from chatapi.client.wire import (
    AudioInput,
    ChatEntry,
    ClientError,
    Completion,
    CompletionUsage,
    DeltaEvent,
    EndEvent,
    Event,
    ModelEntry,
    SpeechEvent,
    StartEvent,
    TranscriptEvent,
    TranscriptionProgress,
    TurnOptions,
    VoiceName,
)

__all__ = [
    "AsyncClient",
    "AudioInput",
    "ChatEntry",
    "Client",
    "ClientError",
    "Completion",
    "CompletionUsage",
    "DeltaEvent",
    "EndEvent",
    "Event",
    "ModelEntry",
    "SpeechEvent",
    "StartEvent",
    "TranscriptEvent",
    "TranscriptionProgress",
    "TurnOptions",
    "VoiceName",
]
