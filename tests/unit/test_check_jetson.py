"""`chatapi check` on Jetsons, whose files are those of real boards, and at the start of a server."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from chatapi import settings
from chatapi.cli import check
from chatapi.cli.check import clock, container, jetson
from chatapi.cli.check.finding import CheckContext, Finding, Probe
from check_contexts import NOW, SWAPS, check_context, findings
from fake_jetson import ORIN_NX, without, write_files

GPU = {"dev/nvhost-gpu": "", "dev/nvmap": "", "usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1": ""}
SUPER = """# Power modes of the board
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=2 >
"""
AGX = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MODE_15W >\n< POWER_MODEL ID=3 NAME=MODE_50W >\n"
CPU = "sys/devices/system/cpu/cpu0/cpufreq"
ZONE = "sys/class/thermal/thermal_zone0"


def zone(now: int, passive: int = 99_000) -> dict[str, str]:
    """The CPU's thermal zone of an Orin, in millidegrees: the fan's trip points precede the throttling one."""
    points = (("active", 51_000), ("passive", passive), ("critical", 104_500), ("passive", 0))
    trip_points = {f"{ZONE}/trip_point_{n}_{what}": str(value) for n, point in enumerate(points)
                   for what, value in zip(("type", "temp"), point, strict=True)}  # fmt: skip
    return {f"{ZONE}/type": "cpu-thermal\n", f"{ZONE}/temp": f"{now}\n", **trip_points}


def cooling(**states: int) -> dict[str, str]:
    made: dict[str, str] = {}
    for number, (name, state) in enumerate(states.items()):
        folder = f"sys/class/thermal/cooling_device{number}"
        made |= {f"{folder}/type": name.replace("_", "-") + "\n", f"{folder}/cur_state": f"{state}\n"}
    return made


def overcurrent(**events: int) -> dict[str, str]:
    folder = "sys/class/hwmon/hwmon3"
    return {f"{folder}/name": "soctherm_oc\n", **{f"{folder}/{name}_event_cnt": f"{n}\n" for name, n in events.items()}}


def power_modes(now: str, conf: str = SUPER) -> dict[str, str]:
    return {"var/lib/nvpmodel/status": f"pmode:{now}", "etc/nvpmodel.conf": conf}


@pytest.mark.parametrize(
    ("probe", "files", "expected"),
    [
        (jetson.power, power_modes("0000"), ["note power mode: 15W; MAXN_SUPER is faster: sudo nvpmodel -m 2"]),
        (jetson.power, power_modes("0002"), ["good power mode: MAXN_SUPER, the fastest this board has"]),
        (jetson.power, power_modes("0003", AGX), ["note power mode: MODE_50W; MAXN is faster: sudo nvpmodel -m 0"]),
        (jetson.power, power_modes("0001", AGX.replace("MAXN", "MODE_10W")), ["note power mode: MODE_15W; MODE_50W is "
                                                                        "faster: sudo nvpmodel -m 3"]),
        (jetson.power, power_modes("0009"), []),
        (jetson.power, {"etc/nvpmodel.conf": SUPER}, []),
        (jetson.power, power_modes("garbage", "garbage"), []),
        (jetson.clocks, {f"{CPU}/scaling_min_freq": "1728000", f"{CPU}/scaling_max_freq": "1728000"},
         ["good clocks: fixed at 1.73 GHz"]),
        (jetson.clocks, {f"{CPU}/scaling_min_freq": "115200", f"{CPU}/scaling_max_freq": "1728000",
                         f"{CPU}/scaling_governor": "schedutil\n"},
         ["note clocks: they follow the load (schedutil), which delays answers: sudo jetson_clocks fixes them at the "
          "maximum until the next start"]),
        (jetson.clocks, {}, []),
        (jetson.heat, zone(52_000), ["good heat: cpu-thermal has 52 °C, the board throttles at 99 °C"]),
        (jetson.heat, zone(95_500), ["note heat: cpu-thermal has 96 °C and the board throttles at 99 °C: use a "
                                     "fan, a larger heat sink or a lower power mode"]),
        (jetson.heat, zone(99_000), ["note heat: the board is throttled because it is too hot: use a fan, a larger "
                                     "heat sink or a lower power mode"]),
        (jetson.heat, {**zone(80_000), **cooling(pwm_fan=3, cpu_throttle_alert=0, gpu_throttle_alert=1)},
         ["note heat: the board is throttled because it is too hot (gpu): use a fan, a larger heat sink or a lower "
          "power mode"]),
        (jetson.heat, {**zone(50_000), f"{ZONE}/temp": ""}, []),
        (jetson.current, overcurrent(oc1=0, oc2=0, oc3=27_390), []),
        (jetson.current, overcurrent(oc1=2, oc2=15, oc3=1),
         ["note supply: the supply's voltage fell too low 2 times since the start, and the board was throttled: use "
          "the board's own supply, or a lower power mode",
          "note supply: more current was drawn than the board may take 15 times since the start, and the board was "
          "throttled: use the board's own supply, or a lower power mode"]),
        (container.gpu, GPU, ["good GPU: its devices and driver are available"]),
        (container.gpu, {}, ["note GPU: the GPU cannot be used (no device and no libcuda): install NVIDIA's "
                             "driver, sudo apt-get install nvidia-l4t-cuda"]),
        (container.gpu, {".dockerenv": "", "dev/nvmap": ""},
         ["note GPU: the container has no GPU (no libcuda): start it with --runtime nvidia, as "
          "./run.sh does"]),
        (container.gpu, {"run/.containerenv": "", "dev/nvidia0": "", "usr/lib/aarch64-linux-gnu/libcuda.so.1": ""},
         ["good GPU: its devices and driver are available"]),
    ],
)  # fmt: skip
def test_findings_of_a_jetson_follow_its_files(probe: Probe, files: dict[str, str], expected: list[str]) -> None:
    assert findings(probe, check_context({**ORIN_NX, **files})) == expected
    # Other machines have none of these findings, whatever their files are.
    assert findings(probe, CheckContext(settings.Settings(), write_files(Path("other").absolute(), files))) == []


RUNTIME = '{"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}, "default-runtime": "nvidia"}'
MISSING = (
    "note docker: Docker has no nvidia runtime, so containers have no GPU: sudo nvidia-ctk runtime configure "
    "--runtime=docker && sudo systemctl restart docker"
)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"etc/docker/daemon.json": RUNTIME}, None),
        ({}, MISSING),
        ({"etc/docker/daemon.json": "{}"}, MISSING),
        ({"etc/cdi/nvidia.yaml": "cdiVersion: 0.5.0"}, None),
        ({"etc/docker/daemon.json": "{"}, "note docker: /etc/docker/daemon.json cannot be parsed"),
        ({"etc/docker/daemon.json": "[]"}, "note docker: /etc/docker/daemon.json cannot be parsed"),
        ({".dockerenv": ""}, None),
    ],
)
def test_docker_without_the_nvidia_runtime_is_reported(files: dict[str, str], expected: str | None) -> None:
    found = findings(container.gpu, check_context({**ORIN_NX, **GPU, "usr/bin/docker": "", **files}))
    assert found[0] == "good GPU: its devices and driver are available"
    assert len(found) == (1 if expected is None else 2)
    assert expected is None or found[1].startswith(expected)


def with_release(line: str, cuda: str = "12.6.68") -> dict[str, str]:
    version = json.dumps({"cuda": {"version": cuda}})
    return {**ORIN_NX, "etc/nv_tegra_release": line, "usr/local/cuda/version.json": version}


R36, R39 = ("# R36 (release), REVISION: 4.3, GCID: 1\n", "# R39 (release), REVISION: 1.0, GCID: 1\n")


@pytest.mark.parametrize(
    ("revision", "faulty"), [("4.4", False), ("4.7", True), ("4.8", True), ("5.0", False), ("5", False)]
)
def test_fault_of_the_allocator_is_reported_with_its_remedy(revision: str, faulty: bool) -> None:
    files = with_release(f"# R36 (release), REVISION: {revision}, GCID: 42132812, BOARD: generic, EABI: aarch64\n")
    found = findings(jetson.release, check_context(files))
    assert found[0].startswith("good board") and len(found) == 1 + faulty
    if faulty:
        assert found[1].startswith(f"note GPU memory: L4T r36.{revision} fails") and "update to r36.5" in found[1]


@pytest.mark.parametrize(
    ("files", "image", "level", "expected"),
    [
        (with_release(R36), "36.4.0", "good board", "sm_87, L4T r36.4.3, CUDA 12.6.68"),
        (with_release(R36), "", "good board", "L4T r36.4.3, CUDA 12.6.68"),
        (with_release(R39, "13.2.0"), "r36.4.0", "note image", "the image is for L4T r36 and the board has "
         "r39.1.0: use the image whose name ends in -r39"),
        (with_release(R36, "13.2.0"), "36.4.0", "note image", "CUDA 13.2.0 is installed and L4T r36.4.3 has the driver "
         "of CUDA 12.6: use the image whose name ends in -r36"),
        (without("etc/nv_tegra_release"), "36.4.0", "good board", "Developer Kit, sm_87, CUDA 12.6.68"),
    ],
)  # fmt: skip
def test_image_for_another_release_is_reported(files: dict[str, str], image: str, level: str, expected: str) -> None:
    [found] = findings(jetson.release, check_context(files, environ={"L4T_VERSION": image}))
    assert found.startswith(level) and found.endswith(expected)


def test_missing_gpu_is_bad_when_an_engine_needs_it() -> None:
    context = check_context({**with_release(R39), ".dockerenv": ""}, "llm.engine=mlc", environ={"L4T_VERSION": "36.4"})
    assert [f.level for f in (*jetson.release(context), *container.gpu(context))] == ["bad", "bad"]


def test_unknown_chip_is_named() -> None:
    files = {**ORIN_NX, "proc/device-tree/compatible": "nvidia,p9999\0nvidia,tegra999\0"}
    assert "note board: the chip tegra999 is not supported: use a newer chatapi" in findings(
        jetson.release, check_context(files)
    )


@pytest.mark.parametrize(
    ("files", "now", "expected"),
    [
        ({}, NOW, "good clock: it shows 2026-11-21 12:00 UTC"),
        ({"run/systemd/timesync/synchronized": ""}, NOW, "good clock"),
        ({"run/systemd/timesync/other": ""}, NOW, "note clock: it shows 2026-11-21 12:00 UTC and was not set "
         "since the start: sudo timedatectl set-ntp true, or"),
        ({"run/systemd/timesync/synchronized": ""}, datetime(1970, 1, 1, 0, 3, tzinfo=timezone.utc),
         "note clock: it shows 1970-01-01 00:03 UTC and was never set, so certificates and downloads will be"),
    ],
)  # fmt: skip
def test_unset_clock_is_reported(files: dict[str, str], now: datetime, expected: str) -> None:
    [found] = findings(clock.clock, check_context(files, now=now))
    assert found.startswith(expected)


def test_server_start_logs_findings_without_a_delay(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    context = check_context({}, "audio_device.enabled=true", "asr.engine=whisper_cpp", "tts.engine=piper")
    durations = []
    with caplog.at_level(logging.INFO, "chatapi"):
        for _ in range(5):
            since = time.perf_counter()
            check.report(context.settings)
            durations.append(time.perf_counter() - since)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("check: asr model: no asr model for whisper_cpp is installed") for line in lines)
    assert all("\n" not in line and line.startswith("check: ") for line in lines)
    # Reading a model, loading a library or opening a device would take many times as long, each time.
    assert min(durations) < 0.25


def test_failing_check_does_not_end_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: CheckContext) -> Iterator[Finding]:
        raise ZeroDivisionError
        yield

    monkeypatch.setattr(check, "PROBES", (broken,))
    check.report(check_context({}).settings)
    assert "check failed" in caplog.text


def test_every_fault_states_a_remedy() -> None:
    """On a board with nearly every fault at once."""
    swaps = {"proc/swaps": SWAPS + "/dev/zram0 partition 1000000 0 5\n"}
    container_files = {".dockerenv": "", "run/systemd/timesync/x": ""}
    hardware = {**power_modes("0003"), **zone(99_000), **overcurrent(oc1=1, oc2=1)}
    files = {**with_release(R39), **hardware, **container_files, **swaps}
    chosen = ("audio_device.enabled=true", "asr.engine=whisper_cpp", "server.host=0.0.0.0", "server.port=0")
    context = check_context(files, *chosen, environ={"L4T_VERSION": "36.4"})
    found = [finding for finding in check.look(context) if finding.level != "good"]
    assert len(found) >= 10
    for finding in found:
        assert any(mark in finding.message for mark in (": ", "; ")), finding
        assert finding.message[-1] != "." and "\n" not in finding.message, finding
