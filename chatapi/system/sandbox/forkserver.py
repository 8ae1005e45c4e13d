"""The forkserver: it has one thread, imports the children's modules, and never sees their input.

`python -m chatapi.system.sandbox.forkserver DESCRIPTOR MEMORY MODULE...`, where DESCRIPTOR is a Unix socket.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys

from chatapi.system.sandbox import child
from chatapi.system.sandbox.framing import FORK, ORDER, REPLY


def serve(control: socket.socket, memory: int) -> None:
    """Execute orders until the other end closes."""
    while True:
        order, files, _, _ = socket.recv_fds(control, ORDER.size, 1)
        if len(order) < ORDER.size:
            return
        kind, process = ORDER.unpack(order)
        reply = _fork(control, files[0], memory) if kind == FORK else _kill(process)
        control.sendall(REPLY.pack(reply))


def _fork(control: socket.socket, descriptor: int, memory: int) -> int:
    process = os.fork()
    if process:
        os.close(descriptor)
        return process
    status = 1
    try:
        control.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child.run(socket.socket(fileno=descriptor), memory)
        status = 0
    finally:
        os._exit(status)


def _kill(process: int) -> int:
    """Kill a child, if it still runs. Returns its wait status.

    Nothing else waits for a child, so its process id cannot be reused before this order.
    """
    with contextlib.suppress(OSError):
        if (ended := os.waitpid(process, os.WNOHANG)) != (0, 0):
            return ended[1]
        os.kill(process, signal.SIGKILL)
        return os.waitpid(process, 0)[1]
    return 0


def main(arguments: list[str]) -> None:
    """Import the modules, then serve."""
    descriptor, memory, *modules = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in modules:
        # A call that needs a missing module reports it.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    # Imported objects are not garbage-collected, so children share their pages instead of copying them.
    gc.freeze()
    gc.disable()
    serve(socket.socket(fileno=int(descriptor)), int(memory))


if __name__ == "__main__":
    main(sys.argv[1:])
