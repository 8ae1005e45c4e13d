"""uvicorn's server with a graceful shutdown: what still runs ends with an error instead of a closed connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import uvicorn

from chatapi.errors import NotReady
from chatapi.runtime.drain import ERROR_SECONDS, FINISH_SECONDS, Drain


class DrainingServer(uvicorn.Server):
    """A server whose shutdown ends sessions at once and streams after FINISH_SECONDS."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shuts down as uvicorn does, and waits for the connections of other interfaces too."""
        until = time.monotonic() + FINISH_SECONDS + ERROR_SECONDS
        with self._drain.running():
            await super().shutdown(sockets)
            with anyio.move_on_after(until - time.monotonic()):
                await self._drain.until_closed()


class FurtherServer(uvicorn.Server):
    """A server beside the box's own, which receives the signals; both shut down together."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the box's own server."""
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until the box shuts down, which waits for it."""
        with self._drain.counted():
            async with anyio.create_task_group() as group:
                group.start_soon(self._end_with_box)
                try:
                    await super().serve(sockets)
                finally:
                    self._close()
                group.cancel_scope.cancel()

    def _close(self) -> None:
        """Closes what a cancelled server leaves open: its descriptors may be those of other sockets soon."""
        for each in getattr(self, "servers", ()):
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def _end_with_box(self) -> None:
        try:
            with self._drain.lasting():
                await anyio.sleep_forever()
        except NotReady:
            self.should_exit = True
