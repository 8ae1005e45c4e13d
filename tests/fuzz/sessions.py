"""Sessions of many events of the Realtime API and of Wyoming, some of them invalid."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from fuzz import documents, media
from fuzz.inputs import Input, as_json, wyoming

Text = Callable[[random.Random], str]
FUNCTION = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
}
SESSION: dict[str, Any] = {
    "type": "realtime", "instructions": "Be short.", "output_modalities": ["text"], "max_output_tokens": 4,
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24000}, "transcription": {"model": "x", "language": "en"},
            "turn_detection": {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 200,
                               "idle_timeout_ms": 6000},
        },
        "output": {"voice": "default", "speed": 1.2, "format": {"type": "audio/pcmu"}},
    },
    "tools": [FUNCTION], "tool_choice": "auto", "chatapi": {"pausing": True}, "tracing": None, "include": [],
}  # fmt: skip
EARLIER_SESSION: dict[str, Any] = {
    "modalities": ["text", "audio"], "voice": "alloy", "input_audio_format": "pcm16", "temperature": 0.8,
    "turn_detection": {"type": "none"}, "tools": [{"type": "function", "function": FUNCTION}], "extensions": {"a": 1},
}  # fmt: skip
ITEM: dict[str, Any] = {
    "type": "message", "role": "user", "id": "i1", "content": [{"type": "input_text", "text": "Hello."}]
}  # fmt: skip
TEMPLATES: tuple[dict[str, Any], ...] = (
    {"type": "session.update", "session": SESSION},
    {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}}},
    {"type": "session.update", "session": EARLIER_SESSION},
    {"type": "transcription_session.update", "session": {"input_audio_transcription": {"model": "x"}}},
    {"type": "input_audio_buffer.append", "audio": ""},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "output_audio_buffer.clear"},
    {"type": "conversation.item.create", "item": ITEM, "previous_item_id": "root"},
    {"type": "conversation.item.create", "item": {**ITEM, "id": "i2", "role": "system"}},
    {"type": "conversation.item.create",
     "item": {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "c1"}},
    {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "c1", "output": "x"}},
    {"type": "conversation.item.create", "previous_item_id": "root",
     "item": {"type": "message", "role": "assistant", "id": "i3", "content": "Hello."}},
    {"type": "conversation.item.create", "previous_item_id": "i3",
     "item": {**ITEM, "id": "i4", "content": [{"type": "input_audio", "audio": "AAAA", "transcript": "Hello."}]}},
    {"type": "conversation.item.create", "previous_item_id": "i1",
     "item": {**ITEM, "id": "i5", "role": "assistant", "content": [{"type": "audio", "audio": "AAAA" * 4000}]}},
    {"type": "conversation.item.delete", "item_id": "i1"},
    {"type": "conversation.item.retrieve", "item_id": "i1"},
    {"type": "conversation.item.truncate", "item_id": "i1", "content_index": 0, "audio_end_ms": 10},
    {"type": "response.create", "response": {"max_output_tokens": 4, "metadata": {"a": "b"}, "tools": [FUNCTION]}},
    {"type": "response.create", "response": {"conversation": "none", "input": [ITEM], "output_modalities": ["text"]}},
    {"type": "response.cancel", "response_id": "x"},
    {"type": "chatapi.played", "audio_end_ms": 100, "response_id": "x"},
)  # fmt: skip
BROKEN = (
    b"", b"{", b"[]", b"null", b'{"type": 5}', b'{"type": "x"}',
    b'{"type": "response.create", "event_id": "' + b"x" * 600 + b'"}',
    b'{"type": "chatapi.played", "audio_end_ms": ' + b"9" * 400 + b"}", b"[" * 5000, b'{"a":' * 3000,
    b'{"type": "input_audio_buffer.append", "audio": "?"}', b'{"type": "input_audio_buffer.append", "audio": "AAA"}',
    b'{"type": "session.update", "session": {"instructions": "\\ud800"}}',
    b'{"type": "session.update", "session": null}',
)  # fmt: skip


def realtime(rng: random.Random, pool: Sequence[Any], text: Text) -> Input:
    """About twelve events on one connection."""
    frames = [_realtime_event(rng, pool, text) for _ in range(rng.choice((4, 12, 20)))]
    if rng.random() < 0.05:
        # A text frame that is not UTF-8 ends the connection.
        frames.append(rng.choice((b"\xff\xfe", b"\xed\xa0\x80")))
    return Input("websocket", "Realtime", "events", tuple(frames))


def _realtime_event(rng: random.Random, pool: Sequence[Any], text: Text) -> bytes:
    if rng.random() < 0.1:
        return rng.choice(BROKEN)
    event = dict(rng.choice(TEMPLATES))
    if event["type"] == "input_audio_buffer.append":
        sound = (media.tone(rng.choice((0.05, 0.3))) * 32767).astype("<i2").tobytes()
        data = sound if rng.random() < 0.7 else rng.randbytes(rng.choice((0, 1, 3, 960, 9600)))
        event["audio"] = base64.b64encode(data).decode()
    elif event["type"] == "conversation.item.create" and rng.random() < 0.4:
        event["item"] = {**ITEM, "content": [{"type": "input_text", "text": text(rng)[:300]}]}
        return as_json(event)
    if rng.random() < 0.6:
        event = documents.changed(rng, event, documents.HOSTILE if rng.random() < 0.5 else tuple(pool))
    return as_json(event)


def _sound_events(rng: random.Random) -> list[tuple[str, dict[str, Any], bytes]]:
    form: dict[str, Any] = {
        "rate": rng.choice((16000, 22050, 8000, 48000)),
        "width": rng.choice((2, 2, 1, 3, 4)),
        "channels": rng.choice((1, 1, 2)),
    }
    samples = (media.tone(rng.choice((0.02, 0.2))) * 32767).astype("<i2").tobytes()
    payload = samples if rng.random() < 0.7 else rng.randbytes(rng.choice((0, 1, 7, 2048)))
    chunks = [("audio-chunk", {**form, "timestamp": n}, payload) for n in range(rng.choice((0, 1, 3)))]
    return [("audio-start", form, b""), *chunks, ("audio-stop", {}, b"")]


def _wyoming_script(rng: random.Random, text: Text) -> list[tuple[str, dict[str, Any], bytes]]:
    words = text(rng)[:400]
    context = {"context": {"conversation_id": rng.choice(("", "x", "a" * 300)), "a": [1]}}
    scripts: tuple[list[tuple[str, dict[str, Any], bytes]], ...] = (
        [("describe", {}, b"")],
        [("ping", {"text": words[:50]}, b"")],
        [("transcribe", {"language": rng.choice(("en", "de", "xx", "")), "name": ""}, b""), *_sound_events(rng)],
        [("detect", {"names": ["okay_nabu"]}, b""), *_sound_events(rng)],
        [("synthesize", {"text": words, "voice": {"name": "default"}}, b"")],
        [("synthesize-start", {"voice": {"language": "en"}, "text_format": "text"}, b""),
         ("synthesize-chunk", {"text": words}, b""), ("synthesize-stop", {}, b"")],
        [("transcript", {"text": words, **context}, b"")],
        [("select-program", {"name": "x"}, b"")],
        [("unknown", {"a": 1}, b"abc")],
    )  # fmt: skip
    return rng.choice(scripts)


def wyoming_events(rng: random.Random, pool: Sequence[Any], text: Text) -> Input:
    """Well-formed events with possibly invalid values."""
    frames = []
    for kind, data, payload in _wyoming_script(rng, text):
        if rng.random() < 0.3:
            data = documents.changed(rng, data, documents.HOSTILE if rng.random() < 0.5 else tuple(pool))
        frames.append(wyoming(kind, data, payload))
    return Input("wyoming", "Wyoming", "events", tuple(frames))


def wyoming_bytes(rng: random.Random, text: Text) -> Input:
    """Events with invalid framing."""
    data = bytearray(b"".join(wyoming(*each) for each in _wyoming_script(rng, text)))
    roll = rng.random()
    if roll < 0.6:
        media.change(rng, data)
    elif roll < 0.8:
        value = rng.choice((-1, 2**63, 1 << 40, "5", None, 1.5, True, 10**30))
        name = rng.choice(("data_length", "payload_length"))
        data = bytearray(json.dumps({"type": "audio-chunk", name: value}).encode() + b"\n")
    else:
        data = bytearray(rng.choice((b"\n" * 1000, b"{" * 70_000, b"\xff" * 100, rng.randbytes(300))))
    return Input("wyoming", "Wyoming framing", "bytes", (bytes(data),), whole=False)
