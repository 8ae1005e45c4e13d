"""`chatapi say`: synthesizes speech into a WAV file."""

from __future__ import annotations

from pathlib import Path

from chatapi.audio import joined, wav
from chatapi.cli.turn_io import loaded_appliance, text_or_stdin, write_wav
from chatapi.settings import Settings


async def say(settings: Settings, text: str, output: Path, voice: str | None) -> int:
    """Synthesize a text, or standard input for `-`. Status 0."""
    async with loaded_appliance(settings, {"tts"}) as appliance:
        parts = [part async for part in appliance.synthesis.synthesize_text(text_or_stdin(text), voice)]
    speech = joined(parts)
    await write_wav(output, wav(speech), speech.seconds)
    return 0
