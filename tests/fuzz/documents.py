"""JSON that is almost valid: documents with one value changed, and JSON schemas that grow when expanded."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import strategies as st

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 1e308, float("inf"), float("nan"),
    "", " ", "\x00", "\ud800", "a" * 300, "default", "auto", "none", [], {}, [[]], [{}], {"": None}, {"type": "object"},
    "9" * 400, "../../etc/passwd", "%00", [None] * 300, {"a": {"b": {"c": []}}},
)  # fmt: skip

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip
"""Any JSON."""


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c", "", "$ref", "type"])
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=4)}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(-1, 50)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=4)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"$defs": st.dictionaries(names, inner, max_size=3), "$ref": st.just("#/$defs/a")}),
        st.fixed_dictionaries({"additionalProperties": inner, "required": st.lists(names, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    )


SCHEMAS = st.recursive(
    st.one_of(
        st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null", "x")]),
        st.builds(lambda least, most: {"type": "string", "minLength": least, "maxLength": most},
                  st.integers(-1, 10**9), st.integers(-1, 10**9)),
        st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.text(max_size=12)),
        st.builds(lambda values: {"enum": values}, st.lists(VALUES, max_size=3)),
        st.sampled_from([{"$ref": "#"}, {"$ref": "#/$defs/a"}, {"$ref": "http://127.0.0.1:9/x"}, {}, True, None]),
    ),
    _objects,
    max_leaves=10,
)  # fmt: skip
"""JSON schemas, valid and invalid."""


def doubling(depth: int = 40, keyword: str = "anyOf", branches: int = 2) -> dict[str, Any]:
    """A schema of `depth` levels with branches ** depth values when expanded."""
    steps: dict[str, Any] = {}
    for at in range(depth):
        inner = [{"$ref": f"#/$defs/s{at + 1}"} for _ in range(branches)]
        steps[f"s{at}"] = (
            {"type": "object", "properties": dict(zip("abcdefgh", inner, strict=False)), "required": ["a", "b"]}
            if keyword == "properties"
            else {keyword: inner}
        )
    steps[f"s{depth}"] = {"type": "string"}
    return {"$ref": "#/$defs/s0", "$defs": steps}


def nested(depth: int) -> Any:
    """Arrays in arrays."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        if len(found) < 200:
            found += _paths(each, (*path, name))
    return found


def changed(rng: random.Random, document: Any, pool: tuple[Any, ...] = HOSTILE) -> Any:
    """A copy with one or two values replaced, removed, renamed or repeated."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2))):
        paths = _paths(document)
        if not paths:
            break
        *outer, last = rng.choice(paths)
        inside = document
        for step in outer:
            inside = inside[step]
        _change(rng, inside, last, pool)
    return document


def _change(rng: random.Random, inside: Any, last: Any, pool: tuple[Any, ...]) -> None:
    roll = rng.random()
    if roll < 0.75:
        inside[last] = copy.deepcopy(rng.choice(pool))
    elif roll < 0.85:
        del inside[last]
    elif isinstance(inside, dict):
        inside[rng.choice(("", "x" * 50, str(last).upper(), f"{last}2", "__proto__"))] = inside[last]
    else:
        inside.extend([inside[last]] * rng.choice((1, 10, 150)))


def encode_json(rng: random.Random, document: Any) -> bytes:
    """Encodes JSON, sometimes with corrupted bytes."""
    data = bytearray(json.dumps(document).encode())
    roll = rng.random()
    if roll < 0.9 or len(data) < 2:
        return bytes(data)
    at = rng.randrange(len(data))
    if roll < 0.92:
        del data[at:]
    elif roll < 0.94:
        data[at] = rng.randrange(256)
    elif roll < 0.96:
        data[at:at] = rng.choice((b"\xff\xfe", b"\x00", b"NaN", b"\\ud800", b"[" * 2000, b'{"a":' * 500, b"1" * 5000))
    elif roll < 0.98:
        data = bytearray(b"[" * rng.choice((10, 1000, 100_000)))
    else:
        data = bytearray(rng.randbytes(40))
    return bytes(data)
