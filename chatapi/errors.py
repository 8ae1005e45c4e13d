"""All errors that reach a client, as one tree.

    ChatapiError
    |-- CallerError            the caller can fix it
    |   |-- BadInput           the request asks for something that cannot be done
    |   |   `-- Unprocessable  well formed, but a value is wrong
    |   |-- NotFound           the request names something that does not exist
    |   |-- MethodNotAllowed   what the request names has other methods
    |   |-- WrongMode          the current settings or state do not allow it
    |   |-- Unauthorized       no API key, or a wrong one
    |   |-- Forbidden          wrong origin, or the key lacks the scope
    |   |-- NotAcceptable      the Accept header contradicts the request
    |   |-- TooLarge           over a limit
    |   |-- TooSlow            the client did not send or read in time
    |   `-- Unsupported        a media type or a feature that is not supported
    |-- WaitAndRetry           the request is fine; retry later
    |   |-- Busy               the queue is full
    |   |-- NotReady           models are loading, or an engine is being rebuilt
    |   |-- TooMany            over the rate limit
    |   `-- DeadlineExceeded   the turn took longer than its deadline
    `-- InternalError          we must fix it
        |-- EngineFailed       an engine raised, died or hung
        |-- ModelError         a model is damaged, too large, or not the pinned one
        |   `-- ModelMissing   a model is not installed; the message names the command that installs it
        |-- SettingsError      the settings cannot be used as they are
        `-- StorageError       the disk is full or cannot be written

Each error carries a stable snake_case `code`; interfaces map classes to their own status codes and never parse the
message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class ChatapiError(Exception):
    """An error whose message says in one sentence what was wrong, and the limit or the remedy."""

    code = "error"
    retry_after: float | None = None
    """Seconds after which a retry makes sense; None: a retry does not help."""

    def __init__(self, message: str, *, code: str | None = None, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.details: dict[str, object] = dict(details or {})
        """Values for programs, for example the limit that was exceeded."""


class CallerError(ChatapiError):
    code = "bad_request"


class BadInput(CallerError):
    code = "bad_request"


class Unprocessable(BadInput):
    code = "invalid_value"


class NotFound(CallerError):
    code = "not_found"


class MethodNotAllowed(CallerError):
    code = "method_not_allowed"

    def __init__(self, message: str, methods: Iterable[str]) -> None:
        """`methods`: those that are supported."""
        super().__init__(message)
        self.methods = tuple(methods)


class WrongMode(CallerError):
    code = "conflict"


class Unauthorized(CallerError):
    code = "unauthorized"


class Forbidden(CallerError):
    code = "forbidden"


class NotAcceptable(CallerError):
    code = "contradicting_accept"


class TooLarge(CallerError):
    code = "too_large"


class TooSlow(CallerError):
    code = "too_slow"


class Unsupported(CallerError):
    code = "unsupported"


class WaitAndRetry(ChatapiError):
    code = "unavailable"
    retry_after = 1.0

    def __init__(self, message: str, *, retry_after: float | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        if retry_after is not None:
            self.retry_after = retry_after


class Busy(WaitAndRetry):
    code = "busy"


class NotReady(WaitAndRetry):
    code = "not_ready"


class TooMany(WaitAndRetry):
    code = "rate_limited"


class DeadlineExceeded(WaitAndRetry):
    code = "deadline_exceeded"


class InternalError(ChatapiError):
    code = "internal_error"


class EngineFailed(InternalError):
    code = "engine_failed"


class ModelError(InternalError):
    code = "model_fault"


class ModelMissing(ModelError):
    code = "model_missing"


class SettingsError(InternalError):
    code = "settings_fault"


class StorageError(InternalError):
    code = "storage_fault"


def collapse_exception_group(error: BaseException) -> BaseException:
    """Returns the one error inside nested groups of one; the group itself when it holds several."""
    while (inner := getattr(error, "exceptions", None)) is not None and len(inner) == 1:
        error = inner[0]
    return error


def drop_traceback_frames(error: BaseException) -> None:
    """Releases the stack frames that an error references.

    They would keep their locals, such as a request's body, in memory until Python's garbage collector runs.
    """
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or any(each is other for other in seen):
            continue
        seen.append(each)
        each.__traceback__ = None
        waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def describe_validation_error(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors requires of a value, as the end of a sentence that begins with the value's name."""
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind in _BOUNDS:
        sentence, bound = _BOUNDS[kind]
        return sentence.format(context.get(bound, ""))
    expected = next((words for start, words in _KINDS.items() if kind.startswith(start)), None)
    return f"must be {expected}" if expected else str(error["msg"]).removeprefix("Value error, ")


_BOUNDS = {
    "greater_than": ("must be more than {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
    "string_too_short": ("must have a length of at least {}", "min_length"),
    "string_too_long": ("must have a length of at most {}", "max_length"),
    "string_pattern_mismatch": ("must match the pattern {}", "pattern"),
    "too_short": ("must have a length of at least {}", "min_length"),
    "too_long": ("must have a length of at most {}", "max_length"),
    "literal_error": ("must be {}", "expected"),
}
"""pydantic's error type -> our sentence, and the key of the bound in the error's context."""
_KINDS = {
    "missing": "given",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
    "path": "a path",
}
"""The prefix of pydantic's error type -> what is expected."""
