"""`chatapi ask --server`: one turn with the box there, and no model here."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import wave
from dataclasses import asdict
from pathlib import Path

import anyio
import anyio.to_thread

from chatapi.cli.prompt_input import is_sound, stdin_if_dash, write
from chatapi.client import (
    AsyncClient,
    ClientError,
    Completion,
    DeltaEvent,
    EndEvent,
    SpeechEvent,
    TranscriptEvent,
    TurnOptions,
    tls_pinning,
)
from chatapi.client.connecting import KEY
from chatapi.client.realtime import DOOR, RealtimeAddress, place
from chatapi.errors import BadInput, ChatapiError
from chatapi.settings import Settings


async def ask_there(settings: Settings, chosen: argparse.Namespace) -> int:
    """The same as `chatapi ask`. Raises ChatapiError, of which the box may have any code."""
    if chosen.output and chosen.reply != "voice":
        raise BadInput("-o is where a spoken answer goes, and this one is text; add --reply voice or leave -o out")
    own = settings.server.api_key
    key = chosen.key or os.environ.get(KEY) or (own.get_secret_value() if own is not None else None)
    at = place(chosen.server, key, chosen.fingerprint, settings.data)
    secure = (
        await anyio.to_thread.run_sync(tls_pinning.secured, at.host, at.port, at.data, at.accept) if at.secure else True
    )
    try:
        async with AsyncClient(_base(at), key, verify=secure) as box:
            completion, said, rate = await _answered(box, chosen)
    except ClientError as error:
        raise ChatapiError(f"{at.name}: {error.message}", code=error.code) from error
    words = sys.stderr if str(chosen.output) == "-" else sys.stdout
    if chosen.json:
        document = {name: value for name, value in asdict(completion).items() if name != "audio"}
        print(json.dumps(document, ensure_ascii=False, indent=2), file=words)
    else:
        print(file=words)
        print(f"conversation: {completion.conversation}", file=sys.stderr)
    if chosen.reply == "voice":
        await write(chosen.output or Path("answer.wav"), _wav(said, rate), len(said) / 2 / (rate or 1))
    return 0


def _base(at: RealtimeAddress) -> str:
    return at.name + at.path.removesuffix(DOOR)


async def _answered(box: AsyncClient, chosen: argparse.Namespace) -> tuple[Completion, bytes, int]:
    """The answer, printed as it comes; its sound as 16-bit samples, and their rate."""
    audio = Path(chosen.question) if is_sound(chosen.question) else None
    prompt = None if audio is not None else stdin_if_dash(chosen.question)
    words = sys.stderr if str(chosen.output) == "-" else sys.stdout
    said, rate = bytearray(), 0
    async with box.stream(prompt, audio=audio, reply=chosen.reply, **_options(chosen)) as events:
        async for event in events:
            if isinstance(event, TranscriptEvent):
                print(f"transcript: {event.text}", file=sys.stderr)
            elif isinstance(event, DeltaEvent) and not chosen.json:
                print(event.text, end="", flush=True, file=words)
            elif isinstance(event, SpeechEvent):
                said += event.pcm
                rate = event.rate
            elif isinstance(event, EndEvent):
                completion = event.completion
    return completion, bytes(said), rate


def _options(chosen: argparse.Namespace) -> TurnOptions:
    return {
        "conversation": chosen.conversation,
        "system": chosen.system,
        "max_tokens": chosen.max_tokens,
        "temperature": chosen.temperature,
        "seed": chosen.seed,
        "voice": chosen.voice,
        "language": chosen.language,
    }


def _wav(samples: bytes, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate or 1)
        out.writeframes(samples)
    return file.getvalue()
