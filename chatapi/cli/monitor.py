"""`chatapi monitor`: monitors live streams for sounds, and reports what was heard."""

from __future__ import annotations

import argparse
import json
import math
import signal
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import anyio

from chatapi.cli.turn_io import loaded_appliance
from chatapi.engines.sound_detector import orcahello
from chatapi.errors import BadInput, ChatapiError, collapse_exception_group
from chatapi.jobs.notifications import NotificationSender
from chatapi.services.captions.guarded_http import GuardedHttp
from chatapi.services.stream_monitoring.alerts import PlaceAlerts
from chatapi.services.stream_monitoring.config import PlaceConfig, read
from chatapi.services.stream_monitoring.hls_sources import DateRangeTree, LiveTree, Patience
from chatapi.services.stream_monitoring.hls_tree import HlsTree
from chatapi.services.stream_monitoring.ledger import CoverageLedger
from chatapi.services.stream_monitoring.monitor import (
    PREPROCESSING,
    JudgedClip,
    MonitorParts,
    PlaceMonitor,
    send_outbox,
)
from chatapi.services.stream_monitoring.other_sources import Broadcast, Recordings
from chatapi.services.stream_monitoring.outbox import PositiveOutbox
from chatapi.services.stream_monitoring.pieces import SoundSource
from chatapi.services.stream_monitoring.report import PlaceReport, report
from chatapi.settings import Settings
from chatapi.storage.artifact_store import ArtifactStore
from chatapi.storage.layout import DataDirectory

REPORT = "report"
SEND_SECONDS = 5.0
"""Between two attempts to store what waits, in seconds."""


async def monitor(settings: Settings, chosen: argparse.Namespace) -> int:
    """Monitor places until Ctrl-C, or until their recordings end; or report. Status 0; 1 when a place failed."""
    if chosen.config_files[:1] == [REPORT]:
        return _report(settings, chosen)
    places = _places(chosen)
    layout = DataDirectory(settings.data)
    with closing(CoverageLedger(layout.coverage)) as ledger:
        outbox = PositiveOutbox(ledger, layout.monitoring / "outbox", _store(chosen.output, layout))
        async with loaded_appliance(settings, {"sound_detector"}) as appliance:
            model = appliance.active.get("sound_detector", "")
            for name in dict.fromkeys(each.model for each in places if each.model and each.model != model):
                _say(f"{name} is not installed here: the model that scores is {model}")
            parts = MonitorParts(ledger, outbox, appliance.engines.sound_detector, model, chosen.record_schema)
            alerts = PlaceAlerts(NotificationSender.of(settings.notify))
            running = _Run(parts, alerts, chosen.max_iterations)
            await running.run(places)
        outbox.send()
    if outbox.fault:
        _say(f"detections wait for their store: {outbox.fault}")
    return 1 if running.failed or outbox.fault else 0


class _Run:
    """All places at once, until they end or a signal arrives."""

    def __init__(self, parts: MonitorParts, alerts: PlaceAlerts, most_clips: int | None) -> None:
        self._parts, self._alerts, self._most = parts, alerts, most_clips
        self._trust = ssl.create_default_context()
        self.failed: list[str] = []
        """Places that ended with an error."""

    async def run(self, places: Sequence[PlaceConfig]) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_stop, group.cancel_scope)
                group.start_soon(send_outbox, self._parts.outbox, SEND_SECONDS)
                group.start_soon(self._alerts.run)
                async with anyio.create_task_group() as running:
                    for place in places:
                        running.start_soon(self._place, place)
                group.cancel_scope.cancel()
        except Exception as error:
            raise collapse_exception_group(error) from None

    async def _place(self, place: PlaceConfig) -> None:
        try:
            source = _source(place, self._parts.ledger, self._trust)
            _say(f"Listening to location {source.address}")
            monitored = PlaceMonitor(place, source, self._parts, self._show, self._most)
            async with anyio.create_task_group() as group:
                if place.is_live:
                    group.start_soon(monitored.watch, lambda state: self._changed(place, state))
                await monitored.run()
                group.cancel_scope.cancel()
        except Exception as caught:
            error = collapse_exception_group(caught)
            if not isinstance(error, ChatapiError):
                raise
            self.failed.append(place.location.id)
            _say(f"{place.location.id}: {error.message}")

    def _show(self, clip: JudgedClip) -> None:
        _show(clip)
        self._alerts.clip(clip)

    def _changed(self, place: PlaceConfig, state: str) -> None:
        _say(f"{place.location.id}: {state}")
        self._alerts.state(place.location.name, state)


