"""Writes the pages that are made from the code: settings, the HTTP API, the list of measurements.

`python docs/generate.py` writes them; `--check` says which are out of date, and ends with status 1 if any is.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from chatapi import auth, settings
from chatapi.appliance import Appliance
from chatapi.engines import registry
from chatapi.interfaces.http.app import create_app
from chatapi.interfaces.http.openai import REQUESTS
from chatapi.interfaces.http.openai.parameter_table import ENDPOINTS
from chatapi.interfaces.http.problems import EVERYWHERE, MEANINGS
from chatapi.settings import Settings
from chatapi.settings.network import LIVE

DOCS = Path(__file__).parent
TYPES = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", SecretStr: "secret text"}
INTERFACES = {"http": "HTTP", "websocket": "WebSocket", "wyoming": "Wyoming"}
"""Interface of the policy -> its name in the table."""
NOTE = "<!-- Written by docs/generate.py; do not edit. -->"
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
`PATCH /settings` with `{{"llm": {{"temperature": 0.5}}}}` changes it there; null removes the override. An open live
conversation keeps its turn detection until it ends.

```toml
[server]
host = "0.0.0.0"          # default: this machine only
api_key = "a long one"    # every route then needs `Authorization: Bearer a long one`

[llm]
model = "qwen3-4b-instruct-2507"
system_prompt = "You are the voice of a small museum. Answer in one or two sentences."
```
"""
HTTP_HEAD = f"""{NOTE}
# HTTP API

Every route of the server, from its OpenAPI document. A running server has the document at `/openapi.json`.
[HTTP and curl](../integrations/curl.md) shows how the routes are used, [Realtime API](../integrations/realtime.md) the
WebSocket `/v1/realtime`, which OpenAPI cannot describe.

An error is `application/problem+json` (RFC 9457) with a stable `code`; under `/v1` it has OpenAI's form.
Statuses 429 and 503 carry `Retry-After`. As soon as the server has an [API key](../keys-and-https.md), every route
needs one.
"""
MEASUREMENTS_HEAD = f"""{NOTE}
# Measurements

Figures behind the defaults, with the data they were measured on, and the tools that measure them again:

- `./run.sh bench` measures everything on your machine, in one run, side by side with the bare engines.
- `./run.sh bench live` measures live conversation against a server of its own over its WebSocket. With `--door devices`
  it runs `chatapi talk` with a virtual microphone and speaker, and judges the recording.
  [How it works](../../chatapi/bench/live/README.md).
- [Compared with other servers](../../benchmarks/README.md): scripts that ask chatapi and another program in turns.
- [The corpus of speech](../../tests/corpus/README.md) on which recognition is judged.

Nothing has been measured on a Jetson yet; [what was tested instead](../jetson/evidence.md).
"""


def main() -> int:
    """Status 1 when `--check` finds a page that is out of date."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
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


# Settings


def settings_page() -> str:
    tables = [(name, info.annotation) for name, info in Settings.model_fields.items() if is_table(info.annotation)]
    plain = {name: info for name, info in Settings.model_fields.items() if not is_table(info.annotation)}
    parts = [SETTINGS_HEAD, "## Top level\n", *rows(plain)]
    for name, table in tables:
        parts += [f"\n## {name}\n", f"{cell(table.__doc__ or '')}\n", *rows(table.model_fields)]
    return "\n".join(parts) + "\n"


def is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def rows(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    yield "| key | type | default | changes | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for name, info in fields.items():
        meaning = cell(info.description or "")
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


def cell(text: str) -> str:
    """A text as it may stand in a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


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


# The HTTP API


