"""Wyoming's framing: any bytes become events or one error, within the memory limits."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wyoming import event as theirs

from chatapi.errors import BadInput, ChatapiError, TooLarge
from chatapi.interfaces.wyoming.framing import HEADER, Bounds, Framing, WyomingEvent, encoded

BOUNDS = Bounds(data=5_000, payload=10_000)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
events = st.builds(
    WyomingEvent,
    st.text("abc-", min_size=1, max_size=20),
    st.dictionaries(texts, values, max_size=4),
    st.binary(max_size=300),
)


def parsed(framing: Framing, data: bytes, size: int = 1 << 16) -> list[WyomingEvent]:
    """The events of bytes that arrive in chunks of `size`."""
    found = []
    for at in range(0, len(data), size):
        framing.feed(data[at : at + size])
        while (event := framing.take()) is not None:
            found.append(event)
    return found


def of(header: object, rest: bytes = b"") -> bytes:
    return json.dumps(header).encode() + b"\n" + rest


@given(st.lists(events, max_size=5), st.integers(1, 70))
def test_encoded_events_are_parsed_however_they_are_split(sent: list[WyomingEvent], size: int) -> None:
    framing = Framing(BOUNDS)
    assert parsed(framing, b"".join(map(encoded, sent)), size) == sent
    assert not framing.partial


@given(events)
def test_official_library_reads_encoded_events(sent: WyomingEvent) -> None:
    read = theirs.read_event(io.BytesIO(encoded(sent)))
    assert read is not None
    assert (read.type, read.data, read.payload or b"") == (sent.type, sent.data, sent.payload)


@given(events)
def test_events_of_the_official_library_are_parsed(sent: WyomingEvent) -> None:
    file = io.BytesIO()
    theirs.write_event(theirs.Event(sent.type, dict(sent.data), sent.payload), file)
    assert parsed(Framing(BOUNDS), file.getvalue()) == [sent]


@given(st.binary(max_size=2000) | st.builds(lambda a, b: encoded(a)[:-1] + b, events, st.binary(max_size=50)))
def test_any_bytes_are_events_or_an_error(data: bytes) -> None:
    framing = Framing(BOUNDS)
    try:
        parsed(framing, data + b"\n", 100)
    except ChatapiError as error:
        assert error.code in ("bad_event", "event_too_large")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n", "not JSON in UTF-8"),
        (b"GET / HTTP/1.1\r\n", "not JSON in UTF-8"),
        (b'{"type": "\xff"}\n', "not JSON in UTF-8"),
        (b"[" * 5_000 + b"\n", "not JSON"),
        (b'{"type": "a", "data": ' + b"[" * 65 + b"]" * 65 + b"}\n", "nested more than 64 levels"),
        (b'{"type": "a", "data": {"b": ' + b"9" * 5_000 + b"}}\n", "not JSON"),
        (b'{"type": "a", "n": NaN}\n', "not JSON"),
        (b'{"type": "a", "n": 1e999}\n', "not JSON"),
        (b"[]\n", "not a JSON object"),
        (of({}), "a type"),
        (of({"type": 5}), "type must be text"),
        (of({"type": ""}), "type must be text"),
        (of({"type": "a" * 101}), "type must be text"),
        (of({"type": "a", "data": [1]}), "data of 'a' is not a JSON object"),
        (of({"type": "a", "data_length": -1}), "data_length is not a number"),
        (of({"type": "a", "data_length": "7"}), "data_length is not a number"),
        (of({"type": "a", "payload_length": True}), "payload_length is not a number"),
        (of({"type": "a", "payload_length": 1.5}), "payload_length is not a number"),
        (of({"type": "a", "data_length": 3}, b"[1]"), "data of the event is not a JSON object"),
        (of({"type": "a", "data_length": 3}, b"\x00\xff\x00"), "data of the event is not JSON in UTF-8"),
        # A wrong length: the data is truncated, or more data follows.
        (of({"type": "a", "data_length": 3}, b'{"b": 1}'), "data of the event is not JSON"),
        (of({"type": "a", "data_length": 10}, b'{"b": 1}{"'), "data of the event is not JSON"),
    ],
)
def test_malformed_event_is_rejected(data: bytes, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        parsed(Framing(BOUNDS), data)
    assert message.removeprefix("a ") in raised.value.message and raised.value.code == "bad_event"


@pytest.mark.parametrize(
    "data",
    [
        b"x" * (HEADER + 1),
        b"x" * (HEADER + 1) + b"\n",
        of({"type": "a", "data_length": 5_001}),
        of({"type": "a", "payload_length": 10_001}),
        of({"type": "a", "payload_length": 10_000_000_000}),
        of({"type": "a", "payload_length": 10**300}),
    ],
)
def test_too_large_event_is_rejected_before_it_arrives(data: bytes) -> None:
    with pytest.raises(TooLarge, match=r"at most|more than") as raised:
        parsed(Framing(BOUNDS), data)
    assert raised.value.code == "event_too_large"


def test_null_lengths_and_data_in_the_header_of_older_peers_are_accepted() -> None:
    line = of({"type": "a", "data": {"x": 1, "y": 1}, "data_length": 8, "payload_length": None}, b'{"y": 2}')
    assert parsed(Framing(BOUNDS), line) == [WyomingEvent("a", {"x": 1, "y": 2})]


def test_incomplete_event_is_partial() -> None:
    framing, whole = Framing(BOUNDS), encoded(WyomingEvent("a", {"b": 1}, b"pay"))
    for cut in range(1, len(whole)):
        framing.feed(whole[cut - 1 : cut])
        assert framing.take() is None and framing.partial
    framing.feed(whole[-1:])
    assert framing.take() == WyomingEvent("a", {"b": 1}, b"pay") and not framing.partial
