"""Conversations kept in SQLite, so that a restart loses nothing; in memory while the disk cannot be used."""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from chatapi.errors import NotFound, NotReady, StorageError
from chatapi.storage.history.clock import Clock, now
from chatapi.storage.history.records import ConversationState, Exchange, SavedExchange, StorageProblem, ToolResult
from chatapi.storage.history.store import SHORT, HistoryStore, Kind, kind_of
from chatapi.system import private_files

__all__ = ["ConversationHistory", "ConversationState", "Exchange", "SavedExchange", "StorageProblem", "ToolResult"]

log = logging.getLogger(__name__)

T = TypeVar("T")

AGAIN = 10.0
"""Seconds between two attempts to use a disk that could not be used."""
HOUR = 3600.0
"""Seconds between two looks for what has expired, where nothing is said meanwhile."""
GAP = 2**32
"""Numbers left free behind the disk's last one for what other processes add while this one keeps in memory."""
REMEMBERED = 10_000
"""Conversations that were forgotten on purpose and are not brought back by a session that still remembers them."""
FAULTS = (sqlite3.Error, OSError)


class ConversationHistory:
    """The store. Belongs to one thread; several processes may use the same file.

    A damaged file is set aside and a new one begun. While the file is locked, or nothing can be written, exchanges stay
    in memory, and go to the disk once it can be written again; `troubles` tells.
    """

    def __init__(
        self,
        file: Path,
        keep_seconds: float,
        most: int,
        clock: Clock = now,
        pause: Callable[[], float] = time.monotonic,
    ) -> None:
        """`pause` gives the seconds by which attempts are spaced."""
        self._file, self._keep_seconds, self._most = file, keep_seconds, most
        self._clock, self._pause = clock, pause
        self._disk: HistoryStore | None = None
        self._spare: HistoryStore | None = None
        """What is kept in memory, while the disk cannot be used."""
        self._borrowed: set[str] = set()
        """Conversations in the spare that are on the disk as well."""
        self._dropped: list[tuple[str, int]] = []
        """Exchanges in the spare that never were: conversation and number."""
        self._anew = False
        """Whether a new file was begun, so that what sessions remember is all there is of their conversations."""
        self._removed: set[str] = set()
        """Conversations that were forgotten on purpose since then."""
        self._kind: Kind | None = None
        self._trouble: StorageProblem | None = None
        self._set_aside: StorageProblem | None = None
        self._next_try = self._next_look = 0.0
        self._use(lambda: self._opened(1.0))

    @staticmethod
    def new_id() -> str:
        """An id nobody can guess: whoever knows it can read the conversation."""
        return "c" + secrets.token_hex(12)

    @property
    def kept(self) -> bool:
        """Whether exchanges go to the disk now. For any thread."""
        return self._trouble is None

    @property
    def troubles(self) -> tuple[StorageProblem, ...]:
        """What is not as it should be. For any thread."""
        return tuple(each for each in (self._trouble, self._set_aside) if each is not None)

    def recall(self, conversation: str, everything: bool = False) -> ConversationState:
        """Raises NotFound (unknown_conversation) when it is not kept, or no longer; NotReady (history_locked) and
        StorageError when that cannot be known now."""
        self._ready()
        found = self._spare.recall(conversation, everything) if self._spare is not None else None
        if found is None and self._disk is not None:
            disk = self._disk
            found = self._read(lambda: disk.recall(conversation, everything))
        if found is None:
            self._must_know()
            raise NotFound(
                f"there is no conversation {conversation!r}, or it has expired; leave it out to begin one",
                code="unknown_conversation",
            )
        return found

    def add(self, before: ConversationState, asked: str, answered: str) -> SavedExchange:
        """Keep an exchange, in one transaction; begins the conversation when it is new.

        The first of `before.exchanges` is where the model's memory starts from now on.
        """
        if self._ready() and (number := self._use(lambda: self._added(before, asked, answered))) is not None:
            return SavedExchange(number, kept=True)
        spare, again = self._borrow(before), before.id not in self._removed
        try:
            return SavedExchange(spare.add(before, asked, answered, again), kept=False)
        except sqlite3.Error as error:
            # More than memory may hold: older conversations leave, and this one begins again with what is remembered.
            log.warning("conversations in memory are lost, because there are too many: %s", error)
            self._empty_spare()
            return SavedExchange(self._borrow(before).add(before, asked, answered, again), kept=False)

    def amend(self, conversation: str, number: int, answered: str | None, asked: str | None = None) -> None:
        """Change what was answered, for example to what was heard of it; None: the exchange never was.

        `asked` changes what was asked as well.
        """

        def amended() -> bool:
            assert self._disk is not None  # noqa: S101 - it is ready
            self._disk.amend(conversation, number, answered, asked)
            return True

        if self._ready() and self._use(amended):
            return
        spare = self._borrow(ConversationState(conversation, None, ()))
        if spare.has(conversation):
            spare.amend(conversation, number, answered, asked)
            if answered is None:
                self._dropped.append((conversation, number))
        else:
            log.warning("an exchange that was corrected stays as it was, because it can neither be read nor written")

    def remove(self, conversation: str) -> None:
        """Forget it. Raises NotFound (unknown_conversation) when it is not kept; NotReady (history_locked) and
        StorageError when it cannot be forgotten now."""

        def removed() -> int:
            assert self._disk is not None  # noqa: S101 - it is ready
            return int(self._disk.remove(conversation))

        found = self._use(removed) if self._ready(at_once=True) else None
        if found is None:
            if self._spare is None or conversation in self._borrowed or not self._spare.remove(conversation):
                raise self._refusal("forgotten")
            found = 1
        if len(self._removed) >= REMEMBERED:
            self._removed.clear()
        self._removed.add(conversation)
        if not found:
            raise NotFound(f"there is no conversation {conversation!r}", code="unknown_conversation")

    def tend(self) -> None:
        """Now and then: return to the disk, forget what has expired, empty the write-ahead log."""
        if self._pause() >= self._next_look:
            self._next_look = self._pause() + HOUR
            self.expire()
        elif self._ready() and self._disk is not None:
            self._disk.sweep()

    def expire(self) -> None:
        """Forget what was not gone on with for too long, and the oldest beyond the number kept."""
        if self._ready() and self._disk is not None:
            self._use(self._disk.expire)

    def close(self) -> None:
        """What is in memory goes to the disk, if that can be."""
        if not self._ready(at_once=True) and self._spare is not None and (lost := self._spare.ids()):
            told = self._trouble.message if self._trouble else ""
            log.error("%d conversations were never written and are lost: %s", len(lost), told)
        for store in (self._disk, self._spare):
            if store is not None:
                store.close()
        self._disk = self._spare = None

    # The disk

    def _ready(self, at_once: bool = False) -> bool:
        """Whether the disk can be used; where it could not, it is tried again, now and then or at once."""
        if self._trouble is None:
            if self._disk is not None and self._is_gone(self._disk):
                self._begin_anew(f"{self._file} was removed or replaced while chatapi ran, and a new one was begun")
            return self._trouble is None
        moment = self._pause()
        if moment < self._next_try and not at_once:
            return False
        self._next_try = moment + AGAIN
        self._use(self._returned)
        return self._trouble is None

    def _use(self, work: Callable[[], T]) -> T | None:
        """What comes of work on the disk; None where it cannot be used, which is noted. Once more on a new file."""
        try:
            return work()
        except FAULTS as error:
            if not self._mended(error):
                return None
        try:
            return work()
        except FAULTS as error:
            self._stand_by(kind_of(error), error)
            return None

    def _read(self, work: Callable[[], T | None]) -> T | None:
        """As `_use`, for reading, which may fail where nothing can be written as well."""
        try:
            return work()
        except FAULTS as error:
            if self._trouble is None:
                self._mended(error)
            else:
                self._let_go()
            return None

    def _mended(self, error: Exception) -> bool:
        """Whether a new file was begun in place of a damaged one; else what is added stays in memory from now on."""
        kind = kind_of(error)
        if kind == "damaged":
            try:
                target = self._put_aside()
            except OSError as refused:
                error = OSError(f"{error}; it cannot be renamed: {refused.strerror or refused}")
            else:
                self._begin_anew(
                    f"{self._file} was damaged ({error}): it is now {target.name}, and a new one was begun;"
                    f" `sqlite3 {target.name} .recover` may read it, and removing it ends this warning"
                )
                return self._trouble is None
        self._stand_by(kind, error)
        return False

    def _put_aside(self) -> Path:
        """Raises OSError."""
        self._let_go()
        target = private_files.aside(self._file)
        for end in ("-wal", "-shm"):
            log_file = self._file.with_name(self._file.name + end)
            if log_file.exists():
                log_file.replace(target.with_name(target.name + end))
        return target

    def _begin_anew(self, told: str) -> None:
        log.error("%s", told)
        self._set_aside, self._anew = StorageProblem("history_set_aside", told), True
        self._let_go()
        try:
            self._opened(1.0)
        except FAULTS as error:
            self._stand_by(kind_of(error), error)

    def _stand_by(self, kind: Kind, error: Exception) -> None:
        """From now on in memory, until the disk can be used again."""
        if kind == "locked":
            told = f"{self._file} is locked by another process, and is written once that lets go"
        else:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            told = f"conversations cannot be kept in {self._file}: {why}; is the disk full or read-only?"
        if self._trouble is None or self._kind != kind:
            log.error("%s", told)
        self._kind, self._trouble = kind, StorageProblem("history_not_kept", told)
        self._next_try = self._pause() + AGAIN
        if kind == "damaged":
            self._let_go()
        elif self._disk is None:
            self._disk = self._reader()

    def _reader(self) -> HistoryStore | None:
        try:
            return HistoryStore.reading(self._file, self._keep_seconds, self._most, self._clock, self._kind == "locked")
        except FAULTS:
            return None

    def _opened(self, wait: float) -> bool:
        """Raises sqlite3.Error, OSError."""
        store = HistoryStore(self._file, self._keep_seconds, self._most, self._clock, wait)
        self._let_go()
        self._disk = store
        if self._set_aside is None and (older := private_files.set_aside(self._file)):
            told = f"damaged conversations lie in {', '.join(each.name for each in older)}, beside {self._file}"
            self._set_aside = StorageProblem("history_set_aside", f"{told}; removing them ends this warning")
        return True

    def _returned(self) -> bool:
        """Raises sqlite3.Error, OSError where the disk still cannot be used; nothing has changed then."""
        store = HistoryStore(self._file, self._keep_seconds, self._most, self._clock, SHORT)
        try:
            if self._spare is not None:
                wholes = [self._spare.whole(each) for each in self._spare.ids()]
                # What another process has forgotten meanwhile stays forgotten.
                forgotten = set() if self._anew else {each for each in self._borrowed if not store.has(each)}
                store.put([each for each in wholes if each is not None and each.id not in forgotten], self._dropped)
        except BaseException:
            store.close()
            raise
        self._let_go()
        self._disk = store
        self._empty_spare()
        self._kind = self._trouble = None
        log.warning("conversations are kept in %s again", self._file)
        return True

    def _let_go(self) -> None:
        if self._disk is not None:
            self._disk.close()
        self._disk = None

    def _is_gone(self, disk: HistoryStore) -> bool:
        """A removed file can still be written by a process that has it open, and is never read again."""
        try:
            return os.stat(self._file).st_ino != disk.inode  # noqa: PTH116 - before every use
        except FileNotFoundError:
            return True
        except OSError:
            # The write itself will tell what is wrong.
            return False

    def _added(self, before: ConversationState, asked: str, answered: str) -> int:
        assert self._disk is not None  # noqa: S101 - it is ready
        again = self._anew and before.id not in self._removed
        return self._disk.add(before, asked, answered, again)

    # The spare

    def _empty_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
        self._spare = None
        self._borrowed.clear()
        self._dropped.clear()

    def _borrow(self, before: ConversationState) -> HistoryStore:
        """The store in memory, with what the disk has of this conversation, where that can be read."""
        disk = self._disk
        if self._spare is None:
            last = self._read(disk.sequence) if disk is not None else None
            number = (last or 0) + GAP + secrets.randbelow(GAP // 2)
            self._spare = HistoryStore(None, self._keep_seconds, self._most, self._clock, number=number)
        if not self._spare.has(before.id) and disk is not None and self._disk is disk:
            whole = self._read(lambda: disk.whole(before.id))
            if whole is not None:
                self._spare.put([whole])
                self._borrowed.add(before.id)
        return self._spare

    def _must_know(self) -> None:
        """Raises where a conversation that was not found may be on the disk all the same."""
        if self._trouble is None or self._disk is not None or self._kind == "damaged":
            return
        try:
            holds = self._file.stat().st_size > 0
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            holds = True
        if holds:
            raise self._refusal("read")

    def _refusal(self, what: str) -> NotReady | StorageError:
        told = self._trouble.message if self._trouble is not None else f"{self._file} cannot be used"
        if self._kind == "locked":
            return NotReady(f"the conversation cannot be {what} now: {told}", retry_after=AGAIN, code="history_locked")
        return StorageError(f"the conversation cannot be {what} now: {told}")
