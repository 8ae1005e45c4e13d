"""Command line options of each command."""

from __future__ import annotations

import argparse
from pathlib import Path

from chatapi.auth import SCOPES, is_needed
from chatapi.cli.turn_io import said

SERVER = "connect to the server at this URL, https://HOST:8000; no models are loaded here"
OUTPUT = "the suffix names the format: wav, flac, opus, ogg, mp3, aac; - writes WAV to standard output"
KNOWN_SPEAKER = "2 to 30 s of speech of a speaker, who is called NAME; may be given several times"
FINGERPRINT = "trust the server's certificate with this fingerprint"


def settings(parser: argparse.ArgumentParser, suffix: str) -> None:
    """Options of the settings; `suffix` is added to their names in the namespace."""
    parser.add_argument(
        "--config", dest=f"config{suffix}", type=Path, metavar="FILE", help="settings file instead of ./chatapi.toml"
    )
    parser.add_argument(
        "--set",
        dest=f"set{suffix}",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a setting, for example server.port=8001",
    )


def serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tls", action="store_true", help="serve HTTPS; browsers allow the microphone only with it")
    parser.add_argument("--torchserve", action="store_true", help="serve TorchServe's clients too, on ports of its own")


def talk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", metavar="URL", help=SERVER)
    parser.add_argument("--key", help="API key of the server; default: CHATAPI_SERVER_API_KEY")
    parser.add_argument("--fingerprint", metavar="SHA256", help=FINGERPRINT)
    parser.add_argument(
        "--list-devices", action="store_true", help="list the devices for audio_device.input and audio_device.output"
    )


def ask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "question", type=said, help="text, or an audio file; - reads text or a recording from standard input"
    )
    parser.add_argument("--reply", choices=("text", "voice"), default="text", help="default: text")
    parser.add_argument("-o", "--output", type=Path, help=f"file of a spoken answer; default: answer.wav; {OUTPUT}")
    parser.add_argument("--conversation", help="id of a conversation to continue")
    parser.add_argument("--system", help="system prompt, instead of the default")
    parser.add_argument("--voice", help="a voice from `chatapi models list` or `chatapi voices list`")
    parser.add_argument("--language", help="ISO 639-1 code of the spoken language")
    parser.add_argument("--max-tokens", type=int, help="longest answer, in tokens")
    parser.add_argument("--temperature", type=float, help="sampling temperature, 0 to 2")
    parser.add_argument("--seed", type=int, help="seed of the sampling")
    parser.add_argument("--server", metavar="URL", help=SERVER)
    parser.add_argument("--key", help="API key of the server; default: CHATAPI_API_KEY, then CHATAPI_SERVER_API_KEY")
    parser.add_argument("--fingerprint", metavar="SHA256", help=FINGERPRINT)
    parser.add_argument("--json", action="store_true", help="print the whole reply as JSON, with its timings")


def transcribe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="*",
        help="audio or video files, folders with all files below them, URLs; - reads one from standard input",
    )
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="FORMATS",
        help="write files: txt, srt, vtt, json, tsv, separated by commas; default for several recordings: txt",
    )
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="write files here, not beside the recordings")
    parser.add_argument("--overwrite", action="store_true", help="also transcribe what has newer transcripts")
    parser.add_argument("--watch", type=Path, metavar="DIR", help="transcribe each recording that comes into a folder")
    parser.add_argument("--language", help="ISO 639-1 code; default: detected if the model can")
    parser.add_argument("--translate", action="store_true", help="translate to English")
    parser.add_argument("--words", action="store_true", help="the times of words, in JSON files")
    parser.add_argument("--prompt", default="", help="context: its names and style become likelier")
    parser.add_argument("--hotwords", action="append", default=[], metavar="WORDS", help="words that become likelier")
    parser.add_argument(
        "--speakers", nargs="?", type=int, const=0, choices=range(1, 101), metavar="N",
        help="label the speakers A, B and so on; N: number of speakers",
    )  # fmt: skip
    parser.add_argument("--known-speaker", action="append", default=[], metavar="NAME=FILE", help=KNOWN_SPEAKER)
    parser.add_argument("--server", metavar="URL", help=SERVER)
    parser.add_argument("--key", help="API key of the server; default: CHATAPI_API_KEY, then CHATAPI_SERVER_API_KEY")
    parser.add_argument("--fingerprint", metavar="SHA256", help=FINGERPRINT)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line: text, start, end, language, speaker"
    )


