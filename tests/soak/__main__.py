"""`python -m soak`: mixed traffic for long with a curve of what the server holds, or kills in its middle."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from fuzz.box import Box
from soak.curve import Curve, Sample
from soak.kills import make
from soak.live import LiveClient
from soak.traffic import Traffic, voices

EVERY = 5.0
"""Seconds between two looks."""
WARM = 0.25
"""Of the time, what goes by before memory is compared; ten minutes at most."""
MOST_GROWTH = 0.02
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
    parser.add_argument("--minutes", type=float, default=30, help="how long (default: 30)")
    parser.add_argument("--engines", choices=("fake", "real"), default="real")
    parser.add_argument("--kills", type=int, metavar="N", help="kill the server so many times instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for soak.csv and soak.svg; default: a new one")
    return parser.parse_args()


async def kill(kills: int, seed: int, folder: Path) -> int:
    """Status 1 where something acknowledged was lost."""
    test = make(folder, seed)
    await test.run(kills)
    print(test.table())
    return 1 if test.faults else 0


async def soak(chosen: argparse.Namespace, folder: Path) -> int:
    """Status 1 where something was wrong, memory grew, or a question had no answer."""
    box = Box(folder, chosen.engines)
    await box.start()
    traffic, curve = Traffic(box, chosen.seed), Curve()
    # Fake engines understand every sound, but hear only loudness: one voice after another tells them nothing.
    lives = [LiveClient(box, voices(), number) for number in range(LIVE)] if chosen.engines == "real" else []
    begun = time.monotonic()
    end = begun + 60 * chosen.minutes
    looking = asyncio.create_task(look(box, traffic, curve, begun))
    await asyncio.gather(traffic.run(end, CLIENTS), *(each.run(end) for each in lives))
    looking.cancel()
    curve.write(folder)
    warm = min(WARM * 60 * chosen.minutes, 600)
    faults = [f"{count} x {name}" for name, count in traffic.faults.items()]
    faults += [fault for each in lives for fault in each.faults + each.unanswered_why]
    if (growth := curve.growth(warm)) > MOST_GROWTH:
        faults.append(f"memory grew by {100 * growth:.1f} % after {warm:.0f} s")
    if not box.alive:
        faults.append(f"death {box.ending}")
    elif (ending := await box.stop()) != "exit status 0":
        faults.append(f"stopped badly: {ending}")
    faults += [trouble.signature for trouble in box.troubles()]
    print(table(traffic, lives, curve, warm))
    print(f"{len(faults)} faults", *(f"  {each}" for each in faults), f"curve: {folder / 'soak.svg'}", sep="\n")
    return 1 if faults else 0


async def look(box: Box, traffic: Traffic, curve: Curve, begun: float) -> None:
    """Again and again."""
    while box.alive:
        await asyncio.sleep(EVERY)
        used = await asyncio.to_thread(box.usage)
        seconds = time.monotonic() - begun
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


def table(traffic: Traffic, lives: list[LiveClient], curve: Curve, warm: float) -> str:
    """For people."""
    questions = [each for live in lives for each in live.questions]
    against = [each for each in questions if each.against]
    lines = [
        "soak: " + ", ".join(f"{name} {count}" for name, count in sorted(traffic.counts.items())),
        f"live: {len(questions)} questions, {sum(each.answered for each in questions)} answered; "
        f"{len(against)} of them in the last second of an answer, {sum(each.answered for each in against)} answered",
        f"memory: {100 * curve.growth(warm):+.1f} % after {warm:.0f} s; at most "
        f"{max((each.pss_mib for each in curve.samples), default=0):g} MiB PSS",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
