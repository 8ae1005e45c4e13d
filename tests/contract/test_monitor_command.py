"""`chatapi monitor` as OrcaHello's users run it, against a made hydrophone server: live, date range and recordings."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.engines import SOUND_RATE
from chatapi.services.stream_monitoring.ledger import CoverageLedger
from hls_tree_server import TreeServer, segment, serving_trees

PLACE = "rpi_orcasound_lab"
EPOCH = 1_606_723_198
"""Two seconds before 2020-11-30 00:00 US/Pacific."""
START = EPOCH + 2.0
LOUD, QUIET = segment(10, 3000, 0.3), segment(10, 0, 0.0005)
OLD = """---
model_type: "FastAI"
model_local_threshold: 0.5
model_global_threshold: 3
model_path: "./model"
model_name: "model.pkl"
hls_stream_type: "{kind}"
hls_polling_interval: 60
hls_start_time_pst: "2020-11-30 00:00"
hls_end_time_pst: "2020-11-30 00:03"
hls_hydrophone_id: "rpi_orcasound_lab"
upload_to_azure: False
delete_local_wavs: True
"""
V1 = """---
orchestrator_config:
  model_id: "orcasound/orcahello-srkw-detector-v1.030926"
  model_hf_repo_id: "orcasound/orcahello-srkw-detector-v1"
  model_config_path: "./model/config.yaml"
  hls_stream_type: "LiveHLS"
  hls_live_delay_buffer: 60
  inference_segment_size: 60
  upload_to_azure: false
  delete_local_wavs: true
location_config:
  - location_id: "rpi_orcasound_lab"
    hls_hydrophone_id: "rpi_orcasound_lab"
  - location_id: "rpi_bush_point"
    hls_hydrophone_id: "rpi_bush_point"
    model_config_overrides:
      global_prediction:
        pred_global_threshold: 0.95
"""


@pytest.fixture
def server() -> Iterator[TreeServer]:
    with serving_trees() as served:
        yield served


def command(data: Path, *words: str) -> list[str]:
    engine = ["--set", "sound_detector.engine=fake", "--set", f"data={data}"]
    return [sys.executable, "-m", "chatapi", "monitor", *words, *engine]


def run(data: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(command(data, *words), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


def write(folder: Path, text: str) -> str:
    file = folder / "config.yml"
    file.write_text(text)
    return str(file)


def reported(data: Path, *words: str, status: int = 0) -> Any:
    return json.loads(run(data, "report", "--json", *words, status=status))


def pixels(data: bytes) -> tuple[int, int, set[int]]:
    """Width, height and the palette's used indices of a PNG; its checksums are verified."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, parts = 8, {}
    while at < len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + content),)
        parts[kind], at = content, at + 12 + length
    width, height = struct.unpack_from(">II", parts[b"IHDR"])
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return width, height, set(rows[:, 1:].ravel().tolist())


def test_a_date_range_of_the_old_generation(tmp_path: Path, server: TreeServer) -> None:
    folder = server.folder(PLACE, EPOCH)
    for number in range(18):
        folder.add(None if number == 14 else LOUD if 6 <= number < 9 else QUIET)
    config = write(tmp_path, OLD.format(kind="DateRangeHLS"))
    out = run(tmp_path / "data", config, "--base-url", server.base)
    lines = out.splitlines()
    assert f"Listening to location {server.base}/{PLACE}" in lines
    assert "Downloading live0.ts" in lines
    assert "Length of Audio Clip:60" in lines
    assert "Preprocessing: Downmixing to Mono" in lines and "Preprocessing: Resampling to 20000" in lines
    assert f"{PLACE}_2020_11_30_00_01_00_PST.wav" in lines
    assert "model.pkl is not installed here" in out

    stored = tmp_path / "data" / "monitoring" / "detections"
    name = f"{PLACE}_2020_11_30_00_01_00_PST"
    files = sorted(path.relative_to(stored).as_posix() for path in stored.rglob("*") if path.is_file())
    assert files == [f"audiowavs/{name}.wav", f"metadata/{name}.json", f"spectrogramspng/{name}.png"]
    assert decode((stored / files[0]).read_bytes()).seconds == 60
    width, height, used = pixels((stored / files[2]).read_bytes())
    assert (width, height) == (1280, 480) and len(used) > 50
    record = json.loads((stored / files[1]).read_text())
    assert record["timestamp"] == "2020-11-30T08:01:00.000000Z"
    assert record["reviewed"] is False and record["source_guid"] == PLACE
    assert record["location"] == {
        "id": PLACE, "name": "Orcasound Lab", "longitude": -123.1735774, "latitude": 48.5583362,
    }  # fmt: skip
    assert record["audioUri"].endswith(f"/audiowavs/{name}.wav")
    # 60 windows of the fake detector are 61 parts; those of the first half and a little are loud.
    assert 29 <= len(record["predictions"]) <= 32
    assert record["predictions"][3] == {
        "id": 3, "startTime": pytest.approx(3 * 60 / 61), "duration": pytest.approx(60 / 61),
        "confidence": pytest.approx(0.9),
    }  # fmt: skip
    assert record["whaleFoundConfidence"] == pytest.approx(90, abs=3)
    assert list((tmp_path / "data" / "monitoring" / "outbox").iterdir()) == []

    span = ("--from", "2020-11-30T08:00", "--to", "2020-11-30T08:03")
    [found] = reported(tmp_path / "data", *span, status=1)
    assert found["heard_seconds"] == pytest.approx(170, abs=0.3)
    assert found["missing_seconds"] == {"not_found": pytest.approx(10, abs=0.01)}
    assert found["unmonitored_seconds"] == 0
    assert [(round(gap["from"] - START, 2), round(gap["to"] - START, 2)) for gap in found["gaps"]] == [(140, 150)]
    assert [each["name"] for each in found["detections"]] == [name]
    assert found["detections"][0]["stored"] is True
    text = run(tmp_path / "data", "report", *span, status=1)
    assert "missing             10.0 s   5.56 % not_found" in text

    # Once more: nothing is stored or counted twice.
    times = {path: path.stat().st_mtime_ns for path in stored.rglob("*")}
    run(tmp_path / "data", config, "--base-url", server.base)
    assert {path: path.stat().st_mtime_ns for path in stored.rglob("*")} == times
    assert reported(tmp_path / "data", *span, status=1) == [found]


