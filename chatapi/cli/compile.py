"""`chatapi compile`: plans, runs, resumes or verifies the compilation of a model for this board."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

import chatapi_compile
from chatapi import catalog
from chatapi.catalog import Catalog, Manifest
from chatapi.catalog import compiled as compiled_models
from chatapi.cli.job_bars import COLUMNS, JobBars
from chatapi.errors import BadInput, ChatapiError, ModelError, NotFound
from chatapi.settings import Settings
from chatapi.system import jetson as boards
from chatapi.system.jetson import gigabytes

MARKS = {True: "[red]BAD[/] ", False: "[yellow]note[/]"}


class _NotFetched(ModelError):
    """The source weights could not be fetched."""


def compile_model(settings: Settings, chosen: argparse.Namespace, root: Path = Path("/")) -> int:
    """Status 0 when the model is compiled, can be compiled (--plan) or is valid (--verify), else 1; `root`: root of the
    board's file system."""
    data, llm = settings.data, settings.llm
    if chosen.verify:
        return _verify(data, chosen.name, root)
    if chosen.if_wanted and (llm.engine, llm.model) != ("auto", "auto"):
        print(f"nothing to compile: llm.engine is {llm.engine} and llm.model is {llm.model}, not auto")
        return 0
    known = Catalog(data)
    if chosen.name != "auto":
        plan = _plan(data, known, named(known, chosen.name), chosen.quantization, root)
        return _compile(data, known, plan, chosen, root)
    return _best(data, known, _ranked(data, known, chosen, root), chosen, root)


def _best(
    data: Path, known: Catalog, plans: list[chatapi_compile.CompilePlan], chosen: argparse.Namespace, root: Path
) -> int:
    """Compile the first model whose source can be fetched: a token proves an account, not access to a model. Other
    failures may be temporary, so they are raised."""
    plan, *others = plans
    try:
        return _compile(data, known, plan, chosen, root)
    except _NotFetched as fault:
        if not (others and plan.manifest.login):
            raise
        print(f"{plan.manifest.name} is skipped: {fault.message}", file=sys.stderr)
    return _best(data, known, others, chosen, root)


def _compile(
    data: Path, known: Catalog, plan: chatapi_compile.CompilePlan, chosen: argparse.Namespace, root: Path
) -> int:
    if not chosen.force and not chosen.plan and _is_compiled(plan):
        chatapi_compile.settle(plan)
        print(f"{plan.manifest.name} is compiled; --force compiles it again, --verify checks it")
        return 0
    _print_plan(plan)
    obstacles = list(chatapi_compile.obstacles(plan, chatapi_compile.room(data, root)))
    if chosen.plan:
        for each in obstacles:
            print(f"obstacle: {each.message}")
        return 1 if obstacles else 0
    for each in obstacles:
        raise each
    if chosen.force:
        shutil.rmtree(plan.work.folder, ignore_errors=True)
    _carry_out(plan, known)
    name = plan.manifest.name
    print(f"{name} is compiled into {plan.place.folder}; with llm.engine=auto it is used from the next start on")
    print(f"its source weights are no longer needed: `chatapi models remove {name}` deletes them")
    return 0


def _ranked(data: Path, known: Catalog, chosen: argparse.Namespace, root: Path) -> list[chatapi_compile.CompilePlan]:
    """Plans for the models that can be fetched and fit this board, the best first; if none fits, for the worst one."""
    fetchable = [each for each in known.manifests.values() if each.compile and _fetchable(known, each)]
    if not fetchable:
        raise ModelError("every model to compile requires a login; set HF_TOKEN, or name a model", code="no_model")
    plans = [_plan(data, known, each, chosen.quantization, root) for each in fetchable]
    plans.sort(key=lambda each: each.manifest.quality, reverse=True)
    room = chatapi_compile.room(data, root)
    return [each for each in plans if not any(chatapi_compile.obstacles(each, room))] or plans[-1:]


def _fetchable(known: Catalog, manifest: Manifest) -> bool:
    return not manifest.login or bool(os.environ.get("HF_TOKEN", "").strip()) or known.installed(manifest.name)


def named(known: Catalog, name: str) -> Manifest:
    """The model of a name, of a name without -mlc, or the best one that starts with it. Raises NotFound or BadInput."""
    compiled = [each for each in known.manifests.values() if each.compile]
    for exact in (name, f"{name}-mlc"):
        for each in compiled:
            if each.name == exact:
                return each
    matches = [each for each in compiled if name and each.name.startswith(name)]
    if matches:
        return max(matches, key=lambda each: each.quality)
    available = ", ".join(each.name for each in compiled)
    if name in known.manifests:
        engine = known.get(name).engine
        raise BadInput(f"{name} runs on {engine} without compiling; models to compile: {available}")
    raise NotFound(f"there is no model {name!r} to compile; there are {available}", code="unknown_model")


