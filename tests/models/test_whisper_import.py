"""Checkpoints of OpenAI's and Hugging Face's form, imported: the same weights and transcripts, and hostile files."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from chatapi import settings
from chatapi.audio.decode import decode
from chatapi.catalog import Catalog, checkpoint, ggml, tensor_pickle
from chatapi.catalog.whisper_import import import_whisper
from chatapi.errors import BadInput, ModelError, WrongMode
from conftest import MODELS, installed_model
from paths import ROOT
from whisper_checkpoints import hugging_face, openai, openai_tensors

NAME = "whisper-tiny.en-ct2"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory whose only model is the one that checkpoints are made from."""
    installed_model(NAME)
    folder = tmp_path / "data"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / NAME).symlink_to(MODELS / "models" / NAME)
    return folder


def transcript(data: Path, name: str) -> str:
    from chatapi.engines.asr.ctranslate2 import CTranslate2

    model = Catalog(data).open(name)
    engine = CTranslate2(settings.Settings(), [model])
    audio = decode(ROOT / "tests/corpus/real/beckett-12.flac")
    return " ".join(each.text.strip() for each in engine.transcribe(audio.samples, "en"))


@pytest.mark.real
@pytest.mark.parametrize("form", ["openai", "hugging_face"])
def test_imported_checkpoint_has_the_same_weights_and_transcript(data: Path, tmp_path: Path, form: str) -> None:
    original = data / "models" / NAME
    tensors = openai_tensors(original / "model.bin")
    lines = (original / "vocabulary.txt").read_text().removesuffix("\n").split("\n")
    if form == "openai":
        source = tmp_path / "mine.pt"
        openai(source, tensors)
    else:
        source = tmp_path / "mine"
        hugging_face(source, tensors, lines, json.loads((original / "config.json").read_text()))
    import_whisper(data, source, "mine")
    assert Catalog(data).installed("mine") and Catalog(data).verify("mine") == []
    before, after = ggml.read(original / "model.bin").tensors, ggml.read(data / "models/mine/model.bin").tensors
    assert set(before) <= set(after)
    for name, tensor in before.items():
        if np.issubdtype(tensor.dtype, np.floating):
            assert np.array_equal(np.asarray(tensor, np.float16), np.asarray(after[name], np.float16)), name
    assert (data / "models/mine/vocabulary.txt").read_text().removesuffix("\n").split("\n") == lines
    assert transcript(data, "mine") == transcript(data, NAME) != ""
    assert not list((data / "models").glob(".importing/*"))
    with pytest.raises(WrongMode, match="there is a model mine"):
        import_whisper(data, source, "mine")


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, ("ran",)


def archived(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def test_pickle_with_code_is_rejected_and_not_run(tmp_path: Path) -> None:
    path = archived(tmp_path / "x.pt", {"x/data.pkl": pickle.dumps({"model_state_dict": _Attack()}, 2)})
    with pytest.raises(ModelError, match=r"names posix\.mkdir, which is neither a tensor"):
        checkpoint.tensors(path)
    assert not Path("ran").exists()


def test_pickle_cannot_change_what_it_names(tmp_path: Path) -> None:
    # BUILD with a pair sets attributes: here the defaults of the function that is named.
    change = b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}X\x0c\0\0\0__defaults__)s\x86b."
    path = archived(tmp_path / "x.pt", {"x/data.pkl": change})
    with pytest.raises(ModelError, match="holds no table of tensors"):
        checkpoint.tensors(path)
    assert tensor_pickle._parameter.__defaults__ is None


@pytest.mark.parametrize("strides", [(0, 0), (1, 0), (0, 1)])
def test_small_file_cannot_fill_the_memory_with_repeated_numbers(strides: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    openai(path, {"a": np.zeros((4, 4), np.float16)})
    assert checkpoint.tensors(path)["a"].shape == (4, 4)
    with zipfile.ZipFile(path) as file:
        files = {name: file.read(name) for name in file.namelist()}
    shape, row = b"K\x04K\x04\x86", b"K\x04K\x01\x86"
    written = files["model/data.pkl"]
    assert written.count(shape) == written.count(row) == 1
    larger = b"M\xff\xffK\x04\x86"
    repeated = written.replace(row, bytes([*b"K", strides[0], *b"K", strides[1], 0x86])).replace(shape, larger)
    path = archived(tmp_path / "repeated.pt", {**files, "model/data.pkl": repeated})
    with pytest.raises(ModelError, match="larger than its storage"):
        checkpoint.tensors(path)


def test_tensors_share_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    openai(path, {name: np.ones((4, 4), np.float16) for name in "ab"})
    with zipfile.ZipFile(path) as file:
        files = {name: file.read(name) for name in file.namelist()}
    key = b"X\x01\0\0\x001"
    assert files["model/data.pkl"].count(key) == 1
    files["model/data.pkl"] = files["model/data.pkl"].replace(key, key[:-1] + b"0")
    found = checkpoint.tensors(archived(tmp_path / "shared.pt", files))
    assert np.shares_memory(found["a"], found["b"])


def test_safetensors_of_many_tensors_takes_no_descriptor_for_each(tmp_path: Path) -> None:
    path, count = tmp_path / "x.safetensors", 3000
    described = {
        str(number): {"dtype": "F16", "shape": [1], "data_offsets": [2 * number, 2 * number + 2]}
        for number in range(count)
    }
    header = json.dumps(described).encode()
    data = np.arange(count, dtype="<f2").tobytes()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = checkpoint.tensors(path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    assert [found[str(number)].item() for number in (0, 7, 2047)] == [0, 7, 2047]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a torch checkpoint that can be read"),
        (b"\x80\x02}q\x00.", "is not a torch checkpoint that can be read: it starts with"),
    ],
)
def test_file_that_is_no_checkpoint_is_rejected(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        checkpoint.tensors(tmp_path / "x.pth")


def test_compressed_or_wrong_storage_is_rejected(tmp_path: Path) -> None:
    source = tmp_path / "x.pt"
    openai(source, {"a": np.zeros((4, 4), np.float16)})
    with zipfile.ZipFile(source) as file:
        files = {name: file.read(name) for name in file.namelist()}
    bomb = archived(tmp_path / "bomb.pt", files, zipfile.ZIP_DEFLATED)
    short = archived(tmp_path / "short.pt", {**files, "model/data/0": b"\0" * 30})
    for path in (bomb, short):
        with pytest.raises(ModelError, match="the size of its file 0 is wrong"):
            checkpoint.tensors(path)
    assert checkpoint.tensors(source)["a"].shape == (4, 4)
    with pytest.raises(ModelError, match="holds no Whisper model"):
        import_whisper(tmp_path, source, "x")
    with pytest.raises(BadInput, match="must be of letters"):
        import_whisper(tmp_path, source, "../x")


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8, b"[]", b"{", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
        b'{"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b"{%s}" % b", ".join(b'"%d": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}' % n for n in range(99)),
    ],
)  # fmt: skip
def test_damaged_safetensors_is_rejected(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    length = header if header[0] == 0xFF else len(header).to_bytes(8, "little") + header + b"\0" * 8
    path.write_bytes(length)
    with pytest.raises(ModelError, match="is damaged"):
        checkpoint.tensors(path)
