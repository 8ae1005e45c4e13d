"""The layout holds: imports point down or level, engines and faces stand alone, files and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "chatapi"
FLOORS = {
    0: (
        "audio",
        "board",
        "decoding",
        "encoding",
        "events",
        "errors",
        "sandbox",
        "settings",
        "metrics",
        "logs",
        "notify",
        "private",
        "redaction",
        "client",
        "stop",
        "addresses",
        "json_bounds",
        "log_flood",
    ),
    1: (
        "engines",
        "catalog",
        "certificates",
        "compiling",
        "chat_template",
        "choice",
        "corpus",
        "espeak",
        "exchange",
        "function_calls",
        "openmp",
        "phonemizing",
        "providers",
        "heap",
        "byte_budget",
        "descriptors",
        "json_schemas",
        "patterns",
        "schema_size",
        "mel",
        "memory",
        "wer",
        "whisper",
        "gate",
        "tracing",
        "crew",
        "workers",
        "history",
        "keys",
        "segmenter",
        "sentences",
        "spoken",
    ),
    2: ("abilities",),
    3: ("appliance", "watchdog"),
    4: ("faces",),
    5: ("cli", "commands", "bench", "__main__", "__init__"),
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Every chatapi module a file imports, inside functions too, without the leading package."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "chatapi":
            inner = node.module.split(".")[1:]
            yield from (".".join([*inner, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("chatapi."))


def floor_of(dotted: str) -> int:
    return FLOOR[dotted.split(".")[0]]


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_imports_point_down_or_level(file: Path) -> None:
    floor = floor_of(name_of(file))
    assert [name for name in imports(file) if floor_of(name) > floor] == []


@pytest.mark.parametrize("folder", ["engines", "faces"])
def test_engines_and_faces_do_not_import_each_other(folder: str) -> None:
    for file in (PACKAGE / folder).rglob("*.py"):
        own = file.relative_to(PACKAGE / folder).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == folder and len(parts) > 1 and (PACKAGE / folder / f"{parts[1]}.py").exists():
                assert parts[1] == own, f"{file} imports {name}"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_files_and_functions_stay_small(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 45, f"{node.name} in {file}"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(file: Path) -> None:
    text = file.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))
