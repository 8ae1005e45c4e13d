"""Whether the clock is right: certificates and downloads depend on it, and boards without a battery start in 1970."""

from __future__ import annotations

from collections.abc import Iterator

from chatapi.cli.check.finding import CheckContext, Finding

BUILT = 2026
"""The year this was written in; a clock that shows an earlier one was never set."""


def clock(scene: CheckContext) -> Iterator[Finding]:
    """systemd-timesyncd(8) makes run/systemd/timesync/synchronized each time it has set the clock."""
    timesync = scene.root / "run/systemd/timesync"
    told = f"it shows {scene.now:%Y-%m-%d %H:%M} UTC"
    mend = "sudo timedatectl set-ntp true, or without a network sudo date -s 'YYYY-MM-DD hh:mm'"
    if scene.now.year < BUILT:
        told = f"{told} and was never set, so that certificates and downloads will be refused"
        yield Finding("note", "clock", f"{told}: {mend}")
    elif timesync.is_dir() and not (timesync / "synchronized").exists():
        yield Finding("note", "clock", f"{told} and nobody has set it since the start: {mend}")
    else:
        yield Finding("good", "clock", told)
