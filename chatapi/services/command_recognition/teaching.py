"""Teaching of commands: samples, trainings, versions, and the switch between them; what all interfaces call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, BinaryIO

import anyio
import anyio.to_thread

from chatapi.errors import ChatapiError, NotFound, Unprocessable
from chatapi.jobs import JobRecord, JobRequest
from chatapi.jobs.service import JobService
from chatapi.observability.metrics.commands import StoredCounts
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.workers import Engines
from chatapi.services.command_recognition.database import CommandDatabase
from chatapi.services.command_recognition.head import LinearHead
from chatapi.services.command_recognition.sample_store import SampleStore
from chatapi.services.command_recognition.service import ActiveVersion, Classification, CommandRecognition
from chatapi.services.command_recognition.submission import SampleSubmission
from chatapi.services.command_recognition.training import KIND, CommandTraining, Taught
from chatapi.services.command_recognition.unknown_share import UnknownShare
from chatapi.services.command_recognition.versions import StoredVersion, VersionStore
from chatapi.settings import Settings

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.2
"""Time between two looks at a training that is watched, in seconds."""


class CommandTeaching:
    """The teaching of one data directory."""

    def __init__(
        self, engines: Engines, recognition: CommandRecognition, admission: Admission, settings: Settings,
        jobs: JobService,
    ) -> None:  # fmt: skip
        data, limits = settings.data, settings.commands
        self._database = CommandDatabase(data)
        self.samples = SampleStore(data, self._database, limits)
        self.versions = VersionStore(data, self._database)
        self.submission = SampleSubmission(self.samples, recognition, engines, admission)
        self._recognition, self._worker, self._jobs, self._limits = recognition, engines.command, jobs, limits
        self._training = CommandTraining(recognition, self.samples, self.versions, limits.min_samples)
        self._training.switch = self.switch
        jobs.offer(self._training.kind)
        recognition.followers.append(self._watch_unknown)
        recognition.metrics.source = self._stored
        self._switching = anyio.Lock()
        self._rolling_back: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """Use the version that was active before the restart; where its file is damaged, the model itself."""
        self._training.loop = asyncio.get_running_loop()
        try:
            number = await anyio.to_thread.run_sync(self.versions.active)
            self._use(number, await anyio.to_thread.run_sync(self.versions.head, number), self._share_before())
        except ChatapiError as error:
            log.warning("the model itself recognizes commands: %s", error.message)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    async def train(self, owner: str, limited: bool) -> JobRecord:
        """Start a training; it yields to all other work.

        Raises Unprocessable (nothing_to_train), WrongMode (job_exists) while one is unfinished, Busy, StorageError.
        """
        engine = await self._worker.open()
        samples = await anyio.to_thread.run_sync(partial(self.samples.find, None, state="accepted", most=1_000_000))
        if not Taught.of(samples, engine.labels, self._limits.min_samples).samples:
            message = f"no word can be trained: a new word needs {self._limits.min_samples} accepted samples"
            raise Unprocessable(message, code="nothing_to_train")
        return await self._jobs.add(JobRequest(KIND, {}, Priority.TRAINING, "commands", owner=owner, limited=limited))

    async def training(self, job: str, owner: str | None = None) -> JobRecord:
        """A training. `owner`: whose trainings are seen; None: all. Raises NotFound (unknown_job)."""

        def get() -> JobRecord:
            with self._jobs.shared.opened() as store:
                return store.get(job)

        found = await anyio.to_thread.run_sync(get) if self._jobs.shared.exists() else None
        if found is None or found.kind != KIND or owner not in (None, found.owner):
            raise NotFound(f"there is no training {job[:40]!r}", code="unknown_job")
        return found

    async def cancel(self, job: str, owner: str | None = None) -> JobRecord:
        """Cancel a training. Raises NotFound (unknown_job), WrongMode where it has ended."""
        await self.training(job, owner)

        def cancel() -> JobRecord:
            with self._jobs.shared.opened() as store:
                return store.cancel(job)

        return await anyio.to_thread.run_sync(cancel)

    async def watch(self, job: str, owner: str | None = None) -> AsyncIterator[JobRecord]:
        """The states of a training until it has ended. Raises NotFound (unknown_job)."""
        last = None
        while True:
            found = await self.training(job, owner)
            if found != last:
                yield found
            if found.finished:
                return
            last = found
            await anyio.sleep(WATCH_SECONDS)

    async def switch(self, number: int, cause: str) -> None:
        """Activate a version; classifications in flight finish with the one before.

        Raises NotFound (unknown_version), StorageError (version_damaged).
        """
        async with self._switching:
            share = self._recognition.version.share.share
            head = await anyio.to_thread.run_sync(self.versions.activate, number, cause, share)
            self._use(number, head, share)
            self._recognition.metrics.activations.labels(cause).inc()
            log.info("command version activated", extra={"version": number, "cause": cause})

    async def roll_back(self) -> int:
        """Activate the version that the active one was trained from. Raises WrongMode (nothing_to_roll_back)."""
        number = await anyio.to_thread.run_sync(self.versions.before_active)
        await self.switch(number, "rolled_back")
        return number

    async def listed(self) -> tuple[int, list[StoredVersion]]:
        """The number of the active version, and all versions, the newest first."""
        found = await anyio.to_thread.run_sync(self.versions.versions)
        return self._recognition.version.number, found

    async def export(self, target: BinaryIO, owner: str | None) -> int:
        """See `SampleStore.export`."""
        return await anyio.to_thread.run_sync(self.samples.export, target, owner)

    def _use(self, number: int, head: LinearHead | None, before: float | None) -> None:
        self._recognition.version = ActiveVersion(number, head, UnknownShare(before))
        self._recognition.metrics.active.set(number)

    def _stored(self) -> StoredCounts:
        """For metrics; blocks."""
        try:
            states, words = self.samples.counts()
            return StoredCounts(states, words, self.versions.count())
        except ChatapiError:
            return StoredCounts()

    def _share_before(self) -> float | None:
        found = self.versions.activations(1)
        return found[0].unknown_share if found else None

    def _watch_unknown(self, found: Classification, version: ActiveVersion) -> None:
        """Roll back where the active version recognizes much less than the one before."""
        if not version.number or version is not self._recognition.version or self._rolling_back:
            return
        if version.share.has_risen(self._limits.rollback_points):
            task = asyncio.get_running_loop().create_task(self._roll_back_from(version))
            self._rolling_back.add(task)
            task.add_done_callback(self._rolling_back.discard)

    async def _roll_back_from(self, version: ActiveVersion) -> None:
        try:
            latest = await anyio.to_thread.run_sync(self.versions.activations, 2)
            before = latest[1].version if len(latest) > 1 else 0
            log.warning(
                "command version rolled back: the share of unknown rose",
                extra={"version": version.number, "to": before, "share": version.share.share},
            )
            if version is self._recognition.version:
                await self.switch(before, "unknown_share")
        except ChatapiError as error:
            log.warning("command version not rolled back: %s", error.message)


def version_document(version: StoredVersion, active: int) -> dict[str, Any]:
    """A version as interfaces show it."""
    return {**version.document(), "active": version.number == active}
