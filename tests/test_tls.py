"""HTTPS with a certificate of the box's own making: what it holds, how it is renewed, and who is kept waiting."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from chatapi.auth import certificates
from chatapi.auth.certificates import CertificateKeeper, Identity, fingerprint, key_of, shown
from chatapi.cli import main
from chatapi.errors import SettingsError
from chatapi.interfaces.http import tls
from chatapi.observability import logs
from chatapi.settings import Settings
from conftest import ECHO, PATIENCE, Served, serving

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)


@pytest.fixture
def secure(echo_settings: Callable[..., Settings]) -> Iterator[Served]:
    with serving(echo_settings("server.tls=true")) as running:
        yield running


def trusting(data: Path) -> ssl.SSLContext:
    """What a device has that trusts the box's authority and nobody else."""
    return ssl.create_default_context(cafile=CertificateKeeper(data).authority)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes:
    """A handshake in memory; the certificate shown. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    shown = ours.getpeercert(binary_form=True)
    assert shown is not None
    return shown


# What is made


def test_the_certificate_is_good_for_every_name_of_the_machine(tmp_path: Path) -> None:
    identity = Identity(tmp_path, None, None, ("127.0.0.1", "box.example", "[::1]"))
    client = trusting(tmp_path)
    for name in ("localhost", "127.0.0.1", "::1", socket.gethostname().lower(), "box.example"):
        der = shake(identity.context, client, name)
        assert fingerprint(der) == identity.fingerprint
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'other\.example'"):
        shake(identity.context, client, "other.example")
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= timedelta(days=397)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh()
    holding = [path for path in (tmp_path / "certificates").iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(path.name for path in holding) == ["authority.pem", "server.pem"]
    assert {path.stat().st_mode & 0o777 for path in holding} == {0o600}


def test_the_authority_cannot_vouch_for_names_that_are_not_the_boxs(tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    keeper.refresh()
    text = (tmp_path / "certificates" / "authority.pem").read_bytes()
    key = serialization.load_pem_private_key(text, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority = (x509.load_pem_x509_certificate(text), key)
    foreign = certificates.CertificateNames(frozenset(["bank.example"]), frozenset())
    keeper._issue(authority, ec.generate_private_key(ec.SECP256R1()), foreign, datetime.now(timezone.utc))
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shake(certificates.context(keeper.file), trusting(tmp_path), "bank.example")


# How it is renewed


def test_a_certificate_is_kept_until_it_ends_soon_and_then_has_the_same_key_and_authority(tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    assert keeper.refresh(NOW)
    first, authority = shown(keeper.file), keeper.authority.read_bytes()
    assert not keeper.refresh(NOW + timedelta(days=365))
    assert keeper.refresh(NOW + timedelta(days=367))
    assert shown(keeper.file) != first and key_of(shown(keeper.file)) == key_of(first)
    assert keeper.authority.read_bytes() == authority


def test_a_new_address_renews_it_and_one_that_went_does_not(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW)
    authority = CertificateKeeper(tmp_path).authority.read_bytes()
    assert CertificateKeeper(tmp_path, ["192.168.7.7"]).refresh(NOW)
    assert CertificateKeeper(tmp_path).authority.read_bytes() == authority
    assert not CertificateKeeper(tmp_path).refresh(NOW)


def test_a_name_that_the_authority_may_not_vouch_for_needs_another_authority(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW)
    key, authority = key_of(shown(CertificateKeeper(tmp_path).file)), CertificateKeeper(tmp_path).authority.read_bytes()
    assert CertificateKeeper(tmp_path, ["voice.example"]).refresh(NOW)
    assert CertificateKeeper(tmp_path).authority.read_bytes() != authority
    assert key_of(shown(CertificateKeeper(tmp_path).file)) == key


def test_a_clock_that_was_never_set_neither_renews_nor_makes_what_is_over_at_once(tmp_path: Path) -> None:
    unset = datetime(1970, 1, 1, 0, 0, 30, tzinfo=timezone.utc)
    keeper = CertificateKeeper(tmp_path / "used")
    keeper.refresh(NOW)
    assert not keeper.refresh(unset)
    key, authority = key_of(shown(keeper.file)), keeper.authority.read_bytes()
    assert keeper.refresh(NOW - timedelta(days=90)), "either clock may have been wrong, and this one is good by both"
    assert not keeper.refresh(NOW)
    assert key_of(shown(keeper.file)) == key and keeper.authority.read_bytes() == authority
    new = CertificateKeeper(tmp_path / "new")
    assert new.refresh(unset) and not new.refresh(unset)
    made = x509.load_der_x509_certificate(shown(new.file))
    assert made.not_valid_before_utc >= certificates.BEFORE_US - timedelta(days=1)
    assert new.refresh(made.not_valid_after_utc + timedelta(days=500)), "once the clock is set"


def test_what_a_clock_from_the_future_made_is_made_anew(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW.replace(year=2050))
    assert CertificateKeeper(tmp_path).refresh(NOW)
    assert x509.load_der_x509_certificate(shown(CertificateKeeper(tmp_path).file)).not_valid_before_utc < NOW


@pytest.mark.parametrize("days", [40, 110])
def test_a_certificate_of_a_clock_that_was_ahead_is_good_once_it_is_right(days: int, tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    keeper.refresh(NOW + timedelta(days=days))
    key, authority = key_of(shown(keeper.file)), keeper.authority.read_bytes()
    keeper.refresh(NOW)
    for made in x509.load_pem_x509_certificates(keeper.file.read_bytes()):
        assert made.not_valid_before_utc <= NOW < made.not_valid_after_utc
    assert key_of(shown(keeper.file)) == key and keeper.authority.read_bytes() == authority


def test_one_that_is_yet_to_begin_is_made_anew_from_the_same_key(tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    keeper.refresh(NOW + timedelta(days=200))
    key = key_of(shown(keeper.file))
    assert keeper.refresh(NOW) and key_of(shown(keeper.file)) == key
    assert x509.load_der_x509_certificate(shown(keeper.file)).not_valid_before_utc <= NOW


@pytest.mark.parametrize("name", ["authority.pem", "server.pem"])
def test_a_folder_in_place_of_a_file_is_set_aside(tmp_path: Path, name: str) -> None:
    CertificateKeeper(tmp_path).refresh()
    (tmp_path / "certificates" / name).unlink()
    (tmp_path / "certificates" / name).mkdir()
    shake(Identity(tmp_path, None, None).context, trusting(tmp_path), "localhost")
    assert [path.is_dir() for path in (tmp_path / "certificates").glob("*.damaged-*")] == [True]


def test_where_no_certificate_can_be_kept_one_is_made_for_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    identity = Identity(tmp_path / "file" / "data", None, None)
    assert identity.keeper is not None and "for this run alone" in caplog.text
    trusted = ssl.create_default_context(cafile=identity.keeper.authority)
    shake(identity.context, trusted, "localhost")
    assert identity.file.stat().st_mode & 0o077 == 0 and not identity.renew()


@pytest.mark.parametrize("name", ["authority.pem", "server.pem"])
@pytest.mark.parametrize("damage", [b"", b"\0" * 500, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, name: str, damage: bytes) -> None:
    CertificateKeeper(tmp_path).refresh()
    (tmp_path / "certificates" / name).write_bytes(damage)
    assert CertificateKeeper(tmp_path).refresh()
    shake(Identity(tmp_path, None, None).context, trusting(tmp_path), "localhost")


def test_a_running_server_shows_the_renewed_one(tmp_path: Path) -> None:
    identity = Identity(tmp_path, None, None)
    before = identity.fingerprint
    assert not identity.renew()
    CertificateKeeper(tmp_path, ["10.11.12.13"]).refresh()
    assert identity.renew() and identity.fingerprint != before
    assert fingerprint(shake(identity.context, trusting(tmp_path), "10.11.12.13")) == identity.fingerprint


# The owner's files


def own_files(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "own")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=3650))
    certificate = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    (folder / "own.crt").write_bytes(certificate.sign(key, hashes.SHA256()).public_bytes(form[0]))
    (folder / "own.key").write_bytes(key.private_bytes(*form))
    return folder / "own.crt", folder / "own.key"


def test_ones_own_certificate_is_shown_and_taken_again_when_it_was_renewed(tmp_path: Path) -> None:
    identity = Identity(tmp_path, *own_files(tmp_path))
    client = ssl.create_default_context(cafile=tmp_path / "own.crt")
    assert fingerprint(shake(identity.context, client, "localhost")) == identity.fingerprint
    assert not (tmp_path / "certificates").exists()
    before = identity.fingerprint
    own_files(tmp_path)
    os.utime(tmp_path / "own.crt", ns=(1, 1))
    assert identity.renew() and identity.fingerprint != before


def test_half_of_a_new_pair_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    identity = Identity(tmp_path, *own_files(tmp_path))
    client = ssl.create_default_context(cafile=tmp_path / "own.crt")
    (tmp_path / "own.key").write_bytes(own_files(tmp_path / "other")[1].read_bytes())
    os.utime(tmp_path / "own.key", ns=(1, 1))
    with pytest.raises(SettingsError, match="no certificate and its unencrypted key"):
        identity.renew()
    shake(identity.context, client, "localhost")


def test_files_that_do_not_fit_are_told_in_one_sentence(tmp_path: Path) -> None:
    certificate, key = own_files(tmp_path)
    other = own_files(tmp_path / "other", b"hush")[1]
    fit = "no certificate and its unencrypted key"
    for files, told in [
        ((tmp_path / "none.crt", key), "none.crt cannot be read: No such file"),
        ((certificate, other), fit),
        ((certificate, None), fit),
        ((key, key), fit),
    ]:
        with pytest.raises(SettingsError, match=told) as raised:
            Identity(tmp_path, *files)
        assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (("server.certificate=a.pem",), "only with server.tls"),
        (("server.tls=true", "server.key=a.pem"), "not server.certificate"),
        (("server.tls=true", "server.certificate=a.pem"), "a.pem cannot be read"),
    ],
)
def test_settings_that_cannot_be_obeyed_end_serve(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    chosen: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.setattr(logs, "configure", lambda settings: None)
    with pytest.raises(SystemExit, match="2"):
        main(["serve", *(word for each in (f"data={tmp_path}", *chosen) for word in ("--set", each))])
    assert told in (said := capsys.readouterr().err) and said.count("\n") == 1


# The server


def test_routes_work_and_the_authority_can_be_fetched(secure: Served) -> None:
    assert secure.client.get("/health").json()["status"] == "ok"
    got = secure.client.get("/certificate")
    assert got.headers["content-type"] == "application/x-x509-ca-cert"
    assert got.content == CertificateKeeper(secure.appliance.settings.data).authority.read_bytes()


def test_without_tls_there_is_no_authority_to_fetch(served: Served) -> None:
    assert served.client.get("/certificate").status_code == 404


@pytest.mark.anyio
async def test_websockets_are_secure_too_and_take_no_page_that_came_without_tls(secure: Served) -> None:
    trusted, url = trusting(secure.appliance.settings.data), f"wss://127.0.0.1:{secure.port}/v1/realtime"
    async with connect(url, ssl=trusted, origin=f"https://127.0.0.1:{secure.port}") as socket_:  # type: ignore[arg-type]
        assert "session.created" in str(await socket_.recv())
    with pytest.raises(InvalidStatus, match="403"):
        await connect(url, ssl=trusted, origin=f"http://127.0.0.1:{secure.port}")  # type: ignore[arg-type]


def test_names_that_are_not_the_boxs_are_refused_as_without_tls(secure: Served) -> None:
    refused = secure.client.get("/health", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.json()["code"]) == (403, "unknown_host")


def test_plain_http_is_sent_on(secure: Served) -> None:
    plain = f"http://127.0.0.1:{secure.port}"
    sent = httpx.get(f"{plain}/page/x?y=1")
    assert (sent.status_code, sent.headers["location"]) == (307, f"https://127.0.0.1:{secure.port}/page/x?y=1")
    refused = httpx.post(f"{plain}/completion", json={"prompt": "hello"})
    assert refused.status_code == 400 and "HTTPS" in refused.text


def dial(served: Served, data: bytes = b"") -> socket.socket:
    dialled = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
    dialled.sendall(data)
    return dialled


def ended(dialled: socket.socket, seconds: float = 8) -> bool:
    """Whether the server hung up: sooner than it does by itself where nothing is set."""
    dialled.settimeout(seconds)
    try:
        while dialled.recv(1000):
            continue
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log holds from warning on, but for asyncio's own word that something was slow."""
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [each for each in told if not each.startswith("Executing ")]


