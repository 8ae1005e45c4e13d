"""The command `chatapi`: what it takes, and which part of the house does it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import anyio

from chatapi import settings
from chatapi.errors import BadInput, ChatapiError, collapse_exception_group
from chatapi.observability import logs, redaction
from chatapi.system.version import version

Command = Callable[[settings.Loaded, argparse.Namespace], int]

EPILOG = """settings come from chatapi.toml, CHATAPI_* in the environment and --set, in this order;
`chatapi check --all` shows them all, with where each came from."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; its status is the process's."""
    chosen = _parser().parse_args(arguments)
    try:
        loaded = settings.load([*chosen.set_before, *chosen.set], chosen.config or chosen.config_before)
        redaction.know([*redaction.of_settings(loaded.settings), *redaction.of_environment()])
        logs.configure(loaded.settings.log.model_copy(update={"level": "warning"} if chosen.quiet else {}))
        sys.exit(chosen.run(loaded, chosen))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as raised:
        error = collapse_exception_group(raised)
        if not isinstance(error, ChatapiError):
            raise
        print(f"chatapi: {error.message}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "chatapi", description="A voice appliance: text or WAV in, text or WAV out, on the box itself.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=version())
    common = argparse.ArgumentParser(add_help=False)
    _settings_options(common, "")
    # What stands before a command has names of its own: argparse would let the command's defaults replace it.
    _settings_options(parser, "_before")
    parser.set_defaults(run=_serve, quiet=False, set=[], config=None)
    verbs = parser.add_subparsers(metavar="COMMAND", help="default: serve")

    def verb(name: str, run: Command, told: str, quiet: bool = True) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=told, description=told, parents=[common])
        added.set_defaults(run=run, quiet=quiet)
        return added

    serve = verb("serve", _serve, "answer HTTP until stopped", quiet=False)
    serve.add_argument("--tls", action="store_true", help="HTTPS: browsers give no microphone to a box without it")
    _talk_options(verb("talk", _talk, "a conversation through this machine's microphone and speaker"))
    _ask_options(verb("ask", _ask, "one turn, with the models of this machine or the box of --server"))
    transcribe = verb("transcribe", _transcribe, "write down what a file of any length says")
    transcribe.add_argument("file", type=Path)
    transcribe.add_argument("--language", help="ISO 639-1 code; default: detected where the model can")
    transcribe.add_argument("--json", action="store_true", help="a JSON object a line: text, start, end, language")
    _say_options(verb("say", _say, "speak a text into a WAV file"))
    models = verb("models", _models, "list, fetch, verify or remove models")
    models.add_argument(
        "action", nargs="?", choices=("list", "fetch", "verify", "remove"), default="list", help="default: list"
    )
    models.add_argument("name", nargs="*", help="fetch without a name takes the default ones")
    models.add_argument("--json", action="store_true")
    _compile_options(verb("compile", _compile, "make a model's library for this board, or judge one"))
    check = verb("check", _check, "settings, models, libraries, devices and memory, in plain words")
    check.add_argument("--all", action="store_true", help="every setting, those that have their default too")
    check.add_argument("--json", action="store_true")
    _keys_options(verb("keys", _keys, "who may come in: add, list or revoke keys"))
    health = verb("health", _health, "whether the server of these settings is ready")
    health.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long to wait for it")
    _support_options(verb("support", _support, "one archive to understand a fault by; no secrets, no speech"))
    _bench_options(verb("bench", _bench, "measure this machine against the bare engines"))
    return parser


def _settings_options(parser: argparse.ArgumentParser, suffix: str) -> None:
    parser.add_argument(
        "--config", dest=f"config{suffix}", type=Path, metavar="FILE", help="settings file instead of ./chatapi.toml"
    )
    parser.add_argument(
        "--set",
        dest=f"set{suffix}",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for example server.port=8001",
    )


def _talk_options(talk: argparse.ArgumentParser) -> None:
    talk.add_argument("--server", metavar="URL", help="talk with the box there, https://HOST:8000; no models here")
    talk.add_argument("--key", help="that box's API key; default: CHATAPI_SERVER_API_KEY")
    talk.add_argument("--fingerprint", metavar="SHA256", help="trust that box's certificate, which has this one")
    talk.add_argument(
        "--list-devices", action="store_true", help="name the devices for audio_device.input and audio_device.output"
    )


def _ask_options(ask: argparse.ArgumentParser) -> None:
    ask.add_argument("question", help="text, or an audio file; - reads text from standard input")
    ask.add_argument("--reply", choices=("text", "voice"), default="text")
    ask.add_argument(
        "-o", "--output", type=Path, help="where a spoken answer goes; default: answer.wav; - for standard output"
    )
    ask.add_argument("--conversation", help="id of a conversation to go on with")
    ask.add_argument("--system", help="what the model is told instead of the default")
    ask.add_argument("--voice", help="a name from `chatapi models list`")
    ask.add_argument("--language", help="ISO 639-1 code of what is spoken")
    ask.add_argument("--max-tokens", type=int)
    ask.add_argument("--temperature", type=float)
    ask.add_argument("--seed", type=int)
    ask.add_argument("--server", metavar="URL", help="ask the box there, https://HOST:8000; no models here")
    ask.add_argument("--key", help="that box's API key; default: CHATAPI_API_KEY, then CHATAPI_SERVER_API_KEY")
    ask.add_argument("--fingerprint", metavar="SHA256", help="trust that box's certificate, which has this one")
    ask.add_argument("--json", action="store_true", help="the whole reply as JSON, with its timings")


