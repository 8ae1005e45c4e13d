"""The stored voices: a folder each in the data directory, with its description in JSON and its reference."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatapi.audio import Samples
from chatapi.errors import NotFound, StorageError, Unprocessable, WrongMode
from chatapi.jobs import new_id
from chatapi.services.voice_conversion.quality import QualityReport
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory
from chatapi.system import private_files

DESCRIPTION, REFERENCE = "voice.json", "reference.npy"
DRAFT = ".draft-"
"""How the folders of voices begin that are not complete yet."""
SETTLED_NS = 100_000_000
"""Age of the folder's last change from which its time tells of the next one, in nanoseconds."""
MOST_NAME, MOST_CONSENT = 100, 2000
"""Longest name and consent statement, in characters."""


@dataclass(frozen=True)
class StoredClip:
    """A reference clip of a voice; its sound is not stored."""

    name: str
    seconds: float


@dataclass(frozen=True)
class StoredVoice:
    """A voice without its reference."""

    id: str
    name: str
    created: int
    """Seconds since 1970."""
    consent: str
    """The statement of consent with which it was added."""
    owner: str
    """The id of the key that added it; empty: the command line."""
    reference_format: str
    """Of the engine that made the reference; another one cannot use it."""
    clips: tuple[StoredClip, ...]
    quality: QualityReport

    def document(self) -> dict[str, Any]:
        """All but the owner, in plain values."""
        return {name: value for name, value in asdict(self).items() if name != "owner"}


def checked_name(name: str) -> str:
    """A voice's name without space around it. Raises Unprocessable."""
    name = name.strip()
    if not 1 <= len(name) <= MOST_NAME or not name.isprintable() or "/" in name:
        raise Unprocessable(
            f"name must have 1 to {MOST_NAME} printable characters and no slash", details={"param": "name"}
        )
    return name


def checked_consent(consent: str) -> str:
    """A statement of consent. Raises Unprocessable (consent_required) without one."""
    consent = consent.strip()
    if not consent:
        raise Unprocessable(
            "consent is missing: state who allowed the use of this voice, for example 'my own voice'",
            code="consent_required", details={"param": "consent"},
        )  # fmt: skip
    if len(consent) > MOST_CONSENT:
        raise Unprocessable(
            f"consent has {len(consent)} characters; at most {MOST_CONSENT} are allowed", details={"param": "consent"}
        )
    return consent


class VoiceStore:
    """The voices of a data directory. All methods block, and may be called from any thread.

    `owner` of a method: whose voices it sees; None: all.
    """

    def __init__(self, data: Path, most: int) -> None:
        self._folder, self._most = DataDirectory(data).voices, most
        self._adding = threading.Lock()
        self._known: tuple[int, list[StoredVoice]] = (0, [])

    def check_room(self, name: str, owner: str) -> None:
        """Raises WrongMode where `add` would: voice_exists, too_many_voices."""
        voices = self.voices(None)
        if any(each.name == name and each.owner == owner for each in voices):
            raise WrongMode(f"there is a voice {name!r} already; delete it first", code="voice_exists")
        if len(voices) >= self._most:
            message = f"there are {len(voices)} voices, the most that voice_converter.max_voices allows; delete one"
            raise WrongMode(message, code="too_many_voices")

    def add(self, voice: Callable[[str, int], StoredVoice], reference: Samples) -> StoredVoice:
        """Stores a voice, which `voice` makes of its id and its time. Raises WrongMode, StorageError."""
        with self._adding, atomic_files.writing(self._folder):
            added = voice(new_id(), int(time.time()))
            self.check_room(added.name, added.owner)
            private_files.folder(self._folder)
            atomic_files.require(self._folder, reference.nbytes, "the voice")
            draft = self._folder / f"{DRAFT}{added.id}"
            try:
                private_files.folder(draft)
                for name in (DESCRIPTION, REFERENCE):
                    private_files.touch(draft / name)
                np.save(draft / REFERENCE, reference.astype(np.float16))
                (draft / DESCRIPTION).write_text(json.dumps(asdict(added), indent=2), encoding="utf-8")
                for each in (draft / REFERENCE, draft / DESCRIPTION, draft):
                    atomic_files.sync(each)
                draft.replace(self._folder / added.id)
                atomic_files.sync(self._folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return added

    def voices(self, owner: str | None) -> list[StoredVoice]:
        """The voices, sorted by name; those whose description is damaged are omitted."""
        found: list[StoredVoice] = []
        for file in self._folder.glob(f"[!.]*/{DESCRIPTION}"):
            with suppress(OSError, ValueError, TypeError, KeyError):
                found.append(_read(file))
        return sorted((each for each in found if owner in (None, each.owner)), key=lambda each: (each.name, each.id))

    def known(self) -> list[StoredVoice]:
        """All voices, sorted by name; quick, because they are read again only after the folder has changed."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            return []
        if changed != self._known[0]:
            # A change within the clock's resolution after the reading would have the same time.
            settled = time.time_ns() - changed > SETTLED_NS
            self._known = (changed if settled else 0, self.voices(None))
        return self._known[1]

    def find(self, voice: str, owner: str | None) -> StoredVoice:
        """The voice with this id or name. Raises NotFound (unknown_voice), WrongMode (ambiguous_voice)."""
        voices = self.voices(owner)
        found = [each for each in voices if each.id == voice] or [each for each in voices if each.name == voice]
        if not found:
            raise NotFound(f"there is no voice {voice[:MOST_NAME]!r}", code="unknown_voice")
        if len(found) > 1:
            ids = ", ".join(each.id for each in found)
            raise WrongMode(f"{len(found)} voices are called {voice!r}; give an id: {ids}", code="ambiguous_voice")
        return found[0]

    def reference(self, voice: StoredVoice) -> Samples:
        """The reference of a voice, of shape (frames, width). Raises NotFound, StorageError when it is damaged."""
        try:
            found: Samples = np.load(self._folder / voice.id / REFERENCE, allow_pickle=False)
        except FileNotFoundError:
            raise NotFound(f"the voice {voice.name!r} has been deleted", code="unknown_voice") from None
        except (OSError, ValueError, EOFError) as error:
            raise StorageError(f"the reference of the voice {voice.name!r} is damaged; add it again") from error
        return found

    def remove(self, voice: StoredVoice) -> None:
        """Deletes a voice. Raises StorageError."""
        trash = self._folder / f"{DRAFT}{voice.id}"
        with atomic_files.writing(self._folder), suppress(FileNotFoundError):
            (self._folder / voice.id).replace(trash)
            atomic_files.sync(self._folder)
            shutil.rmtree(trash)

    def exported(self, voice: StoredVoice) -> bytes:
        """A ZIP archive with the description of a voice and its reference. Raises NotFound, StorageError."""
        content, reference = io.BytesIO(), io.BytesIO()
        np.save(reference, self.reference(voice))
        # Random numbers get no smaller.
        with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(DESCRIPTION, json.dumps(voice.document(), indent=2))
            archive.writestr(REFERENCE, reference.getvalue())
        return content.getvalue()


def _read(file: Path) -> StoredVoice:
    values = json.loads(file.read_text(encoding="utf-8"))
    quality = dict(values["quality"])
    quality["warnings"] = tuple(quality["warnings"])
    clips = tuple(StoredClip(**each) for each in values["clips"])
    return StoredVoice(**{**values, "clips": clips, "quality": QualityReport(**quality)})
