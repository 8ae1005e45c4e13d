"""What TorchServe's clients send to a prediction: a file as it is, a form, or JSON with base64; and its options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.requests import Request

from chatapi.audio.decode import Source
from chatapi.engines import TranscriptionOptions
from chatapi.errors import BadInput, TooLarge, Unprocessable
from chatapi.interfaces.http.forms import MEDIA_TYPE, FormLimits, receive_parts
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import decode_base64, json_object, media_type
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.http.text_parameters import parse_bool, parse_task, wrong_value
from chatapi.services.transcription.transcriber import TranscriptionRequest

MOST_INPUTS = 16
"""Most recordings of one request."""
FORM = FormLimits(files=MOST_INPUTS, fields=50, field_bytes=8 << 20)
MOST_JSON = 96 << 20
"""Largest JSON body, in bytes; it takes several times its size in memory."""
MOST_TEXT = 8000
"""Longest option, in characters."""
DATA = ("data", "body", "audio", "b64", "bytes", "audio_bytes", "file")
"""Keys of a recording in JSON, and of one in text in a form."""
OPTIONS = ("language", "task", "prompt", "initial_prompt", "temperature", "word_timestamps", "output")

Shape = Literal["single", "instances", "tensors"]
"""How the answer is wrapped: as it is, as `predictions` (KServe v1), or as `outputs` (KServe v2)."""


@dataclass(frozen=True)
class PredictionInput:
    """The recordings of a request and what it asks for."""

    sources: tuple[Source, ...]
    shape: Shape = "single"
    options: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    """The id of a KServe v2 request, which the answer repeats."""
    names: tuple[str, ...] = ()
    """Names of the tensors of a KServe v2 request."""

    def transcription(self, timed: bool) -> TranscriptionRequest:
        """The request to the service. `timed`: whether the answer has times, which take longer.

        Raises Unprocessable naming an option with a wrong value.
        """
        translate = parse_task(self.options.get("task", ""))
        words = parse_bool("word_timestamps", self.options.get("word_timestamps", "")) and timed
        prompt = self.options.get("prompt") or self.options.get("initial_prompt") or ""
        temperature = _temperature(self.options.get("temperature") or "0")
        options = TranscriptionOptions(prompt, temperature, translate=translate, words=words)
        return TranscriptionRequest(self.options.get("language") or None, options, timed=timed)


async def receive(request: Request) -> PredictionInput:
    """Receives the input of a request. Raises CallerError, StorageError when the disk is full."""
    kind = media_type(request)
    query = _options(dict(request.query_params), IgnoredParameters.of(request))
    if kind == MEDIA_TYPE:
        return await _form(request, query)
    spool = Spool.of(request)
    body = await spool.body(request)
    if kind == "application/json" or kind.endswith("+json"):
        if _size(body) > MOST_JSON:
            raise TooLarge(f"the JSON is larger than {MOST_JSON} bytes; send the file as it is", code="body_too_large")
        parsed = await anyio.to_thread.run_sync(lambda: _json(body, spool), limiter=spool.parsing)
        named = {**parsed.options, **query}
        return PredictionInput(parsed.sources, parsed.shape, named, parsed.request_id, parsed.names)
    # Whatever media type it has: curl sends a file as a form by default, and audio/basic for a WAV is usual.
    if not _size(body):
        raise BadInput("the body is empty; send a recording in it", code="missing_file")
    return PredictionInput((body,), options=query)


def options_of(fields: Mapping[str, bytes]) -> dict[str, str]:
    """The options among the inputs of a gRPC request."""
    return {name: value.decode("utf-8", "replace")[:MOST_TEXT] for name, value in fields.items() if name in OPTIONS}


def prediction_of(recordings: Sequence[bytes], options: Mapping[str, str]) -> PredictionInput:
    """The input of a gRPC request. Raises TooLarge for too many recordings."""
    if len(recordings) > MOST_INPUTS:
        raise TooLarge(f"the request has {len(recordings)} recordings; at most {MOST_INPUTS} are allowed")
    return PredictionInput(tuple(recordings), options=options)


async def _form(request: Request, query: Mapping[str, str]) -> PredictionInput:
    """The files of a form, whatever their parts are called, and its texts as options."""
    form = await receive_parts(request, FORM)
    spool, sources, texts = Spool.of(request), list[Source](), dict[str, str]()
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                sources.append(await spool.part(value))
            elif name in DATA:
                sources.append(_decoded(name, value))
            else:
                texts[name] = value
    finally:
        await form.close()
    if not sources:
        raise BadInput("the form has no file; send the recording in a part named data", code="missing_file")
    if len(sources) > MOST_INPUTS:
        raise TooLarge(f"the form has {len(sources)} recordings; at most {MOST_INPUTS} are allowed")
    return PredictionInput(tuple(sources), options={**_options(texts, IgnoredParameters.of(request)), **query})


def _json(body: Source, spool: Spool) -> PredictionInput:
    """The recordings of a JSON body. Raises BadInput (invalid_json), Unprocessable, TooLarge."""
    values = json_object(body, "the recording in base64 as `data`, `instances` or `inputs`")
    if isinstance(values.get("inputs"), list):
        return _tensors(values, spool)
    if isinstance(values.get("instances"), list):
        sources = [spool.stored(_recording(each, "instances")) for each in _bounded(values["instances"], "instances")]
        return PredictionInput(tuple(sources), "instances", _texts(values))
    return PredictionInput((spool.stored(_recording(values, "the body")),), "single", _texts(values))


def _tensors(values: dict[str, Any], spool: Spool) -> PredictionInput:
    """The recordings of a KServe v2 request."""
    sources, names = list[Source](), list[str]()
    for tensor in _bounded(values["inputs"], "inputs"):
        if not isinstance(tensor, dict) or str(tensor.get("datatype", "BYTES")).upper() != "BYTES":
            raise Unprocessable(
                "inputs must be tensors of datatype BYTES with base64 in data", details={"param": "inputs"}
            )
        data = tensor.get("data")
        for each in _bounded(data if isinstance(data, list) else [data], "data"):
            sources.append(spool.stored(_recording(each, "data")))
            names.append(str(tensor.get("name", "data"))[:200])
    if not 1 <= len(sources) <= MOST_INPUTS:
        raise TooLarge(f"the request has {len(sources)} recordings; it must have 1 to {MOST_INPUTS}")
    parameters = values.get("parameters")
    identity = values.get("id")
    options = _texts(parameters if isinstance(parameters, dict) else {})
    return PredictionInput(tuple(sources), "tensors", options, str(identity or "")[:200], tuple(names))


def _bounded(values: list[Any], name: str) -> Iterator[Any]:
    if not 1 <= len(values) <= MOST_INPUTS:
        raise TooLarge(f"{name} has {len(values)} elements; it must have 1 to {MOST_INPUTS}", details={"param": name})
    yield from values


def _recording(value: Any, name: str) -> bytes:
    """The recording in a JSON value: base64, or an object with it."""
    for _ in range(2):
        if isinstance(value, dict):
            key = next((each for each in DATA if each in value), None)
            if key is None:
                raise Unprocessable(f"{name} has no recording; send base64 as `data`", details={"param": name})
            value, name = value[key], key
    if not isinstance(value, str):
        raise Unprocessable(f"{name} must be a recording in base64", details={"param": name})
    return _decoded(name, value)


def _decoded(name: str, text: str) -> bytes:
    try:
        found = decode_base64(text)
    except ValueError:
        raise Unprocessable(f"{name} is not base64", details={"param": name}) from None
    if not found:
        raise BadInput(f"{name} is empty", code="missing_file", details={"param": name})
    return found


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """The options among the values of a JSON object."""
    plain = {name: values[name] for name in OPTIONS if isinstance(values.get(name), (str, int, float, bool))}
    return {name: str(value)[:MOST_TEXT] for name, value in plain.items()}


def _options(values: Mapping[str, str], ignored: IgnoredParameters) -> dict[str, str]:
    for name in values:
        if name not in OPTIONS and name != "model_name":
            ignored.add(name)
    return {name: value[:MOST_TEXT] for name, value in values.items() if name in OPTIONS}


def _temperature(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise wrong_value("temperature", f"is {text[:40]!r}; it must be from 0 to 1")
    return found


def _size(body: Source) -> int:
    if isinstance(body, bytes):
        return len(body)
    assert not isinstance(body, Path)  # noqa: S101 - bodies are bytes or open files
    size = body.seek(0, 2)
    body.seek(0)
    return size
