"""The shipped manifests, and the schema of a manifest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chatapi.catalog.manifest import Addresses, Local, Manifest, Member, Wheels, load, load_all
from chatapi.engines.registry import engines
from chatapi.errors import ModelError
from chatapi.runtime import engine_selection
from fake_jetson import ORIN_NX, write_files
from paths import ROOT

MODELS = ROOT / "models"
SHIPPED = load_all([MODELS])
OPEN = {"MIT", "Apache-2.0", "BSD-2-Clause", "CC0-1.0", "CC-BY-4.0"}
"""Licences that allow everyone to use, change and distribute the weights."""


@pytest.fixture(params=SHIPPED.values(), ids=SHIPPED)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    found: Manifest = request.param
    return found


def test_licence_is_open_and_the_homepage_is_stated(manifest: Manifest) -> None:
    assert manifest.licence in OPEN
    assert manifest.homepage.startswith("https://")


def test_engine_is_registered_for_the_role(manifest: Manifest) -> None:
    assert manifest.engine in engines(manifest.role)


def test_memory_is_at_least_the_size_of_the_files(manifest: Manifest) -> None:
    if manifest.compile:
        table = manifest.compile
        assert manifest.memory >= table.needed(table)
        assert all(table.needed(board) <= table.needed(table) for board in table.boards)
        # 16 bits per weight become 4.5, except for the few that are not quantized.
        assert 0.25 < table.weights / manifest.size < 0.3
    else:
        assert manifest.memory > manifest.size


def test_the_smaller_compiled_models_fit_a_board_of_8_gb() -> None:
    """MemTotal is 7.6 GB, half of which the rest of the appliance and the system need."""
    fitting = [each for each in SHIPPED.values() if each.compile and each.compile.needed(each.compile) < 3.8e9]
    assert len(fitting) == 2


def test_members_of_packages_match_the_pinned_files(manifest: Manifest) -> None:
    for source in manifest.sources:
        if isinstance(source, Wheels) and not source.convert:
            parts: dict[str, list[Member]] = {name: [] for name in manifest.files}
            for member in (each for wheel in source.wheels for each in wheel.members):
                parts[member.file].append(member)
            for name, file in manifest.files.items():
                assert sum(part.size for part in parts[name]) == file.size
                assert len(parts[name]) > 1 or parts[name][0].sha256 == file.sha256


def test_addresses_end_with_the_file_name(manifest: Manifest) -> None:
    for source in manifest.sources:
        if isinstance(source, Addresses):
            assert all(address.endswith(f"/{name}") for name, address in source.files.items())


def test_readme_lists_the_model(manifest: Manifest) -> None:
    assert f"`{manifest.name}`" in (MODELS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("board", [False, True])
def test_default_set_has_one_pinned_model_for_each_role(tmp_path: Path, board: bool) -> None:
    root = write_files(tmp_path, ORIN_NX if board else {})
    defaults = [manifest for manifest in SHIPPED.values() if engine_selection.in_default_set(manifest, root)]
    (asr_engine,) = [manifest.engine for manifest in defaults if manifest.role == "asr"]
    assert asr_engine == ("whisper_cpp" if board else "ctranslate2")
    roles = sorted(manifest.role for manifest in defaults)
    assert roles == ["asr", "command", "llm", "sound_detector", "speaker", "tts", "turn_detection", "vad", "wake_word"]
    assert all(isinstance(manifest.sources[0], (Wheels, Local)) for manifest in defaults)
    assert [manifest.role for manifest in defaults if isinstance(manifest.sources[0], Local)] == [
        "command",
        "sound_detector",
    ]
    assert all(file.sha256 for manifest in defaults for file in manifest.files.values())


def test_default_language_model_is_the_smallest() -> None:
    models = [manifest for manifest in SHIPPED.values() if manifest.role == "llm"]
    assert min(models, key=lambda each: each.quality).default
    assert min(models, key=lambda each: each.memory).default


def test_readme_lists_no_other_model() -> None:
    rows = re.findall(r"^\| `([^`/]+)` \|", (MODELS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(SHIPPED)


def test_no_package_index_is_named() -> None:
    files = [*MODELS.glob("*.toml"), *MODELS.glob("*.md"), *(ROOT / "chatapi").rglob("*.py")]
    named = [path.name for path in files if re.search(r"pypi|pythonhosted", path.read_text(encoding="utf-8"))]
    assert named == []


# The schema

GOOD = """
name = "m"
role = "llm"
engine = "llama_cpp"
title = "M"
licence = "MIT"
homepage = "https://example.org"
languages = ["en"]
memory = 10
quality = 1

