"""Manifests of user models, for tests of the catalog."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

CONTENT = random.Random(2).randbytes(400_000)


def write_manifest(
    data: Path, name: str, address: str, content: bytes = CONTENT, more: str = "", sources: str = ""
) -> None:
    """Writes the manifest of a user model with one file."""
    (data / "manifests").mkdir(parents=True, exist_ok=True)
    pinned = hashlib.sha256(content).hexdigest()
    (data / "manifests" / f"{name}.toml").write_text(
        f"""
        name = "{name}"
        role = "llm"
        engine = "llama_cpp"
        title = "A model"
        licence = "MIT"
        homepage = "here"
        {more or 'languages = ["en"]' + chr(10) + "memory = 1000" + chr(10) + "quality = 1"}
        [files.weights]
        size = {len(content)}
        sha256 = "{pinned}"
        {sources}
        [[sources]]
        kind = "url"
        files = {{ weights = "{address}" }}
        """
    )
