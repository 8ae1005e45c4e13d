"""Writes the pages that are made from the code: settings, the HTTP API, the list of measurements.

`python docs/generate.py` writes them; `--check` says which are out of date, and ends with status 1 if any is.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from http_reference import NOTE, cell, http_page, openapi
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from chatapi import auth
from chatapi.interfaces.http.openai import REQUESTS
from chatapi.interfaces.http.openai.parameter_table import ENDPOINTS
from chatapi.settings import Settings
from chatapi.settings.network import LIVE

DOCS = Path(__file__).parent
TYPES = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", SecretStr: "secret text"}
INTERFACES = {
    "http": "HTTP",
    "websocket": "WebSocket",
    "realtime": "Realtime sessions of the type",
    "wyoming": "Wyoming",
    "torchserve_inference": "TorchServe inference",
    "torchserve_management": "TorchServe management",
    "torchserve_metrics": "TorchServe metrics",
    "torchserve_model": "TorchServe predictions with models of the role",
    "asr_webservice": "whisper-asr-webservice",
    "grpc": "gRPC",
}
"""Interface of the policy -> its name in the table."""
SETTINGS_HEAD = f"""{NOTE}
# Settings

Settings come from five sources; a later one wins:

1. the defaults below
2. `chatapi.toml` in the current directory, or the file that `--config` or `CHATAPI_CONFIG` names
3. the environment: `server.port` is `CHATAPI_SERVER_PORT`
4. the overrides in the data directory: `chatapi settings set llm.temperature=0.5`, `unset` removes one; secrets cannot
   be overridden
5. the command line: `--set server.port=8123`

`./run.sh check --all` shows every setting, its value and its source. An unknown key is an error.
A setting whose column *changes* says live can change while chatapi runs; any other changes at the next start.
`chatapi settings set` changes the running server that has the same data directory and port, and so does
`PATCH /settings` with `{{"llm": {{"temperature": 0.5}}}}`; null removes the override. An open live conversation keeps
its turn detection until it ends.

`engine`, `model` and `worker` of a role are live: `chatapi settings set llm.model=qwen3-4b-instruct-2507` loads that
model beside the present one and then uses it. If the memory does not hold both, requests wait while the present one
is unloaded and the new one loaded. A model that is not installed, too large or damaged is rejected with the reason. If
a model cannot be loaded, the present one stays in use, and nothing is stored. Turns in progress finish; a turn that
needs several calls may get the later ones from the new model.

```toml
[server]
host = "0.0.0.0"          # default: this machine only
api_key = "a long one"    # every route then needs `Authorization: Bearer a long one`

[llm]
model = "qwen3-4b-instruct-2507"
system_prompt = "You are the voice of a small museum. Answer in one or two sentences."
```
"""
MEASUREMENTS_HEAD = f"""{NOTE}
# Measurements

Figures behind the defaults, with the data they were measured on, and the tools that measure them again:

- `./run.sh bench` measures everything on your machine, in one run, side by side with the bare engines.
- `./run.sh bench live` measures live conversation against a server of its own over its WebSocket. With `--door devices`
  it runs `chatapi talk` with a virtual microphone and speaker, and judges the recording.
  [How it works](../../chatapi/bench/live/README.md).
- `./run.sh bench peers` asks chatapi and other programs in turns, each at its own defaults.
  [How it works](../../benchmarks/README.md).
- [The corpus of speech](../../tests/corpus/README.md) on which recognition is judged.

Nothing has been measured on a Jetson yet; [what was tested instead](../jetson/evidence.md).
"""


def main() -> int:
    """Status 1 when `--check` finds a page that is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell which pages are out of date")
    chosen = parser.parse_args()
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if chosen.check:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(DOCS.parent)} is out of date: python docs/generate.py\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        sys.stderr.write(f"wrote {path.relative_to(DOCS.parent)}\n")
    return 0


def pages() -> dict[Path, str]:
    """Path -> text of each page."""
    return {
        DOCS / "reference/settings.md": settings_page(),
        DOCS / "reference/http-api.md": http_page(openapi()),
        DOCS / "measurements/index.md": measurements_page(),
        DOCS / "integrations/openai.md": filled(DOCS / "integrations/openai.md", "parameters", parameters_tables()),
        DOCS / "integrations/clients.md": filled(DOCS / "integrations/clients.md", "programs", programs_table()),
        DOCS / "keys-and-https.md": filled(DOCS / "keys-and-https.md", "scopes", scopes_table()),
        DOCS.parent / "SECURITY.md": filled(DOCS.parent / "SECURITY.md", "policy", policy_table()),
    }


def filled(path: Path, name: str, lines: Iterable[str]) -> str:
    """The text of a page whose part between two comments is made from the code."""
    begin, end = f"<!-- {name}: written by docs/generate.py; do not edit. -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{path} has no part {name}")
    return "\n".join([f"{before}{begin}\n", *lines, f"\n{end}{after}"])


