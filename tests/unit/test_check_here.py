"""`chatapi check`: disks, ports, certificates, sound devices, models and memory, of any machine."""

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
from jetson_scenarios import NOW, SWAPS, scene, told
from model_library import library
from test_board import ORIN_NX


def room(monkeypatch: pytest.MonkeyPatch, free: int, files: int, flags: int = 0, total_files: int = 10**6) -> None:
    found = SimpleNamespace(f_bavail=free, f_frsize=1, f_favail=files, f_files=total_files, f_flag=flags)
    monkeypatch.setattr(os, "statvfs", lambda _: found)


@pytest.mark.parametrize(
    ("how", "expected"),
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
def test_room_in_the_data_directory(monkeypatch: pytest.MonkeyPatch, how: tuple[int, ...], expected: list[str]) -> None:
    one = scene({})
    room(monkeypatch, *how)
    assert told(storage.data, one) == [line.format(data=one.settings.data) for line in expected]


def test_a_data_directory_that_is_none_or_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [found] = told(storage.data, scene({}, f"data={tmp_path}/file/data"))
    assert found == f"bad data: {tmp_path}/file/data cannot be used: Not a directory; set data or CHATAPI_DATA"
    one = scene({})
    monkeypatch.setattr(os, "access", lambda *_: False)
    [found] = told(storage.data, one)
    assert found.startswith(f"bad data: this user cannot write {one.settings.data}: sudo chown -R {os.getuid()} ")


def test_conversations_are_judged(tmp_path: Path) -> None:
    one = scene({}, f"data={tmp_path}")
    file = tmp_path / "history.sqlite3"
    assert told(conversations.conversations, one) == []
    with closing(ConversationHistory(file, 3600, 10)) as history:
        history.add(ConversationState("a", None, ()), "one?", "1")
        assert told(conversations.conversations, one) == []
    file.chmod(0o644)
    [others] = told(conversations.conversations, one)
    assert others == f"note conversations: other users of this machine may read {file}: chmod go= {file}"
    file.write_bytes(b"x" * 5000)
    assert "is damaged (file is not a database)" in told(conversations.conversations, one)[-1]
    with closing(ConversationHistory(file, 3600, 10)):
        [aside] = told(conversations.conversations, one)
    assert "history.damaged-" in aside and ".recover" in aside
    file.unlink()
    file.mkdir()
    assert told(conversations.conversations, one)[-1].endswith("renames it at its start, and creates a new file")


def test_data_that_goes_with_the_container() -> None:
    assert told(storage.data, scene({".dockerenv": ""}))[-1].endswith(
        "mount a volume there, docker run -v /var/lib/chatapi:" + str(scene({}).settings.data)
    )


@pytest.mark.parametrize(("card", "said"), [("SD\n", 1), ("MMC\n", 0), (None, 0)])
def test_an_sd_card_is_slow(card: str | None, said: int) -> None:
    disk = "sys/devices/platform/3400000.mmc/mmc_host/mmc1/mmc1:aaaa/block/mmcblk1"
    one = scene({f"{disk}/mmcblk1p1/dev": "179:1", **({f"{disk}/device/type": card} if card else {})})
    device = one.settings.data.stat().st_dev
    link = one.root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(one.root / disk / "mmcblk1p1")
    found = told(storage.kind, one)
    assert len(found) == said
    assert not said or ("SD card" in found[0] and "NVMe" in found[0])


@contextmanager
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_in_use_is_told_with_who_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with taken() as port:
        [found] = told(network.address, scene({}, f"server.port={port}"))
        assert f"(process {os.getpid()})" in found or f"process {os.getpid()}" in found
        monkeypatch.setattr(network, "listening", lambda _: (77, "nginx", False))
        [found] = told(network.address, scene({}, f"server.port={port}"))
        assert found == f"bad address: 127.0.0.1:{port} is used by nginx (process 77): end it, or set server.port"
        monkeypatch.setattr(network, "listening", lambda _: (78, "python3", True))
        [found] = told(network.address, scene({}, f"server.port={port}"))
        assert found == "good address: chatapi is already running there, as process 78"
        monkeypatch.setattr(network, "listening", lambda _: None)
        assert told(network.address, scene({}, f"server.port={port}"))[0].startswith("note address: 127.0.0.1")
    assert told(network.address, scene({}, f"server.port={port}")) == [f"good address: 127.0.0.1:{port} is free"]
    assert "cannot listen on" in told(network.address, scene({}, "server.host=203.0.113.1"))[0]


def test_an_open_address_without_a_key_is_worth_a_note() -> None:
    closing = "chatapi keys add NAME, or set server.api_key, to close it"
    told_open = f"note address: 0.0.0.0 is open to everyone on the network: {closing}"
    assert told_open in told(network.address, scene({}, "server.host=0.0.0.0", "server.port=0"))
    closed = scene({}, "server.host=0.0.0.0", "server.port=0", "server.api_key=k")
    assert told_open not in told(network.address, closed)


def test_keys_close_the_address_and_are_told_where_they_are_damaged_or_all_revoked(tmp_path: Path) -> None:
    there = scene({}, "server.host=0.0.0.0", "server.port=0", f"data={tmp_path}")
    assert told(network.named_keys, there) == []
    auth.add(tmp_path, "kitchen", ["talk"])
    assert not any("open to everyone" in line for line in told(network.address, there))
    [good] = told(network.named_keys, there)
    assert good.startswith("good keys: 1 of 1 keys in")
    auth.revoke(tmp_path, "kitchen")
    [shut] = told(network.named_keys, there)
    assert shut.startswith("note keys: 0 of 1 keys in") and "every request is rejected: chatapi keys add" in shut
    auth.file_of(tmp_path).write_text("damaged")
    [bad] = told(network.named_keys, there)
    assert bad.startswith("bad keys:") and "keys.json" in bad
    assert not any("open to everyone" in line for line in told(network.address, there))


def certificate(folder: Path, start: datetime, end: datetime, *names: str) -> Path:
    """A certificate and its key in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "box")])
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
def test_a_certificate_of_ones_own(
    tmp_path: Path, start: timedelta, end: timedelta, names: tuple[str, ...], level: str,
    expected: str,
) -> None:  # fmt: skip
    file = certificate(tmp_path, NOW + start, NOW + end, *names)
    [found] = told(network.certificate, scene({}, "server.tls=true", f"server.certificate={file}"))
    assert found.startswith(f"{level} certificate: ") and expected in found


def test_a_star_covers_one_label() -> None:
    assert certificates._covers("*.home.example", frozenset({"box.home.example"}))
    assert not certificates._covers("*.home.example", frozenset({"a.box.home.example", "home.example"}))


def test_the_boxs_own_certificate(tmp_path: Path) -> None:
    tls = "server.tls=true"
    assert told(network.certificate, scene({})) == []
    assert told(network.certificate, scene({}, tls)) == ["good certificate: it is created at the first start"]
    CertificateKeeper(tmp_path / "data").refresh(NOW)
    assert told(network.certificate, scene({}, tls))[0].startswith("good certificate: chatapi's own, valid to 2027")
    [found] = told(network.certificate, scene({}, tls, now=datetime(1970, 1, 1, tzinfo=timezone.utc)))
    assert found.startswith(
        "bad certificate: it is valid from 2026-11-20 and the clock shows 1970-01-01: set the clock"
    )
    CertificateKeeper(tmp_path / "data").file.write_text("damaged")
    assert "are not a certificate" in told(network.certificate, scene({}, tls))[0]


class Devices:
    """Stands in for sounddevice: what is asked of it while devices are looked for."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self.default = SimpleNamespace(device={"input": 0 if names else -1, "output": 0 if names else -1})

    def query_devices(self) -> list[dict[str, Any]]:
        return [{"name": name, "index": index, "max_input_channels": 1, "max_output_channels": 2}
                for index, name in enumerate(self._names)]  # fmt: skip


PCM = {"dev/snd/pcmC0D0c": "", "dev/snd/pcmC0D0p": ""}


ENABLED = ("audio_device.enabled=true",)


@pytest.mark.parametrize(
    ("seen", "files", "chosen", "expected"),
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
def test_sound_devices(
    monkeypatch: pytest.MonkeyPatch, seen: tuple[str, ...], files: dict[str, str],
    chosen: tuple[str, ...], expected: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(portaudio, "load", lambda: Devices(*seen))
    found = told(audio_devices.sound, scene(files, *chosen))
    assert sorted(found) == sorted(expected)


def test_no_right_to_the_sound_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portaudio, "load", Devices)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("getpass.getuser", lambda: "kim")
    found = told(audio_devices.sound, scene(PCM, "audio_device.enabled=true"))
    assert found == [
        "bad microphone: this user has no access to the sound devices: sudo usermod -aG audio kim, and log in again",
        "bad speaker: this user has no access to the sound devices: sudo usermod -aG audio kim, and log in again",
    ]
    found = told(audio_devices.sound, scene({**PCM, ".dockerenv": ""}, "audio_device.enabled=true", quick=True))
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
def test_swap(files: dict[str, str], expected: list[str]) -> None:
    assert told(models.swap, scene({**ORIN_NX, **files})) == expected


def test_an_old_system_has_no_wake_word(monkeypatch: pytest.MonkeyPatch) -> None:
    wake = ("wake_word.engine=pymicro_wakeword", "audio_device.enabled=true", "audio_device.mode=wake_word")
    monkeypatch.setattr(models, "glibc", lambda: "glibc 2.31")
    assert told(models.machine, scene({}, *wake))[1:] == [
        "bad machine: the wake word needs glibc 2.35 and this system has 2.31: use Ubuntu 22.04, Debian 12 or later, "
        "or chatapi's image"
    ]
    assert told(models.machine, scene({}, wake[0]))[1].startswith("note machine")
    monkeypatch.setattr(models, "glibc", lambda: "glibc 2.35")
    assert len(told(models.machine, scene({}, *wake))) == 1


def test_a_missing_wake_word_is_bad_only_where_it_is_used() -> None:
    wake = "wake_word.engine=pymicro_wakeword"
    [found] = told(models.files, scene({}, wake))
    assert found.startswith("note wake_word model") and "chatapi models fetch okay_nabu" in found
    [found] = told(models.files, scene({}, wake, "audio_device.enabled=true", "audio_device.mode=wake_word"))
    assert found.startswith("bad wake_word model")


def test_a_model_that_was_not_compiled() -> None:
    one = scene({}, "llm.engine=mlc", "llm.model=mistral-7b")
    folder = one.settings.data / "compiled" / "mistral-7b"
    assert told(models.compiled, one) == [
        "bad compiled model: mistral-7b is not compiled for this board: chatapi compile mistral-7b"
    ]
    folder.mkdir(parents=True)
    assert "has no lib.so" in told(models.compiled, one)[0]
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    (folder / "lib.so").write_bytes(library(other))
    assert f"is for {other} and this machine is {platform.machine()}" in told(models.compiled, one)[0]


def test_models_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tight = {**ORIN_NX, "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 90000 kB\n"}
    one = scene(tight, "asr.engine=whisper_cpp", "asr.model=whisper-small")
    monkeypatch.setattr("chatapi.catalog.Catalog.installed", lambda *_: True)
    monkeypatch.setattr(network, "listening", lambda _: None)
    [found] = told(models.room, one)
    assert found.startswith("bad memory: the models need 0.9 GB and 92 MB are free (asr whisper-small 0.9 GB)")
    # What holds the memory may be chatapi itself.
    monkeypatch.setattr(network, "listening", lambda _: (4, "python3", True))
    [found] = told(models.room, one)
    assert found.startswith("note memory: chatapi is running (process 4) with its models in memory; beside it ")
    # Which models it would take is then judged by all that the machine has.
    assert network.shared(8000, one.root) == 8_000_000 * 1024
    monkeypatch.setattr(network, "listening", lambda _: (4, "nginx", False))
    assert network.shared(8000, one.root) is None
    swapping = scene({**tight, "proc/device-tree/compatible": "", "etc/nv_tegra_release": "", "proc/meminfo":
                      "MemTotal: 8000000 kB\nMemAvailable: 90000 kB\nSwapFree: 9000000 kB\n"},
                     "asr.engine=whisper_cpp", "asr.model=whisper-small")  # fmt: skip
    assert told(models.room, swapping)[0].startswith("note memory: the models need 0.9 GB and 92 MB of 8.2 GB are free")
