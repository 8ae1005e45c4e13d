"""`/settings`: shows the settings, and changes them while the box runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import SecretStr

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.errors import Forbidden, SettingsError, Unprocessable
from chatapi.interfaces.http.json_body import check_plain, json_body
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.response_models import AppliedChangesModel, SettingsModel
from chatapi.setting_changes import SettingChanges

LOCAL = ("data", "server.", "wyoming.", "openai_upstream.", "trace.", "webhook.", "storage.", "log.audit",
         "log.content")  # fmt: skip
"""Settings, or tables of them, that decide who may connect, where text and keys are sent, and what is logged. A key
with the scope `operate` must not change them: it could take more than it was given."""


def router(appliance: Appliance, changes: SettingChanges) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))

    @routes.get("/settings", summary="Every setting, its source, and when it changes", response_model=SettingsModel)
    async def show() -> dict[str, Any]:
        return {
            "settings": {
                key: {
                    "value": _plain(settings.at(appliance.settings, key)),
                    "from": changes.loaded.origins.get(key, "default"),
                    "changes": "live" if settings.is_live(key) else "restart",
                    "pending": changes.pending(key),
                }
                for key in settings.dotted_keys(type(appliance.settings))
            }
        }

    @routes.patch(
        "/settings",
        summary="Changes settings (JSON merge patch): null removes the override; one wrong value changes nothing",
        response_model=AppliedChangesModel,
        responses=problems(400, 408, 413, 415, 422, 503, 507),
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _schema()}}}},
    )
    async def change(request: Request) -> Any:
        wanted = await json_body(request, "settings", _leaves)
        if (guarded := next((key for key in wanted if key.startswith(LOCAL)), None)) is not None:
            raise Forbidden(
                f"{guarded} guards access to the box; change it there: chatapi settings set {guarded}=VALUE",
                code="local_setting", details={"param": guarded},
            )  # fmt: skip
        try:
            return await changes.apply(wanted)
        except SettingsError as error:
            raise _rejected(error, wanted) from None

    return routes


def _rejected(error: SettingsError, wanted: dict[str, Any]) -> Unprocessable:
    """The error of a change, which names the setting."""
    message = error.message.replace(f"{settings.OVERRIDE}: ", "")
    param = next((key for key in wanted if key in message), None)
    code = error.code if error.code != SettingsError.code else None
    return Unprocessable(message, code=code, details={"param": param} if param else {})


def _schema() -> dict[str, Any]:
    """The schema of a change: the tables, each with some of its settings."""
    tables = dict.fromkeys(key.partition(".")[0] for key in settings.dotted_keys() if "." in key)
    described = {name: {"type": "object", "description": f"Settings of the table {name}."} for name in tables}
    return {"type": "object", "description": "Tables and their settings.", "properties": described}


def _leaves(body: dict[str, Any]) -> dict[str, Any]:
    check_plain(body)
    return dict(settings.leaves(body))


def _plain(value: Any) -> Any:
    """A value as JSON; of a secret only that it is set."""
    if isinstance(value, SecretStr):
        return "(set)"
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
