"""The stage of `chatapi bench live`, with echo engines on it."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Running, tone

from chatapi.audio import RATE
from chatapi.bench.live import scenes
from chatapi.bench.live.ability import AbilityDoor
from chatapi.bench.live.picture import drawn, timeline
from chatapi.bench.live.stage import BLOCK, Speaker
from chatapi.corpus import Clip
from chatapi.events import AnswerStarted

pytestmark = pytest.mark.anyio


def clip(seconds: float) -> Clip:
    return Clip("tone", tone(seconds), "a tone", "en", "made", "tone", "tune", "", None)


async def test_a_question_is_timed_from_its_last_sound_to_the_answers_first(echo: Running) -> None:
    async with echo() as appliance, AbilityDoor(appliance.live).stage() as room:
        found = await scenes.question(room, clip(0.8))
        assert found.asked.startswith("heard")
        # No sooner than the silence that ends a turn.
        assert found.latency is not None and 0.2 < found.latency < 3
        [(start, end, words)] = room.said
        assert (end - start, words) == (pytest.approx(0.8, abs=0.02), "a tone")
        assert room.came(AnswerStarted) == 1
        picture = ElementTree.fromstring(drawn([timeline("question", room)]))
    colours = [each.get("fill") for each in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert colours.count("#37c") == 2
    assert colours.count("#e91") > 5


async def test_what_was_not_staged_counts_for_nothing(echo: Running) -> None:
    async with echo() as appliance, AbilityDoor(appliance.live).stage() as room:
        # The echo model's answer is over before anybody could interrupt it.
        with pytest.raises(scenes.NoStory):
            await scenes.disturbance(room, tone(0.5), tone(0.2))
    assert np.isnan(scenes.share([]))


def test_a_paused_speaker_is_silent_and_loses_nothing() -> None:
    speaker = Speaker()
    sound = tone(0.1)
    speaker.give(sound)
    first = speaker.block()
    speaker.paused = True
    assert not speaker.block().any()
    speaker.paused = False
    rest = [speaker.block() for _ in range(4)]
    assert np.array_equal(np.concatenate([first, *rest]), sound)
    assert not speaker.busy
    assert speaker.first(0.02) == pytest.approx(0.04, abs=2 / RATE)
    assert len(speaker.heard()) == 6 * BLOCK


def test_halves_are_the_whole() -> None:
    sound = np.concatenate([tone(0.5), np.zeros(RATE // 10, np.float32), tone(0.5)])
    first, second = scenes.halves(sound)
    assert np.array_equal(np.concatenate([first, second]), sound)
    assert 0.5 <= len(first) / RATE <= 0.6