def _keys_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "add", "revoke"), default="list", help="default: list")
    parser.add_argument("name", nargs="?", help="add, revoke: whose key it is, or what it is for")
    parser.add_argument(
        "--scope",
        action="append",
        choices=("talk", "operate", "all"),
        help="add: what it is for; may be given several times; default: talk",
    )
    parser.add_argument("--rate", metavar="N/minute", help="add: most requests a minute; default: no limit")
    parser.add_argument("--expires", type=float, metavar="DAYS", help="add: default: never")
    parser.add_argument("--json", action="store_true", help="list: a JSON array")


def _compile_options(compiling: argparse.ArgumentParser) -> None:
    compiling.add_argument(
        "name",
        help="a model of the engine mlc, its beginning, or auto: the best here; with --verify also a path",
    )
    does = compiling.add_mutually_exclusive_group()
    does.add_argument("--plan", action="store_true", help="tell what it takes and what is in its way, and do nothing")
    does.add_argument("--verify", action="store_true", help="say what a compiled model or a library is, and if it fits")
    does.add_argument("--force", action="store_true", help="compile it anew, though it is there")
    compiling.add_argument("--if-wanted", action="store_true", help="only where llm.engine and llm.model are auto")
    compiling.add_argument("--quantization", help="another of those the manifest names, for example q4f16_ft")


def _say_options(say: argparse.ArgumentParser) -> None:
    say.add_argument("text", help="the text, or - to read it from standard input")
    say.add_argument(
        "-o", "--output", type=Path, default=Path("say.wav"), help="default: say.wav; - for standard output"
    )
    say.add_argument("--voice", help="a name from `chatapi models list`")


def _support_options(support: argparse.ArgumentParser) -> None:
    support.add_argument("-o", "--output", type=Path, help="default: chatapi-support-DATE.tar.gz")
    support.add_argument("--include", type=Path, metavar="FOLDER", help="texts to put in, without the secrets in them")


def _bench_options(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("part", nargs="*", help="parts to measure; default: all")
    bench.add_argument("--json", action="store_true")
    bench.add_argument("--rounds", type=int, default=5, help="times each thing is measured")
    bench.add_argument(
        "--door",
        choices=("ability", "realtime", "devices"),
        help="how `live` reaches the box: inside this process, over a WebSocket (default), through sound devices",
    )
    bench.add_argument(
        "--scene",
        action="append",
        choices=("questions", "hesitations", "interruptions", "noises", "echo", "quiet", "endings"),
        help="what `live` plays; default: all",
    )
    bench.add_argument("--hurry", action="store_true", help="at the door ability: as if computing took no time")


# Each command imports what it needs only when it runs: `say` has no use for a web server, and nobody waits for it.


def _serve(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.serve import serve

    table = loaded.settings.server
    # Without a command there is no --tls.
    if getattr(chosen, "tls", False):
        table = table.model_copy(update={"tls": True})
    return anyio.run(serve, loaded.settings.model_copy(update={"server": table}))


def _talk(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.talk import talk

    return anyio.run(talk, loaded.settings, chosen)


def _ask(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    if chosen.server:
        from chatapi.cli.ask_server import ask_there

        return anyio.run(ask_there, loaded.settings, chosen)
    if chosen.key or chosen.fingerprint:
        raise BadInput("--key and --fingerprint belong to the box of --server")
    from chatapi.cli.turns import ask

    return anyio.run(ask, loaded.settings, chosen)


def _transcribe(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.turns import transcribe

    return anyio.run(transcribe, loaded.settings, chosen.file, chosen.language, chosen.json)


def _say(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.turns import say

    return anyio.run(say, loaded.settings, chosen.text, chosen.output, chosen.voice)


def _models(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.models import models

    return models(loaded.settings, chosen.action, chosen.name, chosen.json)


def _compile(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.compile import compile_model

    return compile_model(loaded.settings, chosen)


def _check(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.check import check

    return check(loaded, chosen.json, chosen.all)


def _keys(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.keys import manage

    return manage(loaded.settings.data, chosen)


def _health(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.health import health

    return health(loaded.settings, chosen.wait)


def _support(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.support import support

    return support(loaded, chosen.output, chosen.include)


def _bench(loaded: settings.Loaded, chosen: argparse.Namespace) -> int:
    from chatapi.cli.bench import SceneList, bench

    scenes = SceneList(chosen.door, tuple(chosen.scene or ()), chosen.hurry)
    return anyio.run(bench, loaded.settings, chosen.part, chosen.rounds, chosen.json, scenes)
