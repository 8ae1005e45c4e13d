"""ONNX graphs prepared for this processor: optimized once, with their weights in files that ONNX Runtime maps.

Optimizing the graph of a voice takes half a second of every start, and holds its weights twice in memory. Prepared
graphs load in a tenth of the time, and the system may drop their weights from memory at any time. They belong to one
version of ONNX Runtime and one kind of processor, because the optimizer arranges weights for its vector units:
https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime  # type: ignore[import-untyped]

from chatapi.errors import StorageError
from chatapi.storage import atomic_files

log = logging.getLogger(__name__)

RECORD = "record.json"
"""The file of a prepared model that names its other files, with their digests."""
KEY_CHARS = 32
"""Characters of a key, which is the beginning of a SHA-256 in hex."""
SMALLEST_MAPPED = 1024
"""Size, in bytes, from which a weight is in the mapped file and not in the graph's."""


@dataclass(frozen=True)
class GraphSource:
    """A model's file, and what is made of it."""

    onnx: Path
    sha256: str
    recipe: str
    """Changes whenever `parts` makes something else of the same file."""
    parts: Callable[[], Sequence[bytes]]
    """Makes the encoded parts; none: the file is one graph. Raises ValueError for a damaged file."""


class PreparedGraphs:
    """The prepared graphs in one folder. Any number of processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sessions(self, source: GraphSource, options: Callable[[], Any]) -> list[Any]:
        """A session on the CPU for each part. `options` makes new session options.

        Where the folder cannot be written, the graphs are optimized in memory. Raises what ONNX Runtime raises for a
        graph that cannot be loaded, and ValueError for a damaged file.
        """
        place = self._folder / f"{source.onnx.stem}-{_key(source)}"
        if not _complete(place):
            try:
                self._prepare(source, place, options)
            except (StorageError, OSError) as error:
                log.warning("the graphs of %s cannot be stored: %s", source.onnx.name, error)
                return [_session(part, options()) for part in _graphs(source)]
        return _opened(place, options)

    def _prepare(self, source: GraphSource, place: Path, options: Callable[[], Any]) -> None:
        """Optimize the graphs and store them, complete or not at all; those of other versions are removed."""
        draft = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        with atomic_files.writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            atomic_files.require(self._folder, source.onnx.stat().st_size, f"preparing {source.onnx.name}")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                for number, part in enumerate(_graphs(source)):
                    _optimize(part, draft, str(number), options())
                _record(draft)
                atomic_files.swap(draft, place, place.with_name(f"{draft.name}.old"))
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            for other in self._folder.glob(f"{source.onnx.stem}-*"):
                # Another process may have its files mapped; they stay until it ends.
                if other != place and len(other.name) == len(place.name):
                    shutil.rmtree(other, ignore_errors=True)


def _key(source: GraphSource) -> str:
    about = [source.sha256, source.recipe, onnxruntime.__version__, _processor()]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:KEY_CHARS]


def _processor() -> str:
    """What tells this kind of processor from others."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    found = dict(line.partition(":")[::2] for line in reversed(lines) if ":" in line)
    return " ".join(value.strip() for name, value in sorted(found.items()) if name.strip() in names)


def _graphs(source: GraphSource) -> Sequence[str | bytes]:
    """The parts, or the file's path."""
    return source.parts() or [str(source.onnx)]


def _session(graph: str | bytes, options: Any) -> Any:
    return onnxruntime.InferenceSession(
        graph, sess_options=options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _optimize(graph: str | bytes, folder: Path, name: str, options: Any) -> None:
    """Write NAME.onnx, and NAME.bin with its weights."""
    options.optimized_model_filepath = str(folder / f"{name}.onnx")
    for key, value in (("file_name", f"{name}.bin"), ("min_size_in_bytes", str(SMALLEST_MAPPED))):
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    _session(graph, options)


def _record(folder: Path) -> None:
    """Write the record of a folder's files, once they are on disk."""
    files = {}
    for path in sorted(folder.iterdir()):
        atomic_files.sync(path)
        files[path.name] = atomic_files.digest(path)
    atomic_files.write_whole(folder / RECORD, json.dumps({"files": files}))


def _complete(place: Path) -> bool:
    """Whether a prepared model is there, with all of its bytes."""
    try:
        files: dict[str, str] = json.loads((place / RECORD).read_text(encoding="utf-8"))["files"]
        return bool(files) and all(atomic_files.digest(place / name) == wanted for name, wanted in files.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _opened(place: Path, options: Callable[[], Any]) -> list[Any]:
    sessions = []
    for path in sorted(place.glob("*.onnx"), key=lambda path: int(path.stem)):
        prepared = options()
        prepared.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        sessions.append(_session(str(path), prepared))
    return sessions
