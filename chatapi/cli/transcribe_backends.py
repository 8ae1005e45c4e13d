"""Where `chatapi transcribe` has recordings transcribed: by the engines of this process, or by a server."""

from __future__ import annotations

import base64
import json
import shlex
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, wav
from chatapi.cli.server_jobs import ServerJobs
from chatapi.cli.transcribe_batch import Show, Stopped
from chatapi.cli.transcribe_sources import TranscriptionSource
from chatapi.errors import BadInput, ChatapiError, InternalError, WaitAndRetry
from chatapi.jobs import JobEvent, JobLimits, JobStore, run_job
from chatapi.jobs.foreground_turns import DECIDE_SECONDS, told_by_server
from chatapi.runtime.admission import Priority
from chatapi.services.transcription.job_parameters import TranscriptionParameters
from chatapi.services.transcription.jobs import TranscriptionJobs
from chatapi.services.transcription.speakers import KnownSpeaker

POLL_SECONDS = 1.0
"""Interval between two looks at a job of a server, in seconds."""
UPLOAD_BYTES = 8 << 20
"""Bytes of a recording that are uploaded at a time."""
AWAY_SECONDS = 600.0
"""Time for which a server may be away, for example because it restarts, in seconds."""
UNKNOWN = frozenset(("unknown_job", "unknown_upload"))
"""Codes of a server that does not have what was asked for."""


class LocalBackend:
    """Transcribes with the engines of this process, as a job of the data directory: a recording that was interrupted
    goes on behind its last finished part."""

    def __init__(
        self,
        appliance: Appliance,
        options: TranscriptionParameters,
        stop: threading.Event,
        known: Sequence[KnownSpeaker] = (),
    ) -> None:
        settings = appliance.settings
        self._appliance, self._options, self._stop = appliance, options, stop
        self._limits, self._data = JobLimits.of(settings.jobs), settings.data
        # The user names the page, and sees what becomes of it.
        table = settings.transcription.model_copy(update={"pages": True})
        settings = settings.model_copy(update={"transcription": table})
        self._jobs = TranscriptionJobs(appliance.engines, appliance.transcriber, appliance.speaker_labeller, settings)
        self._jobs.loop = appliance.transcription_jobs.loop
        self._jobs.stopping = stop
        self._known: Sequence[KnownSpeaker] = known
        self._running: Path | None = None
        """Folder of the job that runs."""

    def transcribe(self, source: TranscriptionSource, show: Show) -> Mapping[str, Any]:
        path = "" if source.path is None else str(source.path.absolute())
        # A URL may be secret, and subjects are shown.
        subject = path or f"{source.name} {sha256(source.url.encode()).hexdigest()[:12]}"
        parameters = replace(self._options, name=source.name, path=path, url=source.url, version=source.version)
        request = parameters.job("", subject, f"chatapi transcribe {shlex.quote(path or source.name)}")
        with closing(JobStore(self._data, self._limits)) as store:

            def report(event: JobEvent) -> None:
                if self._running is None:
                    # Before the first step; the samples are deleted with the job's other inputs.
                    self._jobs.store_voices(event.job, self._known)
                self._running = store.folder(event.job)
                if "progress" in event.data:
                    phrase = event.data.get("phrase") or event.data.get("description") or ""
                    show(event.data["progress"], phrase, event.data["seconds_left"])

            try:
                job = run_job(store, self._jobs.kind, request, report)
            except KeyboardInterrupt:
                raise Stopped from None
            finally:
                self._running = None
            document = self._jobs.results.transcript(job)
        if document is None:
            raise InternalError(f"the transcript of {source.name} cannot be read")
        return document

    async def yield_to_server(self) -> None:
        """Have the engines of this process wait while a server on the same data directory has urgent work."""
        while True:
            folder = self._running
            if folder is not None and await anyio.to_thread.run_sync(told_by_server(folder), Priority.BULK):
                self._appliance.scheduler.expect(Priority.LIVE)
            await anyio.sleep(DECIDE_SECONDS)


