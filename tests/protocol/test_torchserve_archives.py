"""Model archives: those of torch-model-archiver and of `chatapi models pack`, and hostile ones."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.cli import main
from chatapi.errors import BadInput
from chatapi.interfaces.torchserve import archive
from conftest import RunningServer, encode_audio, tone, until
from torchserve_ports import TorchServePorts, torchserving

CONFIG = """minWorkers: 2
maxWorkers: 3  # of them
batchSize: 8
responseTimeout: 900
deviceType: cpu
handler:
  batchSize: 5
"""


@pytest.fixture
def ports(shared_server: RunningServer, tmp_path: Path) -> Iterator[TorchServePorts]:
    (tmp_path / "store").mkdir()
    with torchserving(
        shared_server, models=("asr=default", "emformer=default"), grpc=False, model_store=tmp_path / "store"
    ) as found:
        yield found


def archived(folder: Path, name: str, *options: str) -> Path:
    """An archive made by torch-model-archiver, with a handler that leaves a trace when it runs."""
    pytest.importorskip("model_archiver", reason="torch-model-archiver is not installed")
    trace = folder / "ran"
    (folder / "handler.py").write_text(
        f"open({str(trace)!r}, 'w').close()\ndef handle(data, context): return ['mine']\n"
    )
    (folder / "weights.pt").write_bytes(b"weights")
    (folder / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "-c", "from model_archiver.model_packaging import generate_model_archive as run; run()"]
    command += ["--model-name", name, "--version", "2.0", "--handler", str(folder / "handler.py"), "--force"]
    command += ["--serialized-file", str(folder / "weights.pt"), "--export-path", str(folder / "store"), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder / "store" / f"{name}.mar"


def test_archive_of_a_known_model_is_registered_and_its_handler_is_not_run(
    ports: TorchServePorts, tmp_path: Path
) -> None:
    archived(tmp_path, "emformer", "--config-file", str(tmp_path / "config.yaml"))
    response = ports.management.post("/models?url=emformer.mar&synchronous=true&initial_workers=1")
    assert response.json() == {"status": 'Model "emformer" Version: 2.0 registered with 2 initial workers'}
    found = ports.management.get("/models/emformer/2.0").json()[0]
    assert (found["minWorkers"], found["maxWorkers"], found["batchSize"], found["responseTimeout"]) == (2, 3, 8, 900)
    assert [each["modelVersion"] for each in ports.management.get("/models/emformer/all").json()] == ["1.0", "2.0"]
    audio = encode_audio(tone(1.0), 16_000, "pcm_s16le")
    predicted = ports.inference.post("/predictions/emformer/2.0", content=audio)
    assert predicted.status_code == 200 and predicted.text != "mine" and not (tmp_path / "ran").exists()
    # The first version is the default, which cannot be removed before another one is.
    assert ports.management.delete("/models/emformer").status_code == 403
    assert ports.management.put("/models/emformer/2.0/set-default").status_code == 200
    assert ports.management.delete("/models/emformer/1.0").status_code == 200


def test_archive_of_an_unknown_model_is_rejected_with_the_reason(ports: TorchServePorts, tmp_path: Path) -> None:
    archived(tmp_path, "squeezenet")
    response = ports.management.post("/models?url=squeezenet.mar")
    assert response.status_code == 400
    document = response.json()
    assert document["type"] == "InvalidModelException"
    assert "its handler 'handler.py' is code of its own, which the box does not run" in document["message"]
    assert not (tmp_path / "ran").exists()


def test_packed_model_names_the_model_of_the_box(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATAPI_DATA", str(tmp_path / "data"))
    with pytest.raises(SystemExit) as ended:
        main(["models", "pack", "whisper-base", "--output-dir", str(tmp_path / "out")])
    assert ended.value.code == 0
    path = tmp_path / "out/whisper-base.mar"
    assert capsys.readouterr().out.strip() == str(path)
    found = archive.read(path)
    assert (found.name, found.model, found.version, found.handler) == ("whisper-base", "whisper-base", "1.0", "")
    before = path.read_bytes()
    archive.write(path, "whisper-base", "1.0", "whisper-base")
    assert path.read_bytes() == before
    with pytest.raises(SystemExit) as ended:
        main(["models", "pack", "en_US-joe-medium"])
    assert ended.value.code == 2 and "role tts" in capsys.readouterr().err


def test_archives_of_the_store_are_registered_at_the_start(shared_server: RunningServer, tmp_path: Path) -> None:
    for name in ("first", "second"):
        archive.write(tmp_path / f"{name}.mar", name, "1.0", "default")
    (tmp_path / "third.mar").write_bytes(b"no archive")
    with torchserving(shared_server, models=("all",), grpc=False, model_store=tmp_path) as ports:
        shared_server.run(lambda: until(lambda: len(ports.torchserve.models) == 2))
        listed = ports.management.get("/models").json()["models"]
        assert [each["modelName"] for each in listed] == ["first", "second"]
        assert ports.management.get("/models/first").json()[0]["loadedAtStartup"]


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def manifest(**model: object) -> bytes:
    return json.dumps({"model": model}).encode()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no file MAR-INF/MANIFEST.json"),
        ({archive.MANIFEST: b" " * (archive.MOST_BYTES + 1)}, "more than 65536 bytes"),
        # A megabyte that a few bytes unpack to.
        ({archive.MANIFEST: b"0" * (1 << 20)}, "more than 65536 bytes"),
        ({archive.MANIFEST: b"[" * 60_000}, "is not JSON"),
        ({archive.MANIFEST: b"[]"}, "is no JSON object"),
        ({archive.MANIFEST: b"{}"}, "no table `model`"),
        ({archive.MANIFEST: manifest(modelName="x", configFile="../../../etc/passwd")}, "no file ../../../etc/passwd"),
        ({archive.MANIFEST: manifest(modelName="x", configFile="c"), "c": b"\xff"}, "not UTF-8"),
        ({f"{number}": b"" for number in range(archive.MOST_FILES + 1)}, "more than 10000 files"),
    ],
)
def test_hostile_archive_is_rejected_with_its_fault(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(BadInput, match=reason.replace("(", "\\(")):
        archive.read(zipped(tmp_path / "x.mar", files))


def test_file_that_is_no_archive_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.mar"
    for content in (b"", b"text", b"PK\x03\x04" + b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="is no model archive"):
            archive.read(path)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz"):
        pass
    (tmp_path / "x.tar.gz").write_bytes(packed.getvalue())
    with pytest.raises(BadInput, match="archive-format"):
        archive.read(tmp_path / "x.tar.gz")


@pytest.mark.parametrize("name", ["../store.mar", "/etc/passwd", "..", "%2e%2e%2fsecret.mar", "file:///etc/shadow"])
def test_url_never_leaves_the_model_store(ports: TorchServePorts, tmp_path: Path, name: str) -> None:
    zipped(tmp_path / "secret.mar", {archive.MANIFEST: manifest(modelName="secret", chatapiModel="default")})
    assert ports.management.post("/models", params={"url": name}).status_code in (400, 404)
