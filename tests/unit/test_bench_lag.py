"""`chatapi bench lag`, with fake engines: what it measures, and which options it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from chatapi.audio import RATE
from chatapi.bench import Row, lag
from chatapi.bench.lag import LagOptions
from chatapi.errors import BadInput
from chatapi.settings import Settings

pytestmark = pytest.mark.anyio


async def measured(settings: Settings, options: LagOptions) -> list[Row]:
    return [row async for row in lag.measure(settings, 1, options)]


@pytest.mark.parametrize("asleep", [False, True])
async def test_lag_and_decisions_are_measured(fake_settings: Callable[..., Settings], asleep: bool) -> None:
    rows = await measured(fake_settings(), LagOptions(3, 1.5, None, asleep))
    whats = [row.what for row in rows]
    assert [what for what in whats if "lag of the event loop" in what] == [
        f"{name}: lag of the event loop, 99th percentile"
        for name in ("3 streams", "a conversation", "3 streams beside a conversation")
    ]
    decisions = [row for row in rows if "decision after" in row.what]
    assert len(decisions) == 2
    for row in decisions:
        assert row.value > 0
        assert int(row.note.split()[-1]) > 50
    assert {row.part for row in rows} == {"lag, fake"}


@pytest.mark.parametrize("options", [LagOptions(64), LagOptions(-1), LagOptions(seconds=0.5)])
async def test_options_out_of_range_are_refused(fake_settings: Callable[..., Settings], options: LagOptions) -> None:
    with pytest.raises(BadInput, match="--streams must be 0 to 63"):
        await measured(fake_settings(), options)


def test_streams_have_speech_and_silence_of_their_own() -> None:
    sentence = np.full(RATE, 0.5, np.float32)
    first, second = (lag.sentences_in_silence([sentence], 8, number) for number in (1, 2))
    loud = np.mean(np.abs(first) > 0.4)
    assert len(first) == len(second) == 8 * RATE
    assert 0.2 < loud < 0.9
    assert not np.array_equal(first, second)
