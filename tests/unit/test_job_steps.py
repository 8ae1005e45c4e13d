"""Running jobs in the foreground: steps that are kept, commands and their process groups, logs, artifacts, kills."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from chatapi.errors import Busy, DeadlineExceeded, InternalError, WrongMode
from chatapi.jobs import (
    Command,
    JobEvent,
    JobKind,
    JobLimits,
    JobRecord,
    JobRequest,
    JobSteps,
    JobStore,
    Step,
    StepRun,
    commands,
    run_job,
)
from chatapi.jobs.job_log import JobLog
from chatapi.jobs.progress import ProgressMeter

REQUEST = JobRequest("work", subject="a", command="chatapi work a")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with closing(JobStore(tmp_path)) as opened:
        yield opened


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def kind(*steps: Step) -> JobKind:
    def run(job: JobRecord) -> JobSteps:
        for step in steps:  # noqa: UP028 - a tuple receives no results
            yield step

    return JobKind("work", run)


def single(run: Callable[[StepRun], Any]) -> JobKind:
    return kind(Step("only", "working", run, until=1.0))


def shell(script: str, folder: Path, **more: Any) -> Command:
    return Command(["sh", "-c", script], folder, **more)


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


class Counted:
    """Steps that count their runs; the one of number `fails` raises."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.fails = ""
        self.inputs: dict[str, Any] = {}
        self.broken: set[str] = set()

    def steps(self, job: JobRecord) -> JobSteps:
        total = 0
        for name in ("one", "two", "three"):
            total += yield Step(
                name, f"doing {name}", lambda run, name=name: self.run(name), self.inputs.get(name), 0.3,
                lambda result, name=name: name not in self.broken,
            )  # fmt: skip
        assert total == 9

    def run(self, name: str) -> int:
        self.runs.append(name)
        if name == self.fails:
            raise InternalError(f"{name} failed")
        return 3

    def attempt(self, store: JobStore) -> list[str]:
        """The steps that an attempt runs."""
        self.runs.clear()
        with suppress(InternalError):
            run_job(store, JobKind("work", self.steps), REQUEST)
        return self.runs


def test_finished_steps_are_kept_and_give_their_results(store: JobStore) -> None:
    counted = Counted()
    counted.fails = "three"
    assert counted.attempt(store) == ["one", "two", "three"]
    assert counted.attempt(store) == ["three"]
    counted.fails = ""
    assert counted.attempt(store) == ["three"]
    assert store.find()[0].state == "done"


def test_other_inputs_and_results_that_are_not_intact_run_a_step_again(store: JobStore) -> None:
    counted = Counted()
    counted.fails = "three"
    counted.attempt(store)
    counted.inputs["one"] = {"model": "other"}
    assert counted.attempt(store) == ["one", "three"]
    counted.broken.add("two")
    assert counted.attempt(store) == ["two", "three"]
    counted.broken.clear()
    # The first inputs again: what they gave was replaced.
    del counted.inputs["one"]
    assert counted.attempt(store) == ["one", "three"]


def test_events_tell_each_step_with_the_progress_of_the_job(store: JobStore) -> None:
    def work(run: StepRun) -> None:
        run.advance(0.5, "half of it")

    seen: list[JobEvent] = []
    steps = kind(Step("a", "first", lambda run: 1, until=0.4), Step("b", "second", work, until=1.0))
    job = run_job(store, steps, REQUEST, seen.append)
    told = [(event.type, event.data.get("step"), event.data.get("state"), event.data["progress"]) for event in seen]
    assert told == [
        ("step", "a", "started", 0.0), ("step", "a", "finished", 0.4), ("step", "b", "started", 0.4),
        ("progress", "b", None, 0.7), ("step", "b", "finished", 1.0), ("state", None, "done", 1.0),
    ]  # fmt: skip
    assert store.events(job.id)[2:] == seen
    assert seen[3].data["phrase"] == "half of it"


def test_the_folder_of_a_step_is_whole_or_absent(store: JobStore) -> None:
    def first(run: StepRun) -> None:
        (run.folder / "data").write_text("whole")

    def second(run: StepRun) -> str:
        assert list(run.folder.iterdir()) == []
        (run.folder / "half").write_text("half")
        if not store.get(run.job.id).failures and run.job.attempts == 1:
            raise InternalError("stopped in the middle")
        return (run.results("first") / "data").read_text()

    steps = kind(Step("first", "1", first), Step("second", "2", second))
    with pytest.raises(InternalError):
        run_job(store, steps, REQUEST)
    work = store.folder(store.find()[0].id) / "work"
    assert (work / "first" / "data").exists() and not (work / "second").exists()
    run_job(store, steps, REQUEST)
    assert not work.exists()


