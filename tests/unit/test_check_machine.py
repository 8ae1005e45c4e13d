"""`chatapi check` on any machine: disks, ports, certificates, sound devices, models and memory."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chatapi import auth
from chatapi.auth.certificate_authority import CertificateKeeper
from chatapi.cli.check import audio_devices, certificates, conversations, models, network, storage
from chatapi.interfaces.audio_device import portaudio
from chatapi.storage.history import ConversationHistory, ConversationState
from check_contexts import NOW, SWAPS, check_context, findings
from fake_jetson import ORIN_NX
from model_library import library


def fake_file_system(
    monkeypatch: pytest.MonkeyPatch, free: int, files: int, flags: int = 0, total_files: int = 10**6
) -> None:
    found = SimpleNamespace(f_bavail=free, f_frsize=1, f_favail=files, f_files=total_files, f_flag=flags)
    monkeypatch.setattr(os, "statvfs", lambda _: found)


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        ((5 << 30, 10**6), ["good data: {data}, 5.4 GB free"]),
        ((500 << 20, 10**6), ["note data: {data}, 0.5 GB free: free space, for example with `chatapi models "
                                "remove NAME`"]),
        ((1 << 20, 10**6), ["bad data: {data}, 0.0 GB free: free space, for example with `chatapi models "
                                "remove NAME`"]),
        ((5 << 30, 0), ["good data: {data}, 5.4 GB free", "bad data: only 0 more files can be created on the file "
                        "system of {data}: delete files there"]),
        ((5 << 30, 0, 0, 0), ["good data: {data}, 5.4 GB free"]),
        ((5 << 30, 10**6, os.ST_RDONLY), ["bad data: {data} is on a read-only file system: mount it for "
                                          "writing, or set CHATAPI_DATA"]),
    ],
)  # fmt: skip
def test_free_space_of_the_data_directory_is_reported(
    monkeypatch: pytest.MonkeyPatch, disk: tuple[int, ...], expected: list[str]
) -> None:
    context = check_context({})
    fake_file_system(monkeypatch, *disk)
    assert findings(storage.data, context) == [line.format(data=context.settings.data) for line in expected]


def test_unusable_data_directory_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [found] = findings(storage.data, check_context({}, f"data={tmp_path}/file/data"))
    assert found == f"bad data: {tmp_path}/file/data cannot be used: Not a directory; set data or CHATAPI_DATA"
    context = check_context({})
    monkeypatch.setattr(os, "access", lambda *_: False)
    [found] = findings(storage.data, context)
    assert found.startswith(f"bad data: this user cannot write {context.settings.data}: sudo chown -R {os.getuid()} ")


def test_state_of_the_conversation_store_is_reported(tmp_path: Path) -> None:
    context = check_context({}, f"data={tmp_path}")
    file = tmp_path / "history.sqlite3"
    assert findings(conversations.conversations, context) == []
    with closing(ConversationHistory(file, 3600, 10)) as history:
        history.add(ConversationState("a", None, ()), "one?", "1")
        assert findings(conversations.conversations, context) == []
    file.chmod(0o644)
    [readable] = findings(conversations.conversations, context)
    assert readable == f"note conversations: other users of this machine may read {file}: chmod go= {file}"
    file.write_bytes(b"x" * 5000)
    assert "is damaged (file is not a database)" in findings(conversations.conversations, context)[-1]
    with closing(ConversationHistory(file, 3600, 10)):
        [renamed] = findings(conversations.conversations, context)
    assert "history.damaged-" in renamed and ".recover" in renamed
    file.unlink()
    file.mkdir()
    assert findings(conversations.conversations, context)[-1].endswith(
        "renames it at its start, and creates a new file"
    )


def test_data_inside_a_container_is_reported() -> None:
    assert findings(storage.data, check_context({".dockerenv": ""}))[-1].endswith(
        "mount a volume there, docker run -v /var/lib/chatapi:" + str(check_context({}).settings.data)
    )


@pytest.mark.parametrize(("card", "count"), [("SD\n", 1), ("MMC\n", 0), (None, 0)])
def test_sd_card_is_reported_as_slow(card: str | None, count: int) -> None:
    disk = "sys/devices/platform/3400000.mmc/mmc_host/mmc1/mmc1:aaaa/block/mmcblk1"
    context = check_context({f"{disk}/mmcblk1p1/dev": "179:1", **({f"{disk}/device/type": card} if card else {})})
    device = context.settings.data.stat().st_dev
    link = context.root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(context.root / disk / "mmcblk1p1")
    found = findings(storage.kind, context)
    assert len(found) == count
    assert not count or ("SD card" in found[0] and "NVMe" in found[0])


@contextmanager
def port_in_use() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_port_in_use_is_reported_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with port_in_use() as port:
        [found] = findings(network.address, check_context({}, f"server.port={port}"))
        assert f"(process {os.getpid()})" in found or f"process {os.getpid()}" in found
        monkeypatch.setattr(network, "listening", lambda _: (77, "nginx", False))
        [found] = findings(network.address, check_context({}, f"server.port={port}"))
        assert found == f"bad address: 127.0.0.1:{port} is used by nginx (process 77): end it, or set server.port"
        monkeypatch.setattr(network, "listening", lambda _: (78, "python3", True))
        [found] = findings(network.address, check_context({}, f"server.port={port}"))
        assert found == "good address: chatapi is already running there, as process 78"
        monkeypatch.setattr(network, "listening", lambda _: None)
        assert findings(network.address, check_context({}, f"server.port={port}"))[0].startswith(
            "note address: 127.0.0.1"
        )
    assert findings(network.address, check_context({}, f"server.port={port}")) == [
        f"good address: 127.0.0.1:{port} is free"
    ]
    assert "cannot listen on" in findings(network.address, check_context({}, "server.host=203.0.113.1"))[0]


def test_torchserve_ports_in_use_are_reported_by_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = ("inference_port", "management_port", "metrics_port", "grpc_inference_port", "grpc_management_port")
    monkeypatch.setattr(network, "listening", lambda _: (77, "nginx", False))
    with port_in_use() as used:
        for name in ports:
            numbers = {each: used if each == name else 0 for each in ports}
            chosen = [f"torchserve.{each}={number}" for each, number in numbers.items()]
            found = findings(network.torchserve, check_context({}, "torchserve.enabled=true", *chosen))
            message = f"127.0.0.1:{used} is used by nginx (process 77): end it, or set torchserve.{name}"
            assert [each for each in found if each.startswith("bad")] == [f"bad TorchServe: {message}"]
            assert findings(network.torchserve, check_context({}, *chosen)) == []


def test_asr_webservice_reports_its_port_keys_and_open_address(tmp_path: Path) -> None:
    with port_in_use() as port:
        chosen = ("asr_webservice.enabled=true", f"asr_webservice.port={port}", f"data={tmp_path}")
        assert str(port) in findings(network.asr_webservice, check_context({}, *chosen))[0]
        assert findings(network.asr_webservice, check_context({}, *chosen[1:])) == []
    public = (*chosen, "asr_webservice.port=0", "asr_webservice.host=0.0.0.0")
    free, note = findings(network.asr_webservice, check_context({}, *public))
    assert free == "good whisper-asr-webservice: 0.0.0.0:0 is free" and "set asr_webservice.allow" in note
    auth.add(tmp_path, "kitchen", ["talk"])
    [keys] = findings(network.asr_webservice, check_context({}, *public))
    assert keys.startswith("bad whisper-asr-webservice: it cannot be offered: the box has API keys")


def test_grpc_reports_its_port_keys_and_open_address(tmp_path: Path) -> None:
    with port_in_use() as port:
        chosen = ("grpc.enabled=true", f"grpc.port={port}", f"data={tmp_path}")
        [found] = findings(network.grpc, check_context({}, *chosen))
        assert str(port) in found and "set grpc.port" in found
        assert findings(network.grpc, check_context({}, *chosen[1:])) == []
    public = (*chosen, "grpc.port=0", "grpc.host=0.0.0.0")
    free, note = findings(network.grpc, check_context({}, *public))
    assert free == "good gRPC: 0.0.0.0:0 is free" and note.startswith("note gRPC: 0.0.0.0 is open to everyone")
    auth.add(tmp_path, "kitchen", ["talk"])
    assert findings(network.grpc, check_context({}, *public)) == [free]


def test_open_address_without_an_api_key_is_a_note() -> None:
    closing = "chatapi keys add NAME, or set server.api_key, to close it"
    note = f"note address: 0.0.0.0 is open to everyone on the network: {closing}"
    assert note in findings(network.address, check_context({}, "server.host=0.0.0.0", "server.port=0"))
    with_key = check_context({}, "server.host=0.0.0.0", "server.port=0", "server.api_key=k")
    assert note not in findings(network.address, with_key)


def test_api_keys_close_the_address_and_damaged_or_revoked_ones_are_reported(tmp_path: Path) -> None:
    context = check_context({}, "server.host=0.0.0.0", "server.port=0", f"data={tmp_path}")
    assert findings(network.named_keys, context) == []
    auth.add(tmp_path, "kitchen", ["talk"])
    assert not any("open to everyone" in line for line in findings(network.address, context))
    [valid] = findings(network.named_keys, context)
    assert valid.startswith("good keys: 1 of 1 keys in")
    auth.revoke(tmp_path, "kitchen")
    [revoked] = findings(network.named_keys, context)
    assert revoked.startswith("note keys: 0 of 1 keys in") and "every request is rejected: chatapi keys add" in revoked
    auth.file_of(tmp_path).write_text("damaged")
    [damaged] = findings(network.named_keys, context)
    assert damaged.startswith("bad keys:") and "keys.json" in damaged
    assert not any("open to everyone" in line for line in findings(network.address, context))


def certificate_file(folder: Path, start: datetime, end: datetime, *names: str) -> Path:
    """A certificate and its key in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, end)
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
        builder = builder.add_extension(alternatives, critical=False)
    made = builder.sign(key, hashes.SHA256())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "own.pem"
    pem = serialization.Encoding.PEM
    file.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, form, plain))
    return file


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("start", "end", "names", "level", "expected"),
    [
        (-DAY, 90 * DAY, ("localhost",), "good", "valid to"),
        (-9 * DAY, -DAY, ("localhost",), "bad", "ended on 2026-11-20: renew it"),
        (-9 * DAY, 5 * DAY, ("localhost",), "note", "ends on 2026-11-26: renew it"),
        (DAY, 9 * DAY, ("localhost",), "bad", "valid from 2026-11-22 and the clock shows 2026-11-21: set the clock"),
        (-DAY, 90 * DAY, ("elsewhere.example",), "note", "is for elsewhere.example, and this machine is"),
        (-DAY, 90 * DAY, (), "bad", "has no subject alternative name"),
    ],
)
def test_configured_certificate_is_checked(
    tmp_path: Path, start: timedelta, end: timedelta, names: tuple[str, ...], level: str,
    expected: str,
) -> None:  # fmt: skip
    file = certificate_file(tmp_path, NOW + start, NOW + end, *names)
    [found] = findings(network.certificate, check_context({}, "server.tls=true", f"server.certificate={file}"))
    assert found.startswith(f"{level} certificate: ") and expected in found


