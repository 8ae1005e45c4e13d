"""The job that trains a version: embeds the samples, trains a head, judges it beside the active one, and switches.

The steps run in the thread of the job and the engine on the event loop; every wait for it is a checkpoint of the job,
which yields there to all other work. A head of 2,000 rows takes a second or two on one core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import COMMAND_SAMPLES, CommandClassifier, CommandReplay
from chatapi.jobs import JobKind, JobRecord, JobSteps, Step, StepRun
from chatapi.services.command_recognition import head as heads
from chatapi.services.command_recognition.head import LinearHead, TrainingRows
from chatapi.services.command_recognition.judging import JudgedClips, judge, objections
from chatapi.services.command_recognition.sample_store import SampleStore, StoredSample, label_counts
from chatapi.services.command_recognition.service import CommandRecognition
from chatapi.services.command_recognition.versions import NewVersion, VersionStore
from chatapi.services.command_recognition.word_features import KnownClips
from chatapi.services.loop_work import wait_for
from chatapi.system import private_files

KIND = "command_training"
BATCH = 8
"""Samples that are embedded between two reports of progress."""
SHIFT = RATE * 8 // 100
"""Samples by which a variant is earlier or later: 80 ms."""
SPEEDS = (0.92, 1.08)
NOISE_DB = 20.0
"""Power of the speech over that of a variant's noise, in dB."""

T = TypeVar("T")


@dataclass(frozen=True)
class Taught:
    """What can be taught now."""

    labels: tuple[str, ...]
    """Of the version: the model's words, the taught ones, and the last one for other sounds."""
    samples: tuple[StoredSample, ...]
    """The accepted samples of these labels."""

    @classmethod
    def of(cls, samples: Sequence[StoredSample], model_labels: Sequence[str], fewest: int) -> Taught:
        """`fewest`: samples of a new word."""
        counts = label_counts(samples)
        new = sorted(word for word, count in counts.items() if word not in model_labels and count >= fewest)
        labels = (*model_labels[:-1], *new, model_labels[-1])
        return cls(labels, tuple(each for each in samples if each.state == "accepted" and each.label in labels))


