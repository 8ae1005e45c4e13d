"""The size of a JSON schema's grammar, which an engine builds and steps through without being cancellable.

It follows llama.cpp (common/json-schema-to-grammar.cpp, src/llama-grammar.cpp): the target of a `$ref` is written once;
a list of types writes the part once per type; `allOf` is expanded; all ways to start are walked before the first token;
and text that matches several alternatives has all of them followed at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chatapi.engines.llm import pattern_size
from chatapi.engines.llm.pattern_size import GrammarSize

MOST_ELEMENTS = 200_000
"""Most elements of a grammar: about 100 MB, and a second on two laptop cores."""
MOST_STARTS = 2000
"""Most ways to start; each is walked before a token, also where several lead through the same rules."""
MOST_STATES = 2000
"""Most alternatives followed at once; each is compared with the whole vocabulary, 20 to 50 µs per token of the
answer."""
COMPARED = 64
"""Most objects among alternatives that are compared in pairs; of more, all count as followed at once."""
VALUE = GrammarSize(120, 20, 4)
"""Any JSON value."""

Part = Mapping[str, Any]
Resolve = Callable[[Part], Part]


def size(schema: Part, resolve: Resolve) -> GrammarSize:
    """The size of a valid schema. `resolve` follows a part's `$ref`."""
    measuring = _SchemaMeasurement(resolve)
    whole = measuring.of(schema)
    # Each target is written once; computing its size may find further targets.
    elements = whole.elements + sum(each.elements for each in measuring.referred())
    return replace(whole, elements=elements)


