"""An engine of a plug-in's role that crashes, hangs and counts on request, for engines in child processes."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chatapi.audio import Samples
from chatapi.engines import Stop, never
from chatapi.engines.call import EngineCall
from chatapi.engines.role import EngineEntry, Role
from chatapi.errors import EngineFailed, NotFound
from chatapi.settings import RoleSettings, Settings
from fake_plugins import PlugIns

log = logging.getLogger("chatapi.fragile")


class FragileSettings(RoleSettings):
    """The settings table of the role."""

    engine: str = "native"
    fault: str = ""
    """What the constructor does: raise, crash, or hang."""


@dataclass(frozen=True)
class Measure:
    """A record of the plug-in."""

    name: str
    values: Samples


class Fragile(Protocol):
    """What the engine declares and does; see `FragileEngine`."""

    process: int
    shape: Mapping[str, tuple[int, ...]]

    def count(self, most: int, stop: Stop = never) -> Iterator[int]: ...


class FragileEngine:
    """Yields, and fails as native code fails."""

    shape: Mapping[str, tuple[int, ...]] = {"all": (1, 2)}

    def __init__(self, settings: Settings, models: Sequence[Any]) -> None:
        table = settings.table(FragileSettings)
        self.process = os.getpid()
        self.produced = 0
        self.ended = threading.Event()
        if table.fault == "raise":
            raise NotFound("the engine has no model", code="no_such_model")
        if table.fault == "crash":
            ctypes.string_at(0)
        if table.fault == "hang":
            time.sleep(1000)
        log.info("fragile engine loaded", extra={"number": 7, "key": Path("/")})

    def count(self, most: int, stop: Stop = never) -> Iterator[int]:
        """Numbers; `state` says how many, and whether the generator was closed."""
        try:
            for number in range(most):
                if stop():
                    return
                self.produced += 1
                yield number
        finally:
            self.ended.set()

    def think(self, seconds: float, stop: Stop = never) -> Iterator[str]:
        """Works for so long without an item, and asks `stop` meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if stop():
                self.ended.set()
                return
            time.sleep(0.001)
        yield "thought"

    def state(self, stop: Stop = never) -> Iterator[tuple[int, bool]]:
        yield self.produced, self.ended.is_set()

    def echo(self, value: Any, stop: Stop = never) -> Iterator[Any]:
        yield value

    def crash(self, stop: Stop = never) -> Iterator[int]:
        """Yields once; then native code reads from address 0."""
        yield 0
        ctypes.string_at(0)

    def hang(self, stop: Stop = never) -> Iterator[int]:
        """Yields once; then native code waits, with the Python lock, and ignores everything."""
        yield 0
        ctypes.PyDLL(None).sleep(1000)

    def fail(self, kind: str, stop: Stop = never) -> Iterator[int]:
        yield 0
        if kind == "caller":
            raise NotFound("there is no such voice", code="unknown_voice", details={"voice": "x"})
        if kind == "internal":
            raise EngineFailed("the voice is hoarse") from ZeroDivisionError("of the voice")
        raise ZeroDivisionError("/root/secret.bin cannot be read")


def _warm_up(engine: Fragile, settings: Settings) -> EngineCall[int]:
    return EngineCall.of(Fragile.count, 1)


ROLE: Role[Fragile] = Role(
    name="fragile",
    title="fragile work",
    protocol=Fragile,
    settings=FragileSettings,
    engines={"native": EngineEntry("fragile_engine:FragileEngine", needs_model=False)},
    warm_up=_warm_up,
    probe=lambda engine: EngineCall.of(Fragile.count, 1),
    values=(Measure,),
)


def install(plug_ins: PlugIns) -> None:
    """Make the role known to this process and to its children."""
    points = {
        "chatapi.settings": {"fragile": "fragile_engine:FragileSettings"},
        "chatapi.roles": {"fragile": "fragile_engine:ROLE"},
    }
    plug_ins.add("chatapi-fragile", points, {})