class CommandTraining:
    """The kind of job, and what it needs."""

    def __init__(
        self, recognition: CommandRecognition, store: SampleStore, versions: VersionStore, fewest: int
    ) -> None:
        """`fewest`: samples of a new word."""
        self._recognition, self._features, self._least = recognition, recognition.features, recognition.threshold
        self._store, self._versions, self._fewest = store, versions, fewest
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the engine; set before a job runs."""
        self.switch: Callable[[int, str], Coroutine[Any, Any, None]] | None = None
        """Activates a version; its second argument is the cause."""
        self.kind = JobKind(KIND, self._steps)

    def _steps(self, job: JobRecord) -> JobSteps:
        yield Step("embed", "compute the embeddings of the samples", self._embed, until=0.6)
        made = yield Step("train", "train a version and judge it beside the active one", self._train, until=0.95)
        yield Step("switch", "switch to the version if it is not worse", lambda run: self._switch(made, run), made, 1.0)

    def _embed(self, run: StepRun) -> dict[str, Any]:
        taught, features = self._taught(run), self._known(run).features
        known = self._store.embeddings(features)
        missing = [each for each in taught.samples if each.id not in known]
        for first in range(0, len(missing), BATCH):
            run.advance(first / len(missing), f"{first} of {len(missing)} samples")
            found = {}
            for sample in missing[first : first + BATCH]:
                clips = variants(self._store.samples_of(sample), int(sample.digest[:8], 16))
                found[sample.id] = self._wait_for(self._features.embeddings(features, clips), run)
            self._store.keep_embeddings(features, found)
        return {"samples": len(taught.samples), "embedded": len(missing)}

    def _train(self, run: StepRun) -> dict[str, Any]:
        made = next((each for each in self._versions.versions() if each.job == run.job.id), None)
        if made is None:
            made = self._versions.add(self._made(run))
        return {"version": made.number, "verdict": made.verdict}

    def _made(self, run: StepRun) -> NewVersion:
        # Nothing is left to do, unless the model was exchanged since the step before.
        self._embed(run)
        engine, taught, known = self._engine(run), self._taught(run), self._known(run)
        replay, features, embeddings = known.replay, known.features, self._store.embeddings(known.features)
        samples = [each for each in taught.samples if each.id in embeddings]
        parent = self._versions.active()
        curve: list[tuple[int, float]] = []

        def report(steps: int, loss: float) -> None:
            curve.append((steps, round(loss, 4)))
            run.advance(steps / heads.STEPS, f"step {steps} of {heads.STEPS}: loss {loss:.3f}")

        rows = training_rows(replay, taught.labels, samples, embeddings)
        found = calibrated(heads.train(rows, taught.labels, features, report), replay, engine.labels, self._least)
        plain = training_rows(replay, engine.labels, [], {})
        first = calibrated(
            heads.train(plain, engine.labels, features, lambda *_: run.checkpoint()), replay, engine.labels,
            self._least,
        )  # fmt: skip
        clips = judged_clips(replay, engine.labels, samples, embeddings, taught.labels)
        before = self._head(parent, features) or first
        figures = {"new": judge(found, clips), "old": judge(before, clips), "first": judge(first, clips)}
        verdict = objections(
            figures["new"], figures["old"], figures["first"], before.labels, sorted({*found.labels} - {*engine.labels})
        )
        file = self._written(found, run)
        documents = {name: vars(each) for name, each in figures.items()}
        return NewVersion(run.job.id, parent, run.job.owner, found, sum(not each.held_out for each in samples),
                          {**documents, "curve": curve}, tuple(verdict), file)  # fmt: skip

    def _head(self, number: int, features: str) -> LinearHead | None:
        found = self._versions.head(number)
        return found if found is not None and found.features == features else None

    def _written(self, head: LinearHead, run: StepRun) -> Path:
        draft = run.folder / "version.npz"
        draft.write_bytes(head.encoded())
        private_files.folder(self._versions.folder)
        place = self._versions.folder / f"{run.job.id}.npz"
        run.publish(draft, place)
        return place

    def _switch(self, made: dict[str, Any], run: StepRun) -> dict[str, Any]:
        number, verdict = int(made["version"]), list(made["verdict"])
        active = self._versions.active()
        if not verdict and active not in (number, self._versions.get(number).parent):
            verdict.append(f"version {active} was activated meanwhile")
        for each in verdict:
            run.log(f"version {number} is not activated: {each}")
        if not verdict and active != number:
            assert self.switch is not None  # noqa: S101 - set before a job runs
            self._wait_for(self.switch(number, "trained"), run)
        result = "not_good_enough" if verdict else "activated"
        self._recognition.metrics.trainings.labels(result).inc()
        return {"activated": not verdict}

    def _taught(self, run: StepRun) -> Taught:
        engine = self._engine(run)
        return Taught.of(self._store.find(None, state="accepted", most=1_000_000), engine.labels, self._fewest)

    def _engine(self, run: StepRun) -> CommandClassifier:
        return self._wait_for(self._recognition.open(), run)

    def _known(self, run: StepRun) -> KnownClips:
        return self._wait_for(self._features.known(), run)

    def _wait_for(self, work: Coroutine[Any, Any, T], run: StepRun) -> T:
        """The result of work on the event loop; every wait for it is a checkpoint, and what that raises cancels it."""
        assert self.loop is not None  # noqa: S101 - set before a job runs
        return wait_for(self.loop, work, run.checkpoint)


def variants(clip: Samples, seed: int) -> list[Samples]:
    """A clip, and as it would be earlier, later, faster, slower and in noise; the same ones for the same seed."""
    room = max(0, min(SHIFT, COMMAND_SAMPLES - len(clip)))
    gap = np.zeros(room, np.float32)
    found = [clip, np.concatenate([clip, gap]), np.concatenate([gap, clip])]
    for speed in SPEEDS:
        places = np.arange(0, len(clip) - 1, speed)
        found.append(np.interp(places, np.arange(len(clip)), clip).astype(np.float32)[:COMMAND_SAMPLES])
    power = float(np.mean(np.square(clip, dtype=np.float64))) / 10 ** (NOISE_DB / 10)
    noise = np.random.default_rng(seed).normal(0, np.sqrt(power), len(clip))
    return [*found, (clip + noise).astype(np.float32)]


def training_rows(
    replay: CommandReplay, labels: Sequence[str], samples: Sequence[StoredSample], embeddings: dict[str, Samples]
) -> TrainingRows:
    """The rows of the replay set for training, and of the samples that are not held out."""
    chosen = _chosen(replay, 0, labels)
    parts = [replay.embeddings[chosen]]
    places = [_places(np.asarray(replay.labels)[chosen], replay, len(labels))]
    weights = [np.ones(len(chosen), np.float32)]
    for sample in samples:
        if not sample.held_out:
            rows = embeddings[sample.id]
            parts.append(rows)
            places.append(np.full(len(rows), labels.index(sample.label)))
            weights.append(np.full(len(rows), heads.OWN_WEIGHT / len(rows), np.float32))
    return TrainingRows(np.concatenate(parts), np.concatenate(places), np.concatenate(weights))


def judged_clips(
    replay: CommandReplay,
    labels: Sequence[str],
    samples: Sequence[StoredSample],
    embeddings: dict[str, Samples],
    taught: Sequence[str],
) -> JudgedClips:
    """The rows of the replay set for judging, and the held-out samples. `labels`: those of the model;
    `taught`: those of the version."""
    chosen = _chosen(replay, 2, taught)
    held_out = [each for each in samples if each.held_out]
    rows = [replay.embeddings[chosen], *(embeddings[each.id][:1] for each in held_out)]
    names = [labels[replay.labels[place]] for place in chosen]
    return JudgedClips(np.concatenate(rows), [*names, *(each.label for each in held_out)], len(chosen))


def calibrated(head: LinearHead, replay: CommandReplay, model_labels: Sequence[str], least: float) -> LinearHead:
    """A head with the temperature and the thresholds that fit the replay set's part for calibration."""
    chosen = _chosen(replay, 1, head.labels)
    places = _places(np.asarray(replay.labels)[chosen], replay, len(head.labels))
    taught = [place for place, label in enumerate(head.labels) if label not in model_labels]
    return heads.calibrated(head, replay.embeddings[chosen], places, taught, least)


def _chosen(replay: CommandReplay, part: int, labels: Sequence[str]) -> heads.Places:
    """The rows of a part, without clips of other words that have become labels."""
    last = max(replay.labels)
    fitting = [label != last or word not in labels for label, word in zip(replay.labels, replay.words, strict=True)]
    return np.flatnonzero((np.asarray(replay.parts) == part) & fitting)


def _places(given: heads.Places, replay: CommandReplay, labels: int) -> heads.Places:
    """Places of the model's labels among those of a version: only the last one moves."""
    return np.where(given == max(replay.labels), labels - 1, given)
