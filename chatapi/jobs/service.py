"""The jobs of a server: opens the store when there is one, and runs its jobs while the server runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from chatapi.errors import ChatapiError
from chatapi.jobs import runner
from chatapi.jobs.foreground_turns import ForegroundTurns
from chatapi.jobs.notifications import NotificationSender
from chatapi.jobs.outbox_sender import OutboxSender
from chatapi.jobs.records import JobLimits, JobRecord
from chatapi.jobs.runner import SLOTS, JobRunner
from chatapi.jobs.shared_store import SharedStore
from chatapi.jobs.steps import JobKind
from chatapi.jobs.store import JobRequest, JobStore
from chatapi.jobs.webhooks import WebhookSender
from chatapi.runtime.admission import Priority
from chatapi.runtime.scheduler import Scheduler
from chatapi.settings.tables import JobSettings

log = logging.getLogger(__name__)

DEFAULTS = JobSettings()
ORPHAN_CHECK_SECONDS = 3600.0
"""Interval between deletions of folders whose job was never added, in seconds."""


class JobService:
    """Runs the jobs of a data directory beside a server. Belongs to one event loop, except where a method says so."""

    def __init__(
        self,
        data: Path,
        scheduler: Scheduler,
        settings: JobSettings = DEFAULTS,
        webhooks: WebhookSender | None = None,
        notifications: Sequence[NotificationSender] = (),
    ) -> None:
        """`webhooks` and `notifications`: send the state changes of all jobs."""
        self._scheduler, self._webhooks = scheduler, webhooks
        self._senders: list[OutboxSender] = [*([webhooks] if webhooks is not None else []), *notifications]
        self._slots: Mapping[Priority, int] = {**SLOTS, Priority.BULK: settings.concurrent}
        self.shared = SharedStore(data, JobLimits.of(settings))
        """The store of all users in this process."""
        self._kinds: dict[str, JobKind] = {}
        self._store: JobStore | None = None
        self._runner: JobRunner | None = None

    def offer(self, kind: JobKind) -> None:
        """Add a kind of job, before `run`. Raises ValueError when there is one of that name."""
        if kind.name in self._kinds:
            raise ValueError(f"there is a kind of job {kind.name!r} already")
        self._kinds[kind.name] = kind

    async def add(self, request: JobRequest) -> JobRecord:
        """Add a job, which then survives the process, and start it when a slot is free. Raises as `JobStore.add`, and
        ValueError for a kind that is not offered."""
        if request.kind not in self._kinds:
            raise ValueError(f"there is no kind of job {request.kind!r}")

        def add() -> JobRecord:
            with self.shared.opened() as store:
                return store.add(request)

        job = await anyio.to_thread.run_sync(add)
        if self._runner is not None:
            self._runner.wake()
        return job

    async def run(self) -> None:
        """Run jobs until cancelled: first those that were interrupted. Running jobs then stop at their next checkpoint
        and are queued again.

        The store is opened once a job was added, by whatever process, and again when another process replaced it."""
        while True:
            new = await self._until_stored()
            try:
                store = await anyio.to_thread.run_sync(self.shared.take)
            except ChatapiError as error:
                log.warning("no job can be started: %s", error.message)
                await anyio.sleep(runner.RETRY_SECONDS)
                continue
            try:
                await self._run_stored(store, new)
            except Exception:
                # A fault of jobs must not end conversations.
                log.exception("jobs stopped; they are started again in %.0f seconds", runner.RETRY_SECONDS)
                await anyio.sleep(runner.RETRY_SECONDS)
            finally:
                self._store = self._runner = None
                with anyio.move_on_after(runner.STORE_SECONDS, shield=True):
                    await anyio.to_thread.run_sync(self._leave, store, abandon_on_cancel=True)

    def _leave(self, store: JobStore) -> None:
        self.shared.give_back(store)
        # It is opened again where the server goes on.
        self.shared.close()

    async def _until_stored(self) -> bool:
        """Wait for the store; returns whether there was none."""
        new = False
        while not await anyio.to_thread.run_sync(self.shared.exists):
            new = True
            await anyio.sleep(runner.POLL_SECONDS)
        return new

    async def _run_stored(self, store: JobStore, new: bool) -> None:
        """Run the jobs of a store until its file is replaced."""
        self._store = store
        scheduler = self._scheduler
        self._runner = JobRunner(
            store, self._kinds.values(), self._slots, must_yield=scheduler.must_yield, working=scheduler.working
        )
        async with anyio.create_task_group() as group:
            group.start_soon(_delete_orphans, store)
            group.start_soon(self._runner.run)
            group.start_soon(ForegroundTurns(store, scheduler.must_yield, scheduler.working).run)
            for sender in self._senders:
                group.start_soon(sender.run, store.database, new)
            while not await anyio.to_thread.run_sync(store.database.replaced):  # noqa: ASYNC110 - by any process
                await anyio.sleep(runner.POLL_SECONDS)
            log.warning("the file of the jobs was replaced; the new one is opened")
            group.cancel_scope.cancel()

    def deliveries(self) -> Mapping[str, int] | None:
        """Number of webhooks by result, and how many are pending. Blocking; for any thread; None: none are sent."""
        if self._webhooks is None:
            return None
        try:
            return {**self._webhooks.results, "pending": self._webhooks.pending()}
        except ChatapiError as error:
            log.info("pending webhooks cannot be counted: %s", error.message)
            return self._webhooks.results

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Number of stored jobs by state and kind. Blocking; for any thread; empty while the store is not open."""
        store = self._store
        try:
            return {} if store is None else store.counts()
        except ChatapiError as error:
            log.info("jobs cannot be counted: %s", error.message)
            return {}


async def _delete_orphans(store: JobStore) -> None:
    """Deletes the folders of abandoned uploads now and then, so that they neither fill the disk nor count for ever."""
    while True:
        await anyio.to_thread.run_sync(store.delete_orphans)
        await anyio.sleep(ORPHAN_CHECK_SECONDS)
