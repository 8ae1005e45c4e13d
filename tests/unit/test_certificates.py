"""The server's certificate and the box's own authority: names, renewal, wrong clocks and damaged files."""

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
    foreign = certificate_names.CertificateNames(frozenset(["bank.example"]), frozenset())
    keeper._issue(authority, ec.generate_private_key(ec.SECP256R1()), foreign, datetime.now(timezone.utc))
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shake(certificates.context(keeper.file), trusting(tmp_path), "bank.example")


def test_a_certificate_is_kept_until_it_ends_soon_and_then_has_the_same_key_and_authority(tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    assert keeper.refresh(NOW)
    first, authority = first_certificate(keeper.file), keeper.authority.read_bytes()
    assert not keeper.refresh(NOW + timedelta(days=365))
    assert keeper.refresh(NOW + timedelta(days=367))
    assert first_certificate(keeper.file) != first and public_key_hash(
        first_certificate(keeper.file)
    ) == public_key_hash(first)
    assert keeper.authority.read_bytes() == authority


def test_a_new_address_renews_it_and_one_that_went_does_not(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW)
    authority = CertificateKeeper(tmp_path).authority.read_bytes()
    assert CertificateKeeper(tmp_path, ["192.168.7.7"]).refresh(NOW)
    assert CertificateKeeper(tmp_path).authority.read_bytes() == authority
    assert not CertificateKeeper(tmp_path).refresh(NOW)


def test_a_name_that_the_authority_may_not_vouch_for_needs_another_authority(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW)
    key, authority = (
        public_key_hash(first_certificate(CertificateKeeper(tmp_path).file)),
        CertificateKeeper(tmp_path).authority.read_bytes(),
    )
    assert CertificateKeeper(tmp_path, ["voice.example"]).refresh(NOW)
    assert CertificateKeeper(tmp_path).authority.read_bytes() != authority
    assert public_key_hash(first_certificate(CertificateKeeper(tmp_path).file)) == key


def test_a_clock_that_was_never_set_neither_renews_nor_makes_what_is_over_at_once(tmp_path: Path) -> None:
    unset = datetime(1970, 1, 1, 0, 0, 30, tzinfo=timezone.utc)
    keeper = CertificateKeeper(tmp_path / "used")
    keeper.refresh(NOW)
    assert not keeper.refresh(unset)
    key, authority = public_key_hash(first_certificate(keeper.file)), keeper.authority.read_bytes()
    assert keeper.refresh(NOW - timedelta(days=90)), "either clock may have been wrong, and this one is good by both"
    assert not keeper.refresh(NOW)
    assert public_key_hash(first_certificate(keeper.file)) == key and keeper.authority.read_bytes() == authority
    new = CertificateKeeper(tmp_path / "new")
    assert new.refresh(unset) and not new.refresh(unset)
    made = x509.load_der_x509_certificate(first_certificate(new.file))
    assert made.not_valid_before_utc >= certificate_authority.EARLIEST - timedelta(days=1)
    assert new.refresh(made.not_valid_after_utc + timedelta(days=500)), "once the clock is set"


def test_what_a_clock_from_the_future_made_is_made_anew(tmp_path: Path) -> None:
    CertificateKeeper(tmp_path).refresh(NOW.replace(year=2050))
    assert CertificateKeeper(tmp_path).refresh(NOW)
    assert (
        x509.load_der_x509_certificate(first_certificate(CertificateKeeper(tmp_path).file)).not_valid_before_utc < NOW
    )


@pytest.mark.parametrize("days", [40, 110])
def test_a_certificate_of_a_clock_that_was_ahead_is_good_once_it_is_right(days: int, tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    keeper.refresh(NOW + timedelta(days=days))
    key, authority = public_key_hash(first_certificate(keeper.file)), keeper.authority.read_bytes()
    keeper.refresh(NOW)
    for made in x509.load_pem_x509_certificates(keeper.file.read_bytes()):
        assert made.not_valid_before_utc <= NOW < made.not_valid_after_utc
    assert public_key_hash(first_certificate(keeper.file)) == key and keeper.authority.read_bytes() == authority


def test_one_that_is_yet_to_begin_is_made_anew_from_the_same_key(tmp_path: Path) -> None:
    keeper = CertificateKeeper(tmp_path)
    keeper.refresh(NOW + timedelta(days=200))
    key = public_key_hash(first_certificate(keeper.file))
    assert keeper.refresh(NOW) and public_key_hash(first_certificate(keeper.file)) == key
    assert x509.load_der_x509_certificate(first_certificate(keeper.file)).not_valid_before_utc <= NOW


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
    assert identity.keeper is not None and "temporary certificate" in caplog.text
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
    with pytest.raises(SettingsError, match="not a certificate and its unencrypted key"):
        identity.renew()
    shake(identity.context, client, "localhost")


def test_files_that_do_not_fit_are_told_in_one_sentence(tmp_path: Path) -> None:
    certificate, key = own_files(tmp_path)
    other = own_files(tmp_path / "other", b"hush")[1]
    fit = "not a certificate and its unencrypted key"
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
        (("server.tls=true", "server.key=a.pem"), "without server.certificate"),
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