def test_an_artifact_appears_whole_with_its_digest(store: JobStore, tmp_path: Path) -> None:
    place, folder_place = tmp_path / "out" / "file", tmp_path / "out" / "folder"

    def publish(run: StepRun) -> None:
        (run.folder / "file").write_text("content")
        (run.folder / "folder" / "sub").mkdir(parents=True)
        (run.folder / "folder" / "sub" / "a").write_text("a")
        run.publish(run.folder / "file", place)
        run.publish(run.folder / "folder", folder_place)

    job = run_job(store, single(publish), REQUEST)
    digest = hashlib.sha256(f"{hashlib.sha256(b'a').hexdigest()}  sub/a\n".encode()).hexdigest()
    assert [(each.name, each.location, each.size, each.sha256) for each in job.artifacts] == [
        ("file", str(place), 7, hashlib.sha256(b"content").hexdigest()),
        ("folder", str(folder_place), 1, digest),
    ]
    assert place.read_text() == "content" and (folder_place / "sub" / "a").read_text() == "a"
    # Published again, the folder replaces the first.
    run_job(store, single(publish), REQUEST)
    assert [path.name for path in (tmp_path / "out").iterdir()] in (["file", "folder"], ["folder", "file"])


def test_the_output_of_a_command_is_read_and_logged_without_secrets(store: JobStore, tmp_path: Path) -> None:
    lines: list[str] = []

    def work(run: StepRun) -> list[Any]:
        script = "printf 'begins\\n 50%%|##|\\r'; echo HF_TOKEN=hf_ABCDEFGHIJKLMNOPQRST; echo ends >&2; exit 3"
        fraction = lambda line: 0.5 if "50%|" in line else None  # noqa: E731
        result = run.run_command(shell(script, tmp_path, fraction=fraction, output=lines.append))
        assert result.last_lines[-1] == "ends"
        return [result.status]

    seen: list[JobEvent] = []
    job = run_job(store, single(work), REQUEST, seen.append)
    assert [event.data["fraction"] for event in seen if event.type == "progress"] == [0.5]
    text = store.log(job.id).read()
    assert "begins" in text and "ends" in text and "50%|" not in text and "hf_ABC" not in text
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("script", "message"),
    [("exit 3", "the work ended with status 3"), ("kill -9 $$", "was killed, as happens when memory runs out")],
)
def test_a_failed_command_is_explained(store: JobStore, tmp_path: Path, script: str, message: str) -> None:
    work = single(lambda run: run.run_command(shell(script, tmp_path)).require("the work"))
    with pytest.raises(InternalError, match=message) as raised:
        run_job(store, work, REQUEST)
    assert raised.value.code == "command_failed"


def test_a_command_that_does_not_exist_is_named(store: JobStore, tmp_path: Path) -> None:
    work = single(lambda run: run.run_command(Command(["no-such-command"], tmp_path)).require("the work"))
    with pytest.raises(InternalError, match="no-such-command cannot be started: No such file"):
        run_job(store, work, REQUEST)


