"""The OpenAPI document against the server it describes: whatever it allows or forbids, no answer is a 500."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from chatapi import auth, settings
from chatapi.audio import RATE, Audio, wav
from chatapi.jobs import JobRequest, JobStore
from conftest import FAKE_ENGINES, RunningServer, serving, tone

OPERATIONS = [
    ("/completion", "POST"),
    ("/conversations", "GET"),
    ("/conversations/{conversation}", "GET"),
    ("/conversations/{conversation}", "PATCH"),
    ("/conversations/{conversation}", "DELETE"),
    ("/health", "GET"),
    ("/ready", "GET"),
    ("/metrics", "GET"),
    ("/models", "GET"),
    ("/settings", "GET"),
    ("/settings", "PATCH"),
    ("/commands", "GET"),
    ("/commands/classify", "POST"),
    ("/commands/samples", "GET"),
    ("/commands/samples", "POST"),
    ("/commands/samples/export", "GET"),
    ("/commands/samples/{sample}", "PATCH"),
    ("/commands/samples/{sample}", "DELETE"),
    ("/commands/samples/{sample}/audio", "GET"),
    ("/commands/train", "POST"),
    ("/commands/versions", "GET"),
    ("/commands/versions/{version}/activate", "POST"),
    ("/commands/rollback", "POST"),
    ("/captions", "GET"),
    ("/captions", "POST"),
    ("/captions/{captions}", "GET"),
    ("/captions/{captions}", "DELETE"),
    ("/captions/{captions}/events", "GET"),
    ("/monitors", "GET"),
    ("/monitors", "POST"),
    ("/monitors/{monitor}", "GET"),
    ("/monitors/{monitor}", "DELETE"),
    ("/monitors/{monitor}/pause", "POST"),
    ("/monitors/{monitor}/resume", "POST"),
    ("/monitors/{monitor}/coverage", "GET"),
    ("/monitors/{monitor}/events", "GET"),
    ("/detections", "GET"),
    ("/detections/export", "GET"),
    ("/detections/{detection}", "GET"),
    ("/detections/{detection}", "PATCH"),
    ("/detections/{detection}/audio", "GET"),
    ("/detections/{detection}/spectrogram", "GET"),
    ("/detections/{detection}/record", "GET"),
    ("/mutes", "GET"),
    ("/mutes", "POST"),
    ("/mutes/{mute}", "DELETE"),
    ("/audio-device", "GET"),
    ("/audio-device/press", "POST"),
    ("/audio-device/release", "POST"),
    ("/audio-device/wake", "POST"),
    ("/voices", "GET"),
    ("/voices", "POST"),
    ("/voices/quality", "POST"),
    ("/voices/{voice}", "GET"),
    ("/voices/{voice}", "DELETE"),
    ("/voices/{voice}/export", "GET"),
    ("/conversions", "POST"),
    ("/conversions/{job}", "GET"),
    ("/jobs", "GET"),
    ("/jobs/{job}", "GET"),
    ("/jobs/{job}", "DELETE"),
    ("/transcriptions", "POST"),
    ("/uploads", "OPTIONS"),
    ("/uploads", "POST"),
    ("/uploads/{upload}", "GET"),
    ("/uploads/{upload}", "PATCH"),
    ("/uploads/{upload}", "DELETE"),
    ("/jobs/{job}/result", "GET"),
    ("/jobs/{job}/audio", "GET"),
    ("/jobs/{job}/audio-link", "POST"),
    ("/jobs/{job}/speakers", "PATCH"),
    ("/jobs/{job}/log", "GET"),
    ("/jobs/{job}/events", "GET"),
    ("/jobs/{job}/pause", "POST"),
    ("/jobs/{job}/resume", "POST"),
    ("/jobs/{job}/cancel", "POST"),
    ("/jobs/{job}/retry", "POST"),
    ("/v1/audio/transcriptions", "POST"),
    ("/v1/audio/translations", "POST"),
    ("/v1/audio/speech", "POST"),
    ("/v1/audio/voices", "GET"),
    ("/v1/audio/models", "GET"),
    ("/v1/models", "GET"),
    ("/v1/models/{model}", "GET"),
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/responses/{response}", "GET"),
    ("/v1/responses/{response}/input_items", "GET"),
    ("/v1/responses/{response}", "DELETE"),
    ("/v1/responses/input_tokens", "POST"),
    ("/v1/conversations", "POST"),
    ("/v1/conversations/{conversation}", "GET"),
    ("/v1/conversations/{conversation}", "POST"),
    ("/v1/conversations/{conversation}", "DELETE"),
    ("/v1/conversations/{conversation}/items", "GET"),
    ("/v1/conversations/{conversation}/items", "POST"),
    ("/v1/conversations/{conversation}/items/{item}", "GET"),
    ("/v1/conversations/{conversation}/items/{item}", "DELETE"),
    ("/v1/realtime/client_secrets", "POST"),
    ("/v1/realtime/sessions", "POST"),
    ("/v1/realtime/transcription_sessions", "POST"),
]
SOUND = wav(Audio(tone(0.3), RATE))

for media_type in ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/mp4", "audio/webm"):
    schemathesis.openapi.media_type(media_type, st.one_of(st.just(SOUND), st.binary(max_size=200)))


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("data")
    with closing(JobStore(data)) as store:
        store.add(JobRequest("count"))
    # Jobs and uploads are added, and nothing runs them.
    given = [*FAKE_ENGINES, f"data={data}", "jobs.max_unfinished=5000"]
    with serving(settings.load(given, environ={}).settings) as running:
        yield running


@pytest.fixture(scope="module")
def described(open_server: RunningServer) -> OpenApiSchema:
    return schemathesis.openapi.from_url(open_server.url + "/openapi.json")


def test_every_route_is_tried(described: OpenApiSchema) -> None:
    found = {(operation.ok().path, operation.ok().method.upper()) for operation in described.get_all_operations()}
    assert found == set(OPERATIONS)


def test_document_describes_every_response_and_nothing_that_is_never_sent(open_server: RunningServer) -> None:
    document = open_server.client.get("/openapi.json").json()
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
    for path, operations in document["paths"].items():
        for method, described in operations.items():
            for status, response in described["responses"].items():
                for media_type, content in response.get("content", {}).items():
                    schema = content["schema"]
                    assert schema.get("$ref") or schema.get("type"), (method, path, status, media_type)
                    assert schema != {"type": "object"} and "additionalProperties" not in schema, (method, path)
            responses = described["responses"]
            # Those with neither have no content.
            assert {"201", "204"} & set(responses) or (responses.get("202") or responses["200"])["content"], (
                method,
                path,
            )
            assert {"401", "403", "429", "500"} <= set(described["responses"]), (method, path)


def members(value: Any, path: str = "") -> set[str]:
    """The dotted names of all members of a JSON value; those of a list's items count as one."""
    if isinstance(value, dict):
        return {path, *(name for key, each in value.items() for name in members(each, f"{path}.{key}"))}
    if isinstance(value, (list, tuple)):
        return {path, *(name for each in value for name in members(each, path))}
    return {path}


