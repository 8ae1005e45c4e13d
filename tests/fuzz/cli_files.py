"""`chatapi transcribe` on hostile files, many in one process to avoid its start time."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fuzz import media
from fuzz.corpus import sounds
from fuzz.inputs import Input
from fuzz.judge import Judge
from fuzz.server_process import COMMON, ENGINES, ROOT, ServerProcess

BATCH = 20
"""Files per process."""
TIMEOUT = 60
"""Seconds for one process."""


class CommandLine:
    """Runs the command in child processes."""

    def __init__(self, folder: Path, engines: str, judge: Judge) -> None:
        self._judge, self._engines = judge, engines
        self._environment = {
            **ServerProcess(folder / "cli", engines).environment,
            "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}",
        }
        self._data = folder / "cli" / "data"

    async def run(self, seed: int, seconds: float) -> None:
        """Transcribes the corpus, then as many generated files as the time allows."""
        rng, end = random.Random(f"cli:{seed}"), time.monotonic() + seconds
        await self.send([data for _, data in sounds()])
        while time.monotonic() < end:
            await self.send([media.hostile(rng)[1] for _ in range(BATCH)])

    async def send(self, files: Sequence[bytes]) -> None:
        """Transcribes the files; a file that kills the process is a finding, and the rest continue."""
        waiting = list(files)
        while waiting:
            done, ending, output = await self._batch(waiting)
            given = [Input("cli", "command line", "file", (data,)) for data in waiting[: done + 1]]
            self._judge.inputs += min(done + 1, len(waiting))
            self._judge.by_interface["command line"] += min(done + 1, len(waiting))
            if done < len(waiting):
                kind = "hang" if ending is None else f"death {ending}" if ending < 0 else "traceback"
                self._judge.found(f"{kind} of the command", given[done], output[-2000:])
                self._judge.deaths += ending is not None and ending < 0
            waiting = waiting[done + 1 :]

    async def _batch(self, files: Sequence[bytes]) -> tuple[int, int | None, str]:
        """The number of finished files, the exit status (None: it hung), and the standard error."""
        with tempfile.TemporaryDirectory() as folder:
            for number, data in enumerate(files):
                (Path(folder) / f"{number}.wav").write_bytes(data)
            settings = [*ENGINES[self._engines], *COMMON[3:4], f"data={self._data}"]
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, folder, str(len(files)), *settings,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env=self._environment,
            )  # fmt: skip
            try:
                _, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT)
                ending = process.returncode
            except asyncio.TimeoutError:
                process.kill()
                _, stderr = await process.communicate()
                ending = None
            finished = (Path(folder) / "done").read_text().splitlines() if (Path(folder) / "done").exists() else []
        return len(finished), ending, stderr.decode(errors="replace")


def _transcribe(folder: Path, count: int, settings: list[str]) -> None:
    """Runs in the child: calls the command for each file; adds a line to `done` after each normal exit."""
    from chatapi.cli import main

    options = [word for each in settings for word in ("--set", each)]
    for number in range(count):
        try:
            main(["transcribe", str(folder / f"{number}.wav"), *options])
        except SystemExit as ended:
            if ended.code not in (0, 1, 2):
                raise
        with (folder / "done").open("a") as done:
            done.write(f"{number}\n")


if __name__ == "__main__":
    _transcribe(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