def test_a_silent_command_is_ended_as_stalled(store: JobStore, tmp_path: Path) -> None:
    work = single(lambda run: run.run_command(shell("echo $$ > pid; sleep 600", tmp_path, stall_seconds=3)))
    with pytest.raises(DeadlineExceeded, match=r"wrote nothing for 3 seconds") as raised:
        run_job(store, work, REQUEST)
    assert raised.value.code == "step_stalled"
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(("action", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_running_command_is_ended_with_its_whole_group(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, state: str
) -> None:
    monkeypatch.setattr(commands, "GRACE_SECONDS", 0.5)
    # One process of the group ignores SIGTERM.
    script = "(trap '' TERM; echo $$ > leader; sh -c 'echo $PPID > stubborn'; while :; do sleep 0.1; done) & wait"
    work = single(lambda run: run.run_command(shell(script, tmp_path)))

    def ask() -> None:
        until(lambda: (tmp_path / "stubborn").exists() and (tmp_path / "stubborn").read_text())
        with closing(JobStore(tmp_path)) as other:
            getattr(other, action)(other.find(("running",))[0].id)

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(WrongMode, match=f"was {state}; resume with: chatapi work a"):
        run_job(store, work, REQUEST)
    thread.join()
    assert store.find()[0].state == state
    pids = [int((tmp_path / name).read_text()) for name in ("leader", "stubborn")]
    until(lambda: not any(alive(pid) for pid in pids))


def test_a_command_ends_with_a_process_that_is_killed_and_the_job_goes_on(store: JobStore, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from chatapi.jobs import *; data = Path(sys.argv[1])\n"
        "def steps(job):\n"
        "    yield Step('first', '1', lambda run: 7)\n"
        "    command = Command(['sh', '-c', 'sleep 600 & echo $$ $! > pids.new; mv pids.new pids; wait'], data)\n"
        "    yield Step('only', '2', lambda run: run.run_command(command).status)\n"
        "run_job(JobStore(data), JobKind('work', steps), JobRequest('work', subject='a', command='chatapi work a'))"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path]) as process:
        until(lambda: (tmp_path / "pids").exists())
        with pytest.raises(WrongMode, match="is running and cannot be started now"):
            run_job(store, single(lambda run: None), REQUEST)
        process.kill()
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    until(lambda: not any(alive(pid) for pid in pids), commands.GRACE_SECONDS)
    first = Step("first", "1", lambda run: pytest.fail("a finished step was run again"))
    # The lock is free when the last of the group has ended.
    until(lambda: _goes_on(store, kind(first, Step("only", "2", lambda run: 0))))
    job = store.find()[0]
    assert (job.state, job.attempts) == ("done", 2)
    assert [event.data["state"] for event in store.events(job.id) if event.type == "state"] == [
        "queued", "running", "paused", "queued", "running", "done",
    ]  # fmt: skip


def _goes_on(store: JobStore, work: JobKind) -> bool:
    try:
        run_job(store, work, REQUEST)
    except WrongMode:
        return False
    return True


def test_ctrl_c_pauses_the_job(store: JobStore) -> None:
    # A test process that runs beside others ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def work(run: StepRun) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_job(store, single(work), REQUEST)
    finally:
        signal.signal(signal.SIGINT, before)
    assert store.find()[0].state == "paused"
    assert run_job(store, single(lambda run: None), REQUEST).state == "done"


def test_a_job_that_crashes_its_process_again_and_again_fails(store: JobStore) -> None:
    from chatapi.jobs.claims import MAX_CRASHES, claim, recover

    job = store.add(JobRequest("crash")).id
    for _ in range(MAX_CRASHES):
        assert store.get(job).state == "queued"
        os.close(claim(store, job).lock)
        assert recover(store) == [job]
    found = store.get(job)
    assert found.failure and (found.state, found.failure.code) == ("failed", "job_crashed")
    assert f"ended {MAX_CRASHES} times without finishing a step" in found.failure.message


def test_an_unexpected_error_fails_the_job_and_its_traceback_is_in_the_log(store: JobStore) -> None:
    with pytest.raises(ZeroDivisionError):
        run_job(store, single(lambda run: 1 // 0), REQUEST)
    job = store.find()[0]
    assert job.failure and job.failure.code == "internal_error"
    assert job.failure.message.startswith("step only raised ZeroDivisionError: integer division")
    assert "Traceback" in store.log(job.id).read()


def test_in_the_foreground_an_error_that_can_be_retried_fails_the_job(store: JobStore) -> None:
    def work(run: StepRun) -> None:
        raise Busy("the queue is full")

    with pytest.raises(Busy):
        run_job(store, single(work), REQUEST)
    assert store.find()[0].state == "failed"


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "x" * 65])
def test_a_name_that_is_no_file_name_is_rejected(store: JobStore, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a step"):
        run_job(store, kind(Step(name, "1", lambda run: None)), REQUEST)


def test_bounds_of_steps_results_and_artifacts_hold(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path, JobLimits(result_bytes=100, steps=1))) as store:
        with pytest.raises(Exception, match="at most 100 are kept"):
            run_job(store, single(lambda run: "x" * 100), REQUEST)
        with pytest.raises(Exception, match="has 1 finished steps; at most 1 are kept"):
            run_job(store, kind(*(Step(name, name, lambda run: None) for name in "ab")), REQUEST)
        with pytest.raises(ValueError, match="two steps with the name a"):
            run_job(store, kind(*(Step("a", "a", lambda run: None) for _ in range(2))), REQUEST)


def test_the_log_keeps_its_newest_lines_within_its_bound(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "log", 2000)
    for number in range(200):
        log.write(f"line {number}")
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2000
    lines = log.read().splitlines()
    assert lines[-1].endswith("line 199") and 30 < len(lines) < 80
    assert [line.split()[-1] for line in lines] == [str(200 - len(lines) + each) for each in range(len(lines))]


def test_the_time_left_follows_from_what_this_attempt_has_done() -> None:
    now = 0.0
    meter = ProgressMeter(lambda: now)
    meter.keep(0.5)
    meter.begin(1.0)
    now = 1.0
    assert meter.at(0.1) == (0.55, None)
    now = 10.0
    assert meter.at(0.2) == (0.6, 40.0)
    # Half of the time it waited for other work.
    meter.idle(5.0)
    assert meter.at(0.2) == (0.6, 20.0)
