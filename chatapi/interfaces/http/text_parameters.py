"""Options of a transcription that arrive as text, in a query or a form."""

from __future__ import annotations

from chatapi.errors import Unprocessable

TRUE, FALSE = ("true", "1", "yes", "on", "t", "y"), ("false", "0", "no", "off", "f", "n", "")


def parse_bool(name: str, text: str) -> bool:
    """A truth value, in the spellings of FastAPI; empty text is false. Raises Unprocessable naming the parameter."""
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise wrong_value(name, f"is {text[:40]!r}; it must be true or false")


def parse_task(text: str) -> bool:
    """Whether the task is to translate; empty text is to transcribe. Raises Unprocessable."""
    if (task := text.lower() or "transcribe") not in ("transcribe", "translate"):
        raise wrong_value("task", f"is {text[:40]!r}; it must be transcribe or translate")
    return task == "translate"


def wrong_value(name: str, what: str) -> Unprocessable:
    """The error for a parameter; `what`: what is wrong with it."""
    return Unprocessable(f"{name} {what}", details={"param": name})
