"""TorchServe's config.properties: what becomes a setting, what is rejected, and which source wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatapi.errors import SettingsError
from chatapi.interfaces.torchserve.model_snapshot import ModelRecord
from chatapi.interfaces.torchserve.properties import effective, stated_models
from chatapi.settings import TorchServeSettings


def read(tmp_path: Path, text: str, **values: object) -> TorchServeSettings:
    file = tmp_path / "config.properties"
    file.write_text(text)
    return effective(TorchServeSettings.model_validate({"config": file, **values}))


def test_properties_of_a_whisper_service_become_settings(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "# comment\n! another\ninference_address=http://0.0.0.0:9080\nmanagement_address=http://0.0.0.0:9081\n"
        "metrics_address = http://0.0.0.0:9082\ngrpc_inference_port=9070\ngrpc_management_port: 9071\n"
        "max_request_size=157286400\nmax_response_size=157286400\ndefault_response_timeout=900\njob_queue_size=1000\n"
        "default_workers_per_model=2\nenable_model_api=true\ndisable_token_authorization=true\n"
        "model_store=/models\nload_models=whisper=whisper_base.mar,rnnt.mar\nnumber_of_netty_threads=32\n",
    )
    assert (found.host, found.inference_port, found.management_port, found.metrics_port) == (
        "0.0.0.0",
        9080,
        9081,
        9082,
    )
    assert (found.grpc_inference_port, found.grpc_management_port) == (9070, 9071)
    assert (found.request_bytes, found.response_bytes, found.response_seconds) == (157_286_400, 157_286_400, 900)
    assert (found.queue, found.workers, found.model_api, found.tokens) == (1000, 2, True, False)
    assert (found.model_store, found.models) == (Path("/models"), ("whisper=whisper_base", "rnnt=rnnt"))


def test_tls_of_config_properties_becomes_settings(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "inference_address=https://127.0.0.1\nmanagement_address=https://127.0.0.1:9444\n"
        "metrics_address=http://127.0.0.1:8082\nenable_grpc_ssl=true\n"
        "private_key_file=mykey.key\ncertificate_file=mycert.pem\nkeystore_type=PKCS12\nkeystore_pass=changeit\n",
    )
    assert set(found.tls) == {"inference", "management", "grpc"}
    assert (found.inference_port, found.management_port, found.metrics_port) == (443, 9444, 8082)
    assert (found.certificate, found.key) == (Path("mycert.pem"), Path("mykey.key"))
    assert found.keystore_password is not None and found.keystore_password.get_secret_value() == "changeit"


def test_settings_win_over_properties_and_lines_are_continued(tmp_path: Path) -> None:
    values = '{"minWorkers": 1, "maxWorkers": 3, "batchSize": 4, "maxBatchDelay": 50, "marName": "noop.mar"}'
    text = f'job_queue_size=7\nload_models=all\nmodels={{\\\n  "noop": {{\\\n    "2.0": {values}\\\n  }}\\\n}}\n'
    assert read(tmp_path, text, queue=9).queue == 9
    found = read(tmp_path, text)
    assert found.models == ("all",)
    assert stated_models(found) == [
        ModelRecord("noop", "2.0", "noop.mar", "", {"batch_size": 4, "max_batch_delay": 50}, 1, 3)
    ]


def test_snapshot_that_torchserve_wrote_is_read(tmp_path: Path) -> None:
    values = r'"defaultVersion"\: true,\n "marName"\: "base.mar",\n "minWorkers"\: 2,\n "responseTimeout"\: 90'
    models = rf'"speech"\: {{\n "1.0"\: {{\n {values}\n}}}}'
    snapshot = rf'{{\n "name"\: "x-startup.cfg",\n "modelCount"\: 1,\n "models"\: {{\n {models}}}}}'
    found = read(tmp_path, f"#Saving snapshot\nload_models=speech\\=base.mar\nmodel_snapshot={snapshot}\n")
    assert found.models == ()
    assert stated_models(found) == [
        ModelRecord("speech", "1.0", "base.mar", "", {"response_timeout": 90}, 2, 2, default=True)
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("inference_address=unix:/tmp/x.sock", "must be http://HOST:PORT"),
        ("keystore=store.jks\nkeystore_type=JKS", "must be PKCS12"),
        ("cors_allowed_origin=*", "server.cors_origins"),
        ("job_queue_size=many", "torchserve.queue must be a whole number"),
        ("max_request_size=5", "torchserve.request_bytes must be at least 1024"),
    ],
)
def test_property_that_cannot_be_honoured_is_rejected_by_name(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        read(tmp_path, text + "\n")


@pytest.mark.parametrize("text", ["models={", "models=[]", 'models={"a": 1}', 'models={"a": {"1.0": 1}}'])
def test_models_that_cannot_be_read_are_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="is no JSON object"):
        stated_models(read(tmp_path, text + "\n"))


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"torchserve\.config cannot be read"):
        effective(TorchServeSettings(config=tmp_path / "none"))
