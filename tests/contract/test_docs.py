"""The documentation: the site builds without a broken link, and the pages made from the code are up to date."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatapi.settings import dotted_keys
from paths import ROOT

TOPICS = (
    "index", "quick-start", "integrations/index", "live-voice", "jetson/index", "models", "reference/http-api",
    "reference/settings", "security", "measurements/index", "architecture", "glossary",
)  # fmt: skip
"""Pages that the site must have."""


def loaded(name: str) -> ModuleType:
    """A module of docs/, which is no package; its modules import each other as scripts do."""
    if str(ROOT / "docs") not in sys.path:
        sys.path.append(str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "default", "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    # Network access would fail.
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environ = {**os.environ, **closed, "no_proxy": "", "NO_PROXY": "", "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=source, env=environ, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def test_site_builds_with_every_topic(site: Path) -> None:
    pages = [site / "index.html" if name == "index" else site / re.sub("/index$", "", name) for name in TOPICS]
    assert [page for page in pages if not page.exists()] == []
    assert "chatapi" in (site / "index.html").read_text()
    assert (site / "images/page.png").stat().st_size < 200_000
    assert not list(site.rglob("*.py"))


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        sources = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"?(https?://[^\"\s>]+)", page.read_text())
        assert sources == [], page


@pytest.mark.parametrize(
    "text", ["[gone](gone.md)", "[gone](../gone/README.md)", "[gone](#gone)", "![gone](images/gone.png)"]
)
def test_broken_link_fails_the_build(text: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Page\n\n{loaded('hooks').translate(text, 'quick-start.md')}\n")
    validation = re.search(r"^validation:\n(?:  .+\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert validation is not None
    (tmp_path / "mkdocs.yml").write_text(f"site_name: test\n{validation[0]}")
    assert build(tmp_path, tmp_path / "site").returncode != 0


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("quick-start.md", "[a](../systemd/README.md)", "[a](jetson/boot-service.md)"),
        ("jetson/boot-service.md", "[a](../SECURITY.md#b)", "[a](../security.md#b)"),
        ("index.md", "[a](docs/jetson/index.md)", "[a](jetson/index.md)"),
        ("index.md", "![a](docs/images/page.png)", "![a](images/page.png)"),
        ("index.md", "[![a](docs/images/python.svg)](pyproject.toml)", "![a](images/python.svg)"),
        ("index.md", "[a](models/)", "[a](models.md)"),
        ("index.md", "[a](https://example.org/b)", "[a](https://example.org/b)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page: str, text: str, expected: str) -> None:
    assert loaded("hooks").translate(text, page) == expected


def test_generated_pages_are_up_to_date() -> None:
    pages: dict[Path, str] = loaded("generate").pages()
    stale = [path.name for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    assert stale == [], "run: python docs/generate.py"


def test_settings_page_has_every_setting() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    table, found = "", set()
    for heading, key in re.findall(r"^## (\w+)$|^\| `(\w+)` \|", page, re.MULTILINE):
        table = heading or table
        found.add(f"{table}.{key}" if table else key) if key else None
    assert found == set(dotted_keys())


def test_http_page_has_every_route() -> None:
    generate: Any = loaded("generate")
    page = (ROOT / "docs/reference/http-api.md").read_text()
    routes = {f"{method.upper()} {path}" for path, each in generate.openapi()["paths"].items() for method in each}
    assert set(re.findall(r"^## ([A-Z]+ /.*)$", page, re.MULTILINE)) == routes


def test_readme_of_the_tests_lists_every_test_and_no_other() -> None:
    tests = ROOT / "tests"
    named = set(re.findall(r"`((?:\w+/)?test_\w+)`", (tests / "README.md").read_text()))
    assert {name for name in named if not any(tests.rglob(f"{name}.py"))} == set()
    assert {path.stem for path in tests.rglob("test_*.py") if "node_modules" not in path.parts} - named == set()


def test_documents_name_no_package_index() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "mkdocs.yml"]
    assert [path.name for path in documents if re.search(r"pypi\.org|pythonhosted", path.read_text())] == []
