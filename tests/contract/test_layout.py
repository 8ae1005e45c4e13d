"""The layout: import-linter's contracts hold, files and functions stay small, public class names have one meaning."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from paths import ROOT

PACKAGES = (ROOT / "chatapi", ROOT / "compile/chatapi_compile")
MODULES = sorted(file for package in PACKAGES for file in package.rglob("*.py"))
SAME_MEANING = {
    # A settings table and the engine it configures have suffixes; these mean the same on both sides of a wire.
    "Completion", "Event", "Transcript", "Voice",
}  # fmt: skip
"""Public class names that exist more than once with the same meaning."""


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").as_posix()


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_files_and_functions_stay_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400
    for node in functions(file):
        assert node.end_lineno is not None
        assert node.end_lineno - node.lineno < 40, f"{node.name} in {file}"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_every_module_states_its_purpose(file: Path) -> None:
    text = file.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_public_class_names_have_one_meaning() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file in MODULES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name_of(file))
    assert {name: where for name, where in places.items() if len(where) > 1 and name not in SAME_MEANING} == {}
