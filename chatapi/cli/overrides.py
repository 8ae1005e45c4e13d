"""`chatapi settings`: shows settings, their sources and when they change, and overrides them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pydantic import SecretStr

from chatapi import settings
from chatapi.errors import BadInput
from chatapi.storage import setting_overrides


def manage(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    """Run an action; status 0. Raises BadInput, SettingsError, StorageError."""
    if chosen.action == "get":
        return _get(loaded, chosen.name, chosen.json)
    if chosen.json:
        raise BadInput("--json is only used by `settings get`")
    if not chosen.name:
        raise BadInput("`settings set NAME=VALUE` and `settings unset NAME` need a name")
    changes = dict(map(_change, chosen.name)) if chosen.action == "set" else dict.fromkeys(chosen.name)
    after = setting_overrides.change(loaded, changes)
    for key in changes:
        if after.origins.get(key) == settings.COMMAND:
            print(f"{key} stays as --set sets it in this command", file=sys.stderr)
        else:
            print(f"{key} = {_text(after, key)}", file=sys.stderr)
    print("a running chatapi uses it after a restart; `PATCH /settings` changes it there", file=sys.stderr)
    return 0


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"{text!r} is not of the form NAME=VALUE, for example llm.temperature=0.5")
    settings.require_known(key)
    return key, settings.typed(key, value)


def _get(loaded: settings.Loaded, names: list[str], as_json: bool) -> int:
    for name in names:
        settings.require_known(name)
    keys = names or list(settings.dotted_keys(type(loaded.settings)))
    shown = {
        key: {
            "value": _shown(loaded, key),
            "from": loaded.origins.get(key, "default"),
            "changes": "live" if settings.is_live(key) else "restart",
        }
        for key in keys
    }
    if as_json:
        print(json.dumps(shown, indent=2, default=str))
        return 0
    for key, about in shown.items():
        print(f"{key} = {_text(loaded, key)}  ({about['from']}, {about['changes']})")
    return 0


def _shown(loaded: settings.Loaded, key: str) -> Any:
    """The value; of a secret only that it is set."""
    value = settings.at(loaded.settings, key)
    return "(set)" if isinstance(value, SecretStr) else value


def _text(loaded: settings.Loaded, key: str) -> str:
    return json.dumps(_shown(loaded, key), default=str, ensure_ascii=False)