def caption(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        default="microphone",
        help="an audio file, the URL of a stream (a broadcast, HLS, or a playlist of one), - for standard input; "
        "default: microphone",
    )
    parser.add_argument("-o", "--output", type=Path, help="also write a file: .srt, .vtt, .txt or .jsonl")
    parser.add_argument("--language", help="ISO 639-1 code; default: detected if the model can")
    parser.add_argument("--prompt", default="", help="context: its names and style become likelier")
    parser.add_argument("--hotwords", action="append", default=[], metavar="WORDS", help="words that become likelier")
    parser.add_argument("--speakers", action="store_true", help="label the speakers A, B and so on")
    parser.add_argument("--known-speaker", action="append", default=[], metavar="NAME=FILE", help=KNOWN_SPEAKER)
    parser.add_argument(
        "--raw",
        type=int,
        default=0,
        choices=range(8000, 192_001),
        metavar="RATE",
        help="standard input has 16-bit mono samples at this rate and no header",
    )
    parser.add_argument("--server", metavar="URL", help=SERVER)
    parser.add_argument("--key", help="API key of the server; default: CHATAPI_API_KEY, then CHATAPI_SERVER_API_KEY")
    parser.add_argument("--fingerprint", metavar="SHA256", help=FINGERPRINT)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line: text, start, end, language, speaker"
    )


def say(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", type=said, help="the text, or - to read it from standard input")
    parser.add_argument("-o", "--output", type=Path, default=Path("say.wav"), help=f"default: say.wav; {OUTPUT}")
    parser.add_argument(
        "--text-only", action="store_true", help="print the normalized text that the voice would get, and stop"
    )
    parser.add_argument("--voice", help="a voice from `chatapi models list` or `chatapi voices list`")


def models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "fetch", "verify", "remove", "engines", "pack", "import"),
        default="list",
        help="default: list; engines lists the engines that load models, those of plug-ins too; pack writes NAME.mar, "
        "an archive that TorchServe's clients register; import converts a Whisper checkpoint, a file or a folder",
    )
    parser.add_argument("name", nargs="*", help="names of models; fetch without a name fetches the default ones")
    parser.add_argument("--name", dest="new_name", default="", help="import: the model's name; default: the file's")
    parser.add_argument("--json", action="store_true", help="list, engines: print a JSON array")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="pack: folder of the archives; default: .")


def compile_(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        help="a model of the engine mlc, the beginning of its name, or auto: the best one; with --verify also a path",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--plan", action="store_true", help="print what it needs and what prevents it, and stop")
    action.add_argument("--verify", action="store_true", help="check a compiled model or a library against this board")
    action.add_argument("--force", action="store_true", help="compile again, even if it is compiled")
    parser.add_argument("--if-wanted", action="store_true", help="only if llm.engine and llm.model are auto")
    parser.add_argument("--quantization", help="another quantization of the manifest, for example q4f16_ft")


def check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="print every setting, also those with their default")
    parser.add_argument("--json", action="store_true", help="print JSON")


def overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("get", "set", "unset"), default="get", help="default: get")
    parser.add_argument(
        "name", nargs="*", help="get, unset: settings such as llm.temperature; set: NAME=VALUE; get alone shows all"
    )
    parser.add_argument("--json", action="store_true", help="get: print JSON")


def keys(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    unused = {name: "" if is_needed(name) else "; nothing needs it yet" for name in SCOPES}
    parser.epilog = "scopes:\n" + "\n".join(f"  {name:12}{means}{unused[name]}" for name, means in SCOPES.items())
    parser.add_argument("action", nargs="?", choices=("list", "add", "revoke"), default="list", help="default: list")
    parser.add_argument("name", nargs="?", help="add, revoke: name of the key")
    parser.add_argument(
        "--scope",
        action="append",
        choices=tuple(SCOPES),
        metavar="SCOPE",
        help="add: a scope of the key, listed below; may be given several times; default: talk",
    )
    parser.add_argument("--rate", metavar="N/minute", help="add: rate limit in requests per minute; default: none")
    parser.add_argument("--expires", type=float, metavar="DAYS", help="add: days until it expires; default: never")
    parser.add_argument("--json", action="store_true", help="list: print a JSON array")


def jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "show", "log", "pause", "resume", "cancel", "retry"),
        default="list",
        help="default: list",
    )
    parser.add_argument("job", nargs="?", help="id of a job, or its beginning")
    parser.add_argument("--json", action="store_true", help="list, show: print JSON")


