"""`chatapi stress`: many requests at once to a server, a live table, and a report with pictures."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from chatapi.bench.stress import report
from chatapi.bench.stress.inputs import StressInputs, speech_of
from chatapi.bench.stress.load import StressPlan, StressResult, StressRun
from chatapi.bench.stress.target import StressTarget, memory_of, shape_of
from chatapi.errors import BadInput
from chatapi.settings import Settings

CORPUS = Path("tests/corpus/real")
"""Speech of the repository, for `--input audio` without `--speech`."""
SECONDS = 600.0
"""Longest wait for an answer, in seconds."""


async def stress(settings: Settings, chosen: argparse.Namespace) -> int:
    """Run a stress test. Status 0; 1 when a request was lost, when the server failed, and when none succeeded."""
    if chosen.requests < 1 or chosen.concurrency < 1:
        raise BadInput("--requests and --concurrency must be at least 1")
    speech = [] if chosen.input == "noise" else await anyio.to_thread.run_sync(speech_of, chosen.speech or CORPUS)
    own = settings.server.api_key
    key = chosen.key or os.environ.get("CHATAPI_SERVER_API_KEY") or (own.get_secret_value() if own else "")
    url = (chosen.target or f"http://127.0.0.1:{settings.server.port}").rstrip("/")
    limits = httpx.Limits(max_connections=chosen.concurrency + 4)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=SECONDS, headers=headers, limits=limits) as client:
        target = StressTarget(url, await shape_of(client, url), chosen.model, chosen.name or chosen.model)
        if target.shape == "torchserve" and chosen.model == "completion":
            raise BadInput(f"{url} is a server in TorchServe's shape, which has no completions")
        inputs = StressInputs(chosen.model, chosen.seed, speech)
        folder = chosen.output or Path(f"stress-{time.strftime('%Y%m%d-%H%M%S')}")
        answers = folder / "answers" if chosen.save else None
        if answers is not None:
            await anyio.Path(answers).mkdir(parents=True, exist_ok=True)
        memory = await _memory_source(client, chosen.memory, url)
        plan = StressPlan(target, inputs, chosen.requests, chosen.concurrency, memory, answers)
        result = await _run(client, plan, shown=not chosen.json)
    title = f"{chosen.requests} requests of {chosen.model}, {chosen.input}, {chosen.concurrency} at once: {url}"
    page = await anyio.to_thread.run_sync(report.write, result, title, folder)
    if chosen.json:
        print(json.dumps(result.document(), indent=2))
    else:
        Console().print(_table(result, title))
        print(page)
    broken = any(each.status in (0, *range(500, 600)) for each in result.samples)
    return int(broken or _lost(result) > 0 or not result.succeeded)


def _lost(result: StressResult) -> int:
    return result.requests - len(result.samples)


async def _memory_source(client: httpx.AsyncClient, wanted: str | None, url: str) -> str:
    """Where the server's memory is read. Raises BadInput for a source that was given and states none."""
    source = wanted or f"{url}/health"
    if await memory_of(client, source) is not None:
        return source
    if wanted:
        raise BadInput(f"{wanted} states no memory; --memory takes a process's id, or the URL of /health or metrics")
    return ""


async def _run(client: httpx.AsyncClient, plan: StressPlan, shown: bool) -> StressResult:
    if not shown:
        return await StressRun(client, plan, lambda _: None).run()
    with Live(_table(StressResult(plan.requests), "running"), refresh_per_second=4) as live:
        return await StressRun(client, plan, lambda result: live.update(_table(result, "running"))).run()


def _table(result: StressResult, title: str) -> Table:
    """The figures so far."""
    table = Table(title=title, show_header=False)
    table.add_row("answered", f"{len(result.samples)} of {result.requests}")
    table.add_row("succeeded", str(len(result.succeeded)))
    for name, count in result.document()["errors"].items():
        table.add_row(f"error {name}", str(count))
    table.add_row("told to come again (503)", f"{result.busy}, without Retry-After {result.busy_without_wait}")
    if result.succeeded:
        table.add_row("latency p50, p95, p99", ", ".join(f"{result.latency(each):.2f} s" for each in (0.5, 0.95, 0.99)))
    if result.seconds:
        table.add_row("requests per second", f"{len(result.succeeded) / result.seconds:.2f}")
    if result.memory:
        most = max(size for _, size in result.memory)
        table.add_row("memory, and its peak", f"{result.memory[-1][1] >> 20} MiB, {most >> 20} MiB")
    if (growth := result.growth()) is not None:
        table.add_row("memory at the end over after warm-up", f"{growth:.3f}")
    return table
