"""Connects the gauges of `/metrics` to what they show of an appliance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chatapi.errors import NotReady

if TYPE_CHECKING:
    from chatapi.appliance import Appliance


def connect(appliance: Appliance) -> None:
    """Connect the gauges to their sources."""

    def ready() -> float:
        try:
            appliance.require_ready()
        except NotReady:
            return 0
        return 1

    metrics, jobs = appliance.metrics, appliance.jobs
    metrics.ready.set_function(ready)
    metrics.history_kept.set_function(lambda: float(appliance.history_kept()))
    metrics.waiting.set_function(lambda: appliance.admission.waiting)
    metrics.inflight.set_function(lambda: float(appliance.byte_budget.held))
    metrics.audio_device.source = lambda: appliance.microphone.health if appliance.microphone is not None else None
    metrics.engine_counts.source = lambda: _llm_counters(appliance)
    metrics.engine_models.source = lambda: dict(appliance.active)
    metrics.webhooks.source = jobs.deliveries
    metrics.monitoring.source = appliance.monitoring.reading
    metrics.jobs.source, metrics.work.source = jobs.counts, appliance.scheduler.decisions


def _llm_counters(appliance: Appliance) -> Mapping[str, float]:
    """Counters of the LLM's library; blocking. An unloaded engine is not loaded for them."""
    try:
        engine: Any = appliance.engines.llm.engine
    except NotReady:
        return {}
    # The declared attributes of an unloaded engine do not include it.
    return engine.counts() if hasattr(engine, "counts") else {}