def _plan(
    data: Path, known: Catalog, manifest: Manifest, quantization: str | None, root: Path
) -> chatapi_compile.CompilePlan:
    board = boards.find(root)
    if board is None:
        raise ModelError("this machine is not a Jetson; a model is compiled on its board", code="no_board")
    return chatapi_compile.plan(
        chatapi_compile.CompileRequest(
            manifest,
            board,
            platform.machine(),
            compiled_models.find(),
            data,
            known.installed(manifest.name),
            quantization,
        )
    )


def _is_compiled(plan: chatapi_compile.CompilePlan) -> bool:
    """Whether the model is compiled and can be loaded; prints why a compiled one cannot."""
    if not plan.place.made():
        return False
    here = compiled_models.Target(plan.board, platform.machine(), 0, plan.versions)
    fatal = [fault for fault in compiled_models.verify(plan.place.folder, here).faults if fault.fatal]
    if fatal:
        print(f"compiled before, but {fatal[0].message}")
    return not fatal


def _print_plan(plan: chatapi_compile.CompilePlan) -> None:
    estimate, limits = plan.estimate, plan.limits
    print(f"{plan.manifest.name} for {plan.board.model}, {plan.board.gpu}, {plan.host}")
    print(
        f"  {plan.quantization}, a context of {limits.context_window_size} tokens, prefill chunks of "
        f"{limits.prefill_chunk_size} tokens, at most {limits.max_batch_size} answers at once"
    )
    if estimate.fetched:
        print(f"  fetching: at most {gigabytes(estimate.fetched)}")
    print(f"  time: about {estimate.seconds / 60:.0f} minutes after fetching; estimated, not measured on a board")
    print(f"  disk: {gigabytes(estimate.disk)}, including source weights that are not fetched yet")
    print(f"  memory: {gigabytes(estimate.converting)} while quantizing, {gigabytes(estimate.running)} when it runs")
    if plan.board.fault:
        print(f"  note: {plan.board.fault}")
    for step in plan.steps:
        print(f"  {step.description}: {' '.join(step.argv)}")


def _carry_out(plan: chatapi_compile.CompilePlan, known: Catalog) -> None:
    # SIGINT is ignored in a program started in the background, and stopping a container sends SIGTERM.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Progress(*COLUMNS, console=Console(file=sys.stderr)) as bars:
            chatapi_compile.carry_out(plan, _fetch_function(known, plan.manifest.name, bars), JobBars(bars).show)
    except KeyboardInterrupt:
        print(f"stopped; resume with: chatapi compile {plan.manifest.name}", file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fetch_function(known: Catalog, name: str, bars: Progress) -> Callable[[], object]:
    """A function that fetches and verifies the source weights, with a progress bar."""

    def fetch() -> object:
        task = bars.add_task(f"fetching {name}", total=None)

        def show(progress: catalog.FetchProgress) -> None:
            description = f"{progress.model}: {progress.step}"
            bars.update(task, description=description, completed=progress.done, total=progress.total or None)

        try:
            model = known.fetch(name, show)
        except ModelError as error:
            raise _NotFetched(error.message, code=error.code, details=error.details) from error
        bars.update(task, description=f"{name}: source weights fetched")
        return model

    return fetch


def _verify(data: Path, name: str, root: Path) -> int:
    path = Path(name)
    if not path.exists():
        path = compiled_models.compiled(data, named(Catalog(data), name).name).folder
    try:
        versions, missing = compiled_models.find().versions, ""
    except ChatapiError as error:
        versions, missing = None, error.message
    here = compiled_models.Target(boards.find(root), available=boards.meminfo(root), versions=versions)
    verdict = compiled_models.verify(path, here, deep=True)
    console = Console(soft_wrap=True, highlight=False)
    for line in verdict.summary:
        console.print(escape(line))
    for fault in verdict.faults:
        console.print(f"{MARKS[fault.fatal]} {escape(fault.message)}")
    if here.board is None:
        console.print(f"{MARKS[False]} this machine is not a Jetson, so the GPU is not checked")
    if missing:
        console.print(f"{MARKS[here.board is not None]} {escape(missing)}")
    good = verdict.loads and not (missing and here.board)
    if good:
        console.print(f"{escape(str(path))} {'can run on this machine' if not missing else 'is complete'}")
    return 0 if good else 1
