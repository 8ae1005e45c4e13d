"""SIGKILL at any moment of monitoring: the ledger stays exact, and no detection is lost, doubled or half stored."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from chatapi.services.stream_monitoring.ledger import CoverageLedger
from hls_tree_server import segment, serving_trees

PLACE = "rpi_bush_point"
LOUD, QUIET = segment(10, 3000, 0.3), segment(10, 0, 0.0005)
CHILD = Path(__file__).parents[1] / "support" / "monitor_child.py"
CLIP = 20


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_lose_and_double_nothing(tmp_path: Path, kills: int) -> None:
    chance = random.Random(kills)
    count = 12 + 3 * kills
    with serving_trees() as trees:
        # The server's clock is ahead, so that there is enough audio at once.
        folder = trees.folder(PLACE, time.time() - 2 - CLIP - 10)
        for number in range(count):
            folder.add(LOUD if number % 4 == 1 else QUIET)
        config = tmp_path / "place.yml"
        config.write_text(
            f"hls_hydrophone_id: {PLACE}\nhls_stream_type: LiveHLS\nhls_base_url: {trees.base}\n"
            f"inference_segment_size: {CLIP}\nhls_live_delay_buffer: 0\n"
        )
        times = [f"{chance.uniform(0.5, 3):.2f}" for _ in range(kills)]
        words = [sys.executable, str(CHILD), str(tmp_path / "data"), str(config), *times]
        done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    with closing(CoverageLedger(tmp_path / "data" / "coverage.sqlite3")) as ledger:
        position = ledger.position(PLACE)
        assert position is not None
        detections = ledger.detections(PLACE, 0, 1e10)
        first = min(row.start for row in ledger.coverage(PLACE, 0, 1e10) if row.state == "scored")
        covered = ledger.coverage(PLACE, first, position.at)
    # Every second up to the last clip is scored, once and without a hole.
    assert [each.state for each in covered] == ["scored"]
    assert position.at - first >= (count - 6) * 10
    begins = [each.start for each in detections]
    assert [round(after - before) for before, after in pairwise(begins)] == [2 * CLIP] * (len(begins) - 1)
    assert len(begins) >= (count - 8) // 4
    assert all(each.stored for each in detections)
    store, names = tmp_path / "data" / "monitoring" / "detections", sorted(each.name for each in detections)
    for suffix, container in ((".wav", "audiowavs"), (".png", "spectrogramspng"), (".json", "metadata")):
        assert sorted(each.name for each in (store / container).iterdir()) == [f"{name}{suffix}" for name in names]
    records = [json.loads(file.read_text()) for file in (store / "metadata").iterdir()]
    assert sorted(each["id"] for each in records) == sorted(each.id for each in detections)
    waiting = [each.name for each in (tmp_path / "data" / "monitoring" / "outbox").iterdir()]
    assert [name for name in waiting if not name.startswith(".")] == []
