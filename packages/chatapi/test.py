#!/usr/bin/env python3
"""Fails where chatapi does not start here, does not answer in text and in voice, or MLC is not there or has no GPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

STARTING = 300.0
"""Seconds until it must be ready: the models come over the network first."""


def engines() -> None:
    """What the build of `mlc` hides: it goes on where compiling it has failed."""
    import mlc_llm  # noqa: F401
    import tvm

    if not tvm.cuda(0).exist:
        sys.exit(f"TVM {tvm.__version__} finds no GPU")


def ask(url: str, **body: object) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.read()


def wait(server: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        if server.poll() is not None:
            sys.exit(f"chatapi ended by itself with status {server.returncode}")
        try:
            urllib.request.urlopen(f"{url}/ready", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    sys.exit(f"chatapi was not ready after {STARTING:.0f} s")


def answers(environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-m", "chatapi", "models", "fetch"], env=environment, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "chatapi", "serve", "--set", f"server.port={port}"], env=environment
    )
    try:
        wait(server, url)
        reply = json.loads(ask(f"{url}/completion", prompt="Say hello.", max_tokens=20))["reply"]
        if not reply.strip():
            sys.exit("the model wrote nothing")
        spoken = ask(f"{url}/completion", prompt="Say hello.", max_tokens=20, reply="voice")
        # 44 bytes are a WAV file's header.
        if spoken[:4] != b"RIFF" or len(spoken) < 44 + 8000:
            sys.exit(f"the spoken answer is no WAV file, or empty: {spoken[:60]!r}")
        print(f"it answered {reply!r}, and {len(spoken)} bytes of speech")
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    engines()
    with tempfile.TemporaryDirectory() as data:
        answers({**os.environ, "CHATAPI_DATA": data})


if __name__ == "__main__":
    main()
