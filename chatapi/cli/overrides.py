"""`chatapi settings`: shows settings, their sources and when they change, and overrides them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import httpx
from pydantic import SecretStr

from chatapi import settings
from chatapi.auth import local_key
from chatapi.cli.health import detail, request
from chatapi.errors import BadInput, SettingsError
from chatapi.settings import Settings
from chatapi.storage import setting_overrides

CHANGE_SECONDS = 900.0
"""Longest wait for a running server, which may load a model, in seconds."""
WHEN = {
    "in use now": "active",
    "stored; chatapi uses it after a restart": "restart",
    "stored; it stays as --set sets it in the running chatapi": "hidden",
}
"""Message about a change -> its list in the server's response."""


def manage(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    """Run an action, in the server where one runs; status 0. Raises BadInput, SettingsError, StorageError."""
    if chosen.action == "get":
        return _get(loaded, chosen.name, chosen.json)
    if chosen.json:
        raise BadInput("--json is only used by `settings get`")
    if not chosen.name:
        raise BadInput("`settings set NAME=VALUE` and `settings unset NAME` need a name")
    changes = dict(map(_change, chosen.name)) if chosen.action == "set" else dict.fromkeys(chosen.name)
    if not _changed_in_server(loaded.settings, changes):
        _change_in_file(loaded, changes)
    return 0


def _change_in_file(loaded: settings.Loaded, changes: dict[str, Any]) -> None:
    after = setting_overrides.change(loaded, changes)
    for key in changes:
        if after.origins.get(key) == settings.COMMAND:
            print(f"{key} stays as --set sets it in this command", file=sys.stderr)
        else:
            print(f"{key} = {_text(after, key)}", file=sys.stderr)
    print("a running chatapi uses it after a restart", file=sys.stderr)


def _changed_in_server(tree: Settings, changes: dict[str, Any]) -> bool:
    """Change the settings of the server that runs with this data directory and port, which stores them.

    False where none runs, or where it leaves these settings to commands. Raises SettingsError with its reason.
    """
    # The server provides the key while it runs.
    if local_key(tree.data, tree.server.port) is None:
        return False
    body: dict[str, Any] = {}
    for key, value in changes.items():
        table, _, name = key.rpartition(".")
        (body.setdefault(table, {}) if table else body)[name] = value
    try:
        response = request(tree, "/settings", "PATCH", body, CHANGE_SECONDS)
    except httpx.ConnectError:
        return False
    except httpx.TransportError as error:
        raise SettingsError(f"the running chatapi did not answer: {error or type(error).__name__}") from error
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return False
    if response.status_code != httpx.codes.OK:
        raise SettingsError(detail(response))
    for key in changes:
        when = next(words for words, where in WHEN.items() if key in response.json()[where])
        print(f"{key}: {when}", file=sys.stderr)
    return True


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
