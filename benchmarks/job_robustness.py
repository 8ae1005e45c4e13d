"""Transcription jobs under kills, on a full disk, from sources that break off, and with restarts in an upload.

Every accepted job must end with the text that it has without any of that, or say why not. Every word of them is known:

    .venv/bin/python benchmarks/job_robustness.py kills --kills 50
    .venv/bin/python benchmarks/job_robustness.py disk|source|upload

`disk` mounts a small file system (root). The exit status is 1 when a job did not end so.
"""

from __future__ import annotations

import argparse
import base64
import http.server
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import httpx
from long_recording import ROOT, Score, Sentence, heard, stitched
from running import free_port

from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from chatapi.engines import registry
from chatapi.storage import atomic_files
from chatapi.storage.layout import DataDirectory

MODEL = "whisper-tiny.en-ct2"
REAL = ("asr", "vad")  # the others are fake ones, which need no memory
LENGTHS = (45.0, 400.0, 90.0, 20.0, 700.0, 150.0)
"""Lengths of the recordings, in seconds: short ones, and ones of several parts."""
READY = 0.8
"""Share of the kills that come once the server is ready."""
WAIT_SECONDS = 3600
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Recording:
    """A recording of known speech."""

    name: str
    content: bytes
    """A WAV file."""
    sentences: Sequence[Sentence]
    seconds: float

    def score(self, document: dict[str, Any]) -> Score:
        words = heard([word for each in document["segments"] for word in each["words"]])
        return Score.of(self.sentences, words, self.seconds)


def recordings(count: int, seed: int) -> list[Recording]:
    """Recordings of different lengths."""
    found = []
    for number in range(count):
        samples, sentences = stitched(LENGTHS[number % len(LENGTHS)], seed + number)
        found.append(Recording(f"recording-{number}.wav", wav(Audio(samples, RATE)), sentences, len(samples) / RATE))
    return found


