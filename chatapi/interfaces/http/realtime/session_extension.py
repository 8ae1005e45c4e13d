"""What our additions of a session set up: speakers of whom there are samples, and captions that viewers watch."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from chatapi.appliance import Appliance
from chatapi.auth import OPERATE, KeyHolder
from chatapi.errors import NotFound
from chatapi.events import LiveEvent
from chatapi.interfaces.http.openai.known_speakers import known_speakers
from chatapi.services.transcription.speakers import KnownSpeaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatapi.interfaces.http.realtime.session_config import Extension


class SessionExtension:
    """Follows the `chatapi` object of one session's configuration. `holder`: the client; None: it may push no
    captions."""

    def __init__(self, appliance: Appliance, holder: KeyHolder | None) -> None:
        self._service, self._holder = appliance.captions, holder
        self._captions: str | None = None
        self._add: Callable[[LiveEvent], None] | None = None
        self._stack = ExitStack()
        self._samples: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self.known: tuple[KnownSpeaker, ...] = ()

    async def apply(self, extension: Extension | None) -> None:
        """Raises Unprocessable, NotFound (unknown_captions), BadInput, WrongMode (captions_in_use)."""
        names, references = ((), ()) if extension is None else (
            tuple(extension.known_speaker_names), tuple(extension.known_speaker_references)
        )  # fmt: skip
        if self._samples != (names, references):
            self.known = await known_speakers(names, references)
            self._samples = names, references
        wanted = None if extension is None else extension.captions
        if wanted != self._captions:
            self.close()
            if wanted is not None:
                self._push(wanted)

    def follow(self, event: LiveEvent) -> None:
        """Passes an event of the session on to the viewers."""
        if self._add is not None:
            self._add(event)

    def close(self) -> None:
        """The session pushes no captions any more."""
        self._stack.close()
        self._captions = self._add = None

    def _push(self, id_: str) -> None:
        found = self._service.get(id_)
        holder = self._holder
        if holder is None or (not holder.may((OPERATE,)) and found.request.owner != holder.name):
            raise NotFound(f"there are no captions {id_!r}, or they have been deleted", code="unknown_captions")
        self._add = self._stack.enter_context(self._service.pushed(found))
        self._captions = id_
