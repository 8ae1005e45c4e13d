"""Latency of command recognition over gRPC and without it: one and many clients, while it is trained and switched.

    python benchmarks/command_latency.py [--clients 64] [--calls 2000] [--set KEY=VALUE]

Runs the appliance in this process with a data directory of its own, and the clients in a second process. `engine and
decoder` is the time of the service itself; the others are those of the clients.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, wav
from chatapi.interfaces.grpc.server import CommandServer
from chatapi.storage.layout import DataDirectory

LABEL = "bench"


def word(seed: int) -> np.ndarray[Any, Any]:
    """A sound with formants that glide, which no voice is needed for."""
    random, times = np.random.default_rng(seed), np.arange(RATE // 2) / RATE
    pitch = 110 + 10 * random.random() + 30 * times
    sound = sum(np.sin(2 * np.pi * np.cumsum(pitch * part) / RATE) / part for part in range(1, 20))
    envelope = np.sin(np.pi * times / times[-1]) ** 0.5
    return (0.2 * sound * envelope + random.normal(0, 0.005, len(times))).astype(np.float32)


def clients(address: str, count: int, calls: int, found: Any) -> None:
    """Calls of so many clients at once, each with a connection of its own; puts their times in seconds."""
    import grpc.aio

    from chatapi.client.commands import proto

    audio = wav(Audio(word(1), RATE))

    async def one(times: list[float], number: int) -> None:
        method = proto().methods["Classify"]
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(
                f"/{proto().service}/Classify", method.request.SerializeToString, method.response.FromString
            )
            await call(method.request(audio=audio), timeout=60)
            for _ in range(number):
                begun = time.perf_counter()
                await call(method.request(audio=audio), timeout=60)
                times.append(time.perf_counter() - begun)

    async def run() -> list[float]:
        times: list[float] = []
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one, times, max(1, calls // count))
        return times

    found.put(anyio.run(run))


def row(name: str, seconds: list[float]) -> None:
    p50, p99 = np.percentile(np.array(seconds) * 1000, (50, 99))
    print(f"{name:34} {len(seconds):6} calls  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms", flush=True)


async def measured(address: str, count: int, calls: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=clients, args=(address, count, calls, found))
    process.start()
    times: list[float] = await anyio.to_thread.run_sync(found.get)
    await anyio.to_thread.run_sync(process.join)
    return times


async def bench(options: argparse.Namespace, data: Path) -> None:
    chosen = [f"data={data}", "grpc.port=0", *options.set]
    async with (
        Appliance(settings.load(chosen, environ={}).settings).running() as appliance,
        anyio.create_task_group() as group,
    ):
        server = CommandServer(appliance, None)
        group.start_soon(server.run)
        group.start_soon(appliance.jobs.run)
        await server.started.wait()
        address, audio = f"127.0.0.1:{server.port}", wav(Audio(word(1), RATE))
        await appliance.load({"command", "vad"})
        times = []
        for _ in range(options.calls):
            begun = time.perf_counter()
            await appliance.command_recognition.classify_file(audio)
            times.append(time.perf_counter() - begun)
        row("engine and decoder, 1 at a time", times)
        row("grpc, 1 client", await measured(address, 1, options.calls))
        row(f"grpc, {options.clients} clients", await measured(address, options.clients, options.calls))
        teaching = appliance.command_teaching
        for number in range(options.samples):
            await teaching.submission.submit(word(100 + number), LABEL, by())
        job = await teaching.train("", False)
        row("grpc, 1 client, during a training", await measured(address, 1, options.calls))
        states = [each async for each in teaching.watch(job.id)]
        _, versions = await teaching.listed()
        print("training:", states[-1].state, json.dumps({"verdict": versions[0].verdict if versions else None}))

        async def switching() -> None:
            number = 0
            while versions:
                number = versions[0].number - number
                await teaching.switch(number, "activated")
                await anyio.sleep(0.05)

        async with anyio.create_task_group() as switches:
            switches.start_soon(switching)
            row("grpc, 1 client, switched 20 times/s", await measured(address, 1, options.calls))
            switches.cancel_scope.cancel()
        group.cancel_scope.cancel()


def by() -> Any:
    from chatapi.services.command_recognition.sample_store import Submitter

    return Submitter("", "benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=20, help="samples of the word that is taught")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    print("load:", " ".join(f"{each:.1f}" for each in os.getloadavg()))
    data = Path(tempfile.mkdtemp(prefix="command-latency-"))
    try:
        DataDirectory(data).models.symlink_to(DataDirectory(settings.Settings().data).models)
        anyio.run(bench, options, data)
    finally:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
