"""MkDocs hooks: documents of the repository become pages, and links between documents become links between pages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "development/changes.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "development/benchmarks.md",
    "chatapi/bench/live/README.md": "development/bench-live.md",
    "chatapi/interfaces/http/page/README.md": "development/page.md",
    "chatapi/interfaces/http/realtime/README.md": "integrations/realtime-details.md",
    "containers/README.md": "jetson/images.md",
    "containers/monitoring/README.md": "integrations/monitoring.md",
    "containers/monitoring/metrics.md": "reference/metrics.md",
    "models/README.md": "models.md",
    "packages/README.md": "jetson/packages.md",
    "systemd/README.md": "jetson/boot-service.md",
    "tests/README.md": "development/tests.md",
    "tests/corpus/README.md": "development/corpus.md",
    "tests/fuzz/README.md": "development/fuzzer.md",
}
"""Document of the repository -> page of the site."""
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
"""A relative link or image; the text of a link may hold an image."""


def on_config(config: Any) -> Any:
    """Lists every page of measurements in the navigation."""
    pages = sorted(path.name for path in (ROOT / "docs/measurements").glob("*.md"))
    pages.sort(key=lambda name: name != "index.md")
    for entry in config.nav:
        if "Measurements" in entry:
            entry["Measurements"] = [f"measurements/{name}" for name in pages]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the repository's documents to the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links between documents of the repository at their pages."""
    return translate(markdown, page.file.src_uri)


def translate(markdown: str, page: str) -> str:
    """The text with its links as the site needs them; a link to a file that is no page becomes plain text."""
    folder = (ROOT / SOURCES.get(page, f"docs/{page}")).parent

    def replaced(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], LINK.sub(replaced, match[2]), match[3], match[4] or ""
        path = Path(os.path.normpath(folder / target))
        if not path.exists():
            # MkDocs reports it.
            return match[0]
        found = page_of(path)
        if found is None:
            return text
        return f"{mark}[{text}]({os.path.relpath(found, Path(page).parent)}{anchor})"

    return LINK.sub(replaced, markdown)


def page_of(path: Path) -> str | None:
    """The page that shows this file or folder, if any."""
    if path.is_dir():
        path /= "README.md" if (path / "README.md").is_file() else "index.md"
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return PAGES[name]
    return name.removeprefix("docs/") if name.startswith("docs/") and path.is_file() else None
