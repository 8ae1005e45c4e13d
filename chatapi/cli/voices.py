"""`chatapi voices` and `chatapi convert`: voices for voice conversion, and recordings said in them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import anyio.to_thread

from chatapi.audio import joined
from chatapi.audio.provenance import marked_wav
from chatapi.cli.turn_io import STANDARD, loaded_appliance
from chatapi.errors import BadInput, StorageError
from chatapi.services.voice_conversion.references import ReferenceClip
from chatapi.services.voice_conversion.service import mark
from chatapi.services.voice_conversion.store import StoredVoice, VoiceStore, checked_consent, checked_name
from chatapi.settings import Settings

ROLES = ("voice_converter", "vad")


async def voices(settings: Settings, chosen: argparse.Namespace) -> int:
    """Add, list, show, remove or export a voice. Status 0."""
    store = VoiceStore(settings.data, settings.voice_converter.max_voices)
    if chosen.action == "list":
        found = store.voices(None)
        if chosen.json:
            print(json.dumps([each.document() for each in found], indent=2))
            return 0
        for each in found:
            print(_line(each))
        return 0
    if not chosen.name:
        raise BadInput(f"`chatapi voices {chosen.action}` needs the name of a voice")
    if chosen.action == "add":
        return await _add(settings, chosen)
    voice = store.find(chosen.name, None)
    if chosen.action == "show":
        print(json.dumps(voice.document(), indent=2))
    elif chosen.action == "remove":
        store.remove(voice)
    else:
        output = chosen.output or Path(f"{voice.name}.zip")
        await _write(output, store.exported(voice))
        print(output)
    return 0


async def convert(settings: Settings, chosen: argparse.Namespace) -> int:
    """Say a recording in a voice. Status 0."""
    if chosen.output.suffix.lower() not in ("", ".wav"):
        raise BadInput(
            f"cannot write {chosen.output}: converted recordings are WAV files, whose mark says what they are"
        )
    source = _read(chosen.input)
    async with loaded_appliance(settings, ROLES) as appliance:
        service = appliance.voice_conversion
        target = await service.target(chosen.voice)
        async with service.convert(source, target) as conversion:
            parts = [each async for each in conversion.chunks]
    speech = joined(parts)
    await _write(chosen.output, marked_wav(speech, mark(target)))
    if str(chosen.output) != STANDARD:
        print(f"{speech.seconds:.1f} s of speech in {chosen.output}", file=sys.stderr)
    return 0


async def _add(settings: Settings, chosen: argparse.Namespace) -> int:
    name, consent = checked_name(chosen.name), checked_consent(chosen.consent or "")
    clips = [ReferenceClip(Path(each).name, _read(each)) for each in chosen.files]
    async with loaded_appliance(settings, ROLES) as appliance:
        added = await appliance.voice_conversion.add(name, consent, clips)
    print(json.dumps(added.document(), indent=2) if chosen.json else _line(added))
    return 0


def _line(voice: StoredVoice) -> str:
    quality = voice.quality
    warnings = f"  warning: {', '.join(quality.warnings)}" if quality.warnings else ""
    return (
        f"{voice.name}  {quality.speech_seconds:.1f} s of speech in {len(voice.clips)} clips, "
        f"level {quality.level_db:.0f} dBFS, noise {quality.noise_db:.0f} dBFS{warnings}"
    )


def _read(name: str) -> bytes:
    """Raises BadInput."""
    if name == STANDARD:
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}") from error


async def _write(output: Path, content: bytes) -> None:
    """Raises StorageError."""
    if str(output) == STANDARD:
        sys.stdout.buffer.write(content)
        return
    try:
        await anyio.to_thread.run_sync(output.write_bytes, content)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
