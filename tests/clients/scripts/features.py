"""Shared by all scripts: features are functions, each of which raises when its program gets a wrong result.

A script runs in the environment of its program, which has no chatapi. It prints one line of JSON for each feature:
`{"feature": NAME, "works": true, "reason": ""}`. Arguments select features by a part of their name.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import os
import re
import signal
import sys
import traceback
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAKE = os.environ["CLIENTS_FAKE_URL"]
"""A server with fake engines: answers repeat the message, and a message that is a tool call calls that tool."""
REAL = os.environ["CLIENTS_REAL_URL"]
"""A server with small real models."""
FAKE_WYOMING = f"tcp://127.0.0.1:{os.environ['CLIENTS_FAKE_WYOMING']}"
REAL_WYOMING = f"tcp://127.0.0.1:{os.environ['CLIENTS_REAL_WYOMING']}"
WORK = Path(os.environ["CLIENTS_WORK"])
"""An empty folder."""
FOX, QUESTION, WAKE, WAKE_QUESTION = (WORK / f"{name}.wav" for name in ("fox", "question", "wake", "wake_question"))
"""Recordings of 16 kHz: "The quick brown fox jumps over the lazy dog"; a question about France; the wake word; both."""
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
"""A message to which the fake model answers by calling the tool `weather`."""
SECONDS = int(os.environ.get("CLIENTS_SECONDS", "90"))
"""Time limit of a feature."""

_features: list[tuple[str, Callable[[], Any]]] = []


class Failed(Exception):
    """The program got something else than it should."""


def feature(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Declares a function or coroutine function as a feature."""

    def declare(function: Callable[[], Any]) -> Callable[[], Any]:
        _features.append((name, function))
        return function

    return declare


def expect(condition: object, found: object) -> None:
    """Raises Failed, which shows what was found, unless the condition holds."""
    if not condition:
        raise Failed(f"got {found!r}"[:300])


def expect_fox(text: str) -> None:
    """Expects most words of the recording of the fox."""
    words = set(re.findall(r"\w+", text.lower()))
    expect(len(words & {"quick", "brown", "fox", "jumps", "over", "lazy", "dog"}) >= 5, text)


def expect_speech(pcm: bytes, rate: int, least: float, most: float) -> None:
    """Expects 16-bit mono speech, not silence, of a duration in seconds."""
    seconds = len(pcm) / 2 / rate
    samples = memoryview(pcm[: len(pcm) // 2 * 2]).cast("h")
    loudest = max(map(abs, samples[::7]), default=0)
    expect(least <= seconds <= most and loudest > 1000, f"{seconds:.2f} s, peak {loudest}")


def expect_wav(data: bytes, least: float, most: float) -> None:
    """Expects a mono WAV file of speech of a duration in seconds."""
    with wave.open(io.BytesIO(data)) as file:
        expect_speech(file.readframes(file.getnframes()), file.getframerate(), least, most)


def pcm_of(path: Path, rate: int = 16_000) -> bytes:
    """The 16-bit samples of a recording, resampled by repetition and linear interpolation where the rate differs."""
    with wave.open(str(path)) as file:
        data, from_rate = file.readframes(file.getnframes()), file.getframerate()
    if rate == from_rate:
        return data
    samples, out = memoryview(data).cast("h"), bytearray()
    for number in range(len(samples) * rate // from_rate - 2):
        at, rest = divmod(number * from_rate, rate)
        value = samples[at] + (samples[min(at + 1, len(samples) - 1)] - samples[at]) * rest // rate
        out += int(value).to_bytes(2, "little", signed=True)
    return bytes(out)


def _expired(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"not done after {SECONDS} seconds")


def _reason(error: BaseException) -> str:
    """The error in one line, that of a group by its first member."""
    while several := getattr(error, "exceptions", None):
        error = several[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def main(stop: Callable[[], None] = lambda: None) -> None:
    """Runs the features, prints what became of each, and stops what the script has started."""
    signal.signal(signal.SIGALRM, _expired)
    for name, function in _features:
        if len(sys.argv) > 1 and not any(part in name for part in sys.argv[1:]):
            continue
        reason = ""
        signal.alarm(SECONDS)
        try:
            result = function()
            if inspect.isawaitable(result):
                asyncio.run(_awaited(result))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exc()
            reason = _reason(error)
        signal.alarm(0)
        print(json.dumps({"feature": name, "works": not reason, "reason": reason}), flush=True)
    stop()
    # Threads and tasks that a program left must not keep the script.
    os._exit(0)


async def _awaited(result: Any) -> None:
    await result