[options]
anything = "goes"

[files.weights]
size = 5

[[sources]]
kind = "url"
files = { weights = "https://example.org/weights" }

[[sources]]
kind = "path"
path = "folder"
"""


def test_valid_manifest_is_read_with_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(GOOD)
    manifest = load(tmp_path / "m.toml")
    assert (manifest.name, manifest.default, manifest.size, manifest.options) == ("m", False, 5, {"anything": "goes"})
    assert str(manifest.sources[1]) == f"path {tmp_path / 'folder'}"


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("memory = 10", "memmory = 10", r"there is no key 'memmory'; did you mean memory\?"),
        ("memory = 10", "", "memory: Field required"),
        ("size = 5", "size = 5\nshasum = 1", r"there is no key 'files\.weights\.shasum'"),
        ("size = 5", "", "files.weights: state either size .* or at_most"),
        ("size = 5", "size = 5\nat_most = 6", "files.weights: state either size .* or at_most"),
        ("size = 5", 'size = 5\nsha256 = "abc"', r"files\.weights\.sha256: String should match"),
        ("files.weights", 'files."../weights"', "String should match"),
        ("files.weights", 'files."record.json"', r"no file may be called record\.json"),
        ("{ weights =", "{ other =", r"provides \['other'\], but \[files\] names \['weights'\]"),
        ("https://example.org/weights", "http://example.org/weights", "is not an https address"),
        ("https://example.org/weights", "ftp://example.org/weights", "is not an https address"),
        ('kind = "path"', 'kind = "parth"', "Input tag 'parth'"),
        ('role = "llm"', 'role = "l m"', "role: String should match"),
        ('languages = ["en"]', 'languages = ["english"]', r"languages\.0: String should match"),
        ('name = "m"', 'name = "n"', "the name is 'n'; it must be 'm'"),
        ('name = "m"', "name = m", "cannot be read: Invalid value"),
    ],
)
def test_invalid_manifest_is_rejected_with_file_key_and_reason(
    tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    assert right in GOOD
    (tmp_path / "m.toml").write_text(GOOD.replace(right, wrong))
    with pytest.raises(ModelError, match=message) as raised:
        load(tmp_path / "m.toml")
    assert f"{tmp_path / 'm.toml'}" in raised.value.message
    assert raised.value.code == "bad_manifest"


def test_later_folder_overrides_an_earlier_one(tmp_path: Path) -> None:
    for folder, title in (("one", "M"), ("two", "Other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.toml").write_text(GOOD.replace('title = "M"', f'title = "{title}"'))
    assert load_all([tmp_path / "one", tmp_path / "two"])["m"].title == "Other"
    assert load_all([tmp_path / "nowhere"]) == {}


COMPILED = (
    GOOD.replace('"llama_cpp"', '"mlc"')
    + """
[compile]
conv_template = "qwen2"
quantizations = ["q4f16_1"]
context_window_size = 4096
prefill_chunk_size = 1024
max_batch_size = 4
weights = 5
temporary = 3
kv_per_token = 2

[[compile.boards]]
memory_below = 1000
context_window_size = 2048
prefill_chunk_size = 512
max_batch_size = 1
"""
)


def test_compile_table_has_limits_for_each_board(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(COMPILED)
    table = load(tmp_path / "m.toml").compile
    assert table
    assert [table.limits(memory).context_window_size for memory in (999, 1000)] == [2048, 4096]
    assert table.needed(table.limits(999)) == 5 + 3 + 2 * 2048


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("[compile]", "[compiled]", "there is no key 'compiled'; did you mean compile"),
        ('engine = "mlc"', 'engine = "llama_cpp"', r"mlc requires a table \[compile\]; other engines have none"),
        ("conv_template", "conv_templates", r"compile\.conv_template: Field required"),
        ('["q4f16_1"]', '["q4"]', r"compile\.quantizations\.0: Input should be"),
        ("prefill_chunk_size = 1024", "prefill_chunk_size = 8192", "prefill_chunk_size is 8192; it must be at most"),
        ("max_batch_size = 4", "max_batch_size = 0", r"compile\.max_batch_size: Input should be greater"),
        (
            "memory_below = 1000",
            "memory_under = 1000",
            r"no key 'compile\.boards\.0\.memory_under'; did you mean memory",
        ),
    ],
)
def test_invalid_compile_table_is_rejected(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    assert right in COMPILED
    (tmp_path / "m.toml").write_text(COMPILED.replace(right, wrong))
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "m.toml")