async def _stop(scope: anyio.CancelScope) -> None:
    """End at a signal. What is not scored yet is scored after the next start."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _source(place: PlaceConfig, ledger: CoverageLedger, trust: ssl.SSLContext) -> SoundSource:
    """Raises BadInput."""
    if place.files:
        return Recordings(place.files)
    if place.url:
        # The user of this machine may name addresses of its networks.
        return Broadcast(place.url, private=True, trust=trust)
    tree = HlsTree(GuardedHttp(True, trust), place.base_url, place.location.id)

    def downloading(name: str) -> None:
        _say(f"Downloading {name}")

    if place.span is not None:
        return DateRangeTree(tree, *place.span, downloading)
    patience = Patience(max(orcahello.LIVE_DELAY, place.delay), backlog=place.clip_seconds)
    return LiveTree(tree, ledger.position(place.location.id), patience, downloading)


def _show(clip: JudgedClip) -> None:
    """The lines of OrcaHello about a clip."""
    _say(f"{clip.name}.wav")
    _say(f"Length of Audio Clip:{clip.seconds:g}")
    for line in PREPROCESSING:
        _say(line)
    positive = sum(part.positive for part in clip.decision.parts)
    _say(
        f"Inference: prediction={int(clip.decision.positive)}, confidence={clip.decision.confidence / 100:.3f}, "
        f"positive_segments={positive}/{len(clip.decision.parts)}"
    )
    if clip.decision.positive:
        _say(f"{clip.place.location.id}: detected (confidence={clip.decision.confidence / 100:.3f})")


def _places(chosen: argparse.Namespace) -> list[PlaceConfig]:
    """Raises BadInput."""
    files = [*chosen.config_files, *chosen.orch_config] or [Path(orcahello.CONFIG_FILE)]
    places: list[PlaceConfig] = []
    for file in files:
        found = read(Path(file))
        for line in found.ignored:
            _say(f"{file}: {line}")
        places += found.places
    if len({each.location.id for each in places}) < len(places):
        raise BadInput("two of these files monitor the same place")
    if any(each.upload for each in places) and chosen.output is None:
        _say("upload_to_azure needs --output az://CONTAINER; detections are kept in the data directory")
    if chosen.base_url:
        places = [replace(each, base_url=chosen.base_url) if each.base_url else each for each in places]
    return places


def _store(output: str | None, layout: DataDirectory) -> ArtifactStore:
    """Raises SettingsError."""
    return ArtifactStore(output or str(layout.monitoring / "detections"))


def _report(settings: Settings, chosen: argparse.Namespace) -> int:
    """Status 0 when every second was heard, 1 otherwise."""
    now = datetime.now(timezone.utc).timestamp()
    end = _moment(chosen.to, "--to") if chosen.to else now
    start = _moment(chosen.since, "--from") if chosen.since else end - 86_400
    if end <= start:
        raise BadInput("--to is not behind --from")
    with closing(CoverageLedger(DataDirectory(settings.data).coverage)) as ledger:
        names = chosen.place or ledger.places()
        reports = [report(ledger, name, start, end) for name in names]
    if chosen.json:
        print(json.dumps([each.document() for each in reports], indent=2))
    else:
        for each in reports:
            print("\n".join(_lines(each)))
    return 0 if reports and all(math.isclose(each.heard, end - start, abs_tol=0.01) for each in reports) else 1


def _lines(found: PlaceReport) -> Iterator[str]:
    whole = found.end - found.start
    yield f"{found.place}: {_shown(found.start)} to {_shown(found.end)}"
    yield f"  heard        {_share(found.heard, whole)}"
    for model, seconds in sorted(found.scored.items()):
        yield f"  scored       {_share(seconds, whole)} by {model}"
    for reason, seconds in sorted(found.missing.items()):
        yield f"  missing      {_share(seconds, whole)} {reason}"
    yield f"  unmonitored  {_share(found.unmonitored, whole)}"
    for gap in found.gaps:
        yield f"  gap {_shown(gap.start)} to {_shown(gap.end)}: {gap.detail or gap.state}"
    for each in found.detections:
        waits = "" if each.stored else " (waits for its store)"
        yield f"  detection {_shown(each.start)}: {each.confidence:.1f} % {each.name}{waits}"


def _share(seconds: float, whole: float) -> str:
    return f"{seconds:11.1f} s {100 * seconds / whole:6.2f} %"


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def _moment(text: str, option: str) -> float:
    """Seconds since 1970 of a time in ISO 8601; without a zone it is UTC. Raises BadInput."""
    try:
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise BadInput(f"{option} is {text!r} and not a time like 2026-11-30T14:00") from None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def _say(line: str) -> None:
    print(line, flush=True)
