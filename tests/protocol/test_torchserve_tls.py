"""TorchServe's ports with TLS: the owner's PEM files, a keystore, the box's own certificate, and ports without."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from chatapi.errors import SettingsError
from chatapi.interfaces.torchserve.server import has_grpc
from conftest import RunningServer, encode_audio, tone
from torchserve_ports import torchserving

PASSWORD = "changeit"


@dataclass(frozen=True)
class OwnFiles:
    """An owner's certificate in every form."""

    certificate: Path
    """It is its own authority."""
    key: Path
    keystore: Path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> OwnFiles:
    folder = tmp_path_factory.mktemp("own")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    made = OwnFiles(*(folder / file for file in ("certs.pem", "key.pem", "keystore.p12")))
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    encrypted = BestAvailableEncryption(PASSWORD.encode())
    made.keystore.write_bytes(pkcs12.serialize_key_and_certificates(b"ts", key, certificate, None, encrypted))
    return made


@pytest.fixture(scope="module")
def audio() -> bytes:
    return encode_audio(tone(1.0), 16_000, "pcm_s16le")


@pytest.mark.parametrize("kind", ["files", "keystore"])
def test_encrypted_ports_present_the_owners_certificate(
    shared_server: RunningServer, own: OwnFiles, audio: bytes, kind: str
) -> None:
    given: dict[str, Any] = {"certificate": own.certificate, "key": own.key}
    if kind == "keystore":
        given = {"keystore": own.keystore, "keystore_password": PASSWORD}
    chosen = {"models": ("asr=default",), "grpc": False, "tls": ("inference", "management"), **given}
    with torchserving(shared_server, own.certificate, **chosen) as ports:
        assert ports.urls["inference"].startswith("https://") and ports.urls["metrics"].startswith("http://")
        assert ports.inference.post("/predictions/asr", content=audio).status_code == 200
        assert ports.management.get("/models").status_code == 200
        assert ports.metrics.get("/metrics").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{ports.urls['inference']}/ping", timeout=10)


@pytest.mark.skipif(not has_grpc(), reason="the extra torchserve is not installed")
def test_encrypted_grpc_needs_trust_in_the_certificate(shared_server: RunningServer, own: OwnFiles) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    chosen = {"models": ("asr=default",), "tls": ("grpc",), "certificate": own.certificate, "key": own.key}
    with torchserving(shared_server, **chosen) as ports:
        trust = grpc.ssl_channel_credentials(own.certificate.read_bytes())
        address = ports.grpc[0]
        with grpc.secure_channel(address, trust) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == 1
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)


def test_without_files_the_boxs_own_certificate_is_presented(shared_server: RunningServer) -> None:
    with torchserving(shared_server, models=("asr=default",), grpc=False, tls=("metrics",)) as ports:
        authority = next((shared_server.appliance.settings.data / "certificates").glob("authority*.pem"))
        trust = ssl.create_default_context(cafile=authority)
        assert httpx.get(f"{ports.urls['metrics']}/metrics", verify=trust, timeout=30).status_code == 200
        host, _, port = ports.urls["metrics"].removeprefix("https://").partition(":")
        with socket.create_connection((host, int(port)), 10) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert plain.recv(1024).startswith(b"HTTP/1.1 307")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"keystore": "own", "keystore_password": "wrong"}, "keystore_password"),
        ({"keystore": "none"}, "cannot be read"),
        ({"keystore": "own", "certificate": "own"}, "both set"),
        ({"key": "own"}, "without torchserve.certificate"),
        ({"tls": ("inference", "grpc")}, "which needs torchserve.certificate"),
    ],
)
def test_files_that_cannot_be_used_are_rejected(
    shared_server: RunningServer, own: OwnFiles, values: dict[str, Any], reason: str
) -> None:
    given = {name: getattr(own, name, "none") if text == "own" else text for name, text in values.items()}
    with pytest.raises(SettingsError, match=reason), torchserving(shared_server, **{"tls": ("inference",), **given}):
        pass
