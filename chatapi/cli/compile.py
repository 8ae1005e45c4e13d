"""`chatapi compile`: a model's library made for this board, told beforehand, gone on with, or judged."""

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
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

import chatapi_compile
from chatapi import catalog
from chatapi.catalog import Catalog, Manifest
from chatapi.catalog import compiled as compiled_models
from chatapi.errors import BadInput, ChatapiError, ModelError, NotFound
from chatapi.settings import Settings
from chatapi.system import jetson as boards
from chatapi.system.jetson import gigabytes

MARKS = {True: "[red]BAD[/] ", False: "[yellow]note[/]"}


class _NotFetched(ModelError):
    """The source weights could not be had."""


def compile_model(settings: Settings, chosen: argparse.Namespace, root: Path = Path("/")) -> int:
    """Status 0 when it is compiled, may be, or is judged good, else 1; `root`: where the board's files are."""
    data, llm = settings.data, settings.llm
    if chosen.verify:
        return _verify(data, chosen.name, root)
    if chosen.if_wanted and (llm.engine, llm.model) != ("auto", "auto"):
        print(f"nothing is compiled: llm.engine is {llm.engine} and llm.model {llm.model}; only auto asks for it")
        return 0
    known = Catalog(data)
    if chosen.name != "auto":
        plan = _plan(data, known, named(known, chosen.name), chosen.quantization, root)
        return _compile(data, known, plan, chosen, root)
    return _best(data, known, _ranked(data, known, chosen, root), chosen, root)


def _best(
    data: Path, known: Catalog, plans: list[chatapi_compile.CompilePlan], chosen: argparse.Namespace, root: Path
) -> int:
    """The first whose source can be had: a token says that somebody has an account, not that a model's owner lets it
    in. What cannot be had for other reasons may come another time, and is worth waiting for."""
    plan, *others = plans
    try:
        return _compile(data, known, plan, chosen, root)
    except _NotFetched as fault:
        if not (others and plan.manifest.login):
            raise
        print(f"{plan.manifest.name} is passed over: {fault.message}", file=sys.stderr)
    return _best(data, known, others, chosen, root)


def _compile(
    data: Path, known: Catalog, plan: chatapi_compile.CompilePlan, chosen: argparse.Namespace, root: Path
) -> int:
    if not chosen.force and not chosen.plan and _good(plan):
        print(f"{plan.manifest.name} is compiled; --force does it anew, --verify judges it")
        return 0
    _tell(plan)
    obstacles = list(chatapi_compile.obstacles(plan, chatapi_compile.room(data, root)))
    if chosen.plan:
        for each in obstacles:
            print(f"in its way: {each.message}")
        return 1 if obstacles else 0
    for each in obstacles:
        raise each
    if chosen.force:
        shutil.rmtree(plan.work.folder, ignore_errors=True)
    _carry_out(plan, known)
    name = plan.manifest.name
    print(f"{name} is compiled into {plan.place.folder}, and answers from the next start on, as llm.engine=auto has it")
    print(f"its source weights are no longer needed: `chatapi models remove {name}` frees them")
    return 0


def _ranked(data: Path, known: Catalog, chosen: argparse.Namespace, root: Path) -> list[chatapi_compile.CompilePlan]:
    """Of what can be fetched and fits this board, the best first; where nothing fits, the least alone."""
    able = [each for each in known.manifests.values() if each.compile and _fetchable(known, each)]
    if not able:
        raise ModelError("every model that could be compiled wants a login; set HF_TOKEN, or name one", code="no_model")
    plans = [_plan(data, known, each, chosen.quantization, root) for each in able]
    plans.sort(key=lambda each: each.manifest.quality, reverse=True)
    room = chatapi_compile.room(data, root)
    return [each for each in plans if not any(chatapi_compile.obstacles(each, room))] or plans[-1:]


def _fetchable(known: Catalog, manifest: Manifest) -> bool:
    return not manifest.login or bool(os.environ.get("HF_TOKEN", "").strip()) or known.installed(manifest.name)


