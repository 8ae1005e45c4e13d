"""Loading a compiled model into MLC's engine: its checks, its share of the memory, and the reasons of failures."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlc_llm.serve import AsyncMLCEngine
from mlc_llm.serve.config import EngineConfig

from chatapi.catalog.compiled import CompiledModel, Target, find, fitting, verify
from chatapi.errors import ModelError, ModelMissing
from chatapi.settings import MlcSettings as Table
from chatapi.system import jetson

log = logging.getLogger(__name__)


def metadata_of(folder: Path, name: str) -> Mapping[str, Any]:
    """The metadata of the model's library. ModelError when the model is incomplete or not for this machine."""
    for file in ("made.json", "lib.so", "weights/mlc-chat-config.json"):
        if not (folder / file).is_file():
            raise ModelMissing(
                f"the model {name} is not compiled for this machine: {folder / file} is missing; "
                f"make it with: chatapi compile {name}"
            )
    # Whether the memory is enough also depends on the settings: `configured` checks it.
    verdict = verify(folder, Target(jetson.find(), available=0, versions=find().versions), deep=True)
    verdict.require()
    return verdict.lib.metadata.raw if verdict.lib.metadata else {}


def configured(folder: Path, metadata: Mapping[str, Any], table: Table, root: Path = Path("/")) -> EngineConfig:
    """MLC's configuration of batch and memory; `root` is where the board's files are."""
    needed = tokens = table.slots * table.context
    if jetson.find(root) is not None:
        tokens = min(needed, fitting(metadata, CompiledModel(folder).size(), jetson.meminfo(root), table.context))
    if tokens < needed:
        log.warning("the memory holds %d tokens of the %d that %d slots may need", tokens, needed, table.slots)
    return EngineConfig(
        max_num_sequence=min(table.slots, metadata.get("max_batch_size", table.slots)),
        max_single_sequence_length=table.context,
        # Without it MLC takes what fits the GPU's whole memory, which a Jetson shares with everything else.
        max_total_sequence_length=tokens,
        verbose=False,
    )


def load(folder: Path, config: EngineConfig, device: str) -> Any:
    """Loads the engine. ModelError with MLC's own reason when it cannot be loaded.

    An error while loading ends the engine's own thread, and its constructor then waits forever (`Reload` and
    `EngineReloadImpl`, threaded_engine.cc). So the constructor runs on a thread that may be abandoned, and errors that
    end the engine's threads are caught here.
    """
    engine = AsyncMLCEngine.__new__(AsyncMLCEngine)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    mode = "interactive" if config.max_num_sequence == 1 else "local"

    def build() -> None:
        try:
            engine.__init__(
                str(folder / "weights"), device, model_lib=str(folder / "lib.so"), mode=mode, engine_config=config
            )
        except Exception as error:
            ended.put(error)
        else:
            ended.put(None)

    with _thread_errors(ended.put):
        threading.Thread(target=build, name="mlc-load", daemon=True).start()
        error = ended.get()
    if error is None:
        return engine
    engine.terminate()
    raise ModelError(f"MLC cannot load {folder}: {_reason(error)}") from error


@contextmanager
def _thread_errors(report: Callable[[BaseException], None]) -> Iterator[None]:
    """Calls `report` with each error that ends a thread started meanwhile."""
    before, former = set(threading.enumerate()), threading.excepthook

    def hook(args: threading.ExceptHookArgs, /) -> None:
        if args.thread in before or args.exc_value is None:
            former(args)
        else:
            report(args.exc_value)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = former


def _reason(error: BaseException) -> str:
    """The reason in an error of TVM, which carries a C++ stack: the text after `Check failed`, or the last line after
    the stack."""
    text = str(error).strip() or type(error).__name__
    if found := re.search(r"Check failed:.*?: +(\S.*)", text):
        return found[1].strip()
    return text.splitlines()[-1 if text.startswith("Traceback") else 0].strip()