class Server:
    """A server that is started and killed again and again, on one data directory."""

    def __init__(self, data: Path, *more: str) -> None:
        """`more`: further settings."""
        installed = DataDirectory(settings.load([]).settings.data).models
        data.mkdir(parents=True, exist_ok=True)
        DataDirectory(data).models.symlink_to(installed)
        self.port = free_port()
        engines = [f"{role}.engine=fake" for role in registry.roles() if role not in REAL]
        given = [*engines, f"asr.model={MODEL}", "asr.engine=ctranslate2", "asr.language=en", f"data={data}"]
        given += [f"server.port={self.port}", "wyoming.enabled=false", *more]
        options = [word for each in given for word in ("--set", each)]
        self._command = [sys.executable, "-m", "chatapi", "serve", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    def start(self, ready: bool = True) -> None:
        """Start it; `ready`: wait until its models are loaded."""
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(self._command, cwd=ROOT, env=environ, stdout=DEVNULL, stderr=DEVNULL)
        end = time.monotonic() + 300
        while ready and not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the server does not start")
            time.sleep(0.2)

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return self.client.get("/ready").status_code == 200
        return False

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def post(self, recording: Recording) -> httpx.Response:
        """The answer to a recording. Raises httpx.TransportError."""
        form = {"words": "true", "name": recording.name}
        return self.client.post("/transcriptions", files={"file": (recording.name, recording.content)}, data=form)

    def submit(self, recording: Recording) -> str:
        """The id of the accepted job. Raises httpx.TransportError, httpx.HTTPStatusError."""
        return str(self.post(recording).raise_for_status().json()["id"])

    def job(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/jobs/{job}").json()
        return found

    def ended(self, jobs: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The jobs once all of them have ended."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            found = {each: self.job(each) for each in jobs}
            if all(each["state"] in ENDED for each in found.values()) or time.monotonic() > end:
                return found
            time.sleep(1)

    def result(self, job: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job}/result", params={"format": "json"})
        document: dict[str, Any] = answer.raise_for_status().json()
        return document


class Verdict:
    """Whether each job ended right or said why not."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.right = self.explained = 0
        self.scores: list[tuple[Score, Score]] = []

    def judge(self, server: Server, job: str, recording: Recording, expected: dict[str, Any]) -> None:
        """Compare a job with the document that the recording has without disturbance."""
        state = server.job(job)
        if state["state"] == "failed" and state["failure"]["code"] and state["failure"]["message"]:
            self.explained += 1
            print(f"  {recording.name}: {state['failure']['code']}: {state['failure']['message']}")
            return
        if state["state"] != "done":
            self.faults.append(f"{recording.name} is {state['state']}")
            return
        found, undisturbed = recording.score(server.result(job)), recording.score(expected)
        self.scores.append((found, undisturbed))
        if found.skipped > undisturbed.skipped or found.aligned.doubled > undisturbed.aligned.doubled:
            self.faults.append(
                f"{recording.name}: {found.skipped} sentences lost, {found.aligned.doubled} words doubled"
            )
        else:
            self.right += 1

    def report(self, title: str) -> None:
        """Print the result."""
        print(f"{title}: {self.right} right, {self.explained} explained, {len(self.faults)} wrong")
        if self.scores:
            said = sum(found.said for found, _ in self.scores)
            rates = [sum(s[i].word_error_rate * s[i].said for s in self.scores) / said for i in (0, 1)]
            print(f"  word errors {rates[0]:.2%}, undisturbed {rates[1]:.2%}, of {said} words")
        for each in self.faults:
            print(f"  {each}")


def undisturbed(place: Path, found: Sequence[Recording]) -> list[dict[str, Any]]:
    """The transcripts of a server that nothing disturbs."""
    server = Server(place / "undisturbed")
    server.start()
    try:
        jobs = [server.submit(each) for each in found]
        server.ended(jobs)
        return [server.result(each) for each in jobs]
    finally:
        server.kill()


def kills(place: Path, chosen: argparse.Namespace) -> Verdict:
    """SIGKILL at random moments of a bulk run, while recordings are still submitted."""
    source, found, verdict = random.Random(chosen.seed), recordings(chosen.files, chosen.seed), Verdict()
    expected = undisturbed(place, found)
    server, accepted, waiting = Server(place / "data"), dict[str, int](), list(range(len(found)))
    done, late = 0, 0
    while done < chosen.kills:
        # Most of the kills come while it works, the others while it starts and recovers its jobs.
        server.start(ready=source.random() < READY)
        moment = time.monotonic() + source.uniform(0.5, chosen.longest)
        while time.monotonic() < moment:
            with suppress(httpx.TransportError, httpx.HTTPStatusError):
                if waiting and source.random() < 0.3:
                    accepted[server.submit(found[waiting[0]])] = waiting[0]
                    del waiting[0]
            time.sleep(0.2)
        states = []
        with suppress(httpx.TransportError):
            states = [server.job(each)["state"] for each in accepted]
        late += not states
        server.kill()
        done += 1
        if states and not waiting and all(each in ENDED for each in states):
            # The rest of the kills hits new work.
            waiting = list(range(len(found)))
    server.start()
    try:
        server.ended(list(accepted))
        for job, number in accepted.items():
            verdict.judge(server, job, found[number], expected[number])
    finally:
        server.kill()
    print(f"{done} kills, {late} of them before the server answered; {len(accepted)} jobs accepted")
    return verdict


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of this size. Needs root."""
    folder = place / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk(place: Path, chosen: argparse.Namespace) -> Verdict:
    """A disk that is full while recordings are submitted and transcribed, and has room again later."""
    found, verdict = recordings(chosen.files, chosen.seed), Verdict()
    expected = undisturbed(place, found)
    # Beside the reserve that uploads leave, three quarters of the recordings fit.
    room = atomic_files.RESERVE + sum(len(each.content) for each in found) * 3 // 4
    with small_disk(place, room >> 20) as folder:
        server, accepted, rejected = Server(folder / "data"), dict[str, int](), list[str]()
        server.start()
        try:
            for number, each in enumerate(found):
                answer = server.post(each)
                if answer.is_success:
                    accepted[answer.json()["id"]] = number
                else:
                    rejected.append(f"{answer.status_code} {answer.json()['code']}")
            # Nothing is left for the transcripts either.
            filler = folder / "filler"
            with filler.open("wb") as file, suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            time.sleep(20)
            print(f"full: {len(accepted)} accepted, {len(rejected)} rejected ({', '.join(sorted(set(rejected)))})")
            print(
                f"  {[server.job(each)['state'] for each in accepted]}, ready {server.client.get('/ready').status_code}"
            )
            filler.unlink()
            for job, state in server.ended(list(accepted)).items():
                if state["state"] == "failed":
                    print(f"  {state['name']}: {state['failure']['code']}: {state['failure']['message']}; tried again")
                    server.client.post(f"/jobs/{job}/retry").raise_for_status()
            server.ended(list(accepted))
            for job, number in accepted.items():
                verdict.judge(server, job, found[number], expected[number])
        finally:
            server.kill()
    return verdict


class _Breaking(http.server.BaseHTTPRequestHandler):
    """Serves one recording, of which the way of breaking off is the path: /half, /ranges, /short, /none."""

    content = b""

    def do_GET(self) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        way, size = self.path.strip("/"), len(self.content)
        if way == "none":
            self.send_error(404)
            return
        resumes = way == "ranges" and start
        self.send_response(206 if resumes else 200)
        first = start if resumes else 0
        self.send_header("Content-Length", str(size - first))
        if resumes:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Type", "audio/wav")
        self.end_headers()
        # A third at a time, and then the connection ends.
        until = size if way == "whole" else first + size // 3 + 1
        with suppress(OSError):
            self.wfile.write(self.content[first:until])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


def source(place: Path, chosen: argparse.Namespace) -> Verdict:
    """URLs whose server breaks off, with and without ranges, and one that has no file."""
    found, verdict = recordings(4, chosen.seed)[3], Verdict()
    [expected] = undisturbed(place, [found])
    handler = type("_Handler", (_Breaking,), {"content": found.content})
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    server = Server(place / "data", "transcription.private_urls=true")
    server.start()
    try:
        jobs = {}
        for way in ("whole", "ranges", "half", "none"):
            url = f"http://127.0.0.1:{web.server_address[1]}/{way}"
            answer = server.client.post("/transcriptions", json={"url": url, "words": True, "name": way})
            answer.raise_for_status()
            jobs[answer.json()["id"]] = way
        server.ended(list(jobs))
        for job, way in jobs.items():
            print(f"  {way}: {server.job(job)['state']} after {server.job(job)['attempts']} attempts")
            verdict.judge(server, job, found, expected)
    finally:
        server.kill()
        web.shutdown()
    return verdict


def upload(place: Path, chosen: argparse.Namespace) -> Verdict:
    """A resumable upload whose server is killed between its chunks and within them."""
    chance, found, verdict = random.Random(chosen.seed), recordings(4, chosen.seed)[3], Verdict()
    [expected] = undisturbed(place, [found])
    server = Server(place / "data")
    server.start()
    tus, size = {"Tus-Resumable": "1.0.0"}, len(found.content)
    metadata = f"filename {base64.b64encode(found.name.encode()).decode()},words {base64.b64encode(b'true').decode()}"
    made = server.client.post("/uploads", headers={**tus, "Upload-Length": str(size), "Upload-Metadata": metadata})
    made.raise_for_status()
    place_of, offset, restarts = made.headers["Location"], 0, 0
    kind = {"Content-Type": "application/offset+octet-stream"}
    while offset < size:
        chunk = found.content[offset : offset + chance.randrange(size // 12, size // 6)]
        mortal = threading.Timer(chance.uniform(0.0, 0.4), server.kill) if chance.random() < 0.6 else None
        if mortal is not None:
            mortal.start()
        with suppress(httpx.TransportError):
            server.client.patch(place_of, content=_slowly(chunk), headers={**tus, **kind, "Upload-Offset": str(offset)})
        if mortal is not None:
            mortal.join()
            restarts += 1
            server.start()
        stored = int(server.client.head(place_of, headers=tus).headers["Upload-Offset"])
        if stored < offset:
            verdict.faults.append(f"the upload went back from {offset} to {stored} bytes")
        offset = stored
    job = place_of.rstrip("/").rpartition("/")[2]
    try:
        server.ended([job])
        verdict.judge(server, job, found, expected)
    finally:
        server.kill()
    print(f"{restarts} kills during the upload of {size} bytes")
    return verdict


def _slowly(content: bytes) -> Iterator[bytes]:
    """The content in pieces, over half a second."""
    piece = max(1, len(content) // 10)
    for start in range(0, len(content), piece):
        yield content[start : start + piece]
        time.sleep(0.05)


SCENARIOS = {each.__name__: each for each in (kills, disk, source, upload)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--longest", type=float, default=25.0, help="seconds of a server before it is killed, at most")
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="job-robustness-") as folder:
        verdict = SCENARIOS[chosen.scenario](Path(folder), chosen)
    verdict.report(chosen.scenario)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
