"""`python -m fuzz`: fuzz a server, replay a saved input, or connect many clients at once."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from fuzz.cli_files import CommandLine
from fuzz.client import Client
from fuzz.corpus import corpus
from fuzz.driver import Campaign, judge_usage_change
from fuzz.inputs import load_input
from fuzz.judge import Judge, fault_of
from fuzz.many_clients import ManyClients
from fuzz.server_process import ServerProcess
from fuzz.summary import summary

REAL = 0.35
"""Share of the time for the real engines when both kinds are tested."""
CLI = 0.04
"""Share of the time for the command line."""


def main() -> int:
    chosen = _options()
    folder = chosen.output or Path(tempfile.mkdtemp(prefix="chatapi-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.replay:
        return asyncio.run(replay(chosen.replay, folder, chosen.engines))
    if chosen.clients:
        return asyncio.run(connect_many(chosen.clients, folder))
    return asyncio.run(fuzz(chosen, folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("run.sh fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3, help="total duration (default: 3)")
    parser.add_argument("--inputs", type=int, default=10**9, help="maximum number of inputs")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs (default: 1)")
    parser.add_argument("--engines", choices=("fake", "real", "both"), default="both")
    parser.add_argument(
        "--skip", action="append", default=[], metavar="INTERFACE", help="skip an interface; repeatable"
    )
    parser.add_argument("--no-corpus", action="store_true", help="without the inputs of earlier findings")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="send one saved input to a new server")
    parser.add_argument("--clients", type=int, metavar="N", help="connect this many clients at once instead")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder for the findings; default: a new one")
    return parser.parse_args()


async def fuzz(chosen: argparse.Namespace, folder: Path) -> int:
    """Exit status 1 if there are findings."""
    kinds = ("fake", "real") if chosen.engines == "both" else (chosen.engines,)
    shares = {"fake": 1 - REAL, "real": REAL} if len(kinds) == 2 else {kinds[0]: 1.0}
    judges = []
    for kind in kinds:
        started = time.monotonic()
        engine_folder = folder / kind
        engine_folder.mkdir(exist_ok=True)
        judge = Judge(engine_folder / "findings", kind)
        campaign = Campaign(ServerProcess(engine_folder, kind), judge, chosen.seed, chosen.skip)
        seconds = 60 * chosen.minutes * shares[kind]
        initial = () if chosen.no_corpus else corpus()
        inputs = round(chosen.inputs * shares[kind])
        await campaign.run(inputs, seconds * (1 - CLI), initial, lambda line: print(line, file=sys.stderr))
        judge_usage_change(judge, campaign.usage_change)
        await CommandLine(engine_folder, kind, judge).run(chosen.seed, seconds * CLI)
        print(summary(judge, campaign, time.monotonic() - started))
        judges.append(judge)
    print(f"saved in {folder}")
    return 1 if any(judge.findings for judge in judges) else 0


async def replay(path: Path, folder: Path, engines: str) -> int:
    """Exit status 1 if the fault occurs again."""
    given = load_input(path)
    server = ServerProcess(folder, "fake" if engines == "both" else engines)
    await server.start()
    if given.kind == "cli":
        await server.stop()
        judge = Judge(folder / "findings", server.engines)
        await CommandLine(folder, server.engines, judge).send([given.frames[0]])
        print("\n".join(judge.findings) or "no fault")
        return 1 if judge.findings else 0
    outcome = await Client(server.port, server.wyoming).send(given)
    await asyncio.sleep(0.5)
    fault = f"death {server.ending}" if not server.alive else fault_of(given, outcome)
    print(f"{given.interface}: {given.name}\n{outcome}\n{fault or 'no fault'}")
    ending = await server.stop()
    found = list(server.new_log_errors())
    for log_error in found:
        print(log_error.text)
    return 1 if fault or found or ending != "exit status 0" else 0


async def connect_many(clients: int, folder: Path) -> int:
    """Exit status 1 if a rejection lacks its code or Retry-After, or the server did not answer."""
    server = ServerProcess(folder, "fake", "fake.delay=0.2")
    await server.start()
    test = ManyClients(server, clients)
    await test.run()
    await server.stop()
    print(test.table())
    return 1 if test.faults else 0


if __name__ == "__main__":
    sys.exit(main())
