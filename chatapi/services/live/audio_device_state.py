"""What other interfaces may ask of the box's own microphone and speaker."""

from __future__ import annotations

from typing import Any, Protocol


class AudioDeviceState(Protocol):
    """The box's own microphone and speaker, run by the audio device interface."""

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: mode, state, wake_word, and the state of the devices."""

    async def press(self) -> None:
        """Start a turn (push to talk). Raises WrongMode in another mode than push_to_talk, NotReady."""

    async def release(self) -> None:
        """End the turn that `press` started. Raises WrongMode as `press` does."""

    async def wake(self) -> None:
        """Act as if the wake word was detected. Raises WrongMode in another mode than wake_word, NotReady."""
