"""A known fault of a board's software is named where it shows: in the plan of a compilation, and when a model does not
load."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram

from chatapi import settings
from chatapi.catalog import Catalog
from chatapi.errors import ModelError
from chatapi.runtime.engine_loading import EngineLoader
from fake_jetson import ORIN_NX, write_files
from test_compiling import NAME, data, run

__all__ = ["data"]
BROKEN = b"GGUF" + bytes(range(256)) * 4
MANIFEST = """
name = "broken"
role = "llm"
engine = "llama_cpp"
title = "A model"
licence = "MIT"
homepage = "here"
languages = ["en"]
memory = 1000
quality = 1
[files."broken.gguf"]
size = {size}
sha256 = "{sha256}"
[[sources]]
kind = "path"
path = "../source"
"""


def with_release(root: Path, revision: str) -> Path:
    """The files of a board with this revision of L4T 36."""
    release = ORIN_NX["etc/nv_tegra_release"].replace("4.3", revision)
    return write_files(root, {**ORIN_NX, "etc/nv_tegra_release": release})


@pytest.mark.parametrize(("revision", "faulty"), [("4.3", False), ("4.7", True), ("5.0", False)])
def test_plan_of_a_compilation_names_it(
    data: Path, capsys: pytest.CaptureFixture[str], revision: str, faulty: bool
) -> None:
    with_release(data / "root", revision)
    assert run(data, NAME, "--plan") == 0
    assert (f"note: L4T r36.{revision} fails to allocate" in capsys.readouterr().out) is faulty


@pytest.mark.parametrize(("revision", "faulty"), [("4.3", False), ("4.7", True), ("5.0", False)])
def test_error_of_a_model_that_does_not_load_names_it(tmp_path: Path, revision: str, faulty: bool) -> None:
    for folder in ("source", "manifests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "source/broken.gguf").write_bytes(BROKEN)
    manifest = MANIFEST.format(size=len(BROKEN), sha256=hashlib.sha256(BROKEN).hexdigest())
    (tmp_path / "manifests/broken.toml").write_text(manifest)
    chosen = settings.load(["llm.model=broken", "llm.engine=llama_cpp", f"data={tmp_path}"], environ={}).settings
    catalog = Catalog(tmp_path)
    catalog.fetch("broken")
    seconds = Histogram("seconds", "", ["role"], registry=CollectorRegistry())
    loader = EngineLoader(chosen, catalog, seconds, with_release(tmp_path / "root", revision))
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load") as caught:
        loader.loading("llm")()
    assert ("NvMapMemAllocInternalTagged" in caught.value.message) is faulty
    assert ("update to r36.5" in caught.value.message) is faulty
