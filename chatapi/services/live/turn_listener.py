"""The interface between turn detection and the session that it controls."""

from __future__ import annotations

from typing import Protocol

from chatapi.errors import ChatapiError
from chatapi.services.live.utterance import Utterance


class TurnListener(Protocol):
    """Receives what a TurnTracker finds."""

    @property
    def playing(self) -> bool:
        """Whether an answer is being played."""

    @property
    def answer_unplayed(self) -> bool:
        """Whether nothing of the last turn's answer has been played and the turn may therefore continue."""

    @property
    def during_answer(self) -> bool:
        """Whether the current utterance began during an answer."""

    async def on_speech_started(self, at: float, resumed: bool) -> None:
        """Speech started `at` seconds of the stream; `resumed`: it continues the last turn."""

    def cancel_preemptive_answer(self) -> None:
        """The turn is not over: cancels the answer that was started before its end was certain."""

    async def on_partial_transcript(self, utterance: Utterance, text: str) -> None:
        """The transcript so far."""

    async def completeness(self, text: str) -> float | None:
        """Returns the probability that the text is complete; None: unknown."""

    async def on_preemptive_turn(self, utterance: Utterance, text: str) -> None:
        """The turn may be over; this is its transcript."""

    async def wait_for_prefill(self) -> None:
        """Waits until the model has processed the prompt of the preemptive answer, or a short time has passed."""

    async def on_end_of_turn(self, utterance: Utterance, text: str) -> bool:
        """The turn is over; `utterance.error` says why its end was not transcribed. Returns whether it is answered."""

    async def on_error(self, error: ChatapiError) -> None:
        """Turn detection failed for this utterance."""