class _SchemaMeasurement:
    """Measures one schema. The size of a part never changes, so it is computed once."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._known: dict[int, GrammarSize] = {}
        self._copies: list[Part] = []
        """Parts that were created here, kept alive so that no other part gets their id."""
        self._visited: set[int] = set()
        self._targets: dict[int, Part] = {}

    def referred(self) -> Iterator[GrammarSize]:
        """Sizes of all targets of a `$ref`."""
        return (self.of(each) for each in self._targets.values())

    def of(self, part: Part) -> GrammarSize:
        if id(part) in self._known:
            return self._known[id(part)]
        if id(part) in self._visited:
            # A cycle; what grows with every iteration is found where the cycle branches.
            return GrammarSize(1, 1, 1)
        self._visited.add(id(part))
        found = self._known[id(part)] = self._measure(part)
        return found

    def _measure(self, part: Part) -> GrammarSize:
        if "$ref" in part:
            target = self._resolve(part)
            self._targets[id(target)] = target
            return replace(self.of(target), elements=1)
        if (union := part.get("oneOf", part.get("anyOf"))) is not None:
            return self._union(part, union)
        if isinstance(kinds := part.get("type"), list):
            copies = [{**part, "type": kind} for kind in kinds]
            self._copies += copies
            return self._union(part, copies)
        if "const" in part or "enum" in part:
            values = [part["const"]] if "const" in part else part["enum"]
            # Enum values often start alike, with long common beginnings.
            return GrammarSize(sum(len(json.dumps(each)) + 1 for each in values), len(values), 4 * len(values))
        return self._typed(part, part.get("type"))

    def _typed(self, part: Part, kind: str | None) -> GrammarSize:
        if kind in (None, "object") and ("properties" in part or "additionalProperties" in part):
            return self._object(list(part.get("properties", {}).items()), set(part.get("required", ())), part)
        if kind in (None, "object", "string") and "allOf" in part:
            return self._all(part["allOf"])
        if kind in (None, "array") and ("items" in part or "prefixItems" in part):
            return self._array(part)
        if kind in (None, "string") and "pattern" in part:
            return pattern_size.size(part["pattern"])
        if kind == "string":
            longest = max(part.get("minLength", 0), part.get("maxLength", 0))
            return GrammarSize(4 + 3 * longest, 1, 1)
        return {"integer": GrammarSize(300, 6, 2), "number": GrammarSize(60, 4, 2)}.get(kind or "", VALUE)

    def _object(self, properties: Sequence[tuple[str, Part]], required: set[str], part: Part) -> GrammarSize:
        inner = [self.of(each) for _, each in properties]
        names = sum(len(name) for name, _ in properties)
        optional = sum(name not in required for name, _ in properties)
        more = part.get("additionalProperties", False)
        if isinstance(more, Mapping):
            inner.append(self.of(more))
        # Every tail of the optional properties is written, and copied once per optional property.
        elements = 20 + 2 * names + 20 * len(properties) + optional**3 // 5000
        # A tree of the names, to tell other names from them.
        elements += 6 * names if more is not False else 0
        most = max((each.states for each in inner), default=1)
        return GrammarSize(elements + sum(each.elements for each in inner), 1, max(most, optional + 2))

    def _all(self, components: Sequence[Part]) -> GrammarSize:
        """The size of the properties of all components in one object; targets of references are expanded again."""
        properties: list[tuple[str, Part]] = []
        values = 0
        for component in (each for one in components for each in one.get("anyOf", [one])):
            seen: set[int] = set()
            while "$ref" in component and id(component) not in seen:
                seen.add(id(component))
                component = self._resolve(component)
            properties += component.get("properties", {}).items()
            values += sum(len(json.dumps(each)) + 1 for each in component.get("enum", ()))
        whole = self._object(properties, set(), {})
        return GrammarSize(whole.elements + values, 1 + values // 2, max(whole.states, 1 + values // 2))

    def _array(self, part: Part) -> GrammarSize:
        items = part.get("items", part.get("prefixItems"))
        each = [self.of(one) for one in items] if isinstance(items, list) else [self.of(items)]
        often = max(part.get("minItems", 0), part.get("maxItems", 0))
        return GrammarSize(
            10 + sum(one.elements for one in each) + 6 * often, 1, 1 + max((one.states for one in each), default=1)
        )

    def _union(self, part: Part, alternatives: Sequence[Part]) -> GrammarSize:
        sizes = [self.of(each) for each in alternatives]
        elements = sum(one.elements for one in sizes) + len(sizes)
        starts = 1 + sum(one.starts for one in sizes)
        if starts > MOST_STARTS:
            # There may be too many to compare.
            return GrammarSize(elements, starts, starts)
        flat = [each for one in alternatives for each in self._flat(one)]
        return GrammarSize(elements, starts, max((self._followed(part, flat, kind) for kind in KINDS), default=1))

    def _flat(self, part: Part) -> Iterator[Part]:
        """What the part stands for, with nested alternatives flattened."""
        if "$ref" in part:
            yield from self._flat(self._resolve(part))
        elif (union := part.get("oneOf", part.get("anyOf"))) is not None:
            for each in union:
                yield from self._flat(each)
        elif isinstance(kinds := part.get("type"), list):
            copies = [{**part, "type": kind} for kind in kinds]
            self._copies += copies
            yield from copies
        else:
            yield part

    def _followed(self, union: Part, alternatives: Sequence[Part], kind: str) -> int:
        """Of the alternatives of a kind, the most that the same text can be the beginning of."""
        members = [each for each in alternatives if kind in _kinds(each)]
        if kind not in ("object", "array"):
            return sum(self.of(each).states for each in members)
        compared = kind == "object" and len(members) <= COMPARED
        most = 0
        for one in members:
            others = [each for each in members if each is one or not (compared and self._apart(one, each))]
            # Two alternatives that lead back here double with every iteration, without end.
            if len(others) > 1 and sum(self._leads(each, union) for each in others) > 1:
                return MOST_STATES + 1
            most = max(most, sum(self.of(each).states for each in others))
            if not compared:
                break
        return most

    def _leads(self, part: Part, goal: Part) -> bool:
        """Whether one part contains the other, with references followed."""
        waiting, seen = [part], {id(part)}
        while waiting:
            for each in self._within(waiting.pop()):
                if each is goal:
                    return True
                if id(each) not in seen:
                    seen.add(id(each))
                    waiting.append(each)
        return False

    def _within(self, part: Part) -> Iterator[Part]:
        if "$ref" in part:
            yield self._resolve(part)
        yield from part.get("properties", {}).values()
        for name in ("anyOf", "oneOf", "allOf", "items", "prefixItems", "additionalProperties"):
            found = part.get(name)
            yield from found if isinstance(found, list) else [found] if isinstance(found, Mapping) else []

    def _apart(self, one: Part, other: Part) -> bool:
        """Whether two objects differ in their first properties, before anything in them can branch again."""
        if "allOf" in one or "allOf" in other:
            return False
        (needed, free), (others_needed, others_free) = _names(one), _names(other)
        for mine, its in zip(needed, others_needed, strict=False):
            if mine != its:
                return True
            both = [self._only(each["properties"][mine]) for each in (one, other)]
            if _disjoint(*both):
                return True
            if not all(_kinds(each) <= SCALARS for each in both):
                return False
        shared = min(len(needed), len(others_needed))
        ahead, others_ahead = needed[shared : shared + 1] or free, others_needed[shared : shared + 1] or others_free
        return not (ANY in ahead or ANY in others_ahead or set(ahead) & set(others_ahead))

    def _only(self, part: Part) -> Part:
        """The target of a reference that stands for one part only."""
        return next(iter(self._flat(part))) if "$ref" in part and self.of(part).starts == 1 else part


KINDS = ("object", "array", "string", "number", "boolean", "null")
SCALARS = frozenset(("string", "number", "boolean", "null"))
ANY = "*"
"""Among names: every other name."""
OF_PYTHON: Mapping[type, str] = {
    dict: "object", list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null",
}  # fmt: skip


def _kinds(part: Part) -> frozenset[str]:
    """Kinds of values that the part can start, as far as that is known without following references."""
    if "$ref" in part or "anyOf" in part or "oneOf" in part:
        return frozenset(KINDS)
    if "const" in part or "enum" in part:
        return frozenset(OF_PYTHON[type(each)] for each in part.get("enum", [part.get("const")]))
    if isinstance(stated := part.get("type"), str):
        return frozenset(("number" if stated == "integer" else stated,))
    for names, kind in ((("properties", "additionalProperties", "allOf"), "object"), (("pattern",), "string")):
        if any(name in part for name in names):
            return frozenset((kind,))
    return frozenset(("array",)) if "items" in part or "prefixItems" in part else frozenset(KINDS)


def _disjoint(one: Part, other: Part) -> bool:
    """Whether no value matches both."""
    if not _kinds(one) & _kinds(other):
        return True
    values = [each.get("enum", [each["const"]] if "const" in each else None) for each in (one, other)]
    if None in values:
        return False
    mine, its = ({json.dumps(value) for value in each} for each in values)
    return not mine & its


def _names(part: Part) -> tuple[list[str], list[str]]:
    """An object's properties: the required ones, which come first, and the optional ones."""
    required = part.get("required", ())
    names = list(part.get("properties", {}))
    free = [name for name in names if name not in required]
    more = part.get("additionalProperties", not names)
    return [name for name in names if name in required], [*free, ANY] if more is not False else free
