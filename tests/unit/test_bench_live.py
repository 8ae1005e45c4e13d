"""The in-process harness of `chatapi bench live`, with fake engines."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.bench import corpus
from chatapi.bench.corpus import Clip, Hesitation
from chatapi.bench.live import budget, endings, pauses, scenarios
from chatapi.bench.live.budget import Budget
from chatapi.bench.live.harness import BLOCK, Speaker
from chatapi.bench.live.in_process import InProcessTransport
from chatapi.bench.live.timeline import drawn, timeline
from chatapi.bench.recognition import CORPUS
from chatapi.events import ResponseStarted, TurnEnded, TurnTimings
from conftest import RunAppliance, tone

pytestmark = pytest.mark.anyio


def clip(seconds: float) -> Clip:
    return Clip("tone", tone(seconds), "a tone", "en", "made", "tone", "tune", "", None)


async def test_latency_is_measured_from_the_end_of_the_question_to_the_first_audio(
    fake_appliance: RunAppliance,
) -> None:
    async with fake_appliance() as appliance, InProcessTransport(appliance.live).open_harness() as room:
        found = await scenarios.question(room, clip(0.8))
        assert found.asked.startswith("heard")
        # At least the silence that ends a turn.
        assert found.latency is not None and 0.2 < found.latency < 3
        [(start, end, words)] = room.utterances
        assert (end - start, words) == (pytest.approx(0.8, abs=0.02), "a tone")
        assert room.came(ResponseStarted) == 1
        picture = ElementTree.fromstring(drawn([timeline("question", room)]))
    colours = [each.get("fill") for each in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert colours.count("#37c") == 2
    assert colours.count("#e91") > 5


async def test_scenario_that_cannot_run_is_skipped(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, InProcessTransport(appliance.live).open_harness() as room:
        # The fake model's answer ends before it can be interrupted.
        with pytest.raises(scenarios.ScenarioSkipped):
            await scenarios.disturbance(room, tone(0.5), tone(0.2))
    assert np.isnan(scenarios.share([]))


async def test_lost_questions_at_the_end_of_an_answer_are_counted(fake_appliance: RunAppliance) -> None:
    async def question(answer: str) -> Samples:
        assert answer.startswith("You said: ")
        return np.random.default_rng(5).normal(0, 0.2, RATE).astype(np.float32)

    async with (
        fake_appliance("live.min_interruption_ms=64") as appliance,
        InProcessTransport(appliance.live, hurry=True).open_harness() as room,
    ):
        random = np.random.default_rng(4)
        found = await endings.series(room, tone(1), question, 2, random)
    assert [0 < each.left <= endings.LAST for each in found] == [True, True]
    row = endings.row("questions", [*found, endings.Ending(0.5, "the answer resumed")])
    assert row.value == sum(each.lost for each in found) + 1 and "the answer resumed" in row.note


def test_question_repeats_the_last_words_of_the_answer() -> None:
    assert endings.repeated("The sea is wide and deep and blue.") == "is wide and deep and blue?"


def test_paused_speaker_is_silent_and_keeps_its_audio() -> None:
    speaker = Speaker()
    sound = tone(0.1)
    speaker.play(sound)
    first = speaker.block()
    speaker.paused = True
    assert not speaker.block().any() and speaker.sounding
    assert not speaker.block().any() and not speaker.sounding
    speaker.paused = False
    rest = [speaker.block() for _ in range(4)]
    assert np.array_equal(np.concatenate([first, *rest]), sound)
    assert not speaker.busy
    assert speaker.first(0.02) == pytest.approx(0.06, abs=2 / RATE)
    assert len(speaker.audio()) == 7 * BLOCK


def hesitation() -> Hesitation:
    return Hesitation(tone(0.6), tone(0.6), "a tone and a tone", "tone")


@pytest.mark.alone
async def test_hesitation_is_waited_for_resumed_or_cut_off(fake_appliance: RunAppliance) -> None:
    async with (
        fake_appliance("live.min_endpointing_delay_ms=900") as appliance,
        InProcessTransport(appliance.live).open_harness() as room,
    ):
        assert await scenarios.hesitation(room, hesitation(), 0.4, patience=3) is scenarios.PauseResult.WAITED
    async with (
        fake_appliance("fake.delay=0.15") as appliance,
        InProcessTransport(appliance.live).open_harness() as room,
    ):
        assert await scenarios.hesitation(room, hesitation(), 0.55, patience=3) is scenarios.PauseResult.TAKEN_BACK
    async with fake_appliance() as appliance, InProcessTransport(appliance.live).open_harness() as room:
        assert await scenarios.hesitation(room, hesitation(), 1.0, patience=3) is scenarios.PauseResult.CUT_OFF


async def test_pauses_are_also_judged_by_silence_and_by_turn_detection_alone(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        await appliance.engines.turn_detection.open()
        fates = [scenarios.PauseResult.WAITED, scenarios.PauseResult.CUT_OFF, scenarios.PauseResult.TAKEN_BACK]
        found = [row.value async for row in pauses.rows(fates, [hesitation()] * 3, appliance.engines.turn_detection)]
    # Pauses of 0.4, 0.7 and 1 s; the fake turn detector takes each for an end of turn.
    assert found == [pytest.approx(100 / 3), pytest.approx(100 / 3), pytest.approx(200 / 3), 100]


def test_hesitations_have_two_parts_and_a_transcript() -> None:
    found = corpus.hesitations(CORPUS)
    assert len(found) == 36
    assert all(len(each.before) > 0.2 * RATE < len(each.after) and each.text for each in found)


async def test_budget_of_an_answer_adds_up_to_its_latency(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance, InProcessTransport(appliance.live).open_harness() as room:
        found = await scenarios.question(room, clip(0.8))
        [timings] = [event.timings for _, event in room.events if isinstance(event, TurnEnded)]
    assert found.latency is not None
    made = Budget.of(found.latency, timings)
    assert made is not None and sum(made.parts) == pytest.approx(found.latency)
    assert min(made.parts[:-1]) >= 0
    rows = budget.rows([made])
    assert sum(row.value for row in rows) == pytest.approx(found.latency)
    assert ElementTree.fromstring(budget.drawn([made])) is not None


def test_silence_counts_only_as_far_as_it_outlasts_the_preparation() -> None:
    ready = TurnTimings(transcript=0.1, first_token=0.15, first_sentence=0.2, first_audio=0.25, endpoint=0.3)
    early = Budget.of(0.4, ready)
    late = Budget.of(
        0.4, TurnTimings(transcript=0.1, first_token=0.2, first_sentence=0.2, first_audio=0.3, endpoint=0.2)
    )
    assert early is not None and early.parts == pytest.approx([0.1, 0.05, 0.05, 0.05, 0.05, 0.1])
    assert late is not None and late.parts == pytest.approx([0.1, 0.1, 0, 0.1, 0, 0.1])


def test_answer_without_known_stages_has_no_budget() -> None:
    assert Budget.of(0.4, TurnTimings(transcript=0.1)) is None
    assert budget.rows([]) == []
