"""OrcaHello's configurations of both generations, and the records of detections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chatapi.engines import SoundOptions
from chatapi.engines.sound_detector import orcahello
from chatapi.errors import BadInput
from chatapi.services.stream_monitoring.config import PlaceConfig, read
from chatapi.services.stream_monitoring.decision import OldRule, V1Rule
from chatapi.services.stream_monitoring.records import clip_name, record

FLAT = """
model_id: "orcasound/orcahello-srkw-detector-v1.030926"
model_hf_repo_id: "orcasound/orcahello-srkw-detector-v1"
model_config_path: "./model/config.yaml"
hls_stream_type: "DateRangeHLS"
hls_polling_interval: 60
hls_start_time_pst: "2024-11-02 09:52"
hls_end_time_pst: "2024-11-02 09:53"
hls_hydrophone_id: "rpi_bush_point"
upload_to_azure: false
delete_local_wavs: true
"""
MODEL = """
audio: {downmix_mono: true, resample_rate: 20000, normalize: false}
spectrogram: {sample_rate: 16000, n_fft: 2560, hop_length: 256, mel_f_max: 10000.0, top_db: 100}
model: {name: "orcahello-srkw-detector-v1", input_pad_s: 4.0, num_classes: 2}
inference: {window_s: 2.0, window_hop_s: 1.0, max_batch_size: 4, strict_segments: true}
global_prediction: {aggregation_strategy: mean_thresholded, pred_global_threshold: 0.7}
"""
MANY = """
orchestrator_config:
  model_id: m
  hls_stream_type: LiveHLS
  hls_live_delay_buffer: 60
  inference_segment_size: 30
  model_config_overrides:
    inference: {max_batch_size: 16}
    global_prediction: {pred_global_threshold: 0.6, mean_top_k: 3}
location_config:
  - location_id: rpi_orcasound_lab
  - location_id: north
    hls_hydrophone_id: rpi_north_sjc
    model_config_overrides: {global_prediction: {pred_global_threshold: 0.95}}
"""


def places(tmp_path: Path, text: str) -> tuple[PlaceConfig, ...]:
    (tmp_path / "config.yml").write_text(text)
    return read(tmp_path / "config.yml").places


def test_v1_without_its_model_configuration_has_the_values_of_production(tmp_path: Path) -> None:
    [place] = places(tmp_path, FLAT)
    assert place.rule == V1Rule(0.5, 0.6, 2, "mean_top_k")
    assert place.options == SoundOptions("orcahello-v1", 3.0, 2.0, True, 8)
    # Daylight saving time ended a day later.
    assert place.span == (1_730_566_320, 1_730_566_380)
    assert place.base_url == "https://s3-us-west-2.amazonaws.com/audio-orcasound-net"
    assert not place.is_live and not place.upload and not place.keep_clips


def test_v1_reads_its_model_configuration_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.yaml").write_text(MODEL)
    [place] = places(tmp_path, FLAT)
    assert place.rule == V1Rule(0.5, 0.7, 2, "mean_thresholded")
    assert place.options == SoundOptions("orcahello-v1", 2.0, 1.0, False, 4)


def test_a_place_of_many_overrides_single_values(tmp_path: Path) -> None:
    lab, north = places(tmp_path, MANY)
    assert lab.rule == V1Rule(0.5, 0.6, 3) and north.rule == V1Rule(0.5, 0.95, 3)
    assert lab.options.batch == north.options.batch == 16
    assert (lab.clip_seconds, lab.delay, lab.location.name) == (30, 60, "Orcasound Lab")
    assert north.location == orcahello.LOCATIONS["rpi_north_sjc"]
    assert lab.is_live


def test_old_generation(tmp_path: Path) -> None:
    text = "model_type: FastAI\nhls_hydrophone_id: rpi_port_townsend\nhls_stream_type: LiveHLS\n"
    [place] = places(tmp_path, text + "model_local_threshold: 0.4\nmodel_global_threshold: 5\nupload_to_azure: True\n")
    assert place.rule == OldRule(0.4, 5)
    assert place.options == SoundOptions("orcahello") and place.clip_seconds == 60 and place.upload


def test_a_bomb_of_aliases_and_a_large_file_are_rejected(tmp_path: Path) -> None:
    levels = "\n".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9))
    with pytest.raises(BadInput, match="hls_hydrophone_id"):
        places(tmp_path, "a0: &a0 [x]\n" + levels)
    with pytest.raises(BadInput, match="larger"):
        places(tmp_path, "#" * (2 << 20))
    with pytest.raises(BadInput, match="no YAML"):
        places(tmp_path, "a: !!python/object/apply:os.system [id]")
    with pytest.raises(BadInput, match="cannot be read"):
        read(tmp_path / "none.yml")


def test_names_and_ids_are_the_same_every_time(tmp_path: Path) -> None:
    [place] = places(tmp_path, FLAT)
    start = 1_730_566_320.0
    assert clip_name(place, start) == clip_name(place, start - 0.004) == "rpi-bush-point_2024_11_02_09_52_00_PDT"
    assert clip_name(replace(place, generation=orcahello.OLD), start) == "rpi_bush_point_2024_11_02_09_52_00_PDT"
    decision = place.rule.decide([0.1, 0.9, 0.8], [0, 2, 4], 3, 60)
    made = record(place, start, "m", decision, "s3://bucket")
    assert made == record(place, start, "m", decision, "s3://bucket")
    assert made["id"] != record(place, start, "other", decision, "s3://bucket")["id"]
    assert made["whaleFoundConfidence"] == pytest.approx(85)
    assert made["predictions"] == [
        {"id": 1, "startTime": 2, "duration": 3, "confidence": 0.9},
        {"id": 2, "startTime": 4, "duration": 3, "confidence": 0.8},
    ]
    assert made["audioUri"] == "s3://bucket/audiowavs/rpi-bush-point_2024_11_02_09_52_00_PDT.wav"
