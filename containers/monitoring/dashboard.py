#!/usr/bin/env python3
"""Writes grafana/dashboards/chatapi.json from the table of panels below.

Run `python3 containers/monitoring/dashboard.py`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TARGET = HERE / "grafana/dashboards/chatapi.json"
SCHEMA = 41
"""Schema version of Grafana 12; Grafana 11 reads it too."""
WIDTH = 24
"""Width of a dashboard, in columns."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTOR = 'instance=~"$instance"'
"""Selector of every series."""


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard."""

    title: str
    queries: tuple[tuple[str, str], ...]
    """PromQL, in which @ is replaced by the selector, and the legend."""
    unit: str = "short"
    """Grafana's name of the unit."""
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    steps: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    """Values from which a colour applies."""
    words: tuple[tuple[str, str], ...] = ()
    """Texts shown for values."""


def rate(metric: str, by: str, choice: str = "") -> str:
    """PromQL: rate per second."""
    return f"sum by ({by}) (rate({metric}{{@{choice}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", choice: str = "") -> str:
    """PromQL: a quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', f'le, {by}' if by else 'le', choice)})"


def both(metric: str, by: str, choice: str = "") -> tuple[tuple[str, str], ...]:
    """Median and 95th percentile."""
    return tuple((quantile(share, metric, by, choice), f"{{{{{by}}}}} {name}") for share, name in
                 ((0.5, "p50"), (0.95, "p95")))  # fmt: skip


RED_BELOW_ONE = ((None, "red"), (1.0, "green"))
RED_FROM_ONE = ((None, "green"), (1.0, "red"))
ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel("Ready", (("min(chatapi_ready{@})", ""),), kind="stat", width=4, steps=RED_BELOW_ONE,
              words=(("0", "not ready"), ("1", "ready"))),
        Panel("Uptime", (("min(time() - process_start_time_seconds{@})", ""),), "s", kind="stat", width=4),
        Panel("Live conversations", (("sum(chatapi_live_sessions{@})", ""),), kind="stat", width=4),
        Panel("Turns in 24 h", (("sum(increase(chatapi_turns_total{@}[24h]))", ""),), kind="stat", width=4),
        Panel("Live first audio, p95", ((quantile(0.95, "chatapi_live_stage_seconds", "", ',stage="audible"'),
                                                   ""),), "s", kind="stat", width=4,
              steps=((None, "green"), (1.0, "yellow"), (2.0, "red"))),
        Panel("Failed engines", (("sum(chatapi_engine_failed{@})", ""),), kind="stat", width=4, steps=RED_FROM_ONE),
    ),
    "Live conversation": (
        Panel("Time from the end of speech to the first audio", both("chatapi_live_stage_seconds", "stage",
                                                                ',stage="audible"'), "s",
              "From the end of speech to the first audio of the answer."),
        Panel("Stages, p95", ((quantile(0.95, "chatapi_live_stage_seconds", "stage"), "{{stage}}"),), "s",
              "first_token and first_audio may come before endpoint, because of preemptive generation."),
        Panel("Turns by result", ((rate("chatapi_turns_total", "result", ',kind="live"') + " * 60", "{{result}}"),),
              "cpm"),
        Panel("Interruptions", ((rate("chatapi_live_interruptions_total", "kind") + " * 60", "{{kind}}"),), "cpm",
              "resumed: a false alarm; retracted: the turn was not over yet."),
        Panel("Guessed answers", ((rate("chatapi_live_guesses_total", "result") + " * 60", "{{result}}"),), "cpm",
              "dropped: thought of in vain, because somebody went on."),
        Panel("Utterances not answered", ((rate("chatapi_live_dismissed_total", "reason") + " * 60", "{{reason}}"),),
              "cpm", "no_words is a noise or a recogniser that gives nothing; echo is the box's own voice."),
        Panel("Open conversations, calls by name", (
            ("sum by (interface) (chatapi_live_sessions{@})", "{{interface}}"),
            (rate("chatapi_wakes_total", "by") + " * 60", "by {{by}}, per minute"),
            ("sum(increase(chatapi_live_sessions_refused_total{@}[$__rate_interval]))", "rejected"),
        )),
        Panel("Wyoming", (
            ("sum(chatapi_wyoming_connections{@})", "connections"),
            (rate("chatapi_wyoming_events_total", "type"), "{{type}}, per second"),
        )),
    ),
    "Requests": (
        Panel("Turns by result", ((rate("chatapi_turns_total", "input, reply, result", ',kind="request"') + " * 60",
                                   "{{input}} to {{reply}}: {{result}}"),), "cpm"),
        Panel("Stages, p50", ((quantile(0.5, "chatapi_turn_stage_seconds", "stage"), "{{stage}}"),), "s"),
        Panel("Stages, p95", ((quantile(0.95, "chatapi_turn_stage_seconds", "stage"), "{{stage}}"),), "s"),
        Panel("Queue", (
            ("sum(chatapi_turns_active{@})", "running"),
            ("sum(chatapi_turns_waiting{@})", "waiting"),
            ("sum(increase(chatapi_turns_refused_total{@}[$__rate_interval]))", "rejected"),
        )),
        Panel("Errors", ((rate("chatapi_errors_total", "code") + " * 60", "{{code}}"),), "cpm"),
        Panel("HTTP", (
            (rate("chatapi_http_requests_total", "status"), "{{status}}, per second"),
            (quantile(0.95, "chatapi_http_request_seconds", "route"), "{{route}} p95, s"),
        )),
        Panel("Connections and received data", (
            ("chatapi_http_connections{@}", "connections {{instance}}"),
            ("chatapi_inflight_bytes{@} / 1048576", "MiB held {{instance}}"),
        )),
    ),
    "Engines": (
        Panel("Work", (("sum by (engine) (rate(chatapi_engine_busy_seconds_total{@}[$__rate_interval]))",
                        "{{engine}}"),), "percentunit", "Share of the time that an engine computes; several answers at "
              "once count separately."),
        Panel("LLM speed", (
            (quantile(0.5, "chatapi_tokens_per_second"), "p50 of answers"),
            (quantile(0.05, "chatapi_tokens_per_second"), "p5 of answers"),
            ("sum(rate(chatapi_llm_decode_tokens_total{@}[$__rate_interval])) "
             "/ sum(rate(chatapi_llm_decode_seconds_total{@}[$__rate_interval]))", "MLC: decoding"),
        ), "short", "Tokens per second."),
        Panel("Tokens", (
            (rate("chatapi_tokens_total", "kind"), "{{kind}}"),
            ("sum(rate(chatapi_llm_prefill_tokens_total{@}[$__rate_interval]))", "MLC: prompt tokens"),
            ("sum(rate(chatapi_llm_prefill_tokens_total{@}[$__rate_interval])) "
             "/ sum(rate(chatapi_llm_prefill_seconds_total{@}[$__rate_interval]))", "MLC: prefill speed"),
        ), "short", "Per second. cached: prompt tokens from the cache."),
        Panel("Real-time factor", both("chatapi_real_time_factor", "engine"), "short",
              "Computing time divided by the duration of the audio; below 1 is faster than real time."),
        Panel("Jobs waiting for an engine", (("sum by (engine) (chatapi_engine_jobs_waiting{@})", "{{engine}}"),)),
        Panel("Loaded, rebuilt, unloaded", (
            ("sum by (engine) (chatapi_engine_loaded{@})", "{{engine}} loaded"),
            ("sum by (engine) (increase(chatapi_engine_rebuilds_total{@}[$__rate_interval]))", "{{engine}} rebuilt"),
            ("sum by (engine) (increase(chatapi_engine_unloads_total{@}[$__rate_interval]))", "{{engine}} unloaded"),
            ("sum by (engine) (chatapi_engine_load_seconds_sum{@}) "
             "/ sum by (engine) (chatapi_engine_load_seconds_count{@})", "{{engine}} load time, s"),
        )),
        Panel("Models in use", (("sum by (engine, model) (chatapi_engine_model{@})", "{{engine}}: {{model}}"),)),
    ),
    "Voice conversion": (
        Panel("Conversions by result", ((rate("chatapi_conversions_total", "kind, result") + " * 60",
                                         "{{kind}}: {{result}}"),), "cpm",
              "request: a recording; job: a part of a long one; live: a microphone; reply: a sentence of an answer."),
        Panel("Time to the first audio", both("chatapi_conversion_first_audio_seconds", "kind"), "s",
              "From the begin of the conversion, without its wait in the queue."),
        Panel("Lag of live conversion", (
            (quantile(0.5, "chatapi_conversion_lag_seconds"), "p50"),
            (quantile(0.95, "chatapi_conversion_lag_seconds"), "p95"),
        ), "s", "From the last sample that a chunk needs to its converted audio; above the chunk's length the box is "
              "too slow."),
        Panel("Converted audio", ((rate("chatapi_conversion_audio_seconds_total", "kind"), "{{kind}}"),), "short",
              "Seconds of audio per second."),
        Panel("Queue of conversions", (
            ("sum(chatapi_conversions_active{@})", "running"),
            ("sum(chatapi_conversions_waiting{@})", "waiting"),
            ("sum(increase(chatapi_conversions_refused_total{@}[$__rate_interval]))", "rejected"),
        )),
        Panel("Stored voices", (("sum(chatapi_voices{@})", ""),), kind="stat", width=4),
    ),
    "Jobs": (
        Panel("Jobs", (("sum by (state, kind) (chatapi_jobs{@})", "{{kind}} {{state}}"),)),
        Panel("Work that yields", (
            ("sum by (class) (rate(chatapi_work_yielded_seconds_total{@}[$__rate_interval]))", "{{class}}"),
            ("max by (class, for) (chatapi_work_waits{@})", "{{class}} waits for {{for}}"),
        ), "percentunit", "Share of the time that a class of work has waited for a more urgent one."),
        Panel("Webhooks", (
            (rate("chatapi_webhooks_total", "result") + " * 60", "{{result}}, per minute"),
            ("sum(chatapi_webhooks_pending{@})", "pending"),
        )),
    ),
    "Commands": (
        Panel("Classifications", ((rate("chatapi_command_classifications_total", "result") + " * 60", "{{result}}"),
                                  ("sum(rate(chatapi_command_detections_total{@}[$__rate_interval])) * 60",
                                   "detected in streams")), "cpm",
              "Streams are classified ten times a second while there is sound."),
        Panel("Time of a classification", (
            (quantile(0.5, "chatapi_command_classification_seconds"), "p50"),
            (quantile(0.99, "chatapi_command_classification_seconds"), "p99"),
        ), "s"),
        Panel("Versions", (
            ("max(chatapi_command_active_version{@})", "active"),
            ("sum(chatapi_command_versions{@})", "stored"),
            ("sum by (cause) (increase(chatapi_command_activations_total{@}[$__rate_interval]))", "{{cause}}"),
        ), "short", "unknown_share: rolled back by itself, because much more was unknown."),
        Panel("Samples", (("sum by (state) (chatapi_command_samples{@})", "{{state}}"),
                          ("sum(chatapi_command_words{@})", "words"))),
        Panel("Submissions", ((rate("chatapi_command_submissions_total", "result") + " * 60", "{{result}}"),), "cpm"),
        Panel("Trainings", (("sum by (result) (increase(chatapi_command_trainings_total{@}[$__rate_interval]))",
                             "{{result}}"),)),
    ),
    "Stream monitoring": (
        Panel("Audio heard, missing and scored", (
            ("sum by (place) (rate(chatapi_monitor_heard_seconds_total{@}[$__rate_interval]))", "{{place}} heard"),
            ("sum by (place) (rate(chatapi_monitor_scored_seconds_total{@}[$__rate_interval]))", "{{place}} scored"),
            ("sum by (place, reason) (rate(chatapi_monitor_missing_seconds_total{@}[$__rate_interval]))",
             "{{place}} missing: {{reason}}"),
        ), "percentunit", "Share of the time; 100 % heard and scored is right."),
        Panel("Detections", (
            ("sum by (place) (increase(chatapi_monitor_detections_total{@}[1h]))", "{{place}}, per hour"),
            ("sum by (place) (increase(chatapi_monitor_muted_total{@}[1h]))", "{{place}} muted, per hour"),
        )),
        Panel("Audio arrives", (("min by (place) (chatapi_monitor_audio{@})", "{{place}}"),)),
        Panel("Audio that waits to be scored", (
            ("max by (place) (chatapi_monitor_lag_seconds{@})", "{{place}}"),
        ), "s"),
        Panel("Detections that wait for their store", (
            ("sum by (instance) (chatapi_monitor_waiting_detections{@})", "{{instance}}"),
        )),
    ),
    "Process and machine": (
        Panel("Memory", (
            ("process_resident_memory_bytes{@}", "chatapi {{instance}}"),
            ("chatapi_memory_available_bytes{@}", "available {{instance}}"),
        ), "bytes"),
        Panel("CPU", (("rate(process_cpu_seconds_total{@}[$__rate_interval])", "cores {{instance}}"),), "short"),
        Panel("Event loop lag", (
            (quantile(0.5, "chatapi_event_loop_lag_seconds"), "p50"),
            (quantile(0.99, "chatapi_event_loop_lag_seconds"), "p99"),
        ), "s", "Live audio stutters when it is large."),
        Panel("Disk of the data directory", (
            ("chatapi_data_disk_free_bytes{@}", "free {{instance}}"),
            ("chatapi_data_disk_bytes{@}", "size {{instance}}"),
        ), "bytes"),
        Panel("Conversations are stored", (("min(chatapi_history_kept{@})", ""),), kind="stat", width=4,
              steps=RED_BELOW_ONE, words=(("0", "only in memory"), ("1", "on disk"))),
        Panel("Microphone and speaker", (
            ("chatapi_sound_device_up{@}", "{{device}} works"),
            ("increase(chatapi_sound_dropped_seconds_total{@}[$__rate_interval])", "{{device}} lost, s"),
            ("increase(chatapi_sound_device_reopens_total{@}[$__rate_interval])", "{{device}} reopened"),
        )),
        Panel("Files open, garbage collected", (
            ("process_open_fds{@}", "files {{instance}}"),
            ("sum by (generation) (rate(python_gc_collections_total{@}[$__rate_interval]))", "gc {{generation}}"),
        )),
    ),
    "Jetson": (
        Panel("GPU", (("chatapi_jetson_gpu_load_ratio{@}", "load {{instance}}"),), "percentunit"),
        Panel("GPU clock", (("chatapi_jetson_gpu_clock_hertz{@}", "{{instance}}"),), "hertz"),
        Panel("Power", (("chatapi_jetson_power_watts{@}", "{{rail}}"),), "watt",
              "VDD_IN and VIN_SYS_5V0 are the total power of the module or board, if it has them."),
        Panel("Temperature", (
            ("chatapi_jetson_temperature_celsius{@}", "{{zone}}"),
            ("min by (zone) (chatapi_jetson_temperature_limit_celsius{@})", "{{zone}} throttles from"),
        ), "celsius"),
        Panel("Throttled by temperature", (("chatapi_jetson_throttled{@}", "{{part}}"),), steps=RED_FROM_ONE),
        Panel("Memory of CPU and GPU", (
            ("chatapi_jetson_memory_bytes{@}", "total {{instance}}"),
            ("chatapi_jetson_memory_available_bytes{@}", "available {{instance}}"),
            ("chatapi_jetson_memory_gpu_bytes{@}", "GPU {{instance}}"),
        ), "bytes"),
    ),
}  # fmt: skip
"""Row -> its panels."""


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's format."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, content in ROWS.items():
        panels.append(_row(row, y, len(panels) + 1))
        y, x, height = y + 1, 0, 4 if content[0].kind == "stat" else 8
        for panel in content:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            place = {"h": height, "w": panel.width, "x": x, "y": y}
            panels.append(_panel(panel, place, len(panels) + 1))
            x += panel.width
        y += height
    return {
        "uid": "chatapi",
        "title": "chatapi",
        "description": "A voice appliance: its work, its speed, and its machine.",
        "tags": ["chatapi"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "fiscalYearStartMonth": 0,
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1,
              "regex": "", "multi": False, "includeAll": False, "hide": 0, "current": {}, "options": []}  # fmt: skip
    query = {"qryType": 1, "query": "label_values(chatapi_ready,instance)", "refId": "instances"}
    boxes = {"name": "instance", "label": "Box", "type": "query", "datasource": SOURCE, "definition": query["query"],
             "query": query, "refresh": 2, "sort": 1, "regex": "", "multi": True, "includeAll": True, "allValue": ".*",
             "hide": 0, "current": {"text": ["All"], "value": ["$__all"]}, "options": []}  # fmt: skip
    return [source, boxes]


def _row(title: str, y: int, number: int) -> dict[str, Any]:
    place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, place: dict[str, int], number: int) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "editorMode": "code", "expr": query.replace("@", SELECTOR),
         "legendFormat": legend or "__auto", "range": panel.kind != "stat", "instant": panel.kind == "stat"}
        for at, (query, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    mappings = [
        {"type": "value", "options": {value: {"text": text, "index": at}}}
        for at, (value, text) in enumerate(panel.words)
    ]
    steps = [{"value": value, "color": colour} for value, colour in panel.steps]
    defaults = {
        "unit": panel.unit,
        "mappings": mappings,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "custom": {} if panel.kind == "stat" else {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"},
    }
    if panel.kind == "stat":
        calcs = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        options = {"reduceOptions": calcs, "colorMode": "value", "graphMode": "none", "textMode": "auto"}
    else:
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
        options = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text(), encoding="utf-8")
