"""OrcaHello's YAML configurations, of both generations, as places to monitor.

Keys of chatapi's own: `location_name`, `longitude`, `latitude` for places that OrcaHello does not know, `hls_base_url`,
and `source_url` (a broadcast) or `source_files` (files and folders) instead of `hls_stream_type`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from chatapi.engines import SoundOptions
from chatapi.engines.sound_detector import orcahello
from chatapi.engines.sound_detector.orcahello import Location
from chatapi.errors import BadInput
from chatapi.services.stream_monitoring.decision import OldRule, Rule, V1Rule

LARGEST_FILE = 1 << 20
"""Bytes of a configuration."""
LARGEST_TEXT = 1 << 16
"""Bytes of a configuration that a client sends: YAML takes seconds to read a megabyte."""
MOST_PLACES = 64
PLACE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}")
"""It is part of addresses and of the names of files."""
NAME_CHARS = 200
Table = Mapping[str, Any]


@dataclass(frozen=True)
class PlaceConfig:
    """A place, and how it is monitored."""

    location: Location
    generation: str
    """Of OrcaHello: `orcahello.OLD` or `orcahello.V1`."""
    model: str
    """As the configuration names it."""
    rule: Rule
    options: SoundOptions
    clip_seconds: float
    base_url: str = ""
    """Of a tree of HLS folders, without the place; empty: another source."""
    url: str = ""
    """Of a broadcast."""
    files: tuple[Path, ...] = ()
    span: tuple[float, float] | None = None
    """Of a date range, in seconds since 1970; None: live."""
    delay: float = orcahello.LIVE_DELAY
    """Least age of a live clip's end, in seconds."""
    upload: bool = False
    keep_clips: bool = False
    """Whether every clip is kept, also those that are not positive."""

    @property
    def is_live(self) -> bool:
        """Whether it has no end."""
        return self.span is None and not self.files


@dataclass(frozen=True)
class MonitorConfig:
    """A file."""

    places: tuple[PlaceConfig, ...]
    ignored: tuple[str, ...]
    """What of it has no effect, one sentence each."""
    tables: tuple[Table, ...] = ()
    """Of each place its own table, in plain values of JSON."""


KNOWN = (
    "model_type", "model_path", "model_name", "model_local_threshold", "model_global_threshold", "hls_stream_type",
    "hls_polling_interval", "hls_hydrophone_id", "hls_start_time_pst", "hls_end_time_pst", "upload_to_azure",
    "delete_local_wavs", "log_results", "model_id", "model_hf_repo_id", "model_config_path", "model_config_overrides",
    "inference_segment_size", "hls_live_delay_buffer", "cleanup_azure_uploads", "location_id", "location_name",
    "longitude", "latitude", "hls_base_url", "source_url", "source_files",
)  # fmt: skip
"""Keys of a configuration."""


FIXED: dict[str, dict[str, Any]] = {
    "audio": {"downmix_mono": True, "resample_rate": orcahello.RATE},
    "spectrogram": {
        "sample_rate": orcahello.MEL_RATE, "n_fft": orcahello.FFT, "hop_length": orcahello.HOP,
        "mel_n_filters": orcahello.MELS, "mel_f_min": orcahello.MEL_BOTTOM_HZ, "mel_f_max": orcahello.MEL_TOP_HZ,
        "mel_f_pad": 0, "convert_to_db": True, "top_db": orcahello.TOP_DB,
    },
    "model": {"input_pad_s": orcahello.INPUT_SECONDS},
    "inference": {"strict_segments": True},
}  # fmt: skip
"""Values of a model's configuration that cannot be changed: every known network was trained with them."""


def read(file: Path) -> MonitorConfig:
    """Read a configuration. Raises BadInput (bad_monitor_config) with the file's name and what is wrong with it."""
    try:
        return of_document(_yaml(_bytes(file)), file.parent)
    except BadInput as error:
        raise _bad(f"{file}: {error.message}") from error


def of_text(data: bytes) -> MonitorConfig:
    """A configuration that a client sent as YAML, which names no file of this machine. Blocking.

    Raises BadInput (bad_monitor_config).
    """
    if len(data) > LARGEST_TEXT:
        raise _bad(f"is larger than {LARGEST_TEXT} bytes")
    return of_document(_yaml(data, aliases=False), None)