@pytest.mark.parametrize(
    "garbage", [b"\0\1\2", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x05hello", b"\x16" * 3000, b"GET " + b"x" * 9000]
)
def test_garbage_is_hung_up_on_without_a_word_in_the_log(
    secure: Served, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    with dial(secure, garbage) as dialled:
        assert ended(dialled)
    assert secure.client.get("/ready").status_code == 200
    assert complaints(caplog) == []


def hello() -> bytes:
    """The first flight of a handshake that its sender does not go on with."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


@pytest.mark.parametrize("said", [b"", b"\x16", b"GET / HT", hello(), hello()[:40]], ids=len)
def test_half_a_handshake_is_given_up_in_time(
    secure: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.2)
    with dial(secure, said) as dialled:
        assert ended(dialled)
    assert complaints(caplog) == []


def test_a_crowd_at_the_door_keeps_nobody_out(
    secure: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "MOST_HANDSHAKES", 6)
    idle = [dial(secure, said) for said in (b"", b"\x16", hello(), b"GET ") for _ in range(5)]
    assert secure.client.get("/ready").status_code == 200
    assert [ended(each) for each in idle[:13]] == [True] * 13, "the oldest went"
    assert not ended(idle[-1], 0.1)
    for each in idle:
        each.close()
    assert complaints(caplog) == []


def test_one_who_shakes_hands_and_says_no_more_is_dropped_as_without_tls(
    echo_settings: Callable[..., Settings],
) -> None:
    with serving(echo_settings("server.tls=true", "server.head_seconds=0.3")) as running:
        with trusting(running.appliance.settings.data).wrap_socket(
            dial(running), server_hostname="localhost"
        ) as inside:
            assert ended(inside)


def test_the_server_stops_while_somebody_stands_in_the_door(echo_settings: Callable[..., Settings]) -> None:
    with serving(echo_settings("server.tls=true")) as running:
        standing = [dial(running, said) for said in (b"", b"GET ", hello())]
        assert running.client.get("/ready").status_code == 200
    assert all(ended(each) for each in standing)
    for each in standing:
        each.close()


def test_serve_tells_where_it_is_and_what_it_shows(tmp_path: Path) -> None:
    chosen = [word for each in (f"data={tmp_path}", "server.port=0", *ECHO) for word in ("--set", each)]
    process = subprocess.Popen(
        [sys.executable, "-m", "chatapi", "serve", "--tls", *chosen],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = ""
        while "ready after" not in told:
            told += process.stdout.readline()
        found = re.search(r"(https://127\.0\.0\.1:(\d+)) shows a certificate .* fingerprint ([0-9A-F:]{95})\n", told)
        assert found is not None, told
        assert "a browser will warn" in told
        assert httpx.get(f"{found[1]}/ready", verify=trusting(tmp_path)).json() == {"ready": True}
        pem = ssl.get_server_certificate(("127.0.0.1", int(found[2])))
        assert fingerprint(ssl.PEM_cert_to_DER_cert(pem)) == found[3]
    finally:
        process.send_signal(signal.SIGTERM)
        told += process.stdout.read()
        process.stdout.close()
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    assert "PRIVATE" not in told and "Traceback" not in told
