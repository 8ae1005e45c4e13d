"""The catalog: fetching, verifying, choosing and removing models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.catalog import Catalog, FetchProgress, ModelCheck
from chatapi.errors import ModelError, NotFound
from file_server import FileServer, serve_files
from user_models import CONTENT, write_manifest

NO_PAUSES = (0.0,)


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    with serve_files() as files:
        yield files


@pytest.fixture
def data(tmp_path: Path, file_server: FileServer) -> Path:
    """A data directory whose manifests name one model, `small`, that the file server has."""
    write_manifest(tmp_path, "small", file_server.put("weights", CONTENT))
    return tmp_path


def test_model_is_fetched_recorded_and_opened(data: Path) -> None:
    catalog, seen = Catalog(data), []
    assert not catalog.installed("small")
    fetched = catalog.fetch("small", seen.append)
    assert catalog.installed("small")
    assert fetched == catalog.open("small")
    assert fetched.files["weights"].read_bytes() == CONTENT
    assert (fetched.role, fetched.engine, fetched.languages, fetched.memory) == ("llm", "llama_cpp", ("en",), 1000)
    record = json.loads((fetched.folder / "record.json").read_text())
    assert record["files"] == {"weights": {"size": 400_000, "sha256": hashlib.sha256(CONTENT).hexdigest()}}
    assert record["source"].startswith("address http://127.0.0.1")
    assert seen[-1] == FetchProgress("small", "download", "weights", 400_000, 400_000)
    assert not (data / "models" / ".partial" / "small").exists()


def test_unknown_model_suggests_the_nearest_name(data: Path) -> None:
    with pytest.raises(NotFound, match=r"no model 'smal'; did you mean small\?") as raised:
        Catalog(data).get("smal")
    assert raised.value.code == "unknown_model"


@pytest.mark.parametrize(
    ("typed", "suggestion"), [("big-4b", "big-4b-instruct-2507"), ("BIG-4B", "big-4b-instruct-2507")]
)
def test_suggestion_prefers_a_name_with_the_same_prefix(
    data: Path, file_server: FileServer, typed: str, suggestion: str
) -> None:
    for name in ("big-8b", "big-4b-instruct-2507"):
        write_manifest(data, name, f"{file_server.address}/weights")
    with pytest.raises(NotFound, match=f"did you mean {suggestion}"):
        Catalog(data).get(typed)


def test_unknown_model_without_a_similar_name_refers_to_the_list(data: Path) -> None:
    with pytest.raises(NotFound, match="`chatapi models list` lists"):
        Catalog(data).get("zzzzzzzz")


def test_intact_model_is_not_fetched_again(data: Path, file_server: FileServer) -> None:
    Catalog(data).fetch("small")
    Catalog(data).fetch("small")
    assert len(file_server.requests) == 1


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda path: path.write_bytes(CONTENT[::-1]), "its sha256 is"),
        (lambda path: path.write_bytes(CONTENT[1:]), "it has 399999 bytes, expected 400000"),
        (lambda path: path.unlink(), "it is missing"),
    ],
    ids=["changed", "cut", "gone"],
)
def test_damaged_file_is_named_with_the_command_that_repairs_it(data: Path, damage: object, finding: str) -> None:
    catalog = Catalog(data)
    damage(catalog.fetch("small").files["weights"])  # type: ignore[operator]
    assert [each.file for each in catalog.verify("small")] == ["weights"]
    with pytest.raises(ModelError, match=f"small: weights: {finding}.*: chatapi models fetch small") as raised:
        catalog.open("small")
    assert raised.value.code == "model_damaged"
    assert catalog.fetch("small").files["weights"].read_bytes() == CONTENT
    assert catalog.verify("small") == []


def test_model_with_a_damaged_record_is_reported_as_not_installed(data: Path) -> None:
    catalog = Catalog(data)
    folder = catalog.fetch("small").folder
    (folder / "record.json").write_text("{")
    assert not catalog.installed("small")
    assert catalog.verify("small") == [ModelCheck("", "it is not installed")]
    assert catalog.fetch("small").folder == folder
    assert catalog.installed("small")


def test_changed_pin_is_detected(data: Path, file_server: FileServer) -> None:
    Catalog(data).fetch("small")
    other = CONTENT[::-1]
    write_manifest(data, "small", file_server.put("weights", other), other)
    with pytest.raises(ModelError, match="its sha256 is"):
        Catalog(data).open("small")
    assert Catalog(data).fetch("small").files["weights"].read_bytes() == other


def test_next_source_is_used_when_one_fails(data: Path, file_server: FileServer) -> None:
    write_manifest(
        data, "small", f"{file_server.address}/weights", sources='[[sources]]\nkind = "path"\npath = "nowhere"\n'
    )
    folder = Catalog(data).fetch("small").folder
    assert json.loads((folder / "record.json").read_text())["source"].startswith("address")


def test_when_every_source_fails_each_is_listed_with_its_reason(data: Path, file_server: FileServer) -> None:
    write_manifest(
        data, "small", f"{file_server.address}/gone", sources='[[sources]]\nkind = "path"\npath = "nowhere"\n'
    )
    with pytest.raises(ModelError) as raised:
        Catalog(data).fetch("small")
    first, second = raised.value.message.splitlines()[1:3]
    assert first.startswith(f"- path {data}/manifests/nowhere: cannot read")
    assert second.endswith("answered 404 Not Found")
    assert "chatapi models fetch small" in raised.value.message
    assert not (data / "models" / "small").exists()


def test_removed_model_leaves_no_partial_files(data: Path, file_server: FileServer) -> None:
    catalog = Catalog(data, NO_PAUSES)
    catalog.fetch("small")
    assert catalog.remove("small")
    assert not catalog.remove("small")
    assert not catalog.installed("small")
    file_server.items["weights"].cuts = [1000, 1000]
    with pytest.raises(ModelError):
        catalog.fetch("small")
    catalog.remove("small")
    assert [path for path in (data / "models").rglob("*") if path.is_file() and path.stat().st_size] == []


@pytest.fixture
def models(data: Path, file_server: FileServer) -> Catalog:
    """A catalog with three installed models and one that is not installed."""
    for name, quality, memory, languages in (
        ("good", 900, 5000, '["en", "de"]'),
        ("fair", 800, 3000, '["en"]'),
        ("poor", 700, 1000, '["en", "fr"]'),
    ):
        more = f"quality = {quality}\nmemory = {memory}\nlanguages = {languages}"
        write_manifest(data, name, f"{file_server.address}/weights", more=more)
    catalog = Catalog(data)
    for name in ("good", "fair", "poor"):
        catalog.fetch(name)
    return catalog


@pytest.mark.parametrize(
    ("memory", "language", "selected"),
    [(None, None, "good"), (5000, None, "good"), (4999, None, "fair"), (4999, "fr", "poor"), (None, "de", "good")],
)
def test_auto_selects_the_best_installed_model_that_fits_and_supports_the_language(
    models: Catalog, memory: int | None, language: str | None, selected: str
) -> None:
    assert models.choose("llm", "llama_cpp", memory=memory, language=language).name == selected


def test_named_model_is_selected_regardless_of_the_memory(models: Catalog) -> None:
    assert models.choose("llm", "llama_cpp", "poor", memory=1).name == "poor"


@pytest.mark.parametrize(
    ("role", "engine", "options", "message"),
    [
        ("llm", "llama_cpp", {"memory": 999}, "999 bytes are free and the smallest, poor, needs 1000"),
        (
            "llm",
            "llama_cpp",
            {"language": "zh"},
            r"that supports zh is installed; install one with: chatapi models fetch \S+",
        ),
        ("llm", "llama_cpp", {"language": "xx"}, "the catalog has no llm model for llama_cpp that supports xx"),
        ("llm", "llama_cpp", {"name": "small"}, "small is not installed; install it with: chatapi models fetch small"),
        ("asr", "whisper_cpp", {}, "chatapi models fetch whisper-tiny.en"),
        (
            "asr",
            "whisper_cpp",
            {"name": "good"},
            "good is a model for llm on llama_cpp, not for asr",
        ),
    ],
)
def test_impossible_selection_states_the_reason_and_the_remedy(
    models: Catalog, role: str, engine: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        models.choose(role, engine, **options)  # type: ignore[arg-type]


def test_first_recorded_digest_outlives_the_model_and_is_in_one_file(data: Path, file_server: FileServer) -> None:
    for name in ("one", "two"):
        write_manifest(data, name, file_server.put(name, CONTENT))
        manifest = data / "manifests" / f"{name}.toml"
        lines = manifest.read_text().splitlines(keepends=True)
        manifest.write_text("".join(line for line in lines if "sha256" not in line))
        Catalog(data).fetch(name)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert json.loads((data / "models.lock").read_text()) == {"one": {"weights": digest}, "two": {"weights": digest}}
    assert Catalog(data).remove("one")
    file_server.put("one", CONTENT[::-1], etag='"two"')
    with pytest.raises(ModelError, match=f"{digest} is pinned"):
        Catalog(data, NO_PAUSES).fetch("one")
    (data / "models.lock").write_text("{")
    with pytest.raises(
        ModelError, match=r"models\.lock cannot be read: .*; repair it, or delete it to record the digests again"
    ):
        Catalog(data, NO_PAUSES).fetch("one")


def test_damaged_user_manifest_does_not_affect_other_models(data: Path) -> None:
    Catalog(data).fetch("small")
    (data / "manifests" / "broken.toml").write_bytes(b"\xff\xfe not TOML")
    (data / "manifests" / "folder.toml").mkdir()
    (data / "manifests" / "smollm2-135m-instruct.toml").write_text("name = 3")
    catalog = Catalog(data)
    assert set(catalog.faults) == {"broken", "folder", "smollm2-135m-instruct"}
    assert catalog.open("small") and not catalog.installed("smollm2-135m-instruct")
    with pytest.raises(ModelError, match=r"broken\.toml cannot be read"):
        catalog.get("broken")
    assert [name for name in catalog.manifests if catalog.installed(name)] == ["small"]


@pytest.mark.parametrize("damage", ["text", "folder"])
def test_damaged_lock_file_affects_only_models_that_need_it(data: Path, damage: str) -> None:
    catalog = Catalog(data)
    catalog.fetch("small")
    lock = data / "models.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir() if damage == "folder" else lock.write_text("{")
    assert catalog.open("small")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 100, b"[]", b'{"files": {"weights": {}}}'])
def test_model_with_a_damaged_record_is_fetched_again(data: Path, damage: bytes) -> None:
    catalog = Catalog(data)
    fetched = catalog.fetch("small")
    (fetched.folder / "record.json").write_bytes(damage)
    assert not Catalog(data).installed("small")
    assert Catalog(data).fetch("small").files["weights"].read_bytes() == CONTENT
