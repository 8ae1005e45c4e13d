"""Scopes: what an API key allows, and the clients that have them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from chatapi.errors import Forbidden

Scope = Literal["talk", "realtime", "transcribe", "voices", "train", "moderate", "operate", "all"]

TALK: Scope = "talk"
REALTIME: Scope = "realtime"
TRANSCRIBE: Scope = "transcribe"
VOICES: Scope = "voices"
TRAIN: Scope = "train"
MODERATE: Scope = "moderate"
OPERATE: Scope = "operate"
ALL: Scope = "all"

SCOPES: dict[Scope, str] = {
    TALK: "conversation in every form, with speech, transcription and live voice",
    REALTIME: "live conversation over the Realtime API, and nothing else",
    TRANSCRIBE: "transcription of recordings, streams and live sessions, translation, and no conversation",
    VOICES: "voices of your own, voice conversion, and the list of voices for speech",
    TRAIN: "samples and training of command recognition",
    MODERATE: "stream monitoring and its findings",
    OPERATE: "the box's state, metrics, microphone and jobs",
    ALL: "everything",
}
"""Scope -> what it allows, as the end of a sentence."""


@dataclass(frozen=True)
class KeyHolder:
    """An authenticated client."""

    name: str
    scopes: tuple[str, ...]
    id: str = ""
    """Id of its key in the file; empty: the key is not in the file."""
    rate: int | None = None
    """Rate limit, in requests per minute; None: no limit."""
    title: str = ""
    """What error messages call it; empty: its key, by name."""
    remedy: str = "`chatapi keys add NAME --scope SCOPE` on the box creates a key with it"
    """What gives it another scope, for error messages."""

    def may(self, scopes: Iterable[str]) -> bool:
        """Whether it has one of these scopes. Every client has one of none."""
        wanted = tuple(scopes)
        return not wanted or ALL in self.scopes or any(each in self.scopes for each in wanted)

    @property
    def owner_id(self) -> str:
        """The owner of what it adds: the id of its key, because a later key may have the same name. Those that are in
        no file have a name that no other key can have."""
        return self.id or self.name

    def require(self, scopes: Iterable[str], what: str) -> None:
        """Raises Forbidden (scope_missing) where it has none of these scopes; `what` needs one of them."""
        wanted = tuple(scopes)
        if not self.may(wanted):
            raise Forbidden(
                f"{self} has the scopes {', '.join(self.scopes)}, and {what} needs the scope {' or '.join(wanted)}; "
                f"{self.remedy}",
                code="scope_missing",
                details={"scope": wanted[0], "scopes": list(wanted)},
            )

    def __str__(self) -> str:
        return self.title or f"the key {self.name!r}"


ANYBODY = KeyHolder("-", (ALL,))
"""Every client while there is no key."""
SETTINGS = KeyHolder("settings", (ALL,))
"""A client with `server.api_key`."""
