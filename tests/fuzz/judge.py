"""Faults of the server: what counts as one, and the findings of a run."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.client import Outcome
from fuzz.inputs import Input

ALLOWED = (501, 503, 507)
"""Statuses from 500 on that a server may return, with a code."""
SERVER_ERRORS = frozenset(("internal_error", "engine_failed", "engine_gone", "engine_stuck", "error"))
"""Codes of error events that no client may cause."""
WITHOUT_CODE = frozenset(("HEAD", "TRACE"))
MAX_SAVED = 3
"""Inputs saved per kind of finding."""
MAX_FINDINGS = 12
"""Crashes and hangs of one interface after which the rest of the run skips it."""


@dataclass
class Finding:
    """Faults with the same signature."""

    signature: str
    interface: str
    detail: str
    count: int = 0
    files: list[Path] = field(default_factory=list)


class Judge:
    """Counts outcomes, and saves the inputs of findings."""

    def __init__(self, folder: Path, engines: str) -> None:
        self.folder, self.engines = folder, engines
        self.findings: dict[str, Finding] = {}
        self.statuses: Counter[str] = Counter()
        self.by_interface: Counter[str] = Counter()
        self.inputs = self.connections = self.deaths = 0
        self.slowest = (0.0, "")

    def judge(self, given: Input, outcome: Outcome) -> str:
        """Counts an outcome; returns the signature of its fault, empty if there is none."""
        self.inputs += given.count
        self.connections += 1
        self.by_interface[given.interface] += given.count
        kind = f"{outcome.status // 100}xx" if outcome.status else outcome.end
        self.statuses[str(outcome.status) if outcome.status in ALLOWED else kind] += 1
        if outcome.seconds > self.slowest[0]:
            self.slowest = (outcome.seconds, f"{given.interface}: {given.name}")
        fault = fault_of(given, outcome)
        if fault:
            self.found(fault, given, outcome.body[:2000].decode(errors="replace"))
        return fault

    def found(self, signature: str, given: Input | None, detail: str) -> Finding:
        """Adds a finding."""
        interface = given.interface if given is not None else ""
        # The log does not name the input of an entry, so entries without one share a finding.
        key = f"{signature} [{interface}]" if interface else signature
        finding = self.findings.setdefault(key, Finding(signature, interface, detail))
        finding.count += 1
        if given is not None and len(finding.files) < MAX_SAVED:
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(b"".join(given.frames)).hexdigest()[:10]
            path = self.folder / f"{_slug(key)}-{digest}.json"
            given.save(path, engines=self.engines, found=signature, detail=detail)
            finding.files.append(path)
        return finding

    def exhausted(self, interface: str) -> bool:
        """Whether an interface has so many grave findings that more would only cost time."""
        grave = [each for each in self.findings.values() if each.interface == interface and _grave(each.signature)]
        return sum(each.count for each in grave) >= MAX_FINDINGS


def _grave(signature: str) -> bool:
    return signature.startswith(("death", "hang"))


def _slug(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-").lower()[:70]


def fault_of(given: Input, outcome: Outcome) -> str:
    """The fault of an outcome; empty if there is none."""
    if outcome.end == "hang":
        return "hang"
    if given.kind == "wyoming":
        return _session(given, outcome)
    if outcome.status >= 500 and outcome.status not in ALLOWED:
        return f"status {outcome.status} {outcome.code}".strip()
    if given.kind == "websocket" and outcome.status == 101:
        return _session(given, outcome)
    if given.kind == "bytes":
        return ""
    return _answer(given, outcome)


def _answer(given: Input, outcome: Outcome) -> str:
    """The fault of the answer to a complete HTTP request."""
    method = given.frames[0].split(b" ", 1)[0].decode("latin-1")
    if outcome.end == "none" and given.whole:
        return "no answer"
    if outcome.end == "cut" and given.take < 0:
        return "answer cut off"
    if outcome.status >= 400 and given.whole and method not in WITHOUT_CODE and not outcome.code:
        return f"status {outcome.status} without a code"
    if outcome.status in (429, 503) and "retry-after" not in outcome.headers:
        return f"status {outcome.status} without Retry-After"
    return ""


def _session(given: Input, outcome: Outcome) -> str:
    """The fault of a WebSocket or a Wyoming connection."""
    codes = re.findall(rb'"code": ?"([a-z0-9_]+)"', outcome.body)
    errors = sorted({code.decode() for code in codes} & SERVER_ERRORS)
    if errors:
        return f"error {', '.join(errors)}"
    if outcome.close in (1006, 1011) or (given.kind == "wyoming" and given.whole and outcome.end in ("cut", "none")):
        return f"session ended ({outcome.close or 'closed without an error event'})"
    return ""
