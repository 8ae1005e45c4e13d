"""Checks a TLS certificate."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from chatapi.auth import certificates
from chatapi.auth.certificate_names import CertificateNames
from chatapi.cli.check.finding import Finding
from chatapi.errors import SettingsError

SOON = timedelta(days=14)
"""Time before the end of a certificate in which its owner is reminded to renew it."""


def judge(file: Path, key: Path | None, wanted: CertificateNames, now: datetime, own: bool) -> Iterator[Finding]:
    """`own`: chatapi creates and renews it, so only problems that it cannot repair count. `wanted`: names and addresses
    of this machine."""
    try:
        certificates.context(file, key)
        found = x509.load_der_x509_certificate(certificates.first_certificate(file))
    except SettingsError as error:
        yield Finding("bad", "certificate", error.message)
        return
    start, end = found.not_valid_before_utc, found.not_valid_after_utc
    about = "certificate"
    if now < start:
        message = f"it is valid from {start:%Y-%m-%d} and the clock shows {now:%Y-%m-%d}"
        yield Finding("bad", about, f"{message}: set the clock, sudo timedatectl set-ntp true")
    elif own:
        # The server renews it before it ends, and for new names.
        yield Finding("good", about, f"chatapi's own, valid to {end:%Y-%m-%d}")
    elif now > end:
        yield Finding("bad", about, f"{file} ended on {end:%Y-%m-%d}: renew it; chatapi loads the new one by itself")
    elif now > end - SOON:
        yield Finding("note", about, f"{file} ends on {end:%Y-%m-%d}: renew it; chatapi loads the new one by itself")
    else:
        yield _named(file, found, wanted)


def _named(file: Path, found: x509.Certificate, wanted: CertificateNames) -> Finding:
    try:
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        message = f"{file} has no subject alternative name, and browsers reject it"
        return Finding("bad", "certificate", f"{message}: get one with this machine's names")
    dns, addresses = held.get_values_for_type(x509.DNSName), held.get_values_for_type(x509.IPAddress)
    if any(_covers(name.lower(), wanted.dns) for name in dns) or set(addresses) & wanted.addresses:
        return Finding("good", "certificate", f"{file}, valid to {found.not_valid_after_utc:%Y-%m-%d}")
    names = ", ".join(map(str, (*dns, *addresses)))
    message = f"{file} is for {names}, and this machine is {', '.join(sorted(wanted.dns))}"
    return Finding("note", "certificate", f"{message}: use a name of the certificate, or get another certificate")


def _covers(name: str, wanted: frozenset[str]) -> bool:
    """Whether a certificate's name covers one of these; a star replaces one label (RFC 6125, section 6.4.3)."""
    if name.startswith("*."):
        return any(each.partition(".")[2] == name[2:] for each in wanted)
    return name in wanted