def of_document(document: Table, folder: Path | None) -> MonitorConfig:
    """`folder`: what paths in it are relative to; None: it must not have any. Raises BadInput (bad_monitor_config)."""
    if "orchestrator_config" in document:
        shared = _table(document["orchestrator_config"] or {}, "orchestrator_config")
        rows = document.get("location_config") or []
        if not isinstance(rows, list) or not 0 < len(rows) <= MOST_PLACES:
            raise _bad(f"location_config must be a list of 1 to {MOST_PLACES} places")
        tables = [_merged(shared, _table(row, "location_config")) for row in rows]
    else:
        tables = [document]
    places = tuple(_place(table, folder) for table in tables)
    ignored = [f"{name} is not known" for table in tables for name in table if name not in KNOWN]
    if len({each.location.id for each in places}) < len(places):
        raise _bad("a location_id is there twice")
    return MonitorConfig(places, tuple(dict.fromkeys(ignored)), tuple(_plain(table) for table in tables))


def _plain(table: Table) -> Table:
    """A table in values that JSON has: YAML makes times of what is not quoted."""
    times = {key: value.strftime(orcahello.TIME_FORMAT) for key, value in table.items() if isinstance(value, datetime)}
    return {**table, **times}


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise _bad(f"cannot be read: {error.strerror}") from error


def _yaml(data: bytes, aliases: bool = True) -> Table:
    """`aliases`: whether a value may refer to another one, so that few bytes become many values."""
    try:
        import yaml
    except ImportError:
        raise _bad("YAML needs a library: pip install 'chatapi-appliance[monitoring]'") from None
    if len(data) > LARGEST_FILE:
        raise _bad(f"is larger than {LARGEST_FILE} bytes")
    try:
        if not aliases and any(isinstance(each, yaml.AliasEvent) for each in yaml.parse(data, yaml.SafeLoader)):
            raise _bad("YAML aliases are not supported here")
        return _table(yaml.safe_load(data), "the document")
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"is no YAML: {' '.join(str(error).split())[:200]}") from error


def _merged(shared: Table, own: Table) -> Table:
    """A place's table: its own values win, also inside of `model_config_overrides`."""
    found = {**shared, **own}
    overrides = [_table(each.get("model_config_overrides") or {}, "model_config_overrides") for each in (shared, own)]
    sections = {name: _table(value or {}, name) for each in overrides for name, value in each.items()}
    for name in sections:
        sections[name] = {key: value for each in overrides for key, value in (each.get(name) or {}).items()}
    return {**found, "model_config_overrides": sections}


def _place(table: Table, folder: Path | None) -> PlaceConfig:
    hydrophone = str(table.get("hls_hydrophone_id") or table.get("location_id") or "")
    if not PLACE_ID.fullmatch(hydrophone):
        raise _bad(f"hls_hydrophone_id is {hydrophone[:80]!r}; 1 to 80 letters, digits, _, - and . are allowed")
    known = orcahello.LOCATIONS.get(hydrophone, Location(hydrophone, hydrophone))
    location = replace(
        known,
        name=str(table.get("location_name") or known.name)[:NAME_CHARS],
        longitude=_number(table, "longitude", known.longitude, -180, 180),
        latitude=_number(table, "latitude", known.latitude, -90, 90),
    )
    found = _old(table, location) if "model_type" in table else _v1(table, location, folder)
    found = replace(
        found, upload=_flag(table, "upload_to_azure", False), keep_clips=not _flag(table, "delete_local_wavs", True)
    )
    return _with_source(found, table, folder)


def _old(table: Table, location: Location) -> PlaceConfig:
    if (kind := table["model_type"]) != "FastAI":
        raise _bad(f"model_type {kind!r} is not supported; it can be FastAI, or the file one of V1")
    threshold = _number(table, "model_local_threshold", orcahello.OLD_LOCAL_THRESHOLD, 0, 1)
    count = _number(table, "model_global_threshold", orcahello.OLD_GLOBAL_COUNT, 0, 100_000)
    seconds = _number(table, "hls_polling_interval", orcahello.CLIP_SECONDS, 5, 600)
    model = f"{table.get('model_path', '.')}/{table.get('model_name', '')}"
    rule = OldRule(threshold or 0, count or 0)
    return PlaceConfig(
        location, orcahello.OLD, model, rule, SoundOptions(orcahello.OLD), seconds or orcahello.CLIP_SECONDS
    )


