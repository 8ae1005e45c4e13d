"""The methods of the gRPC service of command recognition."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import anyio.to_thread
import numpy as np

from chatapi.appliance import Appliance
from chatapi.auth import OPERATE, KeyHolder
from chatapi.client.commands import proto
from chatapi.errors import BadInput, Unprocessable
from chatapi.interfaces.grpc.spool import spooled
from chatapi.jobs import JobRecord
from chatapi.services.command_recognition.sample_store import StoredSample, Submitter
from chatapi.services.command_recognition.service import Classification
from chatapi.services.command_recognition.spotting import CommandSpotter
from chatapi.services.command_recognition.versions import StoredVersion

Call = Callable[[Any, KeyHolder], Any]
MOST_PAGE, PAGE = 1000, 100
"""Most samples of one page, and how many there are unless the client says otherwise."""
CHUNK = 256 << 10
"""Bytes of an archive in one message."""


class CommandCalls:
    """Method -> its behaviour, in `table`."""

    def __init__(self, appliance: Appliance) -> None:
        self._recognition, self._teaching = appliance.command_recognition, appliance.command_teaching
        self._data = appliance.settings.data
        self.table: Mapping[str, Call] = {
            "Classify": self._classify, "ClassifyStream": self._classify_stream, "SubmitSample": self._submit,
            "Train": self._train, "WatchTraining": self._watch, "CancelTraining": self._cancel,
            "ListModels": self._models, "ActivateModel": self._activate, "RollBack": self._roll_back,
            "ListSamples": self._samples, "ExportSamples": self._export, "DeleteSample": self._delete,
        }  # fmt: skip

    async def _classify(self, request: Any, holder: KeyHolder) -> Any:
        del holder
        return _classification(await self._recognition.classify_file(_audio(request)))

    async def _classify_stream(self, chunks: AsyncIterator[Any], holder: KeyHolder) -> AsyncIterator[Any]:
        del holder
        spotter, odd = CommandSpotter(self._recognition), b""
        async for chunk in chunks:
            content = odd + chunk.pcm
            whole = len(content) // 2 * 2
            odd = content[whole:]
            samples = np.frombuffer(content[:whole], "<i2").astype(np.float32) / np.float32(32768)
            async for found in spotter.feed(samples):
                yield _message("Detection", **vars(found))
        if odd:
            raise BadInput("the stream ends with half a sample", code="half_sample")

    async def _submit(self, request: Any, holder: KeyHolder) -> Any:
        by = Submitter(_own_id(holder), "grpc")
        found = await self._teaching.submission.submit_file(_audio(request), request.label, by)
        return _message(
            "SubmitSampleResponse", sample=_sample(found.sample), duplicate=found.duplicate,
            classification=_classification(found.classification),
        )  # fmt: skip

    async def _train(self, request: Any, holder: KeyHolder) -> Any:
        del request
        return _training(await self._teaching.train(_own_id(holder), bool(holder.id)))

    async def _watch(self, request: Any, holder: KeyHolder) -> AsyncIterator[Any]:
        async for found in self._teaching.watch(request.id, _owner(holder)):
            yield _training(found)

    async def _cancel(self, request: Any, holder: KeyHolder) -> Any:
        return _training(await self._teaching.cancel(request.id, _owner(holder)))

    async def _models(self, request: Any, holder: KeyHolder) -> Any:
        del request, holder
        active, versions = await self._teaching.listed()
        return _message("Models", active=active, models=[_model(each) for each in versions])

    async def _activate(self, request: Any, holder: KeyHolder) -> Any:
        await self._teaching.switch(request.version, "activated")
        return await self._models(None, holder)

    async def _roll_back(self, request: Any, holder: KeyHolder) -> Any:
        del request
        await self._teaching.roll_back()
        return await self._models(None, holder)

    async def _samples(self, request: Any, holder: KeyHolder) -> Any:
        limit = request.limit or PAGE
        if not 1 <= limit <= MOST_PAGE:
            raise Unprocessable(f"limit must be 1 to {MOST_PAGE}")
        find = partial(self._teaching.samples.find, _owner(holder), request.label, request.state, limit + 1)
        found = await anyio.to_thread.run_sync(partial(find, request.before))
        following = found[limit - 1].id if len(found) > limit else ""
        return _message("ListSamplesResponse", samples=[_sample(each) for each in found[:limit]], next=following)

    async def _export(self, request: Any, holder: KeyHolder) -> AsyncIterator[Any]:
        del request
        with spooled(self._data) as file:
            await self._teaching.export(file, _owner(holder))
            file.seek(0)
            while content := await anyio.to_thread.run_sync(file.read, CHUNK):
                yield _message("ExportChunk", data=content)

    async def _delete(self, request: Any, holder: KeyHolder) -> Any:
        await anyio.to_thread.run_sync(self._teaching.samples.delete, request.id, _owner(holder))
        return _message("DeleteSampleResponse")


def _owner(holder: KeyHolder) -> str | None:
    """Whose samples and trainings a client sees; None: all."""
    return None if holder.may((OPERATE,)) else _own_id(holder)


def _own_id(holder: KeyHolder) -> str:
    """The owner of what a client submits: the id of its key, as over HTTP."""
    return holder.id or holder.name


def _audio(request: Any) -> bytes:
    if not request.audio:
        raise BadInput("audio is empty; send a WAV file of at most one second", code="missing_file")
    return bytes(request.audio)


def _message(name: str, **fields: Any) -> Any:
    return proto().message(name)(**fields)


def _classification(found: Classification) -> Any:
    shares = [
        _message("LabelProbability", label=label, probability=odds) for label, odds in found.probabilities.items()
    ]
    return _message("Classification", label=found.label, probability=found.probability, probabilities=shares,
                    model=found.model, version=found.version)  # fmt: skip


def _sample(sample: StoredSample) -> Any:
    names = ("id", "label", "state", "reason", "owner", "interface", "submitted", "seconds", "trimmed", "held_out")
    return _message("Sample", **{name: getattr(sample, name) for name in names})


def _training(job: JobRecord) -> Any:
    failure = {"error_code": job.failure.code, "error": job.failure.message} if job.failure is not None else {}
    return _message("Training", id=job.id, state=job.state, progress=job.progress, phrase=job.phrase, **failure)


def _model(version: StoredVersion) -> Any:
    new = version.figures["new"]
    return _message(
        "Model", version=version.number, parent=version.parent, training=version.job, created=version.created,
        labels=version.labels, samples=version.samples, accuracy=new["accuracy"], false_accepts=new["false_accepts"],
        verdict=version.verdict, figures_json=json.dumps(version.figures),
    )  # fmt: skip
