"""Builds all services from the settings and owns their lifetime."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil

from chatapi.appliance import gauges
from chatapi.auth import Keyring
from chatapi.catalog import Catalog
from chatapi.engines import registry
from chatapi.engines.role import EngineEntry
from chatapi.errors import ChatapiError, NotReady, collapse_exception_group
from chatapi.jobs.notifications import NotificationSender
from chatapi.jobs.service import JobService
from chatapi.jobs.webhooks import WebhookSender
from chatapi.observability.metrics import Metrics
from chatapi.observability.tracing import Tracing
from chatapi.runtime import engine_selection
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.byte_budget import ByteBudget
from chatapi.runtime.drain import Drain
from chatapi.runtime.engine_loading import EngineLoader
from chatapi.runtime.engine_swap import EngineSwaps
from chatapi.runtime.model_selection import MemoryPlan
from chatapi.runtime.scheduler import Scheduler
from chatapi.runtime.workers import Engines, Worker
from chatapi.services.captions.service import CaptionService
from chatapi.services.command_recognition.actions import CommandActions
from chatapi.services.command_recognition.deliveries import command_deliveries
from chatapi.services.command_recognition.service import CommandRecognition
from chatapi.services.command_recognition.teaching import CommandTeaching
from chatapi.services.live import LiveConversations
from chatapi.services.live.audio_device_state import AudioDeviceState
from chatapi.services.live.command_listener import LiveCommands
from chatapi.services.speech.service import SpeechService
from chatapi.services.speech.synthesis import SpeechSynthesis
from chatapi.services.stream_monitoring.options import MonitoringOptions
from chatapi.services.stream_monitoring.service import MonitoringService
from chatapi.services.transcription.jobs import TranscriptionJobs
from chatapi.services.transcription.service import TranscriptionService
from chatapi.services.transcription.speakers import SpeakerLabeller
from chatapi.services.transcription.streaming import StreamingTranscriber
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.services.turns.chat_completion import ChatCompletions
from chatapi.services.turns.completion import Completions
from chatapi.services.turns.conversations import Conversations
from chatapi.services.turns.generation import Generator
from chatapi.services.voice_conversion.jobs import ConversionJobs
from chatapi.services.voice_conversion.service import VoiceConversion
from chatapi.settings import Settings
from chatapi.storage.history import ConversationHistory, StorageProblem
from chatapi.storage.layout import DataDirectory
from chatapi.system import malloc_trim, private_files, sandbox

log = logging.getLogger(__name__)

DAY = 86_400
"""Seconds in a day."""
RESTART_SECONDS = 30.0
"""Retry-After when an engine has failed to load, in seconds: systemd or the owner may have restarted chatapi."""
WAITING_COMMANDS = 256
"""Most clips that wait to be classified: each takes a few milliseconds."""
MAINTENANCE_SECONDS = 30.0
"""Time between two runs of the history's maintenance, in seconds: conversations expire, and a full disk may be writable
again."""


class Appliance:
    """One box: its engines, its stored conversations and its services."""

    def __init__(self, settings: Settings, root: Path = Path("/")) -> None:
        """`root`: root of the machine's file system. Raises SettingsError."""
        private_files.tighten(DataDirectory(settings.data).private())
        self.settings = settings = engine_selection.resolve_engines(settings, root)
        self.metrics = Metrics(settings.data, root)
        self.tracing = Tracing(settings.trace)
        self.metrics.followers.append(self.tracing.turn)
        self.catalog = Catalog(settings.data)
        own = settings.server.api_key
        self.keyring = Keyring(settings.data, own.get_secret_value() if own is not None else None)
        self.byte_budget = ByteBudget(settings.limits.inflight_bytes)
        self.byte_budget.on_large_release = malloc_trim.MallocTrimmer().soon
        self.drain = Drain()
        self.parts: dict[str, Callable[[], dict[str, Any]]] = {}
        """Name of an interface -> its entry in `health`; the interfaces add themselves."""
        self.microphone: AudioDeviceState | None = None
        """The box's own microphone and speaker; the audio device interface sets it."""
        self._loader = EngineLoader(settings, self.catalog, self.metrics.load_seconds, root)
        self.active = self._loader.active
        """Role -> name of the model in use."""
        self.swaps = EngineSwaps(self._loader, self.catalog)
        self.scheduler = Scheduler()
        webhooks = WebhookSender.of(settings.webhook)
        notifications = NotificationSender.of(settings.notify)
        self.jobs = JobService(settings.data, self.scheduler, settings.jobs, webhooks, notifications)
        self.engines = Engines({role: self._worker(role) for role in registry.roles()})
        self._required = set(registry.essential())
        """Roles without which the box is not ready."""
        self.history = self._history_worker()
        self._create_services()
        self.warm = False
        gauges.connect(self)
        self._warmed = anyio.Event()
        self._begun = time.monotonic()
        self.started_at = int(time.time())
        """Seconds since 1970."""

    def _history_worker(self) -> Worker[ConversationHistory]:
        keep, file = self.settings.history, DataDirectory(self.settings.data).history
        days, most, step_seconds = keep.keep_days, keep.max_conversations, self.settings.limits.step_seconds
        return Worker("history", lambda: ConversationHistory(file, days * DAY, most), step_seconds=step_seconds)

    def _create_services(self) -> None:
        """Create the services."""
        settings = self.settings
        self.admission = Admission("queue", settings.limits.concurrent, settings.limits.queue)
        self.conversations = Conversations(self.history)
        self.transcriber = FileTranscriber(self.engines, settings, self.metrics)
        self.streaming_transcriber = StreamingTranscriber(self.engines, self.transcriber, settings.vad)
        self.speaker_labeller = SpeakerLabeller(self.engines, settings)
        self.voice_conversion = VoiceConversion(
            self.engines,
            self.speaker_labeller,
            settings,
            lambda: self._loader.require("voice_converter"),
            self.metrics.conversions,
        )
        self.synthesis = SpeechSynthesis(self.engines, self.metrics, self.voice_conversion.cloned, self._voices())
        self.generator = Generator(self.engines.llm, self.synthesis, settings.llm)
        self.completions = Completions(
            self.transcriber, self.synthesis, self.generator, self.conversations, self.admission, settings, self.metrics
        )
        self.chat = ChatCompletions(self.transcriber, self.generator, self.admission, settings, self.metrics)
        self.speech_service = SpeechService(self.synthesis, self.admission, settings, self.metrics)
        self.live = LiveConversations(
            self.engines,
            self.transcriber,
            self.synthesis,
            self.generator,
            self.conversations,
            self.admission,
            settings,
            self.metrics,
        )
        self._create_other_services()

    def _create_other_services(self) -> None:
        """Create the services besides conversation."""
        settings = self.settings
        self.transcription_service = TranscriptionService(
            self.streaming_transcriber, self.speaker_labeller, self.admission, settings, self.metrics
        )
        longest = settings.transcription.max_seconds
        self.transcription_jobs = TranscriptionJobs(
            self.engines, self.transcriber, self.speaker_labeller, settings, longest
        )
        self.jobs.offer(self.transcription_jobs.kind)
        self.conversion_jobs = ConversionJobs(self.engines, self.voice_conversion, settings)
        self.jobs.offer(self.conversion_jobs.kind)
        self.captions = CaptionService(self.engines, self.transcriber, settings, self.metrics)
        admission = Admission("commands", settings.limits.concurrent, WAITING_COMMANDS)
        self.command_recognition = CommandRecognition(
            self.engines, admission, settings, self.active, self.metrics.commands
        )
        self.live.commands = LiveCommands(
            self.command_recognition, CommandActions(settings.commands.actions, command_deliveries(settings))
        )
        self.command_teaching = CommandTeaching(self.engines, self.command_recognition, admission, settings, self.jobs)
        options = MonitoringOptions.of(settings.monitoring)
        self.monitoring = MonitoringService(self.engines, self.active, self.scheduler, settings, options)

    def _voices(self) -> list[str]:
        """The catalog's voices for the TTS engine, installed or not."""
        chosen = ("tts", self.settings.tts.engine)
        return [each.name for each in self.catalog.manifests.values() if (each.role, each.engine) == chosen]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Appliance]:
        """The lifetime of the appliance: nothing is loaded on entry; leaving closes every engine."""
        self.metrics.lag.start()
        self.transcription_jobs.loop = self.conversion_jobs.loop = asyncio.get_running_loop()
        await self.command_teaching.restore()
        try:
            yield self
        finally:
            self.warm = False
            self.metrics.lag.stop()
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as group:
                    for worker in self._workers():
                        group.start_soon(worker.aclose)
                    group.start_soon(anyio.to_thread.run_sync, self._close_observability)
                    group.start_soon(anyio.to_thread.run_sync, self.command_teaching.close)

    async def load(self, roles: Collection[str] | None = None) -> None:
        """Load and warm up the engines of these roles as `model_selection.plan` chose; None: of the essential ones.
        Raises the first error."""
        roles = registry.essential() if roles is None else roles
        self._required.update(roles)
        plan = await anyio.to_thread.run_sync(self._loader.choose, roles)
        if plan.one_by_one:
            fields = {"needed_bytes": plan.needed, "free_bytes": plan.free}
            log.info("loading models one by one, largest first", extra=fields)
        try:
            # Nothing less urgent delays the start.
            with self.scheduler.working(Priority.REQUEST):
                await self._load_planned(plan, roles)
        except Exception as error:
            raise collapse_exception_group(error) from None
        if set(roles) >= set(registry.essential()):
            self.warm = True
            self._warmed.set()

    async def swap(self, role: str, wanted: Settings) -> None:
        """Swap the engine of a role for the one that these settings want; calls in flight finish on the old one.

        Raises SettingsError with the reason, the old one being in use; NotReady while models are loading, Busy.
        """
        worker = self.engines[role]
        if worker.state == "loading" or (self._loader.plan is not None and not self.warm):
            raise NotReady("the models are still loading", retry_after=2)
        self.settings = await self.swaps.swap(worker, wanted)
        worker.scheduler = None if self.is_remote(role) else self.scheduler
        self.synthesis.downloadable = self._voices()
        if role == "llm":
            self.generator.omits_reasoning_marker = False

    async def _load_planned(self, plan: MemoryPlan, roles: Collection[str]) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.history.open)
            group.start_soon(anyio.to_thread.run_sync, sandbox.shared().warm)
            for role in plan.order(roles):
                if plan.one_by_one:
                    await self._load(role)
                else:
                    group.start_soon(self._load, role)

    async def until_warm(self) -> None:
        """Wait until every model is loaded and warm."""
        await self._warmed.wait()

    def require_ready(self) -> None:
        """Raise NotReady while models are loading, and while a required engine has failed (`health`: failing)."""
        failed = [worker for worker in self._workers() if worker.state == "failed" and self.requires(worker.name)]
        if failed:
            names = ", ".join(worker.name for worker in failed)
            many = f"engines {names} have" if len(failed) > 1 else f"engine {names} has"
            wait = max(worker.rebuild_delay for worker in failed)
            if all(worker.rebuild_delay for worker in failed):
                message = f"the {many} been lost too often; chatapi retries in {wait:.0f} seconds, or when restarted"
                raise NotReady(message, retry_after=wait)
            raise NotReady(f"the {many} failed to load; the next request tries again", retry_after=RESTART_SECONDS)
        if not self.warm:
            raise NotReady("the models are still loading", retry_after=1)

    def requires(self, name: str) -> bool:
        """Whether the box is not ready without this worker; it is without an engine that is loaded on demand."""
        return name in self._required or name == self.history.name

    def _workers(self) -> tuple[Worker[Any], ...]:
        return (*self.engines.all(), self.history)

    def health(self) -> dict[str, Any]:
        """The state of all parts, in plain values; status is loading, ok, degraded or failing."""
        problems = self.problems()
        workers = {worker.name: worker for worker in self._workers()}
        states = {name: worker.state for name, worker in workers.items()}
        failed = [name for name, state in states.items() if state == "failed"]
        if any(self.requires(name) for name in failed):
            status = "failing"
        elif self.warm:
            essential = {states[role] for role in registry.essential()} | {states["history"]}
            whole = self.history_kept() and not failed and essential <= {"ready", "idle", "reloading"}
            status = "ok" if whole else "degraded"
        else:
            status = "loading"
        return {
            "status": status,
            "uptime_seconds": round(time.monotonic() - self._begun, 1),
            "memory_bytes": psutil.Process().memory_info().rss + sum(each.memory_bytes for each in workers.values()),
            "turns": {"active": self.admission.used, "waiting": self.admission.waiting},
            "engines": {
                name: {"state": worker.state, "rebuilt": worker.rebuilt, "model": self.active.get(name)}
                for name, worker in workers.items()
            },
            **({"warnings": [asdict(each) for each in problems]} if problems else {}),
            **{name: part_health() for name, part_health in self.parts.items()},
        }

    def history_kept(self) -> bool:
        """Whether conversations are stored on disk; True while that is not known yet."""
        return all(each.code != "history_not_kept" for each in self.problems())

    def problems(self) -> tuple[StorageProblem, ...]:
        """Storage problems with which the box still answers."""
        try:
            return self.history.engine.problems
        except NotReady:
            return ()

    async def maintain(self) -> None:
        """Run the history's maintenance every MAINTENANCE_SECONDS, forever."""
        while True:
            await anyio.sleep(MAINTENANCE_SECONDS)
            if self.history.state != "ready":
                continue
            try:
                await self.history.call(lambda history: history.maintain(), Priority.BULK)
            except ChatapiError as error:
                log.warning("history maintenance failed: %s", error.message)

    def capabilities(self) -> dict[str, Any]:
        """Models, roles with their engines, voices, languages and limits, in plain values."""
        ready, limits = self.warm, self.settings.limits
        voices = self.synthesis.voices() if ready else ()
        return {
            "models": [
                {
                    "name": manifest.name,
                    "role": manifest.role,
                    "engine": manifest.engine,
                    "title": manifest.title,
                    "languages": list(manifest.languages),
                    "licence": manifest.licence,
                    "memory_bytes": manifest.memory,
                    "installed": self.catalog.installed(manifest.name),
                    "active": self.active.get(manifest.role) == manifest.name,
                }
                for manifest in self.catalog.manifests.values()
            ],
            "roles": registry.summary(self.settings),
            "voices": [
                {"name": voice.name, "language": voice.language, "rate": voice.rate, "default": voice is voices[0]}
                for voice in voices
            ],
            "languages": list(self.engines.asr.engine.languages) if ready else [],
            "limits": {"audio_seconds": limits.audio_seconds, "prompt_chars": limits.prompt_chars},
        }

    def _worker(self, role: str) -> Worker[Any]:
        table, record, metrics = getattr(self.settings, role), registry.roles()[role], self.metrics

        def report(what: str, amount: float) -> None:
            if what != "pace" or record.counts_pace:
                metrics.engine(role, what, amount)

        worker: Worker[Any] = Worker(
            role,
            self._loader.loading(role),
            self._loader.slots(role),
            self.settings.limits.step_seconds,
            getattr(table, "idle_seconds", 0),
            report,
        )
        if not self.is_remote(role):
            worker.scheduler = self.scheduler
        metrics.loaded.labels(role).set_function(lambda: float(worker.state == "ready"))
        metrics.failed.labels(role).set_function(lambda: float(worker.state == "failed"))
        metrics.jobs_waiting.labels(role).set_function(lambda: worker.admission.waiting)
        for counter in (metrics.rebuilt, metrics.unloaded, metrics.busy):
            counter.labels(role)
        return worker

    def _close_observability(self) -> None:
        """Close tracing and the machine's metrics; blocking."""
        self.tracing.close()
        self.metrics.machine.close()

    def is_remote(self, role: str) -> bool:
        """Whether a role's engine runs on another server, which a restart of this process cannot repair."""
        return role in registry.roles() and self._entry(role).remote

    def _entry(self, role: str) -> EngineEntry:
        return registry.entry(role, getattr(self.settings, role).engine)

    async def _load(self, role: str) -> None:
        since = time.monotonic()
        worker, warm_up = self.engines[role], registry.roles()[role].warm_up
        await worker.open()
        try:
            await worker.collect(warm_up(worker.engine, self.settings))
        except ChatapiError:
            # Another server may start later than chatapi; requests report its absence.
            if not self.is_remote(role):
                raise
            log.warning("upstream %s server not reachable yet", role)
        model = self.active.get(role, "")
        log.info("engine ready", extra={"role": role, "model": model, "seconds": round(time.monotonic() - since, 2)})
