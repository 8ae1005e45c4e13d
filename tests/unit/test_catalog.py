"""The catalog: fetching, verifying, choosing and removing models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.catalog import Catalog, FetchProgress, ModelCheck
from chatapi.errors import ModelError, NotFound
from file_server import Depot, opened
from user_models import CONTENT, state

AT_ONCE = (0.0,)


@pytest.fixture
def depot() -> Iterator[Depot]:
    with opened() as server:
        yield server


@pytest.fixture
def data(tmp_path: Path, depot: Depot) -> Path:
    """A data directory whose manifests name one model, `small`, that the depot serves."""
    state(tmp_path, "small", depot.put("weights", CONTENT))
    return tmp_path


def test_a_model_is_fetched_recorded_and_opened(data: Path) -> None:
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


def test_an_unknown_name_is_answered_with_the_nearest_one(data: Path) -> None:
    with pytest.raises(NotFound, match=r"no model 'smal'; did you mean small\?") as raised:
        Catalog(data).get("smal")
    assert raised.value.code == "unknown_model"


@pytest.mark.parametrize(("typed", "meant"), [("big-4b", "big-4b-instruct-2507"), ("BIG-4B", "big-4b-instruct-2507")])
def test_a_name_that_was_begun_is_preferred_to_one_that_looks_alike(
    data: Path, depot: Depot, typed: str, meant: str
) -> None:
    for name in ("big-8b", "big-4b-instruct-2507"):
        state(data, name, f"{depot.address}/weights")
    with pytest.raises(NotFound, match=f"did you mean {meant}"):
        Catalog(data).get(typed)


def test_a_name_like_no_other_is_told_where_they_are_listed(data: Path) -> None:
    with pytest.raises(NotFound, match="`chatapi models list` lists"):
        Catalog(data).get("zzzzzzzz")


def test_a_good_model_is_left_as_it_is(data: Path, depot: Depot) -> None:
    Catalog(data).fetch("small")
    Catalog(data).fetch("small")
    assert len(depot.asked) == 1


@pytest.mark.parametrize(
    ("harm", "finding"),
    [
        (lambda path: path.write_bytes(CONTENT[::-1]), "its sha256 is"),
        (lambda path: path.write_bytes(CONTENT[1:]), "it has 399999 bytes, expected 400000"),
        (lambda path: path.unlink(), "it is missing"),
    ],
    ids=["changed", "cut", "gone"],
)
def test_a_damaged_file_is_named_with_the_command_that_mends_it(data: Path, harm: object, finding: str) -> None:
    catalog = Catalog(data)
    harm(catalog.fetch("small").files["weights"])  # type: ignore[operator]
    assert [each.file for each in catalog.verify("small")] == ["weights"]
    with pytest.raises(ModelError, match=f"small: weights: {finding}.*: chatapi models fetch small") as raised:
        catalog.open("small")
    assert raised.value.code == "model_damaged"
    assert catalog.fetch("small").files["weights"].read_bytes() == CONTENT
    assert catalog.verify("small") == []


def test_a_damaged_record_is_as_good_as_none(data: Path) -> None:
    catalog = Catalog(data)
    folder = catalog.fetch("small").folder
    (folder / "record.json").write_text("{")
    assert not catalog.installed("small")
    assert catalog.verify("small") == [ModelCheck("", "it is not installed")]
    assert catalog.fetch("small").folder == folder
    assert catalog.installed("small")


def test_a_manifest_that_pins_another_file_since_is_noticed(data: Path, depot: Depot) -> None:
    Catalog(data).fetch("small")
    other = CONTENT[::-1]
    state(data, "small", depot.put("weights", other), other)
    with pytest.raises(ModelError, match="its sha256 is"):
        Catalog(data).open("small")
    assert Catalog(data).fetch("small").files["weights"].read_bytes() == other


def test_the_next_source_is_taken_when_one_fails(data: Path, depot: Depot) -> None:
    state(data, "small", f"{depot.address}/weights", sources='[[sources]]\nkind = "path"\npath = "nowhere"\n')
    folder = Catalog(data).fetch("small").folder
    assert json.loads((folder / "record.json").read_text())["source"].startswith("address")


def test_when_every_source_fails_each_is_listed_with_its_reason(data: Path, depot: Depot) -> None:
    state(data, "small", f"{depot.address}/gone", sources='[[sources]]\nkind = "path"\npath = "nowhere"\n')
    with pytest.raises(ModelError) as raised:
        Catalog(data).fetch("small")
    first, second = raised.value.message.splitlines()[1:3]
    assert first.startswith(f"- path {data}/manifests/nowhere: cannot read")
    assert second.endswith("answered 404 Not Found")
    assert "chatapi models fetch small" in raised.value.message
    assert not (data / "models" / "small").exists()


def test_a_removed_model_is_gone_with_all_that_was_half_fetched(data: Path, depot: Depot) -> None:
    catalog = Catalog(data, AT_ONCE)
    catalog.fetch("small")
    assert catalog.remove("small")
    assert not catalog.remove("small")
    assert not catalog.installed("small")
    depot.items["weights"].cuts = [1000, 1000]
    with pytest.raises(ModelError):
        catalog.fetch("small")
    catalog.remove("small")
    assert [path for path in (data / "models").rglob("*") if path.is_file() and path.stat().st_size] == []


@pytest.fixture
def models(data: Path, depot: Depot) -> Catalog:
    """Three installed models beside the one that is not, and a catalog of nothing else for their role."""
    for name, quality, memory, languages in (
        ("good", 900, 5000, '["en", "de"]'),
        ("fair", 800, 3000, '["en"]'),
        ("poor", 700, 1000, '["en", "fr"]'),
    ):
        more = f"quality = {quality}\nmemory = {memory}\nlanguages = {languages}"
        state(data, name, f"{depot.address}/weights", more=more)
    catalog = Catalog(data)
    for name in ("good", "fair", "poor"):
        catalog.fetch(name)
    return catalog


@pytest.mark.parametrize(
    ("memory", "language", "chosen"),
    [(None, None, "good"), (5000, None, "good"), (4999, None, "fair"), (4999, "fr", "poor"), (None, "de", "good")],
)
def test_auto_is_the_best_installed_one_that_fits_and_speaks(
    models: Catalog, memory: int | None, language: str | None, chosen: str
) -> None:
    assert models.choose("llm", "llama_cpp", memory=memory, language=language).name == chosen


def test_a_name_is_taken_at_its_word(models: Catalog) -> None:
    assert models.choose("llm", "llama_cpp", "poor", memory=1).name == "poor"


@pytest.mark.parametrize(
    ("role", "engine", "told", "complaint"),
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
def test_a_choice_that_cannot_be_made_says_why_and_what_to_do(
    models: Catalog, role: str, engine: str, told: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ModelError, match=complaint):
        models.choose(role, engine, **told)  # type: ignore[arg-type]


def test_what_was_recorded_first_outlives_the_model_and_is_one_file_for_all(data: Path, depot: Depot) -> None:
    for name in ("one", "two"):
        state(data, name, depot.put(name, CONTENT))
        manifest = data / "manifests" / f"{name}.toml"
        lines = manifest.read_text().splitlines(keepends=True)
        manifest.write_text("".join(line for line in lines if "sha256" not in line))
        Catalog(data).fetch(name)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert json.loads((data / "models.lock").read_text()) == {"one": {"weights": digest}, "two": {"weights": digest}}
    assert Catalog(data).remove("one")
    depot.put("one", CONTENT[::-1], etag='"two"')
    with pytest.raises(ModelError, match=f"{digest} is pinned"):
        Catalog(data, AT_ONCE).fetch("one")
    (data / "models.lock").write_text("{")
    with pytest.raises(
        ModelError, match=r"models\.lock cannot be read: .*; repair it, or delete it to record the digests again"
    ):
        Catalog(data, AT_ONCE).fetch("one")


def test_a_manifest_of_ones_own_that_is_damaged_keeps_no_other_model_away(data: Path) -> None:
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
def test_a_damaged_lock_file_matters_only_to_models_that_need_it(data: Path, damage: str) -> None:
    catalog = Catalog(data)
    catalog.fetch("small")
    lock = data / "models.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir() if damage == "folder" else lock.write_text("{")
    assert catalog.open("small")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 100, b"[]", b'{"files": {"weights": {}}}'])
def test_a_damaged_record_is_a_model_that_is_not_here(data: Path, damage: bytes) -> None:
    catalog = Catalog(data)
    fetched = catalog.fetch("small")
    (fetched.folder / "record.json").write_bytes(damage)
    assert not Catalog(data).installed("small")
    assert Catalog(data).fetch("small").files["weights"].read_bytes() == CONTENT
