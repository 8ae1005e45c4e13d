"""`chatapi monitor`: monitors live streams for sounds, and reports what was heard."""

from __future__ import annotations

import argparse
import json
import math
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import anyio
import anyio.to_thread

from chatapi.cli.turn_io import loaded_appliance
from chatapi.engines.sound_detector import orcahello
from chatapi.errors import BadInput, collapse_exception_group
from chatapi.services.stream_monitoring.config import PlaceConfig, read
from chatapi.services.stream_monitoring.config_files import ConfigFiles
from chatapi.services.stream_monitoring.ledger import CoverageLedger
from chatapi.services.stream_monitoring.monitor import PREPROCESSING, JudgedClip
from chatapi.services.stream_monitoring.options import MonitoringOptions
from chatapi.services.stream_monitoring.report import PlaceReport, report
from chatapi.services.stream_monitoring.service import MonitoringService
from chatapi.settings import Settings
from chatapi.storage.layout import DataDirectory

REPORT = "report"


async def monitor(settings: Settings, chosen: argparse.Namespace) -> int:
    """Monitor places until Ctrl-C, or until their recordings end; or report. Status 0; 1 when a place failed."""
    if chosen.config_files[:1] == [REPORT]:
        return _report(settings, chosen)
    files = [Path(each) for each in (*chosen.config_files, *chosen.orch_config)] or [Path(orcahello.CONFIG_FILE)]
    places = _places(files, chosen)
    options = _options(settings, chosen)
    async with loaded_appliance(settings, {"sound_detector"}) as appliance:
        service = MonitoringService(appliance.engines, appliance.active, appliance.scheduler, settings, options)
        service.files = ConfigFiles(files)
        service.on_line, service.on_clip = _say, _show
        model = service.model()
        for name in dict.fromkeys(each.model for each in places if each.model and each.model != model):
            _say(f"{name} is not installed here: the model that scores is {model}")
        return await _run(service)


async def _run(service: MonitoringService) -> int:
    """Run until the places end or a signal arrives; what is not scored by then is scored after the next start."""
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_stop, group.cancel_scope)
            await service.run_to_the_end()
            group.cancel_scope.cancel()
    except Exception as error:
        raise collapse_exception_group(error) from None
    kept = await service.opened()
    await anyio.to_thread.run_sync(kept.send)
    fault = kept.outbox.fault
    kept.close()
    if fault:
        _say(f"detections wait for their store: {fault}")
    return 1 if fault or any(each.state == "failed" for each in service.all()) else 0


async def _stop(scope: anyio.CancelScope) -> None:
    """End at a signal."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _options(settings: Settings, chosen: argparse.Namespace) -> MonitoringOptions:
    found = MonitoringOptions.of(settings.monitoring)
    return replace(
        found,
        output=chosen.output or found.output,
        schema=chosen.record_schema or found.schema,
        # The user of this machine may name addresses of its networks.
        private_urls=True,
        most_clips=chosen.max_iterations,
        base_url=chosen.base_url or "",
    )


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


def _places(files: list[Path], chosen: argparse.Namespace) -> list[PlaceConfig]:
    """Raises BadInput."""
    places = [place for file in files for place in read(file).places]
    if len({each.location.id for each in places}) < len(places):
        raise BadInput("two of these files monitor the same place")
    if any(each.upload for each in places) and chosen.output is None:
        _say("upload_to_azure needs --output az://CONTAINER; detections are kept in the data directory")
    return places


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
