"""Checks the clock: certificates and downloads depend on it, and boards without a battery start in 1970."""

from __future__ import annotations

from collections.abc import Iterator

from chatapi.cli.check.finding import CheckContext, Finding

EARLIEST_YEAR = 2026
"""A clock that shows an earlier year was never set."""


def clock(context: CheckContext) -> Iterator[Finding]:
    """The clock; systemd-timesyncd(8) writes run/systemd/timesync/synchronized when it has set it."""
    timesync = context.root / "run/systemd/timesync"
    message = f"it shows {context.now:%Y-%m-%d %H:%M} UTC"
    remedy = "sudo timedatectl set-ntp true, or without a network sudo date -s 'YYYY-MM-DD hh:mm'"
    if context.now.year < EARLIEST_YEAR:
        message = f"{message} and was never set, so certificates and downloads will be rejected"
        yield Finding("note", "clock", f"{message}: {remedy}")
    elif timesync.is_dir() and not (timesync / "synchronized").exists():
        yield Finding("note", "clock", f"{message} and was not set since the start: {remedy}")
    else:
        yield Finding("good", "clock", message)
