"""A compilation as a job: what is stored of it, and how it goes on after kills and after an older version."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

import chatapi_compile
from chatapi.catalog import Catalog
from chatapi.catalog.compiled.artifact import LIBRARY, WEIGHTS
from chatapi.errors import ModelError, WrongMode
from chatapi.jobs import JobEvent, JobRecord, JobStore
from chatapi.storage import atomic_files
from chatapi_compile.run import DONE, LOG
from test_compiling import NAME, commands_run, compile_model, compile_plan, data, run, until

__all__ = ["data"]
pytestmark = pytest.mark.slow


def job(data: Path) -> JobRecord:
    with closing(JobStore(data)) as store:
        [found] = store.find()
    return found


def work(data: Path) -> Path:
    return data / "compiled" / ".partial" / NAME


def left_by_an_older_version(data: Path, monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """The folder of a compilation that an older version, which knew no jobs, left behind some complete steps."""
    monkeypatch.setenv("STAND_IN_FAIL", "compile:loud")
    with pytest.raises(ModelError):
        compile_model(data)
    monkeypatch.delenv("STAND_IN_FAIL")
    (data / "record").unlink()
    (work(data) / LIBRARY).unlink()
    for file in data.glob("jobs.sqlite3*"):
        file.unlink()
    weights = sorted((work(data) / "weights").iterdir())
    of_weights = [file for file in weights if file.name.startswith(("params_shard", "tensor-cache"))]
    files = {WEIGHTS: of_weights, "config": [file for file in weights if file not in of_weights]}
    record = {
        step.name: {
            "key": step.key,
            "seconds": 2.5,
            "files": {
                str(file.relative_to(work(data))): {"size": file.stat().st_size, "sha256": atomic_files.digest(file)}
                for file in files[step.name]
            },
        }
        for step in compile_plan(data).steps
        if step.name in steps
    }
    (work(data) / DONE).write_text(json.dumps(record, indent=2))


def test_a_compilation_is_a_job_with_its_model_as_the_artifact(data: Path) -> None:
    seen: list[JobEvent] = []
    place = chatapi_compile.carry_out(compile_plan(data), lambda: Catalog(data).fetch(NAME), seen.append)
    found = job(data)
    assert (found.kind, found.subject, found.state, found.command) == (
        "compile",
        NAME,
        "done",
        f"chatapi compile {NAME}",
    )
    assert found.parameters["quantization"] == "q4f16_1"
    [artifact] = found.artifacts
    assert (artifact.location, artifact.sha256) == (str(place.folder), place.made()["sha256"])
    told = [event.data["description"] for event in seen if event.data.get("state") == "finished"]
    assert told == [
        "1/3 writing the model's configuration", "2/3 quantizing the weights to q4f16_1", "3/3 compiling the library",
        "checking and publishing the model",
    ]  # fmt: skip
    with closing(JobStore(data)) as store:
        assert "gen_config begins" in store.log(found.id).read()


def test_a_failed_compilation_is_one_job_that_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAIL", "convert_weight:loud")
    with pytest.raises(ModelError):
        compile_model(data)
    failed = job(data)
    assert failed.failure and (failed.state, failed.failure.code) == ("failed", "compile_failed")
    assert f"resume with: chatapi compile {NAME}" in failed.failure.message
    monkeypatch.delenv("STAND_IN_FAIL")
    compile_model(data)
    assert (job(data).id, job(data).state, job(data).attempts) == (failed.id, "done", 2)


def test_the_steps_of_an_older_version_are_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by_an_older_version(data, monkeypatch, "config", WEIGHTS)
    place = compile_model(data)
    assert [line[0] for line in commands_run(data)] == ["compile"]
    assert place.made()["seconds"][WEIGHTS] == 2.5
    assert sorted(path.name for path in place.folder.iterdir()) == [LOG, "lib.so", "made.json", "weights"]


def test_only_intact_steps_of_an_older_version_are_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by_an_older_version(data, monkeypatch, "config", WEIGHTS)
    (work(data) / "weights" / "params_shard_0.bin").write_bytes(b"half")
    compile_model(data)
    assert [line[0] for line in commands_run(data)] == ["convert_weight", "compile"]


@pytest.mark.parametrize("content", ["{", '{"config": {"key": "x", "files": []}}'])
def test_a_record_of_an_older_version_that_is_damaged_is_ignored(
    data: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    left_by_an_older_version(data, monkeypatch)
    (work(data) / DONE).write_text(content)
    assert compile_model(data).made()
    assert [line[0] for line in commands_run(data)] == ["gen_config", "convert_weight", "compile"]


def test_a_killed_compilation_leaves_no_command_and_goes_on(data: Path) -> None:
    script = (
        "from argparse import Namespace; from pathlib import Path; from chatapi.settings import Settings\n"
        "from chatapi.cli.compile import compile_model\n"
        f"chosen = Namespace(name={NAME!r}, quantization=None)\n"
        "chosen.plan = chosen.verify = chosen.force = chosen.if_wanted = False\n"
        f"data = Path({str(data)!r}); compile_model(Settings(data=data), chosen, data / 'root')"
    )
    environment = {**os.environ, "STAND_IN_HANG": "convert_weight"}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL) as process:
        until(lambda: (data / "record.hangs").exists())
        process.kill()
    assert process.returncode == -signal.SIGKILL
    child = int((data / "record.hangs").read_text())
    until(lambda: not Path(f"/proc/{child}").exists())
    until(lambda: _made(data))
    assert [line[0] for line in commands_run(data)] == ["gen_config", "convert_weight", "convert_weight", "compile"]
    assert (job(data).state, job(data).attempts) == ("done", 2)


def _made(data: Path) -> bool:
    """False while the supervisor of the killed command still holds the lock."""
    try:
        return bool(compile_model(data).made())
    except WrongMode:
        return False


def test_a_job_killed_after_its_model_was_published_is_done(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compile_model(data)
    with closing(sqlite3.connect(JobStore.file(data))) as db, db:
        db.execute("UPDATE jobs SET state = 'running', ended = NULL, ended_observed = NULL, artifacts = '[]'")
    assert run(data, NAME) == 0
    assert "is compiled; --force" in capsys.readouterr().out
    assert (job(data).state, [artifact.name for artifact in job(data).artifacts]) == ("done", [NAME])
    assert len(commands_run(data)) == 3


def test_a_compilation_that_is_cancelled_elsewhere_ends(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel() -> None:
        until(lambda: (data / "record.hangs").exists())
        with closing(JobStore(data)) as store:
            store.cancel(store.find()[0].id)

    monkeypatch.setenv("STAND_IN_HANG", "convert_weight")
    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(WrongMode, match=f"was cancelled; resume with: chatapi compile {NAME}"):
        compile_model(data)
    thread.join()
    monkeypatch.delenv("STAND_IN_HANG")
    compile_model(data)
    assert [line[0] for line in commands_run(data)] == ["gen_config", "convert_weight", "convert_weight", "compile"]
