"""Calls of an engine as data: a method's name and its arguments.

A closure runs only where it was made; a record can be carried to the engine, on a thread, in another process or on
another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from chatapi.engines.cancellation import Stop

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class EngineCall(Generic[T]):
    """A call of a method that yields items of type T. Make it with `of`, which checks the arguments' types."""

    method: str
    """Name of a public method that takes `stop`."""
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments by name."""
    whole: bool = False
    """Whether the items come as one list, which costs less than many small items, each by itself."""

    @staticmethod
    def of(
        method: Callable[Concatenate[Any, P], Iterator[T]], *arguments: P.args, **options: P.kwargs
    ) -> EngineCall[T]:
        """The call of a role's method, such as `Transcriber.transcribe`; its `stop` is added where it runs."""
        return EngineCall(method.__name__, arguments, options)

    def __call__(self, engine: Any, stop: Stop) -> Iterator[T]:
        """The items, on a thread of the engine's process."""
        items: Iterator[T] = getattr(engine, self.method)(*self.arguments, **self.options, stop=stop)
        # A list of T takes the place of the only item.
        return cast("Iterator[T]", _collected(items)) if self.whole else items


def _collected(items: Iterator[T]) -> Iterator[list[T]]:
    yield list(items)
