"""`chatapi ask`: one turn, with the engines of this machine or with the server of `--server`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from chatapi.cli.server_option import chosen_server
from chatapi.cli.turn_io import loaded_appliance, output_format, question, write_speech
from chatapi.errors import BadInput, ChatapiError
from chatapi.settings import Settings

# Each way imports what it needs when it runs: with `--server` this machine needs no engines.
if TYPE_CHECKING:
    from chatapi.audio import Audio
    from chatapi.client import AsyncClient, Completion, TurnOptions
    from chatapi.services.turns.completion import Turn


ANSWER = Path("answer.wav")
"""File of a spoken answer where none is given."""


async def ask(settings: Settings, chosen: argparse.Namespace) -> int:
    """Run one turn: print the text as it is generated, and write a spoken answer to a file. Status 0.

    Raises ChatapiError; with `--server` its code may be any code of the server.
    """
    if not chosen.server and (chosen.key or chosen.fingerprint):
        raise BadInput("--key and --fingerprint are only used with --server")
    if chosen.output and chosen.reply != "voice":
        raise BadInput("-o names the file of a spoken answer; add --reply voice, or leave -o out")
    if chosen.output:
        output_format(chosen.output)
    return await (_ask_server(settings, chosen) if chosen.server else _ask_locally(settings, chosen))


async def _ask_locally(settings: Settings, chosen: argparse.Namespace) -> int:
    from chatapi.audio import skipped
    from chatapi.events import TextDelta, Transcript
    from chatapi.services.turns.result import TurnResult

    turn = _turn(chosen)
    text_file = _text_file(chosen)
    result = TurnResult()
    with skipped.collect() as lost:
        async with loaded_appliance(settings, _roles(turn)) as appliance, appliance.completions.run(turn) as events:
            async for event in events:
                result.add(event)
                if isinstance(event, Transcript):
                    print(f"transcript: {event.text}", file=sys.stderr)
                elif isinstance(event, TextDelta) and not chosen.json:
                    print(event.text, end="", flush=True, file=text_file)
            comment = appliance.synthesis.comment(turn.voice) if turn.speak else ""
    if lost:
        print(f"the recording: skipped {lost}", file=sys.stderr)
    document = {"transcript": result.transcript, "reply": result.reply, **asdict(result.ended)}
    # The id of a live answer, which this is not.
    del document["response"]
    _print_end(document if chosen.json else None, result.conversation, text_file)
    if turn.speak:
        await write_speech(chosen.output or ANSWER, result.audio(), comment)
    return 0


def _roles(turn: Turn) -> set[str]:
    """The roles that the turn needs, or that validate its language or voice."""
    needs_asr, needs_tts = turn.audio or turn.language, turn.speak or turn.voice
    return {"llm"} | ({"vad", "asr"} if needs_asr else set()) | ({"tts"} if needs_tts else set())


def _turn(chosen: argparse.Namespace) -> Turn:
    from chatapi.services.turns.completion import Turn

    asked = question(chosen.question)
    text, audio = (asked, None) if isinstance(asked, str) else (None, asked)
    return Turn(prompt=text, audio=audio, speak=chosen.reply == "voice", **_options(chosen))


async def _ask_server(settings: Settings, chosen: argparse.Namespace) -> int:
    from chatapi.client import AsyncClient, ClientError

    server = await chosen_server(settings, chosen)
    try:
        async with AsyncClient(server.url, server.key, verify=server.verify) as client:
            completion, samples, rate = await _answer(client, chosen)
    except ClientError as error:
        raise ChatapiError(f"{server.name}: {error.message}", code=error.code) from error
    document = {name: value for name, value in asdict(completion).items() if name != "audio"}
    _print_end(document if chosen.json else None, completion.conversation, _text_file(chosen))
    if chosen.reply == "voice":
        await write_speech(chosen.output or ANSWER, _speech(samples, rate))
    return 0


async def _answer(client: AsyncClient, chosen: argparse.Namespace) -> tuple[Completion, bytes, int]:
    """The answer, printed as it arrives; its speech as 16-bit samples, and their rate in Hz."""
    from chatapi.client import DeltaEvent, EndEvent, SpeechEvent, TranscriptEvent

    asked = question(chosen.question)
    prompt, audio = (asked, None) if isinstance(asked, str) else (None, asked)
    text_file = _text_file(chosen)
    samples, rate = bytearray(), 0
    async with client.stream(prompt, audio=audio, reply=chosen.reply, **_options(chosen)) as events:
        async for event in events:
            if isinstance(event, TranscriptEvent):
                print(f"transcript: {event.text}", file=sys.stderr)
            elif isinstance(event, DeltaEvent) and not chosen.json:
                print(event.text, end="", flush=True, file=text_file)
            elif isinstance(event, SpeechEvent):
                samples += event.pcm
                rate = event.rate
            elif isinstance(event, EndEvent):
                completion = event.completion
    return completion, bytes(samples), rate


def _text_file(chosen: argparse.Namespace) -> TextIO:
    """Where text is printed: not on standard output when speech is written there."""
    return sys.stderr if str(chosen.output) == "-" else sys.stdout


def _print_end(document: dict[str, Any] | None, conversation: str, text_file: TextIO) -> None:
    """Print the whole reply as JSON, or end the printed text and name the conversation."""
    if document is not None:
        print(json.dumps(document, ensure_ascii=False, indent=2), file=text_file)
    else:
        print(file=text_file)
        print(f"conversation: {conversation}", file=sys.stderr)


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


def _speech(samples: bytes, rate: int) -> Audio:
    import numpy as np

    from chatapi.audio import Audio

    return Audio(np.frombuffer(samples, "<i2").astype(np.float32) / np.float32(32767), rate or 1)