def named(known: Catalog, name: str) -> Manifest:
    """The model meant: a name, a name without -mlc, or the best of those that begin so. Raises NotFound or BadInput."""
    compiled = [each for each in known.manifests.values() if each.compile]
    for exact in (name, f"{name}-mlc"):
        for each in compiled:
            if each.name == exact:
                return each
    begun = [each for each in compiled if name and each.name.startswith(name)]
    if begun:
        return max(begun, key=lambda each: each.quality)
    told = ", ".join(each.name for each in compiled)
    if name in known.manifests:
        engine = known.get(name).engine
        raise BadInput(f"{name} runs on {engine} as it is; those that are compiled: {told}")
    raise NotFound(f"there is no model {name!r} to compile; there are {told}", code="unknown_model")


def _plan(
    data: Path, known: Catalog, manifest: Manifest, quantization: str | None, root: Path
) -> chatapi_compile.CompilePlan:
    board = boards.find(root)
    if board is None:
        raise ModelError("this machine is no Jetson; a model is compiled on the board it is for", code="no_board")
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


def _good(plan: chatapi_compile.CompilePlan) -> bool:
    """Whether it is compiled already and can be loaded; where it cannot, says why it is done again."""
    if not plan.place.made():
        return False
    here = compiled_models.Target(plan.board, platform.machine(), 0, plan.versions)
    fatal = [fault for fault in compiled_models.verify(plan.place.folder, here).faults if fault.fatal]
    if fatal:
        print(f"compiled before, but {fatal[0].message}")
    return not fatal


def _tell(plan: chatapi_compile.CompilePlan) -> None:
    estimate, limits = plan.estimate, plan.limits
    print(f"{plan.manifest.name} for {plan.board.model}, {plan.board.gpu}, {plan.host}")
    print(
        f"  {plan.quantization}, a context of {limits.context_window_size} tokens, prompts in pieces of "
        f"{limits.prefill_chunk_size}, at most {limits.max_batch_size} answers at once"
    )
    if estimate.fetched:
        print(f"  fetching: at most {gigabytes(estimate.fetched)}")
    print(f"  time: about {estimate.seconds / 60:.0f} minutes after fetching; reckoned, not measured on a board")
    print(f"  disk: {gigabytes(estimate.disk)}, the source weights included where they are still to be fetched")
    print(f"  memory: {gigabytes(estimate.converting)} while quantising, {gigabytes(estimate.running)} when it runs")
    for step in plan.steps:
        print(f"  {step.description}: {' '.join(step.argv)}")


def _carry_out(plan: chatapi_compile.CompilePlan, known: Catalog) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # A program begun in the background has SIGINT ignored, and a container that is stopped sends SIGTERM.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Progress(*columns, console=Console(file=sys.stderr)) as bars:
            tasks: dict[str, TaskID] = {}

            def show(progress: chatapi_compile.CompileProgress) -> None:
                told = f"{progress.number}/{len(plan.steps)} {progress.step.description}"
                told += {"kept": ": done before", "done": ": done"}.get(progress.state, "")
                over = progress.state in ("kept", "done")
                if progress.step.name not in tasks:
                    tasks[progress.step.name] = bars.add_task(told, total=None)
                task = tasks[progress.step.name]
                total = 1.0 if over or progress.fraction is not None else None
                bars.update(task, description=told, total=total, completed=1.0 if over else progress.fraction or 0.0)

            chatapi_compile.carry_out(plan, _fetching(known, plan.manifest.name, bars), show)
    except KeyboardInterrupt:
        print(f"stopped; resume with: chatapi compile {plan.manifest.name}", file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fetching(known: Catalog, name: str, bars: Progress) -> Callable[[], object]:
    """Brings the source weights and checks them, with a bar."""

    def fetch() -> object:
        task = bars.add_task(f"fetching {name}", total=None)

        def show(progress: catalog.FetchProgress) -> None:
            told = f"{progress.model}: {progress.step}"
            bars.update(task, description=told, completed=progress.done, total=progress.total or None)

        try:
            model = known.fetch(name, show)
        except ModelError as fault:
            raise _NotFetched(fault.message, code=fault.code, details=fault.details) from fault
        bars.update(task, description=f"{name}: its source weights are here")
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
        console.print(f"{MARKS[False]} this machine is no Jetson, so whether it fits a GPU is not judged")
    if missing:
        console.print(f"{MARKS[here.board is not None]} {escape(missing)}")
    good = verdict.loads and not (missing and here.board)
    if good:
        console.print(f"{escape(str(path))} {'is good for this machine' if not missing else 'is whole'}")
    return 0 if good else 1