def _v1(table: Table, location: Location, folder: Path | None) -> PlaceConfig:
    settings = _model_config(table, folder)
    inference, decision = settings.get("inference", {}), settings.get("global_prediction", {})
    strategy = decision.get("aggregation_strategy", orcahello.MEAN_TOP_K)
    if strategy not in (orcahello.MEAN_TOP_K, orcahello.MEAN_THRESHOLDED):
        raise _bad(f"aggregation_strategy {strategy!r} is not mean_top_k or mean_thresholded")
    rule = V1Rule(
        _number(decision, "pred_local_threshold", orcahello.V1_LOCAL_THRESHOLD, 0, 1) or 0.0,
        _number(decision, "pred_global_threshold", orcahello.V1_GLOBAL_THRESHOLD, 0, 1) or 0.0,
        int(_number(decision, "mean_top_k", orcahello.V1_TOP, 1, 100_000) or 1),
        strategy,
    )
    how = orcahello.FRONT_ENDS[orcahello.V1]
    options = SoundOptions(
        orcahello.V1,
        _number(inference, "window_s", how.window, 0.5, 4) or how.window,
        _number(inference, "window_hop_s", how.hop, 0.1, 60) or how.hop,
        _flag(settings.get("audio", {}), "normalize", how.normalized),
        int(_number(inference, "max_batch_size", orcahello.V1_BATCH, 1, 256) or 1),
    )
    interval = table.get("inference_segment_size", table.get("hls_polling_interval", orcahello.CLIP_SECONDS))
    seconds = _number({"inference_segment_size": interval}, "inference_segment_size", None, 5, 600)
    model = str(table.get("model_id") or table.get("model_hf_repo_id") or "")
    found = PlaceConfig(location, orcahello.V1, model, rule, options, seconds or orcahello.CLIP_SECONDS)
    return replace(found, delay=_number(table, "hls_live_delay_buffer", orcahello.LIVE_DELAY, 0, 3600) or 0.0)


def _model_config(table: Table, folder: Path | None) -> dict[str, Table]:
    """The sections of V1's model configuration, if the file is there, with the overrides."""
    found: dict[str, Table] = {}
    named = table.get("model_config_path")
    for place in (folder / str(named), Path(str(named))) if named and folder is not None else ():
        if place.is_file():
            found = {name: _table(value or {}, name) for name, value in _yaml(_bytes(place)).items()}
            break
    overrides = _table(table.get("model_config_overrides") or {}, "model_config_overrides")
    for name, values in overrides.items():
        found[name] = {**found.get(name, {}), **_table(values or {}, name)}
    for name, values in FIXED.items():
        for key, value in values.items():
            if found.get(name, {}).get(key, value) != value:
                raise _bad(f"{name}.{key} is {found[name][key]!r}; only {value!r} is supported")
    return found


def _with_source(found: PlaceConfig, table: Table, folder: Path | None) -> PlaceConfig:
    if files := table.get("source_files"):
        if folder is None:
            raise _bad("source_files can only be in a configuration of this machine; use a stream")
        names = [files] if isinstance(files, str) else files
        return replace(found, files=tuple(folder / str(each) for each in names))
    if url := table.get("source_url"):
        return replace(found, url=str(url))
    base = str(table.get("hls_base_url") or orcahello.STREAM_BASE).rstrip("/")
    kind = table.get("hls_stream_type")
    if kind == "LiveHLS":
        return replace(found, base_url=base)
    if kind != "DateRangeHLS":
        raise _bad(f"hls_stream_type is {kind!r}; it can be LiveHLS or DateRangeHLS")
    start, end = (_time(table, name) for name in ("hls_start_time_pst", "hls_end_time_pst"))
    if end <= start:
        raise _bad("hls_end_time_pst is not behind hls_start_time_pst")
    return replace(found, base_url=base, span=(start, end))


def _time(table: Table, name: str) -> float:
    """Seconds since 1970 of a time in US/Pacific."""
    value = table.get(name)
    if not isinstance(value, datetime):
        try:
            value = datetime.strptime(str(value), orcahello.TIME_FORMAT)
        except ValueError:
            raise _bad(f"{name} is {value!r} and not a time like '2020-09-01 00:00'") from None
    return value.replace(tzinfo=ZoneInfo(orcahello.TIME_ZONE)).timestamp()


def _number(table: Table, name: str, default: float | None, least: float, most: float) -> float | None:
    value = table.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise _bad(f"{name} is {value!r}; it can be {least:g} to {most:g}")
    return float(value)


def _flag(table: Table, name: str, default: bool) -> bool:
    value = table.get(name, default)
    if not isinstance(value, bool):
        raise _bad(f"{name} is {value!r}; it can be true or false")
    return value


def _table(value: Any, name: str) -> Table:
    if not isinstance(value, dict):
        raise _bad(f"{name} must be a table of names and values")
    return {str(key): each for key, each in value.items()}


def _bad(message: str) -> BadInput:
    return BadInput(message, code="bad_monitor_config")
