"""`chatapi say`: synthesizes speech into a file, or prints the normalized text."""

from __future__ import annotations

import argparse

from chatapi.audio import joined
from chatapi.cli.turn_io import loaded_appliance, output_format, text_or_stdin, write_speech
from chatapi.settings import Settings


async def say(settings: Settings, chosen: argparse.Namespace) -> int:
    """Synthesize a text, or standard input for `-`; with `--text-only` print what the voice would get. Status 0."""
    output_format(chosen.output)
    text = text_or_stdin(chosen.text)
    async with loaded_appliance(settings, {"tts"}) as appliance:
        synthesis = appliance.synthesis
        if chosen.text_only:
            for sentence in synthesis.normalized_sentences(text, synthesis.voice(chosen.voice)):
                print(sentence)
            return 0
        parts = [part async for part in synthesis.synthesize_text(text, chosen.voice)]
        comment = synthesis.comment(chosen.voice)
    await write_speech(chosen.output, joined(parts), comment)
    return 0