def test_live_places_of_one_file_end_after_so_many_clips(tmp_path: Path, server: TreeServer) -> None:
    begun = time.time() - 300
    for place in (PLACE, "rpi_bush_point"):
        folder = server.folder(place, begun)
        for _ in range(30):
            folder.add(LOUD)
    config = write(tmp_path, V1)
    words = ("--base-url", server.base, "--max_live_iterations", "1", "--record-schema", "v2")
    out = run(tmp_path / "data", "--orch_config", config, *words, "-o", str(tmp_path / "out"))
    assert out.count("Length of Audio Clip:60") == 2
    assert "orcasound/orcahello-srkw-detector-v1.030926 is not installed here" in out
    # The fake detector gives 0.9, and one place needs 0.95.
    [file] = (tmp_path / "out" / "metadata").iterdir()
    assert file.name.startswith("rpi-orcasound-lab_")
    record = json.loads(file.read_text())
    assert record["state"] == "Unreviewed" and "reviewed" not in record
    assert record["locationName"] == "Orcasound Lab" and record["tags"] == []
    assert record["predictions"][0] == {"id": 0, "startTime": 0.0, "duration": 1.0, "confidence": 0.9}


def test_a_killed_monitor_goes_on_and_counts_nothing_twice(tmp_path: Path, server: TreeServer) -> None:
    # The server's clock is ahead, so that there is enough audio at once.
    folder = server.folder(PLACE, time.time() - 200)
    for _ in range(60):
        folder.add(LOUD)
    config = write(tmp_path, OLD.format(kind="LiveHLS").replace("hls_polling_interval: 60", "hls_polling_interval: 5"))
    words = (config, "--base-url", server.base, "-o", str(tmp_path / "out"))
    data = tmp_path / "data"
    for _ in range(4):
        process = subprocess.Popen(command(data, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Inference"):
                break
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
    run(data, *words, "--max-iterations", "3")
    with closing(CoverageLedger(data / "coverage.sqlite3")) as ledger:
        detections = ledger.detections(PLACE, 0, time.time() + 600)
        begins = [each.start for each in detections]
        assert len(begins) >= 7
        assert [after - before for before, after in pairwise(begins)] == pytest.approx(
            [5.0] * (len(begins) - 1), abs=0.1
        )
        covered = ledger.coverage(PLACE, begins[0], begins[-1] + 5)
        assert [each.state for each in covered] == ["scored"]
        assert all(each.stored for each in detections)
    stored = {path.stem for path in (tmp_path / "out" / "metadata").iterdir()}
    assert stored == {each.name for each in detections}


def test_detections_wait_for_a_store_that_is_down(tmp_path: Path, server: TreeServer) -> None:
    folder = server.folder(PLACE, EPOCH)
    for _ in range(18):
        folder.add(LOUD)
    config = write(tmp_path, OLD.format(kind="DateRangeHLS"))
    (tmp_path / "out").write_text("a file where the folder should be")
    words = (config, "--base-url", server.base, "-o", str(tmp_path / "out"))
    assert "detections wait for their store" in run(tmp_path / "data", *words, status=1)
    assert len(list((tmp_path / "data" / "monitoring" / "outbox").iterdir())) == 9
    (tmp_path / "out").unlink()
    run(tmp_path / "data", *words)
    assert len(list((tmp_path / "out").rglob("*.*"))) == 9
    assert list((tmp_path / "data" / "monitoring" / "outbox").iterdir()) == []


def test_recordings_are_monitored_and_every_clip_is_kept_where_wanted(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    sound = np.concatenate([np.zeros(70 * RATE), 0.3 * np.sin(np.arange(20 * RATE))]).astype(np.float32)
    noisy = sound + np.random.default_rng(1).normal(0, 0.0005, len(sound)).astype(np.float32)
    (tmp_path / "recordings" / "bay_2026_11_30_06_00_00_PST.wav").write_bytes(wav(Audio(noisy, RATE)))
    text = "hls_hydrophone_id: bay\nlocation_name: Made Bay\nlatitude: 48.5\nsource_files: recordings\n"
    config = write(tmp_path, text + "delete_local_wavs: false\nmystery: 1\n")
    out = run(tmp_path / "data", config)
    assert "mystery is not known" in out
    stored = tmp_path / "data" / "monitoring" / "detections"
    names = sorted(path.relative_to(stored).as_posix() for path in stored.rglob("*.wav"))
    assert names == ["audiowavs/bay_2026_11_30_06_01_00_PST.wav", "clips/bay_2026_11_30_06_00_00_PST.wav"]
    record = json.loads((stored / "metadata" / "bay_2026_11_30_06_01_00_PST.json").read_text())
    assert record["location"] == {"id": "bay", "name": "Made Bay", "longitude": None, "latitude": 48.5}
    [found] = reported(tmp_path / "data", "--from", "2026-11-30T14:00Z", "--to", "2026-11-30T14:01:30Z")
    assert found["heard_seconds"] == pytest.approx(90, abs=0.01)
    assert SOUND_RATE == 48_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a list", "must be a table"),
        ("a: [", "no YAML"),
        ("hls_hydrophone_id: ../x\nhls_stream_type: LiveHLS", "hls_hydrophone_id is '../x'"),
        ("hls_hydrophone_id: a\nhls_stream_type: Other", "hls_stream_type is 'Other'"),
        ("model_type: AudioSet\nhls_hydrophone_id: a", "model_type 'AudioSet' is not supported"),
        ("hls_hydrophone_id: a\nhls_stream_type: DateRangeHLS\nhls_start_time_pst: soon", "hls_start_time_pst"),
        ("hls_hydrophone_id: a\nhls_stream_type: LiveHLS\ninference_segment_size: 0", "inference_segment_size is 0"),
        ("orchestrator_config: {}\nlocation_config: []", "location_config"),
        (
            "hls_hydrophone_id: a\nhls_stream_type: LiveHLS\nmodel_config_overrides: {spectrogram: {n_fft: 512}}",
            "spectrogram.n_fft is 512; only 2560 is supported",
        ),
    ],
)
def test_a_wrong_configuration_is_named_before_any_work(tmp_path: Path, text: str, reason: str) -> None:
    out = run(tmp_path / "data", write(tmp_path, text), status=2)
    assert reason in out and "config.yml" in out
    assert not (tmp_path / "data" / "monitoring").exists()


def test_a_report_of_nothing_is_no_success(tmp_path: Path) -> None:
    assert reported(tmp_path / "data", status=1) == []
    [found] = reported(tmp_path / "data", "--place", "bay", status=1)
    assert found["unmonitored_seconds"] == pytest.approx(86_400)
    assert "--from is 'x'" in run(tmp_path / "data", "report", "--from", "x", status=2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_stores_what_waits(tmp_path: Path, server: TreeServer, how: signal.Signals) -> None:
    folder = server.folder(PLACE, time.time() - 200)
    for _ in range(20):
        folder.add(LOUD)
    config = write(tmp_path, OLD.format(kind="LiveHLS").replace("hls_polling_interval: 60", "hls_polling_interval: 5"))
    words = command(tmp_path / "data", config, "--base-url", server.base, "-o", str(tmp_path / "out"))
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "detected" in line:
            break
    process.send_signal(how)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0, rest
    with closing(CoverageLedger(tmp_path / "data" / "coverage.sqlite3")) as ledger:
        assert ledger.to_store() == []
        names = {each.name for each in ledger.detections(PLACE, 0, time.time())}
    assert names and names == {path.stem for path in (tmp_path / "out" / "metadata").iterdir()}
