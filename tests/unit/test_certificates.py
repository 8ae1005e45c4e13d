"""The server's certificate and its own authority: names, renewal, wrong clocks and damaged files."""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chatapi.auth import certificate_authority, certificate_names, certificates
from chatapi.auth.certificate_authority import CertificateKeeper
from chatapi.auth.certificates import Identity, fingerprint, first_certificate, public_key_hash
from chatapi.cli import main
from chatapi.errors import SettingsError
from chatapi.observability import logs

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)


def client_context(data: Path) -> ssl.SSLContext:
    """The TLS context of a client that trusts only this server's authority."""
    return ssl.create_default_context(cafile=CertificateKeeper(data).authority)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes:
    """A TLS handshake in memory; returns the server's certificate. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server, server_hostname=name)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client_side, server_side):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    certificate = client_side.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def test_certificate_is_valid_for_every_name_of_the_machine(tmp_path: Path) -> None:
    identity = Identity(tmp_path, None, None, ("127.0.0.1", "server.example", "[::1]"))
    client = client_context(tmp_path)
    for name in ("localhost", "127.0.0.1", "::1", socket.gethostname().lower(), "server.example"):
        der = handshake(identity.context, client, name)
        assert fingerprint(der) == identity.fingerprint
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'other\.example'"):
        handshake(identity.context, client, "other.example")
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= timedelta(days=397)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_private_keys_are_readable_only_by_their_owner(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh()
    key_files = [path for path in (tmp_path / "certificates").iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(path.name for path in key_files) == ["authority.pem", "server.pem"]
    assert {path.stat().st_mode & 0o777 for path in key_files} == {0o600}


def test_authority_cannot_sign_for_foreign_names(tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    keeper.refresh()
    text = (tmp_path / "certificates" / "authority.pem").read_bytes()
    key = serialization.load_pem_private_key(text, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority = (x509.load_pem_x509_certificate(text), key)
    foreign = certificate_names.CertificateNames(frozenset(["bank.example"]), frozenset())
    keeper._issue(authority, ec.generate_private_key(ec.SECP256R1()), foreign, datetime.now(timezone.utc))
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        handshake(certificates.context(keeper.file), client_context(tmp_path), "bank.example")


def test_certificate_is_renewed_shortly_before_its_end_with_the_same_key_and_authority(tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    assert keeper.refresh(NOW)
    first, authority = first_certificate(keeper.file), keeper.authority.read_bytes()
    assert not keeper.refresh(NOW + timedelta(days=365))
    assert keeper.refresh(NOW + timedelta(days=367))
    assert first_certificate(keeper.file) != first and public_key_hash(
        first_certificate(keeper.file)
    ) == public_key_hash(first)
    assert keeper.authority.read_bytes() == authority


def test_new_address_renews_the_certificate_and_a_removed_one_does_not(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW)
    authority = CertificateKeeper(tmp_path).authority.read_bytes()
    assert CertificateKeeper(tmp_path, ["192.168.7.7"]).refresh(NOW)
    assert CertificateKeeper(tmp_path).authority.read_bytes() == authority
    assert not CertificateKeeper(tmp_path).refresh(NOW)


def test_name_outside_the_constraints_of_the_authority_creates_a_new_authority(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW)
    key, authority = (
        public_key_hash(first_certificate(CertificateKeeper(tmp_path).file)),
        CertificateKeeper(tmp_path).authority.read_bytes(),
    )
    assert CertificateKeeper(tmp_path, ["voice.example"]).refresh(NOW)
    assert CertificateKeeper(tmp_path).authority.read_bytes() != authority
    assert public_key_hash(first_certificate(CertificateKeeper(tmp_path).file)) == key


def test_unset_clock_neither_renews_nor_creates_an_expired_certificate(tmp_path: Path) -> None:
    unset = datetime(1970, 1, 1, 0, 0, 30, tzinfo=timezone.utc)
    keeper = CertificateKeeper(tmp_path / "used")
    keeper.refresh(NOW)
    assert not keeper.refresh(unset)
    key, authority = public_key_hash(first_certificate(keeper.file)), keeper.authority.read_bytes()
    assert keeper.refresh(NOW - timedelta(days=90)), (
        "either clock may have been wrong, and this certificate is valid by both"
    )
    assert not keeper.refresh(NOW)
    assert public_key_hash(first_certificate(keeper.file)) == key and keeper.authority.read_bytes() == authority
    new = CertificateKeeper(tmp_path / "new")
    assert new.refresh(unset) and not new.refresh(unset)
    made = x509.load_der_x509_certificate(first_certificate(new.file))
    assert made.not_valid_before_utc >= certificate_authority.EARLIEST - timedelta(days=1)
    assert new.refresh(made.not_valid_after_utc + timedelta(days=500)), "once the clock is set"


def test_certificate_of_a_clock_far_ahead_is_renewed(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW.replace(year=2050))
    assert CertificateKeeper(tmp_path).refresh(NOW)
    assert (
        x509.load_der_x509_certificate(first_certificate(CertificateKeeper(tmp_path).file)).not_valid_before_utc < NOW
    )


@pytest.mark.parametrize("days", [40, 110])
def test_certificate_of_a_clock_ahead_is_valid_once_the_clock_is_right(days: int, tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    keeper.refresh(NOW + timedelta(days=days))
    key, authority = public_key_hash(first_certificate(keeper.file)), keeper.authority.read_bytes()
    keeper.refresh(NOW)
    for made in x509.load_pem_x509_certificates(keeper.file.read_bytes()):
        assert made.not_valid_before_utc <= NOW < made.not_valid_after_utc
    assert public_key_hash(first_certificate(keeper.file)) == key and keeper.authority.read_bytes() == authority


def test_certificate_that_is_not_valid_yet_is_renewed_with_the_same_key(tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    keeper.refresh(NOW + timedelta(days=200))
    key = public_key_hash(first_certificate(keeper.file))
    assert keeper.refresh(NOW) and public_key_hash(first_certificate(keeper.file)) == key
    assert x509.load_der_x509_certificate(first_certificate(keeper.file)).not_valid_before_utc <= NOW


@pytest.mark.parametrize("name", ["authority.pem", "server.pem"])
def test_folder_in_place_of_a_file_is_set_aside(tmp_path: Path, name: str) -> None:
    CertificateKeeper(tmp_path).refresh()
    (tmp_path / "certificates" / name).unlink()
    (tmp_path / "certificates" / name).mkdir()
    handshake(Identity(tmp_path, None, None).context, client_context(tmp_path), "localhost")
    assert [path.is_dir() for path in (tmp_path / "certificates").glob("*.damaged-*")] == [True]


def test_temporary_certificate_is_used_when_none_can_be_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    identity = Identity(tmp_path / "file" / "data", None, None)
    assert identity.keeper is not None and "temporary certificate" in caplog.text
    trusted = ssl.create_default_context(cafile=identity.keeper.authority)
    handshake(identity.context, trusted, "localhost")
    assert identity.file.stat().st_mode & 0o077 == 0 and not identity.renew()


@pytest.mark.parametrize("name", ["authority.pem", "server.pem"])
@pytest.mark.parametrize("damage", [b"", b"\0" * 500, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_damaged_file_is_recreated(tmp_path: Path, name: str, damage: bytes) -> None:
    CertificateKeeper(tmp_path).refresh()
    (tmp_path / "certificates" / name).write_bytes(damage)
    assert CertificateKeeper(tmp_path).refresh()
    handshake(Identity(tmp_path, None, None).context, client_context(tmp_path), "localhost")


def test_running_server_presents_the_renewed_certificate(tmp_path: Path) -> None:
    identity = Identity(tmp_path, None, None)
    before = identity.fingerprint
    assert not identity.renew()
    CertificateKeeper(tmp_path, ["10.11.12.13"]).refresh()
    assert identity.renew() and identity.fingerprint != before
    assert fingerprint(handshake(identity.context, client_context(tmp_path), "10.11.12.13")) == identity.fingerprint


def configured_files(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
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


def test_configured_certificate_is_presented_and_reloaded_after_its_renewal(tmp_path: Path) -> None:
    identity = Identity(tmp_path, *configured_files(tmp_path))
    client = ssl.create_default_context(cafile=tmp_path / "own.crt")
    assert fingerprint(handshake(identity.context, client, "localhost")) == identity.fingerprint
    assert not (tmp_path / "certificates").exists()
    before = identity.fingerprint
    configured_files(tmp_path)
    os.utime(tmp_path / "own.crt", ns=(1, 1))
    assert identity.renew() and identity.fingerprint != before


def test_half_replaced_pair_leaves_the_old_certificate_in_use(tmp_path: Path) -> None:
    identity = Identity(tmp_path, *configured_files(tmp_path))
    client = ssl.create_default_context(cafile=tmp_path / "own.crt")
    (tmp_path / "own.key").write_bytes(configured_files(tmp_path / "other")[1].read_bytes())
    os.utime(tmp_path / "own.key", ns=(1, 1))
    with pytest.raises(SettingsError, match="not a certificate and its unencrypted key"):
        identity.renew()
    handshake(identity.context, client, "localhost")


def test_mismatched_files_are_rejected_in_one_sentence(tmp_path: Path) -> None:
    certificate, key = configured_files(tmp_path)
    other = configured_files(tmp_path / "other", b"hush")[1]
    mismatch = "not a certificate and its unencrypted key"
    for files, message in [
        ((tmp_path / "none.crt", key), "none.crt cannot be read: No such file"),
        ((certificate, other), mismatch),
        ((certificate, None), mismatch),
        ((key, key), mismatch),
    ]:
        with pytest.raises(SettingsError, match=message) as raised:
            Identity(tmp_path, *files)
        assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("server.certificate=a.pem",), "only with server.tls"),
        (("server.tls=true", "server.key=a.pem"), "without server.certificate"),
        (("server.tls=true", "server.certificate=a.pem"), "a.pem cannot be read"),
    ],
)
def test_contradictory_tls_settings_end_serve(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    chosen: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(logs, "configure", lambda settings: None)
    with pytest.raises(SystemExit, match="2"):
        main(["serve", *(word for each in (f"data={tmp_path}", *chosen) for word in ("--set", each))])
    assert message in (error := capsys.readouterr().err) and error.count("\n") == 1
