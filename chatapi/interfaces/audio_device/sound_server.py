"""Where the sound server has a stream of ours: it moves streams to other devices without a word.

PulseAudio does so when another device becomes its default, even with a stream that asked for its device by name, if
that was the default until then. Neither ALSA nor PortAudio hears of it, so the server is asked, through its own
library, which ALSA's plug-in for it needs anyway; pulsectl, which wraps all of that library, waits for an answer for
ever, and a server that hangs gives none.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_uint32, c_void_p
from functools import cache
from typing import Any, Literal

LIBRARY = "libpulse.so.0"
SECONDS = 0.5
"""For one question; a server that needs longer than a few milliseconds hangs."""
NO_AUTOSPAWN = 1
READY, FAILED = 4, 5
"""States of a context (`pulse/def.h`); those beyond FAILED are no better."""
RUNNING, DONE = 0, 1
"""States of an operation, likewise."""


class _ServerStream(Structure):
    """How `pa_sink_input_info` and `pa_source_output_info` begin (`pulse/introspect.h`)."""

    _fields_ = (
        ("index", c_uint32),
        ("name", c_char_p),
        ("module", c_uint32),
        ("client", c_uint32),
        ("device", c_uint32),
    )


class _Device(Structure):
    """How `pa_sink_info` and `pa_source_info` begin."""

    _fields_ = (("name", c_char_p), ("index", c_uint32))


class _Client(Structure):
    """How `pa_client_info` begins."""

    _fields_ = (
        ("index", c_uint32),
        ("name", c_char_p),
        ("module", c_uint32),
        ("driver", c_char_p),
        ("properties", c_void_p),
    )


class _Silence(Exception):
    """The server is not there, refuses, or takes too long."""


class SoundServer:
    """Where the sound server has the stream of one direction that this process has. Blocking; `close` it.

    It stays connected from the first question on. The library connects quickly, but where the server dies just then it
    may compute for ever (PulseAudio 16, `pa_pstream_unlink` with a ring buffer that is only offered yet), so that this
    is not to be done every second.
    """

    def __init__(self, direction: Literal["input", "output"], library: str = LIBRARY) -> None:
        self._direction = direction
        self._pulse = _load(library)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._loop = self._context = c_void_p()
        self._end = 0.0

    def place(self) -> str:
        """The server's name of the device; takes 1 ms, 0.5 s at most.

        Empty where it cannot be told: no library, no server, no answer, no stream of ours, or several.
        """
        streams, devices = ("source_output", "source") if self._direction == "input" else ("sink_input", "sink")
        with self._lock:
            self._end = time.monotonic() + SECONDS
            try:
                self._connect()
                ours = self._rows("client", _Client, lambda row: row.index if self._ours(row.properties) else None)
                found = self._rows(streams, _ServerStream, lambda row: (row.client, row.device))
                names = dict(self._rows(devices, _Device, lambda row: (row.index, row.name)))
            except _Silence:
                return ""
        at = [device for client, device in found if client in ours]
        name: bytes = names.get(at[0], b"") if len(at) == 1 else b""
        return name.decode(errors="replace")

    def close(self) -> None:
        """Nothing can be told from now on."""
        with self._lock:
            self._pulse = None
            self._stack.close()

    def _connect(self) -> None:
        """Once. Raises _Silence."""
        if (pulse := self._pulse) is None:
            raise _Silence
        if self._context:
            return
        with ExitStack() as stack:
            loop = self._loop = _made(pulse.pa_mainloop_new())
            stack.callback(pulse.pa_mainloop_free, loop)
            context = _made(pulse.pa_context_new(c_void_p(pulse.pa_mainloop_get_api(loop)), b"chatapi"))
            stack.callback(pulse.pa_context_unref, context)
            stack.callback(pulse.pa_context_disconnect, context)
            if pulse.pa_context_connect(context, None, NO_AUTOSPAWN, None) < 0:
                raise _Silence
            while (state := pulse.pa_context_get_state(context)) != READY:
                if state >= FAILED:
                    raise _Silence
                self._turn()
            self._context, self._stack = context, stack.pop_all()

    def _rows(self, kind: str, shape: type[Structure], read: Callable[[Any], Any]) -> list[Any]:
        """What `read` makes of each thing of that kind, while its row may be read. Raises _Silence."""
        pulse, made = self._pulse, list[Any]()

        def take(context: int, row: Any, last: int, data: int) -> None:
            if not last:
                made.append(read(row.contents))

        callback = CFUNCTYPE(None, c_void_p, POINTER(shape), c_int, c_void_p)(take)
        operation = _made(getattr(pulse, f"pa_context_get_{kind}_info_list")(self._context, callback, None))
        try:
            while (state := pulse.pa_operation_get_state(operation)) == RUNNING:
                self._turn()
            if state != DONE:
                raise _Silence
        finally:
            # It would call back when the context ends, into what is gone by then.
            pulse.pa_operation_cancel(operation)
            pulse.pa_operation_unref(operation)
        return made

    def _ours(self, properties: int) -> bool:
        """Whether a client with these is of this process; in another container its number may be the same."""
        ours = {b"application.process.id": str(os.getpid()), b"application.process.host": socket.gethostname()}
        read = self._pulse.pa_proplist_gets
        return all(read(c_void_p(properties), key) == value.encode() for key, value in ours.items())

    def _turn(self) -> None:
        """Let the library work once. Raises _Silence when the time is over."""
        left = int((self._end - time.monotonic()) * 1e6)
        pulse, loop = self._pulse, self._loop
        if left <= 0 or pulse.pa_mainloop_prepare(loop, left) < 0 or pulse.pa_mainloop_poll(loop) < 0:
            raise _Silence
        if pulse.pa_mainloop_dispatch(loop) < 0:
            raise _Silence


def _made(pointer: int | None) -> c_void_p:
    """What the library made. Raises _Silence for nothing: the library would end this process if it were given that."""
    if not pointer:
        raise _Silence
    return c_void_p(pointer)


@cache
def _load(library: str) -> Any:
    """The server's own library; None where it is not installed."""
    try:
        pulse = ctypes.CDLL(library)
    except OSError:
        return None
    lists = [f"context_get_{kind}_info_list" for kind in ("client", "source_output", "sink_input", "source", "sink")]
    for name in ("mainloop_new", "mainloop_get_api", "context_new", *lists):
        getattr(pulse, f"pa_{name}").restype = c_void_p
    pulse.pa_proplist_gets.restype = c_char_p
    return pulse
