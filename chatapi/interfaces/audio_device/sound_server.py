"""Asks the sound server on which device our stream is, because it moves streams to other devices silently.

PulseAudio does so when another device becomes its default, even with a stream that requested its device by name, if
that was the default until then. Neither ALSA nor PortAudio is notified, so this module asks the server through its own
library, which ALSA's plug-in needs anyway. pulsectl, which wraps that library, waits for an answer without a timeout,
and a server that hangs gives none.
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
"""Timeout of one query, in seconds; a server that needs longer than a few milliseconds hangs."""
NO_AUTOSPAWN = 1
READY, FAILED = 4, 5
"""States of a context (`pulse/def.h`); states beyond FAILED are failures too."""
RUNNING, DONE = 0, 1
"""States of an operation (`pulse/def.h`)."""


class _ServerStream(Structure):
    """The first fields of `pa_sink_input_info` and `pa_source_output_info` (`pulse/introspect.h`)."""

    _fields_ = (
        ("index", c_uint32),
        ("name", c_char_p),
        ("module", c_uint32),
        ("client", c_uint32),
        ("device", c_uint32),
    )


class _Device(Structure):
    """The first fields of `pa_sink_info` and `pa_source_info`."""

    _fields_ = (("name", c_char_p), ("index", c_uint32))


class _Client(Structure):
    """The first fields of `pa_client_info`."""

    _fields_ = (
        ("index", c_uint32),
        ("name", c_char_p),
        ("module", c_uint32),
        ("driver", c_char_p),
        ("properties", c_void_p),
    )


class _NoAnswer(Exception):
    """The server is not running, rejects the query, or timed out."""


class SoundServer:
    """Finds the device of this process's stream in one direction on the sound server. Blocking; `close` it.

    It stays connected from the first query on. Connecting is quick, but if the server dies meanwhile the library may
    spin for ever (PulseAudio 16, `pa_pstream_unlink` with a ring buffer that is only offered yet), so it must not
    connect every second.
    """

    def __init__(self, direction: Literal["input", "output"], library: str = LIBRARY) -> None:
        self._direction = direction
        self._pulse = _load(library)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._loop = self._context = c_void_p()
        self._deadline = 0.0

    def device_name(self) -> str:
        """The server's name of the device; takes 1 ms, 0.5 s at most.

        Empty when it is unknown: no library, no server, no answer, no stream of ours, or several.
        """
        streams, devices = ("source_output", "source") if self._direction == "input" else ("sink_input", "sink")
        with self._lock:
            self._deadline = time.monotonic() + SECONDS
            try:
                self._connect()
                ours = self._query("client", _Client, lambda row: row.index if self._ours(row.properties) else None)
                found = self._query(streams, _ServerStream, lambda row: (row.client, row.device))
                names = dict(self._query(devices, _Device, lambda row: (row.index, row.name)))
            except _NoAnswer:
                return ""
        matching = [device for client, device in found if client in ours]
        name: bytes = names.get(matching[0], b"") if len(matching) == 1 else b""
        return name.decode(errors="replace")

    def close(self) -> None:
        """Disconnects; `device_name` is empty from now on."""
        with self._lock:
            self._pulse = None
            self._stack.close()

    def _connect(self) -> None:
        """Connects once. Raises _NoAnswer."""
        if (pulse := self._pulse) is None:
            raise _NoAnswer
        if self._context:
            return
        with ExitStack() as stack:
            loop = self._loop = _not_null(pulse.pa_mainloop_new())
            stack.callback(pulse.pa_mainloop_free, loop)
            context = _not_null(pulse.pa_context_new(c_void_p(pulse.pa_mainloop_get_api(loop)), b"chatapi"))
            stack.callback(pulse.pa_context_unref, context)
            stack.callback(pulse.pa_context_disconnect, context)
            if pulse.pa_context_connect(context, None, NO_AUTOSPAWN, None) < 0:
                raise _NoAnswer
            while (state := pulse.pa_context_get_state(context)) != READY:
                if state >= FAILED:
                    raise _NoAnswer
                self._iterate()
            self._context, self._stack = context, stack.pop_all()

    def _query(self, kind: str, shape: type[Structure], read: Callable[[Any], Any]) -> list[Any]:
        """The result of `read` for each object of that kind, called while its row is valid. Raises _NoAnswer."""
        pulse, results = self._pulse, list[Any]()

        def take(context: int, row: Any, last: int, data: int) -> None:
            if not last:
                results.append(read(row.contents))

        callback = CFUNCTYPE(None, c_void_p, POINTER(shape), c_int, c_void_p)(take)
        operation = _not_null(getattr(pulse, f"pa_context_get_{kind}_info_list")(self._context, callback, None))
        try:
            while (state := pulse.pa_operation_get_state(operation)) == RUNNING:
                self._iterate()
            if state != DONE:
                raise _NoAnswer
        finally:
            # Otherwise it would call the callback when the context ends, after the callback is freed.
            pulse.pa_operation_cancel(operation)
            pulse.pa_operation_unref(operation)
        return results

    def _ours(self, properties: int) -> bool:
        """Whether a client with these properties is this process; another container may have the same process id."""
        ours = {b"application.process.id": str(os.getpid()), b"application.process.host": socket.gethostname()}
        read = self._pulse.pa_proplist_gets
        return all(read(c_void_p(properties), key) == value.encode() for key, value in ours.items())

    def _iterate(self) -> None:
        """Runs one iteration of the library's main loop. Raises _NoAnswer on a timeout."""
        left = int((self._deadline - time.monotonic()) * 1e6)
        pulse, loop = self._pulse, self._loop
        if left <= 0 or pulse.pa_mainloop_prepare(loop, left) < 0 or pulse.pa_mainloop_poll(loop) < 0:
            raise _NoAnswer
        if pulse.pa_mainloop_dispatch(loop) < 0:
            raise _NoAnswer


def _not_null(pointer: int | None) -> c_void_p:
    """The library's object. Raises _NoAnswer for NULL, with which the library would abort this process."""
    if not pointer:
        raise _NoAnswer
    return c_void_p(pointer)


@cache
def _load(library: str) -> Any:
    """The server's client library; None when it is not installed."""
    try:
        pulse = ctypes.CDLL(library)
    except OSError:
        return None
    lists = [f"context_get_{kind}_info_list" for kind in ("client", "source_output", "sink_input", "source", "sink")]
    for name in ("mainloop_new", "mainloop_get_api", "context_new", *lists):
        getattr(pulse, f"pa_{name}").restype = c_void_p
    pulse.pa_proplist_gets.restype = c_char_p
    return pulse
