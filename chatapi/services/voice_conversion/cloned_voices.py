"""Stored voices as voices of speech synthesis: what a voice of the TTS engine says is converted to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import anyio.to_thread
import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.auth import current_client
from chatapi.engines import Voice, VoiceConverter
from chatapi.engines.call import EngineCall
from chatapi.errors import ModelError, Unprocessable
from chatapi.observability.metrics.conversions import ConversionMetrics
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker
from chatapi.services.voice_conversion.store import StoredVoice, VoiceStore

MOST_REFERENCES = 2
"""References that are kept in memory; one takes up to 40 MB."""


class ClonedVoices:
    """The voices that the present client may speak with: its own, and those that were added on the command line."""

    def __init__(
        self,
        store: VoiceStore,
        converter: Worker[VoiceConverter],
        require: Callable[[], None],
        metrics: ConversionMetrics,
    ) -> None:
        """`require` raises ModelError where the converter has no model."""
        self._store, self._converter, self._require, self._metrics = store, converter, require, metrics
        self._references: OrderedDict[str, Samples] = OrderedDict()

    def voices(self, base: Voice, taken: Sequence[str] = ()) -> tuple[Voice, ...]:
        """The voices by name, each spoken by the voice `base`; without those whose name is taken."""
        names = dict.fromkeys(each.name for each in self._visible() if each.name not in taken)
        return tuple(Voice(name, base.language, base.rate, base.region, base.name) for name in names)

    def check(self, voice: Voice) -> None:
        """Checks that a voice can be spoken with, and begins to load the engine. Raises Unprocessable
        (converter_missing)."""
        try:
            self._require()
        except ModelError as error:
            message = f"the voice {voice.name!r} is converted speech: {error.message}"
            raise Unprocessable(message, code="converter_missing") from error
        self._converter.preload()

    async def converted(self, speech: Samples, voice: Voice, priority: Priority) -> AsyncGenerator[Audio, None]:
        """Speech of `voice.base`, 16 kHz mono, in the voice, part by part. Raises Unprocessable (unknown_voice,
        unknown_reference), and the errors of the engine."""
        rows = await self._reference(voice.name)
        call = EngineCall.of(VoiceConverter.convert, speech, rows, source=f"tts {voice.base}")
        async with aclosing(self._metrics.counted("reply", self._stream(call, priority))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(self, call: EngineCall[Audio], priority: Priority) -> AsyncGenerator[Audio, None]:
        async with self._converter.stream(call, priority) as chunks:
            async for chunk in chunks:
                yield chunk

    def _visible(self) -> list[StoredVoice]:
        owner = current_client.owner()
        return [each for each in self._store.known() if owner is None or each.owner in ("", owner)]

    async def _reference(self, name: str) -> Samples:
        found = next((each for each in self._visible() if each.name == name), None)
        if found is None:
            raise Unprocessable(f"there is no voice {name!r} any more", code="unknown_voice")
        check_format(found, (await self._converter.open()).reference_format)
        if found.id not in self._references:
            self._references[found.id] = await anyio.to_thread.run_sync(self._store.reference, found)
            while len(self._references) > MOST_REFERENCES:
                self._references.popitem(last=False)
        self._references.move_to_end(found.id)
        return self._references[found.id]


def check_format(voice: StoredVoice, wanted: str) -> None:
    """Raises Unprocessable (unknown_reference) for a voice of another engine than `wanted`."""
    if voice.reference_format != wanted:
        message = f"the voice {voice.name!r} was made for {voice.reference_format}, and {wanted} is in use"
        raise Unprocessable(f"{message}; add it again", code="unknown_reference")


def joined_speech(chunks: Sequence[Audio]) -> Samples:
    """The chunks of a sentence as samples of 16 kHz."""
    return np.concatenate([np.zeros(0, np.float32), *(each.at(RATE).samples for each in chunks)])
