"""Notifications about jobs for people, by the services that apprise knows: one sentence, with a link to the job."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread

from chatapi.errors import ChatapiError, SettingsError
from chatapi.jobs.outbox import StateChange
from chatapi.jobs.outbox_sender import NotDelivered, OutboxSender
from chatapi.settings.services import NotifySettings

SEND_SECONDS = 60.0
"""Longest duration of one attempt, in seconds; apprise's own limits are shorter, and it has one for each step."""
MOST_URLS = 10
"""Largest number of services."""
TEXT_CHARS = 300
"""Longest name of a recording, and longest reason of a failure, in a notification, in characters."""
ENDS: Mapping[str, str] = {
    "queued": "is queued", "running": "has started", "paused": "is paused", "cancelled": "was cancelled",
    "failed": "failed", "done": "is done",
}  # fmt: skip


class NotificationSender(OutboxSender):
    """Sends notifications to one service of apprise."""

    def __init__(self, url: str, number: int, settings: NotifySettings) -> None:
        """`number`: place of the URL in the settings. Raises SettingsError, without the URL, which is a secret."""
        self._apprise = _service(url)
        if self._apprise is None:
            message = "is no URL of apprise, or its service needs a package"
            raise SettingsError(f"number {number + 1} of notify.urls {message}")
        super().__init__("notification", url, url.partition(":")[0], settings.events, f"notify{number}")
        self._link = settings.link.rstrip("/")

    @property
    def service(self) -> str:
        """The scheme of its URL, for the log."""
        return self._host

    @staticmethod
    def of(settings: NotifySettings) -> list[NotificationSender]:
        """A sender for each service of the settings, because each is tried again by itself. Raises SettingsError."""
        text = settings.urls.get_secret_value() if settings.urls is not None else ""
        # Commas may be part of a URL; one between two URLs is followed by a scheme.
        urls = re.split(r"(?:\s+|,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://))", text.strip()) if text.strip() else []
        if len(urls) > MOST_URLS:
            raise SettingsError(f"notify.urls has {len(urls)} URLs; at most {MOST_URLS} are accepted")
        return [NotificationSender(url, number, settings) for number, url in enumerate(urls)]

    async def send(self, change: StateChange) -> None:
        """One attempt. Raises NotDelivered."""
        try:
            text = await anyio.to_thread.run_sync(self._text, change)
        except ChatapiError as error:
            raise NotDelivered(error.message) from None
        await self.say(text)

    async def say(self, text: str) -> None:
        """One attempt to send a sentence that is about no job. Raises NotDelivered."""
        try:
            with anyio.fail_after(SEND_SECONDS):
                accepted = await anyio.to_thread.run_sync(self._notify, text, abandon_on_cancel=True)
        except TimeoutError:
            raise NotDelivered(f"no answer within {SEND_SECONDS:g} seconds") from None
        if not accepted:
            raise NotDelivered("the service did not accept it")

    def _notify(self, text: str) -> bool:
        try:
            return bool(self._apprise.notify(body=text))
        except Exception as error:
            # Of any of its plug-ins; the message may hold the URL.
            raise NotDelivered(f"{type(error).__name__} while connecting or sending") from None

    def _text(self, change: StateChange) -> str:
        return sentence(change, self._recording(change.job), self._link)

    def _recording(self, job: str) -> str:
        """What the recording of a job is called; empty: it has none, or has been deleted. Raises StorageError."""
        if self.database is None:
            return ""
        with self.database.reading() as db:
            row = db.execute("SELECT parameters FROM jobs WHERE id = ?", (job,)).fetchone()
        try:
            return str(json.loads(row[0]).get("name", "")) if row is not None else ""
        except (ValueError, AttributeError):
            return ""


def _service(url: str) -> Any:
    """Apprise with one service; None: it knows none for the URL. Raises SettingsError where it is not installed."""
    with warnings.catch_warnings():
        # It imports modules that are deprecated, where there are.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import apprise
        except ImportError as error:
            raise SettingsError("notify.urls needs apprise: pip install 'chatapi-appliance[notify]'") from error
        # Its messages may name the receiver with its token.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        found = apprise.Apprise()
        return found if found.add(url) else None


def sentence(change: StateChange, name: str, link: str) -> str:
    """The notification of a change, for example: The transcription of talk.wav is done: https://box:8000/jobs/ID"""
    about = " ".join((name or change.subject or change.job).split())[:TEXT_CHARS]
    ends = ENDS.get(str(change.data.get("state")), "has changed")
    message = " ".join(str(change.data.get("message", "")).split())[:TEXT_CHARS]
    reason = f" ({message})" if message and change.data.get("state") == "failed" else ""
    return f"The {change.kind} of {about} {ends}{reason}" + (f": {link}/jobs/{change.job}" if link else ".")
