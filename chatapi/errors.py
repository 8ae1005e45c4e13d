"""Every error a caller can meet, in one tree.

    ChatapiError
    |-- CallerError            the caller can mend it
    |   |-- BadInput           the request says something that cannot be done
    |   |   `-- Unprocessable  well formed, but a value is wrong
    |   |-- Unknown            it names something that is not here
    |   |-- Conflict           it asks for what the box, as it is set, does not do
    |   |-- Unauthorized       no key, or a wrong one
    |   |-- Forbidden          it may not come from there, or its key is not for that
    |   |-- NotAcceptable      what it accepts contradicts what it asks for
    |   |-- TooLarge           more than a limit allows
    |   |-- TooSlow            the caller did not send or take in time
    |   `-- Unsupported        a media type or a feature we do not speak
    |-- WaitAndRetry           nothing is wrong with the request, but not now
    |   |-- Busy               the queue is full
    |   |-- NotReady           models are still loading, or an engine is being rebuilt
    |   |-- TooMany            more requests than this caller may make in that time
    |   `-- Deadline           it took longer than the request may take
    `-- OurFault               we must mend it
        |-- EngineFailed       an engine raised, died or hung
        |-- ModelFault         a model is missing, damaged or not the one that was pinned
        |-- SettingsFault      the settings cannot be used as they are
        `-- StorageFault       the disk is full or cannot be written

Each error carries a stable snake_case `code`; faces map classes to their own numbers and never read the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ChatapiError(Exception):
    """What was wrong, and what would be right, in one sentence."""

    code = "error"
    retry_after: float | None = None
    """Seconds after which trying again makes sense; None: it does not."""

    def __init__(self, message: str, *, code: str | None = None, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.details: dict[str, object] = dict(details or {})
        """Values a program may want, for example the limit that was passed."""


class CallerError(ChatapiError):
    code = "bad_request"


class BadInput(CallerError):
    code = "bad_request"


class Unprocessable(BadInput):
    code = "invalid_value"


class Unknown(CallerError):
    code = "not_found"


class Conflict(CallerError):
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


class Deadline(WaitAndRetry):
    code = "deadline_exceeded"


class OurFault(ChatapiError):
    code = "internal_error"


class EngineFailed(OurFault):
    code = "engine_failed"


class ModelFault(OurFault):
    code = "model_fault"


class SettingsFault(OurFault):
    code = "settings_fault"


class StorageFault(OurFault):
    code = "storage_fault"


def alone(error: BaseException) -> BaseException:
    """The one error inside nested groups of one; the group itself when it holds several."""
    while (inner := getattr(error, "exceptions", None)) is not None and len(inner) == 1:
        error = inner[0]
    return error


def forget(error: BaseException) -> None:
    """Lets go of the frames it passed, which would keep what they hold, such as a request's body, until Python's
    collector comes."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or any(each is other for other in seen):
            continue
        seen.append(each)
        each.__traceback__ = None
        waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def unfit(fault: Mapping[str, Any]) -> str:
    """What one of pydantic's faults asks of a value, as the end of a sentence that begins with the value's name."""
    kind, context = str(fault["type"]), fault.get("ctx", {})
    if kind in _BOUNDS:
        sentence, bound = _BOUNDS[kind]
        return sentence.format(context.get(bound, ""))
    wanted = next((words for start, words in _KINDS.items() if kind.startswith(start)), None)
    return f"must be {wanted}" if wanted else str(fault["msg"]).removeprefix("Value error, ")


_BOUNDS = {
    "greater_than": ("must be more than {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
    "string_too_short": ("must have a length of at least {}", "min_length"),
    "string_too_long": ("must have a length of at most {}", "max_length"),
    "string_pattern_mismatch": ("must look like {}", "pattern"),
    "too_short": ("must have a length of at least {}", "min_length"),
    "too_long": ("must have a length of at most {}", "max_length"),
    "literal_error": ("must be {}", "expected"),
}
"""pydantic's type of fault -> our words, and where in its context the number is."""
_KINDS = {
    "missing": "there",
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
"""The beginning of pydantic's type of fault -> what is wanted."""
