"""Checks server events of the Realtime API strictly against the types of OpenAI's client."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel


def check_event(event: Mapping[str, Any]) -> None:
    """Raises ValidationError for an event that is not as OpenAI's client declares it; our own events pass."""
    kind = event["type"]
    if not kind.startswith("chatapi."):
        assert kind in _models(), f"OpenAI's client knows no event {kind}"
        _models()[kind].model_validate(event, strict=True)


@cache
def _models() -> dict[str, type[BaseModel]]:
    """Type of an event -> its model."""
    models = get_args(get_args(RealtimeServerEvent)[0])
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in models}
