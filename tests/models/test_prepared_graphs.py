"""ONNX graphs prepared once: same results, mapped weights, repair of damage, and a folder that cannot be written."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from chatapi.catalog.onnx_writer import Graph, value
from chatapi.engines.prepared_graphs import GraphSource, PreparedGraphs

SIZE = 128


def product(seed: int) -> bytes:
    """A graph that multiplies a vector by a matrix of 64 KiB."""
    graph = Graph("product")
    weights = graph.constant("weights", np.random.default_rng(seed).normal(size=(SIZE, SIZE)).astype(np.float32))
    graph.add("Tanh", [graph.add("MatMul", ["input", weights], "sum")], "output")
    return graph.model([value("input", [1, SIZE])], [value("output", [1, SIZE])])


@dataclass
class Parts:
    """Makes the parts of a model, and counts how often."""

    parts: Sequence[bytes]
    made: int = field(default=0)

    def __call__(self) -> Sequence[bytes]:
        self.made += 1
        return self.parts


def source_of(folder: Path, parts: Parts, recipe: str = "halves") -> GraphSource:
    onnx = folder / "voice.onnx"
    onnx.write_bytes(product(1))
    return GraphSource(onnx, hashlib.sha256(onnx.read_bytes()).hexdigest(), recipe, parts)


def result(session: Any) -> Any:
    return session.run(None, {"input": np.linspace(-1, 1, SIZE, dtype=np.float32)[np.newaxis]})[0]


def prepared_file(folder: Path, name: str) -> Path:
    [found] = folder.glob(f"voice-*/{name}")
    return found


@pytest.fixture
def halves() -> Parts:
    return Parts((product(1), product(2)))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_prepared_parts_compute_the_same_and_are_made_once(tmp_path: Path, count: int) -> None:
    parts = Parts(tuple(product(seed) for seed in range(1, 1 + count)))
    source, graphs = source_of(tmp_path, parts), PreparedGraphs(tmp_path / "prepared")
    wanted = [result(onnxruntime.InferenceSession(part)) for part in parts.parts or [product(1)]]
    for _ in range(2):
        found = [result(session) for session in graphs.sessions(source, onnxruntime.SessionOptions)]
        assert len(found) == len(wanted) and all(map(np.array_equal, found, wanted))
    assert parts.made == 1
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.name.startswith(".")] == []


def test_weights_are_mapped(tmp_path: Path, halves: Parts) -> None:
    sessions = PreparedGraphs(tmp_path / "prepared").sessions(source_of(tmp_path, halves), onnxruntime.SessionOptions)
    assert len(sessions) == 2
    assert str(prepared_file(tmp_path / "prepared", "1.bin")) in Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["0.onnx", "1.bin", "record.json"])
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"x" * len(data)], ids=["short", "changed"])
def test_damaged_files_are_made_again(tmp_path: Path, halves: Parts, name: str, damage: Any) -> None:
    source, graphs = source_of(tmp_path, halves), PreparedGraphs(tmp_path / "prepared")
    wanted = [result(session) for session in graphs.sessions(source, onnxruntime.SessionOptions)]
    file = prepared_file(tmp_path / "prepared", name)
    # Replaced, because a mapped file that is shortened ends its process.
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(damage(data))
    found = [result(session) for session in graphs.sessions(source, onnxruntime.SessionOptions)]
    assert all(map(np.array_equal, found, wanted)) and halves.made == 2


def test_another_recipe_replaces_the_graphs_and_those_in_use_stay_usable(tmp_path: Path, halves: Parts) -> None:
    graphs, folder = PreparedGraphs(tmp_path / "prepared"), tmp_path / "prepared"
    [session, _] = graphs.sessions(source_of(tmp_path, halves), onnxruntime.SessionOptions)
    before = result(session)
    (folder / "voice-of-another").mkdir()
    graphs.sessions(source_of(tmp_path, Parts((product(3),)), "whole"), onnxruntime.SessionOptions)
    assert np.array_equal(result(session), before)
    kept = {path.name for path in folder.iterdir()}
    assert len(kept) == 2 and "voice-of-another" in kept


def test_folder_that_cannot_be_written_costs_only_the_preparation(
    tmp_path: Path, halves: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prepared").write_text("a file")
    with caplog.at_level(logging.WARNING):
        sessions = PreparedGraphs(tmp_path / "prepared").sessions(
            source_of(tmp_path, halves), onnxruntime.SessionOptions
        )
    wanted = [result(onnxruntime.InferenceSession(part)) for part in halves.parts]
    assert all(map(np.array_equal, map(result, sessions), wanted))
    assert "voice.onnx" in caplog.text


def test_damaged_model_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    source = source_of(tmp_path, Parts((b"no graph",)))
    with pytest.raises(Exception, match=r"(?i)protobuf"):
        PreparedGraphs(tmp_path / "prepared").sessions(source, onnxruntime.SessionOptions)
    assert list((tmp_path / "prepared").iterdir()) == []
