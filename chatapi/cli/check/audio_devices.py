"""Checks the microphone and the speaker, without opening them."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator

from chatapi.cli.check.finding import CheckContext, Finding, Level
from chatapi.errors import SettingsError

SIDES = (("input", "c", "microphone"), ("output", "p", "speaker"))
"""Direction, last letter of ALSA's device name (/dev/snd/pcmC0D0c captures), and the name for people."""


def sound(context: CheckContext) -> Iterator[Finding]:
    """The audio devices; without `audio_device.enabled` only `chatapi talk` needs them."""
    level: Level = "bad" if context.settings.audio_device.enabled else "note"
    if context.quick:
        if context.settings.audio_device.enabled:
            yield from _devices(context, level)
        return
    # A sound server has devices that are not in /dev/snd: PortAudio's view decides, and /dev/snd may explain it.
    seen = list(_portaudio(context, level))
    good = [finding for finding in seen if finding.level == "good"]
    reasons = list(_devices(context, level)) if len(good) < len(seen) else []
    yield from [*good, *reasons] if reasons else seen


def _portaudio(context: CheckContext, level: Level) -> Iterator[Finding]:
    # Imported here, because loading PortAudio probes every device.
    from chatapi.interfaces.audio_device import portaudio

    try:
        with portaudio.suppressed_stderr():
            sounddevice = portaudio.load()
    except SettingsError as error:
        yield Finding(level, "sound", error.message)
        return
    for direction, _, name in SIDES:
        wanted = getattr(context.settings.audio_device, direction)
        try:
            _, found = portaudio.find(sounddevice, wanted, direction)  # type: ignore[arg-type]
        except portaudio.DeviceFault as fault:
            setting = f"audio_device.{direction}"
            remedy = f"set {setting} to one of them" if wanted else f"plug one in, or set {setting}"
            yield Finding(level, name, f"{fault}: {remedy}")
        else:
            yield Finding("good", name, found)


def _devices(context: CheckContext, level: Level) -> Iterator[Finding]:
    """ALSA's devices in /dev/snd, and this user's access to them; nothing if a sound server is set."""
    if "PULSE_SERVER" in context.environ:
        return
    remedy = "start it with --device /dev/snd" if context.in_container else "plug in a USB headset or speakerphone"
    if not context.glob("dev/snd/pcm*"):
        problem = "the container has no sound device" if context.in_container else "there is no sound device"
        yield Finding(level, "sound", f"{problem}: {remedy}")
        return
    for _, end, name in SIDES:
        devices = [context.root / path for path in context.glob(f"dev/snd/pcm*{end}")]
        if not devices:
            yield Finding(level, name, f"no sound device is a {name}: plug one in")
        elif not any(os.access(device, os.R_OK | os.W_OK) for device in devices):
            remedy = (
                "start the container with --group-add audio"
                if context.in_container
                else f"sudo usermod -aG audio {_user()}, and log in again"
            )
            yield Finding(level, name, f"this user has no access to the sound devices: {remedy}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
