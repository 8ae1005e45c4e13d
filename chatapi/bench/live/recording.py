"""Recording of virtual devices: speaker and microphone as two channels of one stream, on one clock."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

import numpy as np

from chatapi.audio import Samples
from chatapi.bench.sound_card import LATENCY, Daemon
from chatapi.runtime.engine_threads import call_in

HZ = 48_000
MODULES = (
    f"module-null-sink sink_name=room rate={HZ} channels=2 channel_map=front-left,front-right norewinds=1",
    "module-remap-sink sink_name=spk master=room channels=1 channel_map=mono master_channel_map=front-left remix=no",
    "module-remap-sink sink_name=feed master=room channels=1 channel_map=mono master_channel_map=front-right remix=no",
    "module-remap-source source_name=mic master=room.monitor channels=1 channel_map=mono "
    "master_channel_map=front-right remix=no",
)
"""One device for speaker (left) and microphone (right): its monitor records both in one stream, sample by sample."""
PREFILL = 6
"""Number of blocks of 20 ms written ahead, so that a busy machine makes no gap."""

Flow = Callable[[Samples, Samples], Samples]
"""From 20 ms of the speaker and of the microphone to the microphone's next 20 ms."""


class RoomRecording:
    """Records speaker and microphone, and writes a block to the microphone for every recorded block."""

    rate = HZ
    """Sample rate, in Hz."""

    def __init__(self, daemon: Daemon, flow: Flow, tick: Callable[[bool], None]) -> None:
        self._daemon = daemon
        self._flow = flow
        self._tick = tick

    @contextmanager
    def sounding(self) -> Iterator[None]:
        """Inside the context `flow` is called on a thread, `tick(False)` after it in the event loop, and `tick(True)`
        at the end."""
        loop = asyncio.get_running_loop()
        with (
            _running(self._daemon, "pacat", "feed", 1, PREFILL * LATENCY, subprocess.PIPE) as writer,
            _running(self._daemon, "parec", "room.monitor", 2, LATENCY) as reader,
        ):
            thread = threading.Thread(target=self._work, args=(reader, writer, loop), name="air")
            thread.start()
            try:
                yield
            finally:
                reader.terminate()
                thread.join()

    def _work(
        self, reader: subprocess.Popen[bytes], writer: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop
    ) -> None:
        assert reader.stdout is not None and writer.stdin is not None  # noqa: S101 - piped
        block = HZ // 50
        try:
            writer.stdin.write(np.zeros(PREFILL * block, "<f4").tobytes())
            while len(data := reader.stdout.read(2 * 4 * block)) == 2 * 4 * block:
                both = np.frombuffer(data, "<f4").reshape(-1, 2).astype(np.float32)
                following = np.clip(self._flow(both[:, 0].copy(), both[:, 1].copy()), -1, 1)
                writer.stdin.write(following.astype("<f4").tobytes())
                writer.stdin.flush()
                call_in(loop, lambda: self._tick(False))
        except BrokenPipeError:
            # The sound server has ended; reading ends in the same way.
            pass
        call_in(loop, lambda: self._tick(True))


@contextmanager
def looped(daemon: Daemon) -> Iterator[None]:
    """Connect the microphone to the speaker, using only the sound server."""
    with ExitStack() as stack:
        recorder = stack.enter_context(_running(daemon, "parec", "mic", 1, LATENCY))
        stack.enter_context(_running(daemon, "pacat", "spk", 1, LATENCY, recorder.stdout))
        yield


@contextmanager
def _running(
    daemon: Daemon, program: str, device: str, channels: int, latency: int, stdin: IO[bytes] | int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    form = ["--raw", "--format=float32le", f"--rate={HZ}", f"--channels={channels}", f"--latency-msec={latency}"]
    process = subprocess.Popen(
        [program, "--playback" if program == "pacat" else "--record", f"--device={device}", *form],
        env=daemon.environment,
        stdin=stdin,
        stdout=subprocess.PIPE if program == "parec" else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        for end in (process.stdin, process.stdout):
            if end is not None:
                with suppress(BrokenPipeError):
                    end.close()