def test_wildcard_covers_one_label() -> None:
    assert certificates._covers("*.home.example", frozenset({"a.home.example"}))
    assert not certificates._covers("*.home.example", frozenset({"a.b.home.example", "home.example"}))


def test_generated_certificate_is_checked(tmp_path: Path) -> None:
    tls = "server.tls=true"
    assert findings(network.certificate, check_context({})) == []
    assert findings(network.certificate, check_context({}, tls)) == [
        "good certificate: it is created at the first start"
    ]
    CertificateKeeper(tmp_path / "data").refresh(NOW)
    assert findings(network.certificate, check_context({}, tls))[0].startswith(
        "good certificate: chatapi's own, valid to 2027"
    )
    [found] = findings(network.certificate, check_context({}, tls, now=datetime(1970, 1, 1, tzinfo=timezone.utc)))
    assert found.startswith(
        "bad certificate: it is valid from 2026-11-20 and the clock shows 1970-01-01: set the clock"
    )
    CertificateKeeper(tmp_path / "data").file.write_text("damaged")
    assert "are not a certificate" in findings(network.certificate, check_context({}, tls))[0]


class FakeSoundDevices:
    """A fake sounddevice module with these devices."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self.default = SimpleNamespace(device={"input": 0 if names else -1, "output": 0 if names else -1})

    def query_devices(self) -> list[dict[str, Any]]:
        return [{"name": name, "index": index, "max_input_channels": 1, "max_output_channels": 2}
                for index, name in enumerate(self._names)]  # fmt: skip


PCM = {"dev/snd/pcmC0D0c": "", "dev/snd/pcmC0D0p": ""}


ENABLED = ("audio_device.enabled=true",)


@pytest.mark.parametrize(
    ("devices", "files", "chosen", "expected"),
    [
        (("Jabra",), {}, (), ["good microphone: Jabra", "good speaker: Jabra"]),
        ((), {}, ENABLED, ["bad sound: there is no sound device: plug in a USB headset or speakerphone"]),
        ((), {}, (), ["note sound: there is no sound device: plug in a USB headset or speakerphone"]),
        ((), {".dockerenv": ""}, ENABLED, ["bad sound: the container has no sound device: start it "
                                                         "with --device /dev/snd"]),
        ((), {"dev/snd/pcmC0D3p": ""}, ENABLED, ["bad microphone: no sound device is a microphone: plug "
                                                               "one in"]),
        (("Jabra", "HDMI"), PCM, ("audio_device.enabled=true", "audio_device.input=Yeti"),
         ["bad microphone: there is no input device named 'Yeti'; there are: 'Jabra', 'HDMI': set audio_device.input "
          "to one of them", "good speaker: Jabra"]),
        ((), PCM, ENABLED,
         ["bad microphone: there is no default input device; there are: none: plug one in, or set audio_device.input",
          "bad speaker: there is no default output device; there are: none: plug one in, or set audio_device.output"]),
    ],
)  # fmt: skip
def test_sound_devices_are_reported(
    monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], files: dict[str, str],
    chosen: tuple[str, ...], expected: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(portaudio, "load", lambda: FakeSoundDevices(*devices))
    found = findings(audio_devices.sound, check_context(files, *chosen))
    assert sorted(found) == sorted(expected)


def test_missing_access_to_the_sound_devices_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portaudio, "load", FakeSoundDevices)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("getpass.getuser", lambda: "kim")
    found = findings(audio_devices.sound, check_context(PCM, "audio_device.enabled=true"))
    assert found == [
        "bad microphone: this user has no access to the sound devices: sudo usermod -aG audio kim, and log in again",
        "bad speaker: this user has no access to the sound devices: sudo usermod -aG audio kim, and log in again",
    ]
    found = findings(
        audio_devices.sound, check_context({**PCM, ".dockerenv": ""}, "audio_device.enabled=true", quick=True)
    )
    assert found[0].endswith("start the container with --group-add audio")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),
        ({"proc/swaps": SWAPS + "/dev/zram0 partition 1000000 0 5\n/dev/zram1 partition 1000000 0 5\n"},
         ["note swap: all of it (2.0 GB) is zram, which uses the memory that models need: sudo systemctl disable "
          "--now nvzramconfig, and a swap file on the disk"]),
        ({"proc/swaps": SWAPS + "/dev/zram0 partition 1000000 0 5\n/var/swap file 8000000 0 -2\n"}, []),
        ({"proc/swaps": SWAPS + "/var/swap file 8000000 2000000 -2\n"},
         ["note swap: 2.0 GB of the memory are swapped out, which delays answers: end other programs, or choose "
          "smaller models"]),
    ],
)  # fmt: skip
def test_swap_is_reported(files: dict[str, str], expected: list[str]) -> None:
    assert findings(models.swap, check_context({**ORIN_NX, **files})) == expected


def test_wake_word_on_an_old_system_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    wake = ("wake_word.engine=pymicro_wakeword", "audio_device.enabled=true", "audio_device.mode=wake_word")
    monkeypatch.setattr(models, "glibc", lambda: "glibc 2.31")
    assert findings(models.machine, check_context({}, *wake))[1:] == [
        "bad machine: the wake word needs glibc 2.35 and this system has 2.31: use Ubuntu 22.04, Debian 12 or later, "
        "or chatapi's image"
    ]
    assert findings(models.machine, check_context({}, wake[0]))[1].startswith("note machine")
    monkeypatch.setattr(models, "glibc", lambda: "glibc 2.35")
    assert len(findings(models.machine, check_context({}, *wake))) == 1


def test_missing_wake_word_model_is_bad_only_where_it_is_used() -> None:
    wake = "wake_word.engine=pymicro_wakeword"
    [found] = findings(models.files, check_context({}, wake))
    assert found.startswith("note wake_word model") and "chatapi models fetch okay_nabu" in found
    [found] = findings(
        models.files, check_context({}, wake, "audio_device.enabled=true", "audio_device.mode=wake_word")
    )
    assert found.startswith("bad wake_word model")


def test_model_that_is_not_compiled_is_reported() -> None:
    context = check_context({}, "llm.engine=mlc", "llm.model=mistral-7b")
    folder = context.settings.data / "compiled" / "mistral-7b"
    assert findings(models.compiled, context) == [
        "bad compiled model: mistral-7b is not compiled for this board: chatapi compile mistral-7b"
    ]
    folder.mkdir(parents=True)
    assert "has no lib.so" in findings(models.compiled, context)[0]
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    (folder / "lib.so").write_bytes(library(other))
    assert f"is for {other} and this machine is {platform.machine()}" in findings(models.compiled, context)[0]


def test_models_larger_than_the_memory_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    tight = {**ORIN_NX, "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 90000 kB\n"}
    context = check_context(tight, "asr.engine=whisper_cpp", "asr.model=whisper-small")
    monkeypatch.setattr("chatapi.catalog.Catalog.installed", lambda *_: True)
    monkeypatch.setattr(network, "listening", lambda _: None)
    [found] = findings(models.room, context)
    assert found.startswith("bad memory: the models need 0.9 GB and 92 MB are free (asr whisper-small 0.9 GB)")
    # chatapi itself may use the memory.
    monkeypatch.setattr(network, "listening", lambda _: (4, "python3", True))
    [found] = findings(models.room, context)
    assert found.startswith("note memory: chatapi is running (process 4) with its models in memory; beside it ")
    # Then models are selected by all memory of the machine.
    assert network.shared(8000, context.root) == 8_000_000 * 1024
    monkeypatch.setattr(network, "listening", lambda _: (4, "nginx", False))
    assert network.shared(8000, context.root) is None
    swapping = check_context({**tight, "proc/device-tree/compatible": "", "etc/nv_tegra_release": "", "proc/meminfo":
                              "MemTotal: 8000000 kB\nMemAvailable: 90000 kB\nSwapFree: 9000000 kB\n"},
                             "asr.engine=whisper_cpp", "asr.model=whisper-small")  # fmt: skip
    assert findings(models.room, swapping)[0].startswith(
        "note memory: the models need 0.9 GB and 92 MB of 8.2 GB are free"
    )