def programs_table() -> Iterator[str]:
    """What worked with each third-party client when it was last run."""
    yield "| client | works | does not work |"
    yield "| --- | --- | --- |"
    for name, program in json.loads((DOCS / "integrations/clients.json").read_text(encoding="utf-8")).items():
        works = [each["feature"] for each in program["features"] if each["works"]]
        fails = [f"{each['feature']}: {each['reason']}" for each in program["features"] if not each["works"]]
        title = f"{name} {program['version']} ({program['date']})"
        yield f"| {title} | {cell('; '.join(works))} | {cell('; '.join(fails))} |"


# Settings


def settings_page() -> str:
    tables = [(name, info.annotation) for name, info in Settings.model_fields.items() if is_table(info.annotation)]
    plain = {name: info for name, info in Settings.model_fields.items() if not is_table(info.annotation)}
    parts = [SETTINGS_HEAD, "## Top level\n", *rows(plain, meanings(Settings))]
    for name, table in tables:
        parts += [f"\n## {name}\n", f"{cell(table.__doc__ or '')}\n", *rows(table.model_fields, meanings(table))]
    return "\n".join(parts) + "\n"


def is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def meanings(table: type[BaseModel]) -> dict[str, str]:
    """Field -> the text below it in the source."""
    found = {}
    for each in reversed(table.__mro__):
        if is_table(each) and each is not BaseModel:
            [defined] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            for field, text in pairwise(getattr(defined, "body", ())):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    found[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(text.value))
    return found


def rows(fields: Mapping[str, FieldInfo], texts: Mapping[str, str]) -> Iterator[str]:
    yield "| key | type | default | changes | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for name, info in fields.items():
        meaning = cell(texts.get(name, ""))
        changes = "live" if info.json_schema_extra == LIVE else "restart"
        yield f"| `{name}` | {kind(info.annotation)}{bounds(info)} | {default(name, info)} | {changes} | {meaning} |"


def kind(annotation: Any) -> str:
    """A type in words."""
    choices = get_args(annotation)
    if "Literal" in str(annotation):
        return ", ".join(f"`{choice}`" if choice else "empty" for choice in choices)
    if str(annotation).startswith("tuple"):
        return "list of texts"
    found = [each for each in (choices or (annotation,)) if each is not type(None)]
    return " or ".join(TYPES[each] for each in found)


def bounds(info: FieldInfo) -> str:
    """The limits of a number."""
    signs = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
    found = [
        words.format(getattr(each, sign))
        for each in info.metadata
        for sign, words in signs.items()
        if hasattr(each, sign)
    ]
    return "".join(f", {each}" for each in found)


def default(name: str, info: FieldInfo) -> str:
    if name == "data":
        return "the user's data directory"
    value = info.default
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value) or "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{cell(str(value))}`" if str(value) else "empty"


# Scopes


def scopes_table() -> Iterator[str]:
    """What each scope allows."""
    yield "| scope | allows |"
    yield "| --- | --- |"
    for scope, meaning in auth.SCOPES.items():
        unused = "" if auth.is_needed(scope) else "; nothing needs it yet"
        yield f"| `{scope}` | {meaning}{unused} |"


def policy_table() -> Iterator[str]:
    """The policy by scope: the routes, WebSockets and events that need it."""
    yield "| a key with | may request |"
    yield "| --- | --- |"
    for scope, named in (("any scope", auth.allowed()), *((f"`{each}`", auth.allowed(each)) for each in auth.SCOPES)):
        found: dict[str, list[str]] = {}
        for interface, name in named:
            found.setdefault(interface, []).append(f"`{name}`")
        parts = [f"{INTERFACES[interface]} {', '.join(names)}" for interface, names in found.items()]
        yield f"| {scope} | {'; '.join(parts) or ('everything' if scope == '`all`' else 'nothing yet')} |"


# Parameters of OpenAI's endpoints


def parameters_tables() -> Iterator[str]:
    """For each endpoint, how it treats each parameter."""
    for path, endpoint in ENDPOINTS.items():
        yield f"### `{path}`\n"
        yield "| treatment | parameters |"
        yield "| --- | --- |"
        known = [info.alias or name for name, info in REQUESTS[path].model_fields.items()]
        yield f"| implemented | {names(known)} |"
        reasons: dict[str, list[str]] = {}
        for name, ignored in endpoint.ignored.items():
            reasons.setdefault(ignored.why, []).append(name)
        yield from (f"| ignored: {why} | {names(grouped)} |" for why, grouped in reasons.items())
        remedies: dict[str, list[str]] = {}
        for name, remedy in endpoint.rejected.items():
            remedies.setdefault(remedy, []).append(name)
        yield from (f"| rejected: {remedy} | {names(grouped)} |" for remedy, grouped in remedies.items())
        yield ""


def names(of: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in of)


# Measurements


def measurements_page() -> str:
    lines = [MEASUREMENTS_HEAD]
    for path in sorted((DOCS / "measurements").glob("*.md")):
        if path.name != "index.md":
            title = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            lines.append(f"- [{title[1] if title else path.stem}]({path.name})")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