class ServerBackend:
    """Has a server transcribe, as jobs over HTTP, which go on when this process ends, and which the next one finds."""

    def __init__(
        self,
        client: httpx.Client,
        options: TranscriptionParameters,
        stop: threading.Event,
        jobs: ServerJobs,
        known: Sequence[KnownSpeaker] = (),
    ) -> None:
        """`client`: with the server's URL and the key."""
        self._known = known
        self._client, self._stop, self._jobs = client, stop, jobs
        chosen = asdict(options)
        names = ("language", "translate", "words", "prompt", "hotwords", "speakers", "speaker_count", "formats")
        self._options = {name: chosen[name] for name in names if chosen[name]}
        if known:
            self._options["known_speaker_names"] = [each.name for each in known]
            self._options["known_speaker_references"] = [
                f"data:audio/wav;base64,{base64.b64encode(wav(Audio(each.samples, RATE))).decode()}" for each in known
            ]

    def transcribe(self, source: TranscriptionSource, show: Show) -> Mapping[str, Any]:
        place = self._jobs.place(str(self._client.base_url), source, self._options)
        job = self._submit(source, show, place)
        while (found := self._document("GET", f"/jobs/{job}"))["state"] not in ("done", "failed", "cancelled"):
            show(found["progress"], found["phrase"] or found["state"], found["seconds_left"])
            if self._stop.wait(POLL_SECONDS):
                raise Stopped
        if found["state"] != "done":
            failure = found["failure"] or {"message": f"the job {job} was {found['state']}", "code": "job_cancelled"}
            raise BadInput(failure["message"], code=failure["code"])
        document = self._document("GET", f"/jobs/{job}/result", params={"format": "json"})
        self._jobs.forget(place)
        return document

    def _submit(self, source: TranscriptionSource, show: Show, place: Path) -> str:
        """The id of the job, which an earlier run may have begun."""
        show(0.0, "uploading", None)
        job = self._jobs.found(place)
        if job and self._is_known(job, source):
            self._retry(job)
        else:
            job = self._begin(source)
            self._jobs.remember(place, job)
        if source.path is not None and not self._known:
            self._upload(source.path, job, show)
        return job

    def _is_known(self, job: str, source: TranscriptionSource) -> bool:
        """Whether the server has the job, or the upload that becomes it."""
        try:
            uploads = source.path is not None and not self._known
            self._document("GET", f"/uploads/{job}" if uploads else f"/jobs/{job}")
        except WaitAndRetry:
            raise
        except ChatapiError as error:
            if error.code in UNKNOWN:
                return False
            raise
        return True

    def _retry(self, job: str) -> None:
        """Have a job of an earlier run that failed or was cancelled go on."""
        try:
            state = self._document("GET", f"/jobs/{job}")["state"]
        except ChatapiError as error:
            if error.code not in UNKNOWN:
                raise
            # Its upload is not complete.
            return
        if state in ("failed", "cancelled"):
            self._document("POST", f"/jobs/{job}/retry")

    def _begin(self, source: TranscriptionSource) -> str:
        """The id of a new job, or of a new upload that becomes it."""
        if source.path is None:
            return str(self._document("POST", "/transcriptions", json={"url": source.url, **self._options})["id"])
        if self._known:
            # Samples of voices do not fit into the head of a resumable upload.
            fields = {
                name: json.dumps(value) if isinstance(value, (list, tuple)) else str(value).lower()
                for name, value in {**self._options, "name": source.name}.items()
            }
            fields["name"] = source.name
            with source.path.open("rb") as file:
                return str(self._document("POST", "/transcriptions", data=fields, files={"file": file})["id"])
        fields = {
            name: ("true" if value is True else ",".join(value) if isinstance(value, (list, tuple)) else str(value))
            for name, value in self._options.items()
        }
        size = source.path.stat().st_size
        pairs = {"filename": source.name, **fields}
        metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in pairs.items())
        headers = {"Upload-Length": str(size), "Upload-Metadata": metadata}
        location = self._request("POST", "/uploads", headers=headers).headers["location"]
        return str(location.rpartition("/")[2])

    def _upload(self, path: Path, job: str, show: Show) -> None:
        """Send what the server does not have. Raises Stopped."""
        upload, size, end = f"/uploads/{job}", path.stat().st_size, time.monotonic() + AWAY_SECONDS
        with path.open("rb") as file:
            while (offset := self._document("GET", upload)["offset"]) < size:
                show(0.0, f"uploading: {offset / size:.0%}", None)
                if self._stop.is_set():
                    raise Stopped
                file.seek(offset)
                headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
                try:
                    self._once("PATCH", upload, content=file.read(UPLOAD_BYTES), headers=headers)
                    end = time.monotonic() + AWAY_SECONDS
                except WaitAndRetry:
                    # The next look tells how far it came; it waits while the server is away.
                    if time.monotonic() > end:
                        raise
                    if self._stop.wait(POLL_SECONDS):
                        raise Stopped from None

    def _document(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON of a response. Waits while the server is away or busy. Raises ChatapiError, Stopped."""
        found = self._request(method, path, **request).json()
        if not isinstance(found, dict):
            raise InternalError("the server answered with no JSON object")
        return found

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The response. Waits while the server is away or busy. Raises ChatapiError, Stopped."""
        end = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return self._once(method, path, **request)
            except WaitAndRetry as error:  # noqa: PERF203 - each attempt by itself
                if time.monotonic() > end:
                    raise
                if self._stop.wait(max(POLL_SECONDS, error.retry_after or 0.0)):
                    raise Stopped from error

    def _once(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The response. Raises ChatapiError; WaitAndRetry where another attempt may succeed."""
        with _translated():
            response = self._client.request(method, path, **request)
        _require_success(response)
        return response


@contextmanager
def _translated() -> Iterator[None]:
    """Raises WaitAndRetry for errors of the connection."""
    try:
        yield
    except httpx.HTTPError as error:
        raise WaitAndRetry(f"the server cannot be reached: {error}", code="unreachable") from error


def _require_success(response: httpx.Response) -> None:
    """Raises ChatapiError with the server's reason."""
    if response.is_success:
        return
    try:
        found = response.json()
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    message = str(found.get("detail") or f"the server answered with the status {response.status_code}")
    code = str(found.get("code", "error"))
    if response.status_code in (408, 409, 429, 503):
        raise WaitAndRetry(message, retry_after=_retry_after(response), code=code)
    raise ChatapiError(message, code=code)


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else POLL_SECONDS
