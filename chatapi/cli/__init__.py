"""The command line `chatapi`: its commands and their options."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Callable

import anyio

from chatapi import settings
from chatapi.cli import options
from chatapi.cli.turn_io import with_dashed_text
from chatapi.errors import ChatapiError, SettingsError, collapse_exception_group
from chatapi.observability import logs, redaction
from chatapi.storage import setting_overrides
from chatapi.system.version import version

Command = Callable[[settings.Loaded, argparse.Namespace], int]

log = logging.getLogger(__name__)

EPILOG = """Settings are read from chatapi.toml, CHATAPI_* in the environment, the overrides of `chatapi settings` and
--set, in this order; `chatapi check --all` prints all of them, with their sources."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its status."""
    chosen = _parser().parse_args(with_dashed_text(sys.argv[1:] if arguments is None else arguments))
    try:
        sources = settings.load([*chosen.set_before, *chosen.set], chosen.config or chosen.config_before)
        loaded = setting_overrides.applied(sources)
        redaction.know([*redaction.of_settings(loaded.settings), *redaction.of_environment()])
        logs.configure(loaded.settings.log.model_copy(update={"level": "warning"} if chosen.quiet else {}))
        for warning in loaded.warnings:
            log.warning(warning)
        sys.exit(chosen.run(loaded, chosen))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as caught:
        error = collapse_exception_group(caught)
        if not isinstance(error, ChatapiError):
            raise
        print(f"chatapi: {error.message}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "chatapi", description="A self-hosted voice appliance: speech or text in, speech or text out.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=version())
    common = argparse.ArgumentParser(add_help=False)
    options.settings(common, "")
    # Options before the command have names of their own: argparse would replace them by the command's defaults.
    options.settings(parser, "_before")
    parser.set_defaults(run=_serve, quiet=False, set=[], config=None)
    commands = parser.add_subparsers(metavar="COMMAND", help="default: serve")
    for name, (run, description, add_options) in COMMANDS.items():
        command = commands.add_parser(name, help=description, description=description, parents=[common])
        command.set_defaults(run=run, quiet=name != "serve")
        add_options(command)
    return parser


# Each command imports what it needs when it runs, so that `say` does not wait for a web server's imports.


def _serve(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    # Until the server is ready; imports and models leave little garbage and many objects to look through.
    gc.disable()
    from chatapi.cli.serve import serve

    table = loaded.settings.server
    # Without a command the namespace has no tls.
    if getattr(chosen, "tls", False):
        table = table.model_copy(update={"tls": True})
    torchserve = loaded.settings.torchserve
    if getattr(chosen, "torchserve", False):
        torchserve = torchserve.model_copy(update={"enabled": True})
    return anyio.run(serve, loaded.settings.model_copy(update={"server": table, "torchserve": torchserve}), loaded)


def _talk(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.talk import talk

    return anyio.run(talk, loaded.settings, chosen)


def _ask(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.ask import ask

    return anyio.run(ask, loaded.settings, chosen)


def _transcribe(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.transcribe import transcribe

    return anyio.run(transcribe, loaded.settings, chosen)


def _caption(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.caption import caption

    return anyio.run(caption, loaded.settings, chosen)


def _say(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.say import say

    return anyio.run(say, loaded.settings, chosen)


def _models(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.models import models

    if chosen.action == "pack":
        from chatapi.cli.pack import pack

        return pack(loaded.settings, chosen.name, chosen.output_dir)
    if chosen.action == "import":
        from chatapi.cli.import_model import import_model

        return import_model(loaded.settings, chosen.name, chosen.new_name)
    return models(loaded.settings, chosen.action, chosen.name, chosen.json)


def _compile(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.compile import compile_model

    return compile_model(loaded.settings, chosen)


def _commands(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.commands import commands

    return anyio.run(commands, loaded.settings, chosen)


def _monitor(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    try:
        from chatapi.cli.monitor import monitor
    except ImportError as error:
        remedy = "pip install 'chatapi-appliance[monitoring]'"
        raise SettingsError(f"monitoring needs a library that is not installed ({error.name}): {remedy}") from error
    return anyio.run(monitor, loaded.settings, chosen)


def _voices(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.voices import voices

    return anyio.run(voices, loaded.settings, chosen)


def _convert(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.voices import convert

    return anyio.run(convert, loaded.settings, chosen)


def _check(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.check import check

    return check(loaded, chosen.json, chosen.all)


def _settings(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.overrides import manage

    return manage(loaded, chosen)


def _keys(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.keys import manage

    return manage(loaded.settings.data, chosen)


def _jobs(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.jobs import manage

    return manage(loaded.settings.data, chosen)


def _health(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.health import health

    return health(loaded.settings, chosen.wait)


def _support(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.support import support

    return support(loaded, chosen.output, chosen.include)


def _stress(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.stress import stress

    return anyio.run(stress, loaded.settings, chosen)


def _bench(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.bench.lag import LagOptions
    from chatapi.cli.bench import LiveOptions, bench

    live = LiveOptions(chosen.transport, tuple(chosen.scenario or ()), chosen.hurry)
    lag = LagOptions(chosen.streams, chosen.seconds, chosen.detector, chosen.asleep)
    return anyio.run(bench, loaded.settings, chosen.part, chosen.rounds, chosen.json, live, lag)


COMMANDS: dict[str, tuple[Command, str, Callable[[argparse.ArgumentParser], None]]] = {
    "serve": (_serve, "run the server until it is stopped", options.serve),
    "talk": (_talk, "hold a conversation through this machine's microphone and speaker", options.talk),
    "ask": (_ask, "run one turn, with the models of this machine or with a server", options.ask),
    "transcribe": (
        _transcribe,
        "transcribe recordings of any length, here or on a server",
        options.transcribe,
    ),
    "caption": (
        _caption,
        "caption the microphone, a file or a stream while somebody speaks",
        options.caption,
    ),
    "say": (_say, "synthesize speech into a file, or show the normalized text", options.say),
    "models": (_models, "list, fetch, verify, remove, import or pack models", options.models),
    "compile": (_compile, "compile a model for this board, or check a compiled one", options.compile_),
    "commands": (_commands, "classify spoken commands, and teach new ones", options.commands),
    "monitor": (_monitor, "monitor live streams for sounds, or report what was heard", options.monitor),
    "voices": (_voices, "add, list, show, remove or export voices for voice conversion", options.voices),
    "convert": (_convert, "say a recording in one of those voices", options.convert),
    "check": (_check, "check settings, models, libraries, devices and memory", options.check),
    "settings": (_settings, "show settings, or override them in the data directory", options.overrides),
    "keys": (_keys, "add, list or revoke API keys", options.keys),
    "jobs": (_jobs, "list, show, pause, resume, cancel or retry jobs", options.jobs),
    "health": (_health, "tell whether the server of these settings is ready", options.health),
    "support": (_support, "write an archive for diagnosing a fault, without secrets and speech", options.support),
    "stress": (_stress, "send many requests at once to a server, and draw its latency and memory", options.stress),
    "bench": (_bench, "measure this machine against the bare engines", options.bench),
}
"""Command -> the function that runs it, its description, the function that adds its options."""
