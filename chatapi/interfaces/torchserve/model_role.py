"""What a role must offer so that its models can be registered and predict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request

from chatapi.auth import KeyHolder
from chatapi.interfaces.torchserve.served_model import ServedModel


@dataclass(frozen=True)
class PredictionAnswer:
    """What a prediction returns, as a handler of TorchServe does."""

    value: object
    """Text or bytes, which are sent as they are, or plain values, which are sent as JSON."""
    media_type: str = ""
    """Of the answer; empty: text/plain for text, application/octet-stream for bytes, application/json for values."""


Prediction = Callable[[], Awaitable[PredictionAnswer]]
"""The work of a received request, run once a worker is free for it."""


class ModelRole(Protocol):
    """How the models of one role of the box predict. A role is served once `TorchServe` has its piece and the policy's
    interface `torchserve_model` a line for it."""

    @property
    def name(self) -> str:
        """The role's name, such as asr. It stands for its model in use too."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """Further names that stand for its model in use."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what a prediction takes, for KServe's metadata."""
        ...

    def workers(self) -> int:
        """Predictions that its engine runs at once."""
        ...

    async def receive(self, request: Request, served: ServedModel, holder: KeyHolder) -> Prediction:
        """Receive the input of an HTTP request. Raises CallerError, StorageError when the disk is full."""
        ...

    def prediction(self, fields: Mapping[str, bytes], served: ServedModel, holder: KeyHolder) -> Prediction:
        """The work for the input of a gRPC request. Blocking. Raises CallerError."""
        ...