def test_described_responses_lose_no_member(open_server: RunningServer) -> None:
    """FastAPI drops what a response model does not have."""
    appliance = open_server.appliance
    for path, whole in (("/models", appliance.capabilities()), ("/health", appliance.health())):
        assert members(open_server.client.get(path).json()) == members(whole), path


def test_fields_are_described_by_the_text_below_them(open_server: RunningServer) -> None:
    schemas = open_server.client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["CompletionModel"]["properties"]["transcript"]["description"].startswith("Transcript of the audio;")
    # The body of a route that FastAPI does not read, with inherited fields and without.
    assert schemas["ReviewModel"]["properties"]["state"]["description"]


def test_document_names_the_scopes_of_every_route(open_server: RunningServer) -> None:
    document = open_server.client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, described in operations.items():
            # The last alternative is a server without keys.
            *alternatives, without = described["security"]
            scopes = [scope for each in alternatives for scope in each["key"]]
            assert scopes == list(auth.http_operation(method.upper(), path).scopes) and without == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS] + [(*OPERATIONS[0], GenerationMode.NEGATIVE)],
)
def test_every_answer_is_as_described(
    open_server: RunningServer, described: OpenApiSchema, path: str, method: str, mode: GenerationMode
) -> None:
    operation = described[path][method]

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(max_examples=100, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    def run(case: Case) -> None:
        reply = case.call(timeout=20)
        assert reply.status_code < 500, reply.text
        if (path, method, reply.status_code) == ("/captions", "POST", 201):
            # Few may run at once.
            open_server.client.delete(f"/captions/{reply.json()['id']}")
        if (path, method, reply.status_code) == ("/monitors", "POST", 201):
            for each in reply.json()["monitors"]:
                open_server.client.delete(f"/monitors/{each['id']}")
        # Schemathesis does not know 431, for a head over the limit, as a rejection.
        hypothesis.assume(reply.status_code != 431)
        # A server may still reject what no schema describes: silence, a prompt of spaces, bytes that are not audio.
        case.validate_response(reply, excluded_checks=[positive_data_acceptance])

    run()
