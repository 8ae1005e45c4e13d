"""Reviewed detections as a training set: a tar archive that is made while it is sent."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from chatapi.errors import NotFound
from chatapi.services.stream_monitoring.detection_store import DetectionStore
from chatapi.services.stream_monitoring.ledger import Detection
from chatapi.services.stream_monitoring.moderation import DetectionFilter

PAGE = 100
REVIEWED = ("positive", "negative", "unknown")
COLUMNS = ("wav_filename", "start_time_s", "duration_s", "confidence", "state", "tags", "place", "clip_start")
"""Of detections.tsv: a row for each positive window; those before `state` are as in OrcaHello's predictions.tsv."""


def exported(kept: DetectionStore | None, wanted: DetectionFilter) -> Iterator[bytes]:
    """The parts of the archive: a WAV file for each reviewed detection that has one, and at last detections.jsonl and
    detections.tsv. Blocking. Raises StorageError."""
    rows: list[dict[str, Any]] = []
    for detection in _reviewed(kept, wanted) if kept is not None else ():
        assert kept is not None  # noqa: S101 - for the type checker
        try:
            sound = kept.content(detection, ".wav")
        except NotFound:
            continue
        yield from _member(f"wav/{detection.name}.wav", sound)
        rows.append(_row(kept, detection))
    yield from _member("detections.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    yield from _member("detections.tsv", _table(rows).encode())
    # Two empty blocks end an archive (POSIX.1-2001, pax).
    yield bytes(2 * tarfile.BLOCKSIZE)


def _reviewed(kept: DetectionStore, wanted: DetectionFilter) -> Iterator[Detection]:
    for state in (wanted.state,) if wanted.state else REVIEWED:
        before = ""
        while found := kept.moderation.find(replace(wanted, state=state), PAGE, before):
            yield from found
            before = found[-1].id


def _row(kept: DetectionStore, each: Detection) -> dict[str, Any]:
    try:
        windows = json.loads(kept.content(each, ".json")).get("predictions", [])
    except (NotFound, ValueError, AttributeError):
        windows = []
    return {
        "wav_filename": f"wav/{each.name}.wav", "place": each.place, "clip_start": each.start,
        "clip_seconds": each.seconds, "model": each.model, "confidence": each.confidence,
        "state": each.review.state, "tags": list(each.review.tags), "comments": each.review.comments,
        "windows": [
            {"start_time_s": window.get("startTime"), "duration_s": window.get("duration"),
             "confidence": window.get("confidence")} for window in windows
        ],
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, "excel-tab", lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        for window in row["windows"]:
            values = (window["start_time_s"], window["duration_s"], window["confidence"])
            clip = (row["state"], ";".join(row["tags"]), row["place"], row["clip_start"])
            writer.writerow((row["wav_filename"], *values, *clip))
    return text.getvalue()


def _member(name: str, content: bytes) -> Iterator[bytes]:
    about = tarfile.TarInfo(name)
    about.size, about.mode = len(content), 0o644
    yield about.tobuf(tarfile.PAX_FORMAT)
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)
