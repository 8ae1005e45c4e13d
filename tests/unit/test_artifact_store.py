"""Artifacts in a folder and in memory: put whole, replaced, listed, read, deleted, and errors in one sentence."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from chatapi.cli.check import storage
from chatapi.errors import NotFound, SettingsError, StorageError
from chatapi.storage.artifact_store import ArtifactStore
from check_contexts import check_context, findings


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    places = {"folder": f"{tmp_path}/kept", "file": f"file://{tmp_path}/kept", "memory": f"memory://{uuid.uuid4().hex}"}
    return ArtifactStore(places[request.param])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    file = tmp_path / "clip.wav"
    file.write_bytes(b"one")
    return file


def test_file_is_stored_replaced_listed_read_and_deleted(store: ArtifactStore, clip: Path, tmp_path: Path) -> None:
    store.check()
    assert list(store.list()) == []
    stored = store.put(clip, "clips/a b.wav")
    assert (stored.name, stored.size, stored.url) == ("clips/a b.wav", 3, f"{store.url}/clips/a b.wav")
    clip.write_bytes(b"three")
    store.put(clip, "clips/a b.wav")
    store.put(clip, "z.wav")
    assert [(each.name, each.size) for each in store.list()] == [("clips/a b.wav", 5), ("z.wav", 5)]
    assert [each.name for each in store.list("clips")] == ["clips/a b.wav"]
    assert list(store.list("nothing")) == []
    store.get("clips/a b.wav", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"three"
    for _ in range(2):
        store.delete("clips/a b.wav")
    with pytest.raises(NotFound, match="no such artifact"):
        store.get("clips/a b.wav", tmp_path / "other")
    assert {each.name for each in tmp_path.iterdir() if each.is_file()} == {"clip.wav", "copy"}


def test_failed_upload_leaves_the_file_from_before(store: ArtifactStore, clip: Path, tmp_path: Path) -> None:
    store.put(clip, "a.wav")
    with pytest.raises((StorageError, NotFound)):
        store.put(tmp_path / "missing", "a.wav")
    assert [(each.name, each.size) for each in store.list()] == [("a.wav", 3)]


@pytest.mark.parametrize(
    "name", ["", "../a", "a/../b", "/a", "a//b", "a/", "a\nb", ".draft-1", "a" * 200, "a/" * 9 + "a"]
)
def test_names_stay_below_the_address(tmp_path: Path, clip: Path, name: str) -> None:
    with pytest.raises(StorageError, match="no name of an artifact"):
        ArtifactStore(str(tmp_path)).put(clip, name)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket", "must not have a user or a password"),
        ("nonsense://a", "cannot be stored at nonsense://"),
    ],
)
def test_address_that_cannot_be_used_is_rejected(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as rejected:
        ArtifactStore(url)
    assert "secret" not in rejected.value.message


def test_check_command_tests_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert findings(storage.artifacts, check_context({})) == []
    for place, level in (("kept", "good"), ("file/below", "bad")):
        [found] = findings(storage.artifacts, check_context({}, f"storage.artifacts={tmp_path}/{place}"))
        assert found.startswith(f"{level} artifacts: ")
    assert list((tmp_path / "kept").iterdir()) == []


def test_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written: "):
        ArtifactStore(f"{tmp_path}/file/below").check()
