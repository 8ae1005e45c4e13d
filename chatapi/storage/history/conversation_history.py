"""The history of conversations: SQLite on the disk, in memory while the disk cannot be used, whatever the fault."""

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
from chatapi.storage.clock import Clock, now
from chatapi.storage.history.listing import ListFilter
from chatapi.storage.history.records import (
    ConversationState,
    ConversationSummary,
    SavedExchange,
    StorageProblem,
)
from chatapi.storage.history.store import SHORT, HistoryStore
from chatapi.storage.sqlite_errors import Kind, kind_of
from chatapi.system import private_files

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 10.0
"""Time between two attempts to use an unusable disk, in seconds."""
HOUR = 3600.0
"""Time between two searches for expired conversations when no exchange is added, in seconds."""
GAP = 2**32
"""Exchange numbers left free after the last one on disk, for other processes while this one stores in memory."""
MAX_REMOVED = 10_000
"""Number of deleted conversations that a session that still holds them cannot restore."""
DISK_ERRORS = (sqlite3.Error, OSError)


class ConversationHistory:
    """The stored conversations. Belongs to one thread; several processes may use the same file.

    A damaged file is renamed and a new one is created. While the file is locked or cannot be written, exchanges stay in
    memory and are written when the disk is usable again; `problems` tells.
    """

    def __init__(
        self,
        file: Path,
        keep_seconds: float,
        most: int,
        clock: Clock = now,
        pause: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keep_seconds`: time that a conversation is kept; `most`: largest number of conversations; `pause`: clock for
        the time between attempts, in seconds."""
        self._file, self._keep_seconds, self._most = file, keep_seconds, most
        self._clock, self._pause = clock, pause
        self._disk: HistoryStore | None = None
        self._memory: HistoryStore | None = None
        """Exchanges stored in memory while the disk cannot be used."""
        self._copied: set[str] = set()
        """Conversations in memory that are on the disk as well."""
        self._dropped: list[tuple[str, int]] = []
        """Deleted exchanges of conversations in memory: conversation and number."""
        self._new_file = False
        """Whether a new file was created, so that only live sessions still hold the older exchanges."""
        self._removed: set[str] = set()
        """Conversations that were deleted since then."""
        self._kind: Kind | None = None
        self._problem: StorageProblem | None = None
        self._damaged_file: StorageProblem | None = None
        self._next_try = self._next_expiry = 0.0
        self._use(lambda: self._open(1.0))

    @staticmethod
    def new_id() -> str:
        """A conversation id that cannot be guessed: whoever knows it can read the conversation."""
        return "c" + secrets.token_hex(12)

    @property
    def kept(self) -> bool:
        """Whether exchanges are stored on disk now. For any thread."""
        return self._problem is None

    @property
    def problems(self) -> tuple[StorageProblem, ...]:
        """The current problems. For any thread."""
        return tuple(each for each in (self._problem, self._damaged_file) if each is not None)

    def recall(self, conversation: str, everything: bool = False) -> ConversationState:
        """The state of a conversation; `everything`: including exchanges outside the model's context.

        Raises NotFound (unknown_conversation) when it does not exist or has expired; NotReady (history_locked) and
        StorageError when it cannot be read now.
        """
        self._ready()
        state = self._memory.recall(conversation, everything) if self._memory is not None else None
        if state is None and self._disk is not None:
            disk = self._disk
            state = self._read(lambda: disk.recall(conversation, everything))
        if state is None:
            self._require_readable()
            raise NotFound(
                f"there is no conversation {conversation!r}, or it has expired; leave it out to start a new one",
                code="unknown_conversation",
            )
        return state

    def add(self, before: ConversationState, asked: str, answered: str, owner: str = "") -> SavedExchange:
        """Store an exchange, in one transaction; creates the conversation, with this owner, when it is new.

        From now on the model's context starts at the first of `before.exchanges`.
        """
        number = self._use(lambda: self._add_on_disk(before, asked, answered, owner)) if self._ready() else None
        if number is not None:
            return SavedExchange(number, kept=True)
        memory, restore = self._in_memory(before), before.id not in self._removed
        try:
            return SavedExchange(memory.add(before, asked, answered, restore, owner), kept=False)
        except sqlite3.Error as error:
            # The memory limit is reached: drop the other conversations and store this one again from its state.
            log.warning("conversations in memory are lost, because there are too many: %s", error)
            self._clear_memory()
            return SavedExchange(self._in_memory(before).add(before, asked, answered, restore, owner), kept=False)

    def amend(self, conversation: str, number: int, answered: str | None, asked: str | None = None) -> None:
        """Change the answer of an exchange, for example to the part that was played; None deletes the exchange.

        `asked` changes the request as well.
        """

        def amend_on_disk() -> bool:
            assert self._disk is not None  # noqa: S101 - it is ready
            self._disk.amend(conversation, number, answered, asked)
            return True

        if self._ready() and self._use(amend_on_disk):
            return
        memory = self._in_memory(ConversationState(conversation, None, ()))
        if memory.has(conversation):
            memory.amend(conversation, number, answered, asked)
            if answered is None:
                self._dropped.append((conversation, number))
        else:
            log.warning("an exchange was not corrected, because the disk can be neither read nor written")

    def remove(self, conversation: str) -> None:
        """Delete a conversation. Raises NotFound (unknown_conversation) when it does not exist; NotReady
        (history_locked) and StorageError when it cannot be deleted now."""

        def remove_on_disk() -> int:
            assert self._disk is not None  # noqa: S101 - it is ready
            return int(self._disk.remove(conversation))

        found = self._use(remove_on_disk) if self._ready(at_once=True) else None
        if found is None:
            if self._memory is None or conversation in self._copied or not self._memory.remove(conversation):
                raise self._unavailable("deleted")
            found = 1
        if len(self._removed) >= MAX_REMOVED:
            self._removed.clear()
        self._removed.add(conversation)
        if not found:
            raise NotFound(f"there is no conversation {conversation!r}", code="unknown_conversation")

    def listed(self, chosen: ListFilter) -> list[ConversationSummary]:
        """The conversations, the one used last at the start. Raises NotReady (history_locked) and StorageError when
        they cannot be read now."""
        disk = self._disk if self._ready() or self._disk is not None else None
        stored = self._read(lambda: disk.listed(chosen)) if disk is not None else None
        self._require_readable()
        held = self._memory.listed(chosen) if self._memory is not None else []
        found = {each.id: each for each in (*(stored or ()), *held)}
        return sorted(found.values(), key=lambda each: -each.latest)[: chosen.most]

    def rename(self, conversation: str, title: str) -> None:
        """Set the title of a conversation. Raises NotFound (unknown_conversation); NotReady (history_locked) and
        StorageError when it cannot be stored now."""
        disk = self._disk if self._ready() else None
        found = self._use(lambda: disk.rename(conversation, title)) if disk is not None else None
        if found is None and not (self._memory is not None and self._memory.rename(conversation, title)):
            raise self._unavailable("renamed")
        if found is False:
            raise NotFound(f"there is no conversation {conversation!r}", code="unknown_conversation")

    def maintain(self) -> None:
        """Retry an unusable disk, delete expired conversations, truncate the write-ahead log. To be called often."""
        if self._pause() >= self._next_expiry:
            self._next_expiry = self._pause() + HOUR
            self.expire()
        elif self._ready() and self._disk is not None:
            self._disk.sweep()

    def expire(self) -> None:
        """Delete expired conversations, and the oldest ones beyond the largest number."""
        if self._ready() and self._disk is not None:
            self._use(self._disk.expire)

    def close(self) -> None:
        """Write what is in memory to the disk, if possible, and close."""
        if not self._ready(at_once=True) and self._memory is not None and (lost := self._memory.ids()):
            reason = self._problem.message if self._problem else ""
            log.error("%d conversations were never written and are lost: %s", len(lost), reason)
        for store in (self._disk, self._memory):
            if store is not None:
                store.close()
        self._disk = self._memory = None

    # The disk

    def _ready(self, at_once: bool = False) -> bool:
        """Whether the disk can be used; an unusable one is tried again every RETRY_SECONDS, or at once."""
        if self._problem is None:
            if self._disk is not None and self._is_gone(self._disk):
                self._start_new_file(f"{self._file} was removed or replaced while chatapi ran; a new one was created")
            return self._problem is None
        moment = self._pause()
        if moment < self._next_try and not at_once:
            return False
        self._next_try = moment + RETRY_SECONDS
        self._use(self._return_to_disk)
        return self._problem is None

    def _use(self, work: Callable[[], T]) -> T | None:
        """The result of work on the disk, repeated once on a new file; None and a problem if the disk is unusable."""
        try:
            return work()
        except DISK_ERRORS as error:
            if not self._repaired(error):
                return None
        try:
            return work()
        except DISK_ERRORS as error:
            self._switch_to_memory(kind_of(error), error)
            return None

    def _read(self, work: Callable[[], T | None]) -> T | None:
        """As `_use`, for reading; also tried while nothing can be written."""
        try:
            return work()
        except DISK_ERRORS as error:
            if self._problem is None:
                self._repaired(error)
            else:
                self._close_disk()
            return None

    def _repaired(self, error: Exception) -> bool:
        """Replace a damaged file by a new one. Returns False, and switches to memory, for any other error."""
        kind = kind_of(error)
        if kind == "damaged":
            try:
                target = self._rename_damaged()
            except OSError as failure:
                error = OSError(f"{error}; it cannot be renamed: {failure.strerror or failure}")
            else:
                self._start_new_file(
                    f"{self._file} was damaged ({error}): renamed to {target.name}, and a new one was created;"
                    f" `sqlite3 {target.name} .recover` may read it, and removing it ends this warning"
                )
                return self._problem is None
        self._switch_to_memory(kind, error)
        return False

    def _rename_damaged(self) -> Path:
        """Raises OSError."""
        self._close_disk()
        target = private_files.move_aside(self._file)
        for end in ("-wal", "-shm"):
            log_file = self._file.with_name(self._file.name + end)
            if log_file.exists():
                log_file.replace(target.with_name(target.name + end))
        return target

    def _start_new_file(self, message: str) -> None:
        log.error("%s", message)
        self._damaged_file, self._new_file = StorageProblem("history_set_aside", message), True
        self._close_disk()
        try:
            self._open(1.0)
        except DISK_ERRORS as error:
            self._switch_to_memory(kind_of(error), error)

    def _switch_to_memory(self, kind: Kind, error: Exception) -> None:
        """Store exchanges in memory until the disk can be used again."""
        if kind == "locked":
            message = f"{self._file} is locked by another process; it is written when that process releases it"
        else:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            message = f"conversations cannot be stored in {self._file}: {reason}; is the disk full or read-only?"
        if self._problem is None or self._kind != kind:
            log.error("%s", message)
        self._kind, self._problem = kind, StorageProblem("history_not_kept", message)
        self._next_try = self._pause() + RETRY_SECONDS
        if kind == "damaged":
            self._close_disk()
        elif self._disk is None:
            self._disk = self._read_only_store()

    def _read_only_store(self) -> HistoryStore | None:
        try:
            return HistoryStore.reading(self._file, self._keep_seconds, self._most, self._clock, self._kind == "locked")
        except DISK_ERRORS:
            return None

    def _open(self, wait: float) -> bool:
        """Raises sqlite3.Error, OSError."""
        store = HistoryStore(self._file, self._keep_seconds, self._most, self._clock, wait)
        self._close_disk()
        self._disk = store
        if self._damaged_file is None and (older := private_files.moved_aside(self._file)):
            message = f"damaged conversations are in {', '.join(each.name for each in older)}, beside {self._file}"
            self._damaged_file = StorageProblem("history_set_aside", f"{message}; removing them ends this warning")
        return True

    def _return_to_disk(self) -> bool:
        """Write what is in memory to the disk and use it again. Raises sqlite3.Error, OSError while the disk cannot be
        used; nothing has changed then."""
        store = HistoryStore(self._file, self._keep_seconds, self._most, self._clock, SHORT)
        try:
            if self._memory is not None:
                wholes = [self._memory.whole(each) for each in self._memory.ids()]
                # Conversations that another process deleted meanwhile stay deleted.
                deleted = set() if self._new_file else {each for each in self._copied if not store.has(each)}
                store.put([each for each in wholes if each is not None and each.id not in deleted], self._dropped)
        except BaseException:
            store.close()
            raise
        self._close_disk()
        self._disk = store
        self._clear_memory()
        self._kind = self._problem = None
        log.warning("conversations are stored in %s again", self._file)
        return True

    def _close_disk(self) -> None:
        if self._disk is not None:
            self._disk.close()
        self._disk = None

    def _is_gone(self, disk: HistoryStore) -> bool:
        """Whether the file was removed or replaced: this process could still write it, but nobody would read it."""
        try:
            return os.stat(self._file).st_ino != disk.inode  # noqa: PTH116 - before every use
        except FileNotFoundError:
            return True
        except OSError:
            # The next write reports the error.
            return False

    def _add_on_disk(self, before: ConversationState, asked: str, answered: str, owner: str) -> int:
        assert self._disk is not None  # noqa: S101 - it is ready
        restore = self._new_file and before.id not in self._removed
        return self._disk.add(before, asked, answered, restore, owner)

    # The store in memory

    def _clear_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
        self._memory = None
        self._copied.clear()
        self._dropped.clear()

    def _in_memory(self, before: ConversationState) -> HistoryStore:
        """The store in memory, with this conversation copied from the disk, if it can be read."""
        disk = self._disk
        if self._memory is None:
            last = self._read(disk.sequence) if disk is not None else None
            number = (last or 0) + GAP + secrets.randbelow(GAP // 2)
            self._memory = HistoryStore(None, self._keep_seconds, self._most, self._clock, number=number)
        if not self._memory.has(before.id) and disk is not None and self._disk is disk:
            whole = self._read(lambda: disk.whole(before.id))
            if whole is not None:
                self._memory.put([whole])
                self._copied.add(before.id)
        return self._memory

    def _require_readable(self) -> None:
        """Raise an error when a conversation that was not found may be on an unreadable disk."""
        if self._problem is None or self._disk is not None or self._kind == "damaged":
            return
        try:
            has_content = self._file.stat().st_size > 0
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            has_content = True
        if has_content:
            raise self._unavailable("read")

    def _unavailable(self, what: str) -> NotReady | StorageError:
        reason = self._problem.message if self._problem is not None else f"{self._file} cannot be used"
        message = f"the conversation cannot be {what} now: {reason}"
        if self._kind == "locked":
            return NotReady(message, retry_after=RETRY_SECONDS, code="history_locked")
        return StorageError(message)
