"""`python -m soak`: long mixed traffic with a curve of the resource usage, or kills during writes."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from fuzz.server_process import ServerProcess
from soak.curve import Curve, Sample
from soak.kills import kill_test
from soak.live import LiveClient
from soak.traffic import Traffic, voices

INTERVAL = 5.0
"""Seconds between samples."""
WARM_UP = 0.25
"""Share of the time before memory is compared; ten minutes at most."""
MAX_GROWTH = 0.02
CLIENTS = 2
LIVE = 2


def main() -> int:
    chosen = _options()
    folder = chosen.output or Path(tempfile.mkdtemp(prefix="chatapi-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.kills:
        return asyncio.run(kill(chosen.kills, chosen.seed, folder))
    return asyncio.run(soak(chosen, folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("run.sh soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="duration (default: 30)")
    parser.add_argument("--engines", choices=("fake", "real"), default="real")
    parser.add_argument("--kills", type=int, metavar="N", help="kill the server this many times instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for soak.csv and soak.svg; default: a new one")
    return parser.parse_args()


async def kill(kills: int, seed: int, folder: Path) -> int:
    """Exit status 1 if something acknowledged was lost."""
    test = kill_test(folder, seed)
    await test.run(kills)
    print(test.table())
    return 1 if test.faults else 0


async def soak(chosen: argparse.Namespace, folder: Path) -> int:
    """Exit status 1 after a fault, memory growth, or a question without an answer."""
    server = ServerProcess(folder, chosen.engines)
    await server.start()
    traffic, curve = Traffic(server, chosen.seed), Curve()
    # Recorded voices would test nothing with fake engines, which detect only loudness.
    live_clients = [LiveClient(server, voices(), number) for number in range(LIVE)] if chosen.engines == "real" else []
    started = time.monotonic()
    end = started + 60 * chosen.minutes
    recorder = asyncio.create_task(record_usage(server, traffic, curve, started))
    await asyncio.gather(traffic.run(end, CLIENTS), *(each.run(end) for each in live_clients))
    recorder.cancel()
    curve.write(folder)
    warm = min(WARM_UP * 60 * chosen.minutes, 600)
    faults = [f"{count} x {name}" for name, count in traffic.faults.items()]
    faults += [fault for each in live_clients for fault in each.faults + each.unanswered_why]
    if (growth := curve.growth(warm)) > MAX_GROWTH:
        faults.append(f"memory grew by {100 * growth:.1f} % after {warm:.0f} s")
    if not server.alive:
        faults.append(f"death {server.ending}")
    elif (ending := await server.stop()) != "exit status 0":
        faults.append(f"stopped badly: {ending}")
    faults += [log_error.signature for log_error in server.new_log_errors()]
    print(table(traffic, live_clients, curve, warm))
    print(f"{len(faults)} faults", *(f"  {each}" for each in faults), f"curve: {folder / 'soak.svg'}", sep="\n")
    return 1 if faults else 0


async def record_usage(server: ServerProcess, traffic: Traffic, curve: Curve, started: float) -> None:
    """Records samples until the server ends."""
    while server.alive:
        await asyncio.sleep(INTERVAL)
        used = await asyncio.to_thread(server.usage)
        seconds = time.monotonic() - started
        sample = Sample(
            round(seconds, 1),
            round(used.pss / 2**20, 1),
            round(used.rss / 2**20, 1),
            used.descriptors,
            used.threads,
            round(traffic.latency(), 1),
        )
        curve.samples.append(sample)
        if len(curve.samples) % 12 == 0:
            print(f"{seconds / 60:.1f} minutes: {sample}", file=sys.stderr)


def table(traffic: Traffic, live_clients: list[LiveClient], curve: Curve, warm: float) -> str:
    """The results as text."""
    questions = [each for live in live_clients for each in live.questions]
    barge_ins = [each for each in questions if each.barge_in]
    lines = [
        "soak: " + ", ".join(f"{name} {count}" for name, count in sorted(traffic.counts.items())),
        f"live: {len(questions)} questions, {sum(each.answered for each in questions)} answered; "
        f"{len(barge_ins)} of them in the last second of an answer, "
        f"{sum(each.answered for each in barge_ins)} answered",
        f"memory: {100 * curve.growth(warm):+.1f} % after {warm:.0f} s; at most "
        f"{max((each.pss_mib for each in curve.samples), default=0):g} MiB PSS",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
