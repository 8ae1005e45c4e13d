"""The stored samples: rows in SQLite, and a WAV file each; an accepted sample is on the disk before the answer."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import sqlite3
import tarfile
import time
import unicodedata
import wave
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.errors import NotFound, TooMany, Unprocessable, WrongMode
from chatapi.services.command_recognition.database import CommandDatabase
from chatapi.services.command_recognition.sample_quality import CheckedClip
from chatapi.settings.services import CommandTeachingSettings
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory
from chatapi.system import private_files

SampleState = Literal["accepted", "quarantined", "deleted"]

MOST_LABEL = 40
"""Longest label, in characters."""
HELD_OUT_EVERY = 4
"""One accepted sample of so many of a word is never trained on, and judges the versions."""
RECENT, DOUBTFUL = 20, 0.5
"""A key of whose so many latest samples more than this share is quarantined has all further ones quarantined."""
DAY = 86_400.0
COLUMNS = (
    "id, digest, label, state, reason, owner, interface, submitted, seconds, level_db, clipped, speech_seconds,"
    " trimmed, held_out"
)
_SELECT = f"SELECT {COLUMNS} FROM samples WHERE"  # noqa: S608 - a constant
_INSERT = f"INSERT OR REPLACE INTO samples ({COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS.split(',')))})"  # noqa: S608


@dataclass(frozen=True)
class Submitter:
    """Who submits a sample."""

    owner: str
    """Id of the API key, or the name of one that is in no file; empty: the command line."""
    interface: str
    """Such as http or grpc."""


@dataclass(frozen=True)
class StoredSample:
    """A sample of a command."""

    id: str
    digest: str
    """SHA-256 of its 16-bit samples, in hex."""
    label: str
    state: SampleState
    reason: str
    """Why it is quarantined; empty: it is not."""
    owner: str
    """Id of the key that submitted it."""
    interface: str
    submitted: float
    """Wall clock, in seconds since 1970."""
    seconds: float
    """Its length."""
    level_db: float
    """Level of its speech, in dBFS."""
    clipped: float
    """Share of clipped samples, 0 to 1."""
    speech_seconds: float
    trimmed: bool
    """Whether silence at the ends of the clip was cut off."""
    held_out: bool
    """Whether it only judges versions."""


def checked_label(label: str) -> str:
    """A label in lower case, without space around it. Raises Unprocessable (invalid_label)."""
    found = unicodedata.normalize("NFC", label).strip().lower()
    if not 1 <= len(found) <= MOST_LABEL or not found.isprintable() or "/" in found or "," in found:
        raise Unprocessable(
            f"a label has 1 to {MOST_LABEL} printable characters, no slash and no comma", code="invalid_label"
        )
    return found


class SampleStore:
    """The samples of a data directory. All methods block, and may be called from any thread.

    `owner` of a method: whose samples it sees; None: all.
    """

    def __init__(self, data: Path, database: CommandDatabase, limits: CommandTeachingSettings) -> None:
        self._folder, self._database, self._limits = DataDirectory(data).command_samples, database, limits

    def add(self, clip: CheckedClip, label: str, by: Submitter, doubt: str = "") -> tuple[StoredSample, bool]:
        """Store a sample, and whether it was stored before. `doubt`: why it is quarantined; empty: it is accepted.

        Raises WrongMode (sample_relabelled) where the same sound has another label, TooMany (too_many_samples),
        WrongMode (too_many_samples, too_many_words), StorageError.
        """
        audio = Audio(clip.samples, RATE)
        digest = hashlib.sha256(audio.pcm16()).hexdigest()
        with self._database.transaction() as db:
            if (known := self._known(db, digest, label)) is not None and known.state != "deleted":
                return known, True
            self._require_room(db, label, by)
            doubt = doubt or self._suspicion(db, by)
            sample = StoredSample(
                known.id if known is not None else f"s{secrets.token_hex(8)}", digest, label,
                "quarantined" if doubt else "accepted", doubt, by.owner, by.interface, time.time(),
                round(audio.seconds, 3), clip.level_db, clip.clipped, clip.speech_seconds, clip.trimmed,
                self._is_held_out(db, label),
            )  # fmt: skip
            # The file comes first: a row without a file would be a lost sample, and a file without a row is harmless.
            self._write(sample.id, wav(audio))
            db.execute(_INSERT, tuple(asdict(sample).values()))
        return sample, False

    def get(self, sample: str, owner: str | None) -> StoredSample:
        """Raises NotFound (unknown_sample)."""
        with self._database.reading() as db:
            row = db.execute(f"{_SELECT} id = ?", (sample,)).fetchone()
        found = None if row is None else _sample(row)
        if found is None or found.state == "deleted" or owner not in (None, found.owner):
            raise NotFound(f"there is no sample {sample[:40]!r}", code="unknown_sample")
        return found

    def find(
        self, owner: str | None, label: str = "", state: str = "", most: int = 1000, before: str = ""
    ) -> list[StoredSample]:
        """The samples, the newest first. `before`: the id of the last one of the page before."""
        if not self._database.exists:
            return []
        query, values = f"{_SELECT} state != 'deleted'", list[Any]()
        for column, wanted in (("owner", owner), ("label", label or None), ("state", state or None)):
            if wanted is not None:
                query += f" AND {column} = ?"
                values.append(wanted)
        if before:
            last = self.get(before, owner)
            query += " AND (submitted, id) < (?, ?)"
            values += [last.submitted, last.id]
        with self._database.reading() as db:
            rows = db.execute(f"{query} ORDER BY submitted DESC, id DESC LIMIT ?", [*values, most]).fetchall()
        return [_sample(row) for row in rows]

    def counts(self) -> tuple[dict[str, int], int]:
        """State -> number of samples, and the number of words that have accepted samples."""
        if not self._database.exists:
            return {}, 0
        with self._database.reading() as db:
            states = db.execute(
                "SELECT state, count(*) FROM samples WHERE state != 'deleted' GROUP BY state"
            ).fetchall()
            [words] = db.execute("SELECT count(DISTINCT label) FROM samples WHERE state = 'accepted'").fetchone()
        return dict(states), int(words)

    def sound(self, sample: StoredSample) -> bytes:
        """Its WAV file. Raises NotFound (unknown_sample)."""
        try:
            return self._path(sample.id).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"the sound of the sample {sample.id} is missing", code="unknown_sample") from None

    def samples_of(self, sample: StoredSample) -> Samples:
        """Its samples of 16 kHz mono, from the file that `add` wrote."""
        with wave.open(io.BytesIO(self.sound(sample))) as file:
            content = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
        found: Samples = content / np.float32(32768)
        return found

    def review(self, sample: str, accepted: bool) -> StoredSample:
        """Accept a quarantined sample, or quarantine an accepted one. Raises NotFound (unknown_sample)."""
        found = self.get(sample, None)
        changed = replace(found, state="accepted" if accepted else "quarantined", reason="" if accepted else "reviewed")
        with self._database.transaction() as db:
            db.execute(
                "UPDATE samples SET state = ?, reason = ? WHERE id = ? AND state != 'deleted'",
                (changed.state, changed.reason, sample),
            )
        return changed

    def delete(self, sample: str, owner: str | None) -> None:
        """Delete a sample and its sound. Raises NotFound (unknown_sample), StorageError."""
        found = self.get(sample, owner)
        with self._database.transaction() as db:
            db.execute("UPDATE samples SET state = 'deleted' WHERE id = ?", (found.id,))
            db.execute("DELETE FROM embeddings WHERE sample = ?", (found.id,))
        with atomic_files.writing(self._folder):
            self._path(found.id).unlink(missing_ok=True)

    def export(self, target: BinaryIO, owner: str | None) -> int:
        """Write a tar archive of the sounds and of samples.jsonl, a line of JSON each; returns their number."""
        lines, count = [], 0
        with tarfile.open(fileobj=target, mode="w") as archive:
            for sample in self.find(owner, most=self._limits.max_samples):
                try:
                    sound = self.sound(sample)
                except NotFound:
                    continue
                _add_file(archive, f"samples/{sample.id}.wav", sound, sample.submitted)
                lines.append(json.dumps({"file": f"samples/{sample.id}.wav", **asdict(sample)}, ensure_ascii=False))
                count += 1
            _add_file(archive, "samples.jsonl", "".join(f"{line}\n" for line in lines).encode(), time.time())
        return count

    def embeddings(self, features: str) -> dict[str, Samples]:
        """Id of each sample -> its embeddings of this form, of shape (variants, width)."""
        with self._database.reading() as db:
            rows = db.execute("SELECT sample, rows FROM embeddings WHERE features = ?", (features,)).fetchall()
        return {sample: np.load(io.BytesIO(content), allow_pickle=False) for sample, content in rows}

    def keep_embeddings(self, features: str, found: dict[str, Samples]) -> None:
        """Store embeddings of samples, so that they are not computed again."""
        with self._database.transaction() as db:
            for sample, rows in found.items():
                content = io.BytesIO()
                np.save(content, rows.astype(np.float32))
                db.execute(
                    "INSERT OR REPLACE INTO embeddings (sample, features, rows) SELECT id, ?, ? FROM samples"
                    " WHERE id = ? AND state != 'deleted'",
                    (features, content.getvalue(), sample),
                )

    def _known(self, db: sqlite3.Connection, digest: str, label: str) -> StoredSample | None:
        row = db.execute(f"{_SELECT} digest = ?", (digest,)).fetchone()
        if row is None:
            return None
        found = _sample(row)
        if found.state != "deleted" and found.label != label:
            message = f"the same sound is the sample {found.id} of {found.label!r}; delete that one first"
            raise WrongMode(message, code="sample_relabelled")
        return found

    def _require_room(self, db: sqlite3.Connection, label: str, by: Submitter) -> None:
        limits, code = self._limits, "too_many_samples"
        [count] = db.execute("SELECT count(*) FROM samples WHERE state != 'deleted'").fetchone()
        if count >= limits.max_samples:
            message = f"there are {count} samples, the most that commands.max_samples allows; delete some"
            raise WrongMode(message, code=code)
        labels = {each for [each] in db.execute("SELECT DISTINCT label FROM samples WHERE state != 'deleted'")}
        if label not in labels and len(labels) >= limits.max_words:
            message = f"there are samples of {len(labels)} words, the most that commands.max_words allows"
            raise WrongMode(message, code="too_many_words")
        stored, today = db.execute(
            "SELECT count(*) FILTER (WHERE state != 'deleted'), count(*) FILTER (WHERE submitted > ?) FROM samples"
            " WHERE owner = ?",
            (time.time() - DAY, by.owner),
        ).fetchone()
        if by.owner and stored >= limits.max_per_key:
            message = f"this key has {stored} samples, the most that commands.max_per_key allows; delete some"
            raise WrongMode(message, code=code)
        if by.owner and today >= limits.max_per_key_per_day:
            message = f"this key has submitted {today} samples within a day, the most that are accepted of one key"
            raise TooMany(message, code=code, retry_after=3600)

    def _suspicion(self, db: sqlite3.Connection, by: Submitter) -> str:
        """Why all samples of a key are quarantined; empty: they are not."""
        rows = db.execute(
            "SELECT state FROM samples WHERE owner = ? ORDER BY submitted DESC LIMIT ?", (by.owner, RECENT)
        ).fetchall()
        doubtful = sum(state == "quarantined" for [state] in rows)
        return "key_doubtful" if len(rows) >= RECENT // 2 and doubtful > DOUBTFUL * len(rows) else ""

    @staticmethod
    def _is_held_out(db: sqlite3.Connection, label: str) -> bool:
        [count] = db.execute("SELECT count(*) FROM samples WHERE label = ? AND state = 'accepted'", (label,)).fetchone()
        return bool(count % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)

    def _write(self, sample: str, content: bytes) -> None:
        with atomic_files.writing(self._folder):
            private_files.folder(self._folder)
            atomic_files.require(self._folder, len(content), "the sample")
            draft = self._folder / f".draft-{sample}"
            private_files.touch(draft)
            draft.write_bytes(content)
            atomic_files.sync(draft)
            draft.replace(self._path(sample))
            atomic_files.sync(self._folder)

    def _path(self, sample: str) -> Path:
        return self._folder / f"{sample}.wav"


def label_counts(samples: Sequence[StoredSample]) -> dict[str, int]:
    """Label -> the number of accepted samples, by label."""
    found: dict[str, int] = {}
    for each in _accepted(samples):
        found[each.label] = found.get(each.label, 0) + 1
    return dict(sorted(found.items()))


def _accepted(samples: Sequence[StoredSample]) -> Iterator[StoredSample]:
    return (each for each in samples if each.state == "accepted")


def _sample(row: Sequence[Any]) -> StoredSample:
    *values, trimmed, held_out = row
    return StoredSample(*values, trimmed=bool(trimmed), held_out=bool(held_out))  # type: ignore[misc]


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, at: float) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mtime, about.mode = len(content), int(at), 0o600
    archive.addfile(about, io.BytesIO(content))