def openapi() -> dict[str, Any]:
    """The OpenAPI document of a server with every route."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [*(f"{role.name}.engine=fake" for role in registry.SHIPPED), f"data={folder}"]
        app = create_app(Appliance(settings.load(chosen, environ={}).settings))
        document: dict[str, Any] = json.loads(json.dumps(app.openapi()))
        return document


def http_page(document: dict[str, Any]) -> str:
    parts = [HTTP_HEAD, "Every route may answer with these statuses too:\n", "| status | meaning |", "| --- | --- |"]
    parts += [*(f"| {status} | {MEANINGS[status]} |" for status in EVERYWHERE), ""]
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += [f"## {method.upper()} {path}\n", f"{operation['summary']}. {needs(operation)}\n"]
            parts += list(parameters(operation))
            parts += list(bodies(operation, schemas))
            parts += list(responses(operation))
    parts += ["## Schemas\n"]
    for name in sorted(schemas):
        schema = schemas[name]
        if schema.get("properties"):
            parts += [f"### {name}\n", f"{cell(schema.get('description', ''))}\n", *members(schema), ""]
    return "\n".join(parts).rstrip() + "\n"


def needs(operation: dict[str, Any]) -> str:
    """The scope that a key needs, as a sentence."""
    scopes = [f"`{scope}`" for each in operation["security"] for scope in each.get("key", [])]
    return f"Needs the scope {' or '.join(scopes)}." if scopes else "Any key is enough."


def parameters(operation: dict[str, Any]) -> Iterator[str]:
    found = operation.get("parameters", [])
    if found:
        yield "| parameter | in | type | meaning |"
        yield "| --- | --- | --- | --- |"
        for each in found:
            schema = each["schema"]
            described = dict.fromkeys(filter(None, (schema.get("description"), each.get("description"))))
            meaning = cell(" ".join(described))
            yield f"| `{each['name']}` | {each['in']} | {shape(schema)} | {meaning} |"
        yield ""


def bodies(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    files = [f"`{name}`" for name, each in content.items() if each["schema"].get("format") == "binary"]
    if files:
        yield f"Body {', '.join(files)}: the file itself.\n"
    for media_type, each in content.items():
        schema = each["schema"]
        if schema.get("format") == "binary":
            continue
        if "$ref" in schema:
            yield f"Body `{media_type}`: {shape(schema)}.\n"
        else:
            yield f"Body `{media_type}`:\n"
            yield from members(schema)
            yield ""


def members(schema: dict[str, Any]) -> Iterator[str]:
    """A table of an object's members."""
    required = schema.get("required", [])
    yield "| member | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, each in schema["properties"].items():
        given = "required" if name in required else value(each.get("default"))
        yield f"| `{name}` | {shape(each)} | {given} | {cell(each.get('description', ''))} |"


def value(given: Any) -> str:
    return "" if given is None else f"`{json.dumps(given)}`"


def shape(schema: dict[str, Any]) -> str:
    """The type of a value in words, with its limits."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    for union in ("anyOf", "oneOf"):
        if union in schema:
            found = [shape(each) for each in schema[union] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(found))
    if schema.get("type") == "array":
        return f"list of {shape(schema.get('items', {})) or 'values'}"
    if schema.get("format") == "binary":
        return "file"
    return schema.get("type", "any") + limits(schema)


def limits(schema: dict[str, Any]) -> str:
    below = schema.get("minimum", schema.get("minLength", schema.get("exclusiveMinimum")))
    above = schema.get("maximum", schema.get("maxLength", schema.get("exclusiveMaximum")))
    unit = " characters" if "minLength" in schema or "maxLength" in schema else ""
    if below is not None and above is not None:
        return f", {below} to {above}{unit}"
    if above is not None:
        return f", at most {above}{unit}"
    return "" if below is None else f", at least {below}{unit}"


def responses(operation: dict[str, Any]) -> Iterator[str]:
    yield "| status | media type | meaning |"
    yield "| --- | --- | --- |"
    for status, response in sorted(operation["responses"].items()):
        if int(status) in EVERYWHERE:
            continue
        kinds = ", ".join(f"`{each}`" for each in response.get("content", {}))
        yield f"| {status} | {kinds} | {cell(response['description'])} |"
    yield ""


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
