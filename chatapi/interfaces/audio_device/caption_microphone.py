"""The box's microphone for captions: that of the conversation where there is one, else opened for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from chatapi.audio import Samples
from chatapi.interfaces.audio_device.conversation import LocalConversation
from chatapi.interfaces.audio_device.devices import AudioDevices
from chatapi.services.captions.service import Microphone
from chatapi.settings import AudioDeviceSettings


def caption_microphone(settings: AudioDeviceSettings, conversation: LocalConversation | None) -> Microphone:
    """Opens the microphone: blocks of 20 ms, 16 kHz mono. `conversation`: the one that uses the devices; None: none
    does. PortAudio can be opened anew only while nothing else has it open, so a device is opened once."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncIterator[Samples]]:
        if conversation is not None:
            async with aclosing(conversation.devices.captured_too()) as blocks:
                yield blocks
            return
        async with AudioDevices(settings.input, cancel_echo=False, playback=False).running() as devices:
            yield devices.captured()

    return opened
