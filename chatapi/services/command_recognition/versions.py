"""The versions of the taught classifier: their files, lineage and figures, and which one is active."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatapi.errors import NotFound, StorageError, WrongMode
from chatapi.services.command_recognition.database import CommandDatabase
from chatapi.services.command_recognition.head import LinearHead
from chatapi.storage.layout import DataDirectory

log = logging.getLogger(__name__)

COLUMNS = "number, job, parent, owner, created, features, labels, samples, figures, verdict, file, sha256"
_SELECT = f"SELECT {COLUMNS} FROM versions"  # noqa: S608 - a constant
MOST = 100
"""Largest number of versions that are kept; the oldest that was never active is deleted first."""


@dataclass(frozen=True)
class StoredVersion:
    """A version of the taught classifier."""

    number: int
    job: str
    """Id of the training job that made it."""
    parent: int
    """The version that was active when it was trained; 0: the model itself."""
    owner: str
    """Id of the key that started the training."""
    created: float
    """Wall clock, in seconds since 1970."""
    features: str
    """The form of the embeddings that it takes."""
    labels: tuple[str, ...]
    samples: int
    """Number of submitted samples that it was trained on."""
    figures: dict[str, Any]
    """`new`, `old` and `first`: the figures of this version, of its parent and of the model; `curve`: the loss."""
    verdict: tuple[str, ...]
    """Why it was not activated; empty: it was good enough."""
    file: str
    sha256: str

    def document(self) -> dict[str, Any]:
        """All but the owner and the file, in plain values."""
        return {name: value for name, value in vars(self).items() if name not in ("owner", "file")}


@dataclass(frozen=True)
class NewVersion:
    """What a training job has made."""

    job: str
    parent: int
    owner: str
    head: LinearHead
    samples: int
    figures: dict[str, Any]
    verdict: tuple[str, ...]
    file: Path
    """In the folder of the versions."""


@dataclass(frozen=True)
class Activation:
    """A switch to a version."""

    version: int
    """0: the model itself."""
    at: float
    """Wall clock, in seconds since 1970."""
    cause: str
    """trained, activated, rolled_back or unknown_share."""
    unknown_share: float | None
    """Share of unknown among the latest classifications of the version before; None: there were too few."""


class VersionStore:
    """The versions of a data directory. All methods block, and may be called from any thread."""

    def __init__(self, data: Path, database: CommandDatabase) -> None:
        self.folder, self._database = DataDirectory(data).command_versions, database

    def add(self, new: NewVersion) -> StoredVersion:
        """Record a version whose file is in place; the one of the same job, if there is one."""
        sha256 = hashlib.sha256(new.file.read_bytes()).hexdigest()
        with self._database.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO versions (job, parent, owner, created, features, labels, samples, figures,"
                " verdict, file, sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (new.job, new.parent, new.owner, time.time(), new.head.features, json.dumps(new.head.labels),
                 new.samples, json.dumps(new.figures), json.dumps(new.verdict), new.file.name, sha256),
            )  # fmt: skip
            found = _version(db.execute(f"{_SELECT} WHERE job = ?", (new.job,)).fetchone())
        self._delete_old()
        return found

    def versions(self) -> list[StoredVersion]:
        """All versions, the newest first."""
        if not self._database.exists:
            return []
        with self._database.reading() as db:
            return [_version(row) for row in db.execute(f"{_SELECT} ORDER BY number DESC")]

    def get(self, number: int) -> StoredVersion:
        """Raises NotFound (unknown_version)."""
        for each in self.versions():
            if each.number == number:
                return each
        raise NotFound(f"there is no version {number} of the commands", code="unknown_version")

    def active(self) -> int:
        """The number of the active version; 0: the model itself."""
        found = self.activations(1)
        return found[0].version if found else 0

    def activations(self, most: int = 100) -> list[Activation]:
        """The latest switches, the newest first."""
        if not self._database.exists:
            return []
        query = "SELECT version, at, cause, unknown_share FROM activations ORDER BY number DESC LIMIT ?"
        with self._database.reading() as db:
            return [Activation(*row) for row in db.execute(query, (most,))]

    def count(self) -> int:
        """Number of versions."""
        if not self._database.exists:
            return 0
        with self._database.reading() as db:
            return int(db.execute("SELECT count(*) FROM versions").fetchone()[0])

    def activate(self, number: int, cause: str, unknown_share: float | None = None) -> LinearHead | None:
        """Make a version the active one, in one transaction, and return its head; None: that of the model.

        Raises NotFound (unknown_version), StorageError where its file is damaged; the active one stays then.
        """
        head = self.head(number)
        with self._database.transaction() as db:
            db.execute(
                "INSERT INTO activations (version, at, cause, unknown_share) VALUES (?, ?, ?, ?)",
                (number, time.time(), cause, unknown_share),
            )
        return head

    def before_active(self) -> int:
        """The version from which the active one was trained. Raises WrongMode (nothing_to_roll_back)."""
        active = self.active()
        if not active:
            raise WrongMode("the model itself is active, and there is no version before", code="nothing_to_roll_back")
        return self.get(active).parent

    def head(self, number: int) -> LinearHead | None:
        """The head of a version; None: that of the model. Raises NotFound (unknown_version), StorageError."""
        if number == 0:
            return None
        version = self.get(number)
        try:
            content = (self.folder / version.file).read_bytes()
            if hashlib.sha256(content).hexdigest() != version.sha256:
                raise ValueError("its digest is another one")  # noqa: TRY301 - as any other damage
            return LinearHead.decoded(content)
        except (OSError, ValueError, KeyError, EOFError) as error:
            message = f"the file of version {number} is damaged: {error}; activate another version"
            raise StorageError(message, code="version_damaged") from error

    def _delete_old(self) -> None:
        """Delete the oldest versions beyond MOST that were never active."""
        kept = {each.version for each in self.activations(1000)}
        for each in self.versions()[MOST:]:
            if each.number not in kept:
                with self._database.transaction() as db:
                    db.execute("DELETE FROM versions WHERE number = ?", (each.number,))
                (self.folder / each.file).unlink(missing_ok=True)


def _version(row: Sequence[Any]) -> StoredVersion:
    number, job, parent, owner, created, features, labels, samples, figures, verdict, file, sha256 = row
    return StoredVersion(
        number, job, parent, owner, created, features, tuple(json.loads(labels)), samples, json.loads(figures),
        tuple(json.loads(verdict)), file, sha256,
    )  # fmt: skip
