"""What chatapi uses of torch where it is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class cuda:  # noqa: N801
    available = False

    @classmethod
    def is_available(cls) -> bool:
        return cls.available


@contextmanager
def inference_mode(mode: bool = True) -> Iterator[None]:
    yield


def load(f: Any, *, weights_only: bool | None = None) -> Any:
    with open(f, encoding="utf-8") as file:  # noqa: PTH123
        return json.load(file)
