"""A room without hardware for tests: the sound card that the bench has, as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.bench.sound_card import FEED, INSTALL, MICROPHONE, SPEAKER, SPEAKER_RATE, SoundCard, installed, sound_card

__all__ = ["FEED", "MICROPHONE", "SPEAKER", "SPEAKER_RATE", "Room", "room", "room_in"]

Room = SoundCard
room_in = sound_card


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A room with microphone and speaker; skipped where no PulseAudio is installed."""
    if not installed():
        pytest.skip(INSTALL)
    with sound_card(tmp_path / "room") as made:
        yield made
