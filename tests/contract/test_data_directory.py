"""The data directory: only the storage names files in it, and a server leaves no other files there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.auth import key_store
from chatapi.auth.certificate_authority import CertificateKeeper
from chatapi.jobs.store import JobRequest, JobStore
from chatapi.observability import logs
from chatapi.settings import LogSettings
from chatapi.storage.layout import DataDirectory
from conftest import RunningServer
from paths import ROOT

STORAGE = ROOT / "chatapi/storage"
MODULES = sorted(
    file
    for package in ("chatapi", "compile/chatapi_compile", "benchmarks")
    for file in (ROOT / package).rglob("*.py")
    if STORAGE not in file.parents
)
JOINS = {"glob", "joinpath", "rglob", "with_name"}
"""Methods of a path that name another one."""
LAYOUT = DataDirectory(Path("root"))


def named(layout: DataDirectory) -> list[Path]:
    """Every path that is a property of the layout."""
    return [getattr(layout, name) for name, value in vars(DataDirectory).items() if isinstance(value, property)]


FILES = {path.name for path in named(LAYOUT) if path.suffix}


def is_data(node: ast.expr) -> bool:
    """Whether an expression is a variable or an attribute called `data`, as every data directory is."""
    return (isinstance(node, ast.Name) and node.id in ("data", "_data")) or (
        isinstance(node, ast.Attribute) and node.attr in ("data", "_data")
    )


def joins(text: str) -> Iterator[int]:
    """Lines of a module that join onto the data directory or spell the name of a file in it."""
    for node in ast.walk(ast.parse(text)):
        if (
            (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and is_data(node.left))
            or (isinstance(node, ast.Attribute) and node.attr in JOINS and is_data(node.value))
            or (isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in FILES)
        ):
            yield node.lineno


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_only_the_storage_names_files_of_the_data_directory(file: Path) -> None:
    assert list(joins(file.read_text())) == []


@pytest.mark.parametrize(
    "line",
    ['data / "x"', 'settings.data / "x"', 'self._data / f"{x}"', 'data.joinpath("x")', 'data.glob("*")',
     'place.with_name("keys.json")', 'folder / "history.sqlite3"'],
)  # fmt: skip
def test_joining_onto_the_data_directory_is_found(line: str) -> None:
    assert list(joins(line)) == [1]
    assert list(joins("DataDirectory(settings.data).models / name")) == []


def test_paths_are_those_of_earlier_versions() -> None:
    paths = {path.relative_to("root").as_posix() for path in named(LAYOUT)}
    assert paths == {
        "history.sqlite3", "jobs.sqlite3", "jobs", "models", "models.lock", "manifests", "compiled", "coqui",
        "tensorrt", "prepared", "keys.json", "keys-used.json", ".keys.lock", "boxes.json", "certificates",
        "certificates/authority.crt", "certificates/authority.pem", "certificates/server.pem", "audit.log",
        "bench/live.svg", "bench/live-budget.svg", "overrides.toml", ".overrides.lock", "key_file.json", "server-jobs",
        "voices", "torchserve-models.json", "commands.sqlite3", "commands/samples", "commands/versions",
        "coverage.sqlite3", "monitoring",
    }  # fmt: skip
    more = [
        LAYOUT.local_key(8000),
        LAYOUT.model_lock("a"),
        LAYOUT.partial_model("a"),
        LAYOUT.partial_compiled("a"),
    ]
    assert [path.relative_to("root").as_posix() for path in more] == [
        "local-8000.key", "models/.locks/a", "models/.partial/a", "compiled/.partial/a",
    ]  # fmt: skip


def unnamed(layout: DataDirectory) -> list[str]:
    """Files that are neither named by the layout, nor in a folder that it names for others, nor SQLite's own."""
    known = set(named(layout)) | set(layout.local_keys())
    caches = (layout.coqui, layout.tensorrt, layout.prepared)
    owned = (layout.models, layout.manifests, layout.compiled, layout.jobs, *caches)
    beside = {database.with_name(database.name + end)
              for database in (layout.history, layout.jobs_database) for end in ("-wal", "-shm")}  # fmt: skip
    return [
        path.relative_to(layout.root).as_posix()
        for path in sorted(layout.root.rglob("*"))
        if path not in known | beside and not any(folder in path.parents for folder in owned)
    ]


def test_server_leaves_only_files_of_the_layout(fake_server: RunningServer, data: Path) -> None:
    layout = DataDirectory(data)
    with logs.auditing(LogSettings(audit=True), layout.audit_log), fake_server.appliance.keyring.local(8000):
        answered = fake_server.client.post("/completion", json={"prompt": "Hello"})
        assert answered.status_code == 200, answered.text
        key_store.add(data, "phone", ("talk",))
        key_store.store_times_used(data, {"phone": 1.0})
        CertificateKeeper(data).refresh()
        jobs = JobStore(data)
        jobs.add(JobRequest("test"))
        jobs.close()
        assert unnamed(layout) == []
        written = {path.name for path in data.iterdir()}
    assert written >= {"history.sqlite3", "jobs.sqlite3", "keys.json", "keys-used.json", ".keys.lock", "audit.log",
                       "certificates", "local-8000.key"}  # fmt: skip
    (data / "stray.txt").write_text("")
    assert unnamed(layout) == ["stray.txt"]
