"""`chatapi keys`: adds, lists and revokes API keys. A running server notices changes at once."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from chatapi import auth
from chatapi.errors import BadInput


def manage(data: Path, chosen: argparse.Namespace) -> int:
    """Run an action; status 0. Raises BadInput, WrongMode, NotFound, StorageError, SettingsError."""
    if (chosen.name is None) != (chosen.action == "list"):
        raise BadInput("`keys add NAME` and `keys revoke NAME` need a name; `keys list` has none")
    if chosen.action != "add" and (chosen.scope or chosen.rate or chosen.expires is not None):
        raise BadInput(
            "--scope, --rate and --expires are only used by `keys add`; to change a key, revoke it and add another"
        )
    if chosen.action != "list" and chosen.json:
        raise BadInput("--json is only used by `keys list`")
    return {"add": _add, "list": _list, "revoke": _revoke}[chosen.action](data, chosen)


def _add(data: Path, chosen: argparse.Namespace) -> int:
    """Create a key and print it once."""
    first = auth.read(data) is None
    key = auth.add(data, chosen.name, chosen.scope or [auth.TALK], _rate(chosen.rate), chosen.expires)
    print(key)
    print("the key is printed only once: store it where it is used", file=sys.stderr)
    if first:
        print("from now on every request needs a key", file=sys.stderr)
    return 0


def _revoke(data: Path, chosen: argparse.Namespace) -> int:
    """Revoke a key; the server also ends its open connections."""
    auth.revoke(data, chosen.name)
    print(f"{chosen.name} is revoked", file=sys.stderr)
    return 0


def _list(data: Path, chosen: argparse.Namespace) -> int:
    """Print the properties of every key, without the keys themselves."""
    found, used, now = auth.read(data) or (), auth.times_used(data), time.time()
    rows = [
        {
            "name": key.name,
            "scopes": key.scopes,
            "requests_a_minute": key.rate,
            "created": key.created,
            "last_used": used.get(key.id),
            "expires": key.expires,
            "revoked": key.revoked,
            "opens": not key.invalid_reason(now),
        }
        for key in found
    ]
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        print("there is no key")
        return 0
    lines = [("name", "scopes", "rate", "created", "last used", "state")]
    for key in found:
        rate = f"{key.rate}/minute" if key.rate else "-"
        last = _time(used.get(key.id))
        lines.append((key.name, " ".join(key.scopes), rate, _day(key.created), last, _state(key, now)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _state(key: auth.StoredKey, now: float) -> str:
    if key.revoked is not None:
        return f"revoked {_day(key.revoked)}"
    if key.expires is None:
        return "good"
    return f"{'expired' if key.invalid_reason(now) else 'good until'} {_day(key.expires)}"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _rate(text: str | None) -> int | None:
    if text is None:
        return None
    number, _, unit = text.partition("/")
    if not (number.isascii() and number.isdecimal() and unit in ("", "minute")):
        raise BadInput(f"{text!r} is not a rate; expected for example 60/minute")
    return int(number)