def health(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait up to this long; default: 0")


def support(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, help="default: chatapi-support-DATE.tar.gz")
    parser.add_argument(
        "--include", type=Path, metavar="FOLDER", help="add the text files of this folder; secrets are removed"
    )


def stress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, choices=("knn_vc", "asr", "completion"), help="what is requested")
    parser.add_argument("--requests", type=int, default=1000, help="number of requests; default: 1000")
    parser.add_argument("--input", choices=("noise", "audio"), default="audio", help="what is sent; default: audio")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at once; default: 1")
    parser.add_argument(
        "--target", metavar="URL", help="a server of chatapi or in TorchServe's shape; default: that of the settings"
    )
    parser.add_argument("--name", help="name of the model in TorchServe's predictions; default: that of --model")
    parser.add_argument("--key", help="API key or token; default: CHATAPI_SERVER_API_KEY")
    parser.add_argument("--seed", type=int, default=0, help="number that the requests depend on; default: 0")
    parser.add_argument(
        "--speech", type=Path, metavar="FOLDER",
        help="recordings for --input audio, such as a folder of LibriSpeech; default: tests/corpus/real",
    )  # fmt: skip
    parser.add_argument(
        "--memory", metavar="SOURCE",
        help="id of the server's process, or URL of /health or of metrics; default: /health of the target",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="folder of the report; default: a new one")
    parser.add_argument("--save", action="store_true", help="keep the answers in the report's folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="*", help="parts to measure; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=5, help="number of repetitions; default: 5")
    parser.add_argument(
        "--transport",
        choices=("in_process", "realtime", "devices"),
        help="how `live` connects: inside this process, over a WebSocket (default), or through audio devices",
    )
    parser.add_argument(
        "--scenario",
        action="append",
        choices=("questions", "hesitations", "interruptions", "noises", "echo", "quiet", "endings"),
        help="a scenario of `live`; may be given several times; default: all",
    )
    parser.add_argument("--hurry", action="store_true", help="transport in_process: as if computing took no time")
    parser.add_argument("--streams", type=int, help="`lag`: number of audio streams; default: 16")
    parser.add_argument("--seconds", type=float, help="`lag`: duration of each of its three measurements; default: 20")
    parser.add_argument("--detector", metavar="ENGINE", help="`lag`: engine of voice activity detection")
    parser.add_argument("--asleep", action="store_true", help="`lag`: the streams wait for the wake word")


def commands(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("classify", "submit", "record", "train", "list", "rollback", "samples"),
        help="classify: which command each clip is; the others teach the running server: submit LABEL FILE..., "
        "record LABEL, train, list its versions, rollback [VERSION], samples",
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="a clip of about a second; - reads standard input; or a LABEL first"
    )
    parser.add_argument("--count", type=int, default=5, help="`record`: how many samples (default: 5)")
    parser.add_argument("-o", "--output", type=Path, help="`samples`: a tar archive of them, instead of a list")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each clip, sample or version")


def monitor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config_files",
        nargs="*",
        metavar="CONFIG.yml",
        help="OrcaHello's configurations, of both generations; default: /config/config.yml; `report` instead says what "
        "was heard and what is missing",
    )
    parser.add_argument("--orch_config", action="append", default=[], metavar="FILE", help="the same as CONFIG.yml")
    parser.add_argument(
        "--max-iterations", "--max_iterations", "--max_live_iterations", "--max-segments", "--max_segments",
        dest="max_iterations", type=int, metavar="N", help="end a place after so many clips",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="URL", help="folder or object store for detections; default: in the data directory"
    )
    parser.add_argument("--base-url", metavar="URL", help="where the places' trees of HLS folders are")
    parser.add_argument("--record-schema", choices=("v1", "v2"), help="of the JSON records; default: v1")
    parser.add_argument("--from", dest="since", metavar="TIME", help="report: default: a day before --to")
    parser.add_argument("--to", metavar="TIME", help="report: 2026-11-30T14:00, in UTC if it has no zone; default: now")
    parser.add_argument("--place", action="append", default=[], help="report: a place's id; default: all")
    parser.add_argument("--json", action="store_true", help="report: print JSON")


def voices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("add", "list", "show", "remove", "export"))
    parser.add_argument("name", nargs="?", help="what the voice is called; its id is understood, too")
    parser.add_argument("files", nargs="*", metavar="FILE", help="`add`: clips of one speaker, 3 s to 10 min of speech")
    parser.add_argument("--consent", help="`add`: who allowed the use of this voice, for example 'my own voice'")
    parser.add_argument("-o", "--output", type=Path, help="`export`: the ZIP archive; default: NAME.zip")
    parser.add_argument("--json", action="store_true", help="`add` and `list`: print JSON")


def convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="the recording; - reads standard input")
    parser.add_argument("--voice", required=True, metavar="NAME", help="a voice from `chatapi voices list`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a WAV file; - writes to standard output")
