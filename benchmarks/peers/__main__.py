"""Compares chatapi with the other programs at their own defaults, in turns in one run: ./run.sh bench peers

Installs the others from PyPI into an environment of their own. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import environment
from options import Options

PARTS = ("tts", "stt", "llm", "conversation", "files")
"""Modules here, each with a coroutine function `measured` that takes the options and prints its tables."""


async def main() -> None:
    parser = argparse.ArgumentParser(prog="run.sh bench peers", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=10, help="number of requests to each; default: 10")
    parser.add_argument("--hours", type=float, default=Options.hours, help="length of the recording of `files`")
    parser.add_argument("--model", default=Options.model, help="speech recognition model of `files`")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"part {min(unknown)!r} is not supported ({', '.join(PARTS)})")
    options = Options(environment.python(), chosen.rounds, hours=chosen.hours, model=chosen.model)
    print(environment.described(options.peers_python), flush=True)
    for part in chosen.parts or PARTS:
        if importlib.util.find_spec(part) is None:
            print(f"{part}: not written yet\n", flush=True)
            continue
        await importlib.import_module(part).measured(options)


if __name__ == "__main__":
    # The servers end with this process, also when it is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asyncio.run(main())
