"""`python -m fuzz`: fuzz a server of its own, send a kept input again, or hold many clients at once."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from fuzz.box import Box
from fuzz.cli_files import CommandLine
from fuzz.client import Client
from fuzz.corpus import corpus
from fuzz.crowd import Crowd
from fuzz.driver import Campaign, judge_span
from fuzz.inputs import kept
from fuzz.judge import Judge, fault_of
from fuzz.summary import summary

REAL = 0.35
"""Of the time, what goes to the real engines when both are wanted."""
CLI = 0.04
"""Of the time, what goes to the command line."""


def main() -> int:
    chosen = _options()
    folder = chosen.output or Path(tempfile.mkdtemp(prefix="chatapi-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.replay:
        return asyncio.run(replay(chosen.replay, folder, chosen.engines))
    if chosen.clients:
        return asyncio.run(crowd(chosen.clients, folder))
    return asyncio.run(fuzz(chosen, folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("run.sh fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3, help="how long, in all (default: 3)")
    parser.add_argument("--inputs", type=int, default=10**9, help="most inputs, in all")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs (default: 1)")
    parser.add_argument("--engines", choices=("fake", "real", "both"), default="both")
    parser.add_argument("--skip", action="append", default=[], metavar="INTERFACE", help="leave one out; repeatable")
    parser.add_argument("--no-corpus", action="store_true", help="without what was found before")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="send one kept input to a new server")
    parser.add_argument("--clients", type=int, metavar="N", help="hold so many clients at once instead")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where findings are kept; default: a new one")
    return parser.parse_args()


async def fuzz(chosen: argparse.Namespace, folder: Path) -> int:
    """Status 1 where something was found."""
    kinds = ("fake", "real") if chosen.engines == "both" else (chosen.engines,)
    shares = {"fake": 1 - REAL, "real": REAL} if len(kinds) == 2 else {kinds[0]: 1.0}
    judges = []
    for kind in kinds:
        begun = time.monotonic()
        place = folder / kind
        place.mkdir(exist_ok=True)
        judge = Judge(place / "findings", kind)
        campaign = Campaign(Box(place, kind), judge, chosen.seed, chosen.skip)
        seconds = 60 * chosen.minutes * shares[kind]
        first = () if chosen.no_corpus else corpus()
        most = round(chosen.inputs * shares[kind])
        await campaign.run(most, seconds * (1 - CLI), first, lambda line: print(line, file=sys.stderr))
        judge_span(judge, campaign.span)
        await CommandLine(place, kind, judge).run(chosen.seed, seconds * CLI)
        print(summary(judge, campaign, time.monotonic() - begun))
        judges.append(judge)
    print(f"kept in {folder}")
    return 1 if any(judge.findings for judge in judges) else 0


async def replay(path: Path, folder: Path, engines: str) -> int:
    """Status 1 where the server does wrong again."""
    given = kept(path)
    box = Box(folder, "fake" if engines == "both" else engines)
    await box.start()
    if given.kind == "cli":
        await box.stop()
        judge = Judge(folder / "findings", box.engines)
        await CommandLine(folder, box.engines, judge).send([given.frames[0]])
        print("\n".join(judge.findings) or "nothing wrong")
        return 1 if judge.findings else 0
    outcome = await Client(box.port, box.wyoming).send(given)
    await asyncio.sleep(0.5)
    fault = f"death {box.ending}" if not box.alive else fault_of(given, outcome)
    print(f"{given.interface}: {given.name}\n{outcome}\n{fault or 'nothing wrong'}")
    ending = await box.stop()
    found = list(box.troubles())
    for trouble in found:
        print(trouble.text)
    return 1 if fault or found or ending != "exit status 0" else 0


async def crowd(clients: int, folder: Path) -> int:
    """Status 1 where a refusal lacks its code or Retry-After, or the box was deaf."""
    box = Box(folder, "fake", "fake.delay=0.2")
    await box.start()
    held = Crowd(box, clients)
    await held.run()
    await box.stop()
    print(held.table())
    return 1 if held.faults else 0


if __name__ == "__main__":
    sys.exit(main())
