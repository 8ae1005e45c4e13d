"""The microphone and the speaker, as far as they can be judged without opening them."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator

from chatapi.cli.check.finding import CheckContext, Finding, Level
from chatapi.errors import SettingsError

SIDES = (("input", "c", "microphone"), ("output", "p", "speaker"))
"""The direction, what ALSA ends the name of its device with (/dev/snd/pcmC0D0c captures), and what people call it."""


def sound(scene: CheckContext) -> Iterator[Finding]:
    """Where the box has no microphone of its own to use, it is only `chatapi talk` that would want one."""
    level: Level = "bad" if scene.settings.audio_device.enabled else "note"
    if scene.quick:
        if scene.settings.audio_device.enabled:
            yield from _devices(scene, level)
        return
    # A sound server has devices that are not in /dev/snd: what PortAudio sees decides, and /dev/snd may say why.
    seen = list(_portaudio(scene, level))
    good = [finding for finding in seen if finding.level == "good"]
    reasons = list(_devices(scene, level)) if len(good) < len(seen) else []
    yield from [*good, *reasons] if reasons else seen


def _portaudio(scene: CheckContext, level: Level) -> Iterator[Finding]:
    # Imported here, because it is not needed for anything else, and loading PortAudio asks every device there is.
    from chatapi.interfaces.audio_device import portaudio

    try:
        with portaudio.suppressed_stderr():
            sounddevice = portaudio.load()
    except SettingsError as fault:
        yield Finding(level, "sound", fault.message)
        return
    for direction, _, name in SIDES:
        wanted = getattr(scene.settings.audio_device, direction)
        try:
            _, found = portaudio.find(sounddevice, wanted, direction)  # type: ignore[arg-type]
        except portaudio.DeviceFault as fault:
            mend = f"set mic.{direction} to one of them" if wanted else f"plug one in, or set mic.{direction}"
            yield Finding(level, name, f"{fault}: {mend}")
        else:
            yield Finding("good", name, found)


def _devices(scene: CheckContext, level: Level) -> Iterator[Finding]:
    """What ALSA has in /dev/snd, and whether we may use it; nothing where a sound server was named."""
    if "PULSE_SERVER" in scene.environ:
        return
    mend = "start it with --device /dev/snd" if scene.in_container else "plug in a USB headset or speakerphone"
    if not scene.glob("dev/snd/pcm*"):
        where = "the container was given no sound device" if scene.in_container else "there is no sound device"
        yield Finding(level, "sound", f"{where}: {mend}")
        return
    for _, end, name in SIDES:
        devices = [scene.root / path for path in scene.glob(f"dev/snd/pcm*{end}")]
        if not devices:
            yield Finding(level, name, f"no sound device is a {name}: plug one in")
        elif not any(os.access(device, os.R_OK | os.W_OK) for device in devices):
            right = (
                "start the container with --group-add audio"
                if scene.in_container
                else f"sudo usermod -aG audio {_user()}, and log in again"
            )
            yield Finding(level, name, f"this user has no right to the sound devices: {right}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
