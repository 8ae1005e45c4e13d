"""Redaction: removes secrets from text, known ones by their value, unknown ones by their form.

`FORMS` is the only table of forms. A form is as narrow as possible: ordinary text, numbers and names of settings stay.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from chatapi.settings import Settings, at, dotted_keys

SECRET = "(secret)"  # noqa: S105 - the replacement of a secret
ALONE = 8
"""Length from which a known value is removed everywhere, in characters; a shorter one only as a whole word."""

_NAMES = (
    r"pass(?:word|wd|phrase|code)|pwd|(?:client|app|api|shared|signing|webhook)?[_-]?secret(?:[_-]?(?:access[_-]?)?key)?"
    r"|api[_-]?key|access[_-]?key(?:[_-]?id)?|account[_-]?key|shared[_-]?access[_-]?key|private[_-]?key"
    r"|encryption[_-]?key|subscription[_-]?key"
)
_TOKENS = r"(?:(?:access|auth|refresh|id|session|bearer|api|bot|hub|security|csrf|private)[_-]?)?token"
_VARIABLES = r"(?:[A-Z][A-Z0-9_]*_(?:KEY|PASS|PWD|CREDENTIALS?|PAT|DSN)|(?:[A-Z][A-Z0-9_]*_)?(?:TOKEN|SECRET|PASSWORD))"
_QUERY = (
    rf"{_NAMES}|{_TOKENS}|key|sig|signature|auth|authorization|code_verifier|jwt|sas"
    r"|x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|googleaccessid"
)
_UNSET = (
    r"(?!\(secret\)|\(set\)|\*{3,}|\$|%\(|(?i:true|false|null|none)\b|(?:KEY|TOKEN|SECRET|PASSWORD)\b"
    r"|(?:str|bytes|SecretStr|Path|Any)\b)"
)
"""Placeholders, and values of settings that are off."""
_LIKELY = r"(?![-+]?[\d.,]+(?:[eE][-+]?\d+)?(?:\s|[,;)}\]\"'&]|$))(?=[^\s\"']{0,200}\d|[^\s\"']{16}|\\?[\"'])"
"""The word token is also used in English and by LLMs: numbers and short words after it are not secrets."""
_QUOTED = r"\\\"(?:\\\\.|[^\"\\\r\n]){1,4096}|\"(?:\\.|[^\"\\\r\n]){1,4096}|'(?:\\.|[^'\\\r\n]){1,4096}"
"""Text up to the closing quotation mark, which stays."""
_VALUE = rf"(?:{_QUOTED}|[^\s\"'\\,;&<>(){{}}\[\]]+)"
_ARMOUR = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_BLOCK = r"(?:[A-Za-z0-9+/=\s:,-]|\\[nr])"
"""Characters of a PEM block; JSON escapes its line ends."""

FORMS: tuple[tuple[str, str], ...] = (
    ("private key", rf"-----BEGIN {_ARMOUR}{_BLOCK}*?(?:-----END {_ARMOUR}|(?!{_BLOCK}))"),
    ("end of a private key", rf"\A{_BLOCK}*?-----END {_ARMOUR}"),
    # A password may contain a slash or a question mark; digits like a port number are not a password.
    (
        "userinfo of a URL",
        r"(?P<keep>\b(?i:[a-z][a-z0-9+.-]{1,20}):/{2})(?:[^\s/?#@\"'<>\\:]{0,200}:(?!\d{1,5}(?:[/?#\s\"']|$))"
        r"[^\s\"'<>\\]{0,1000}|[^\s/?#@\"'<>\\]{1,1000})(?=@)",
    ),
    ("query of a URL", rf"(?P<keep>[?&;#](?i:{_QUERY})=){_UNSET}[^\s&#;\"'<>\\]+"),
    (
        "whole header",
        r"(?P<keep>\b(?i:(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:digest|aws4-hmac-sha256|negotiate|ntlm|hawk))\s+)"
        r"[^\r\n]+",
    ),
    (
        "header",
        r"(?P<keep>\b(?i:(?:proxy-)?authorization[\"']?(?:\s*[:=]\s*|,\s*)(?-i:b(?=[\"']))?[\"']?(?:(?:bearer|basic|token|apikey)\s+)?))"
        rf"{_UNSET}(?!(?i:bearer|basic|token|apikey)\b)[^\s\"',;`)\\]+",
    ),
    (
        "header of a key",
        r"(?P<keep>\b(?i:x-api-key|api-key|x-auth-token|x-access-token|x-goog-api-key|xi-api-key"
        r"|ocp-apim-subscription-key|(?:set-)?cookie)[\"']?(?:\s*:\s*|,\s*)(?-i:b(?=[\"']))?[\"']?)"
        rf"{_UNSET}[^\s\"'\\][^\"'\r\n\\]*",
    ),
    ("bearer", r"(?P<keep>\b(?i:bearer)\s+)(?=[\w.~+/=-]{0,200}\d|[\w.~+/=-]{20})[\w.~+/=-]{6,}"),
    ("JSON Web Token", r"\beyJ[\w-]{5,}\.[\w-]{2,}(?:\.[\w-]+){1,3}"),
    ("chatapi", r"(?P<keep>\bchatapi_(?:[0-9a-f]{8}|local)_)[\w-]{6,}"),
    ("OpenAI and similar", r"\b(?:sk|rk|pk|ek)[-_](?=[\w-]{0,200}\d)[\w-]{16,}"),
    ("Hugging Face", r"\b(?:api_org|hf)_(?=\w{0,40}[A-Z0-9])\w{16,}"),
    ("GitHub", r"\b(?:gh[oprsu]_\w{20,}|github_pat_\w{20,})"),
    ("GitLab", r"\bgl(?:pat|ptt|dt|rt|cbt|soat|ft)-[\w-]{16,}"),
    ("Slack", r"\bxox[abeoprs]-[\w-]{10,}"),
    ("web hooks", r"(?P<keep>hooks\.slack\.com/services/|discord(?:app)?\.com/api/webhooks/\d+/)[\w/-]+"),
    ("Telegram", r"\b(?:bot)?\d{8,10}:AA[\w-]{32,}"),
    ("AWS", r"\b(?:AKIA|ASIA|AGPA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{16}\b"),
    ("Google", r"\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}"),
    ("registries", r"\bpy[p]i-[\w-]{40,}|\bnpm_[A-Za-z0-9]{30,}|\bdckr_pat_[\w-]{20,}"),
    ("others", r"\bnvapi-[\w-]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}|\bgsk_\w{20,}|\br8_\w{20,}|\bxai-\w{20,}"),
    ("variable", rf"(?P<keep>\b{_VARIABLES}[\"']?\s*=\s*){_UNSET}(?:{_QUOTED}|[^\s\"',;\\]+)"),
    (
        "option",
        rf"(?P<keep>(?<![^\s\"'\[])--(?i:{_NAMES}|{_TOKENS}|key)(?:\s+|=|[\"'],\s*))(?!-){_UNSET}"
        rf"(?:{_QUOTED}|[^\s\"',\\]+)",
    ),
    ("option for a user", r"(?P<keep>(?<!\S)(?:-u|--user|--proxy-user)[\s=]+[\"']?[^\s:\"']{1,200}:)[^\s\"']+"),
    ("password", rf"(?P<keep>(?i:{_NAMES})\\?[\"']?\s*(?::|=>?)\s*){_UNSET}{_VALUE}"),
    ("token", rf"(?P<keep>\b(?i:{_TOKENS})\\?[\"']?\s*(?::|=>?)\s*){_UNSET}{_LIKELY}{_VALUE}"),
    ("other token", rf"(?P<keep>\b\w{{1,60}}_(?i:token)\\?[\"']?\s*=\s*){_UNSET}{_LIKELY}{_VALUE}"),
)
"""Kind of secret, and its pattern. The text of the group `keep` stays: it tells what was removed."""

_MAYBE = re.compile(
    r"(?i)-----|://|token|key|secret|pass|pwd|auth|cookie|bearer|credential|eyj|chatapi_|[srp]k[-_]|hf_|api_org_|gh[oprsu]_"
    r"|github_pat|gl[a-z]{2,4}-|xox[a-z]-|hooks\.|discord|:aa|a[kgrisbc][a-z]a[a-z0-9]{16}|aiza|ya29|gocspx|py[p]i-|npm_|dckr_"
    r"|nvapi|sg\.|gsk_|r8_|xai-|[?&;#](?:sig|jwt|sas)|_(?:pat|dsn)|-u\b|user"
)
"""A quick test: every form contains one of these; most log lines contain none, and are searched only once."""
_COMPILED = tuple(re.compile(form) for _, form in FORMS)
_QUOTES = re.compile(r"\\?[\"']")
_SECRETIVE = re.compile(rf"(?i)(?:\w+[._-])?(?:{_NAMES}|{_TOKENS}|authorization|cookie)")
_VARIABLE = re.compile(rf"{_VARIABLES}")

_known: set[str] = set()


def know(values: Iterable[str]) -> None:
    """Remove these values from every text of this process from now on."""
    _known.update(value for value in values if value.strip())


def known() -> frozenset[str]:
    """The known secrets."""
    return frozenset(_known)


def redacted(text: str, values: Iterable[str] = ()) -> str:
    """The text without known secrets, without `values`, and without text that has the form of a secret."""
    for value in sorted({*_known, *values}, key=len, reverse=True):
        text = _without(text, value)
    for form in _COMPILED if _MAYBE.search(text) else ():
        text = form.sub(_replaced, text)
    return text


def redacted_tree(value: Any) -> Any:
    """`redacted` for every text inside mappings and lists; a text with a name like `password` is removed entirely."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {
            redacted(str(name)): SECRET
            if isinstance(each, str) and each and _SECRETIVE.fullmatch(str(name))
            else redacted_tree(each)
            for name, each in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redacted_tree(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float)) else redacted(str(value))


def of_settings(settings: Settings) -> Iterator[str]:
    """Secrets in the settings: secret values, and passwords in URLs."""
    for key in dotted_keys(type(settings)):
        value = at(settings, key)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        for text in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
            yield from _of_url(str(text))


def of_environment(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Secrets in the environment: variables with names of secrets, and passwords in URLs."""
    for name, value in environ.items():
        # A short value may be a common word or number.
        if _VARIABLE.fullmatch(name) and len(value) >= ALONE and not value.startswith("/"):
            yield value
        yield from _of_url(value)


def of_files(files: Iterable[Path]) -> Iterator[str]:
    """Keys that are stored unhashed, each as the whole content of a file."""
    try:
        for file in files:
            yield file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return


def _of_url(text: str) -> Iterator[str]:
    if "://" not in text or "@" not in text:
        return
    try:
        password = urlsplit(text).password
    except ValueError:
        return
    # A shorter one is removed from URLs by its form.
    if password and len(password) >= ALONE:
        yield from {password, unquote(password)}


def _without(text: str, value: str) -> str:
    """The text without a value, in its plain form and as URLs and JSON encode it."""
    for form in {value, quote(value, safe=""), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}:
        if len(value) >= ALONE:
            text = text.replace(form, SECRET)
        elif form in text:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", SECRET, text)
    return text


def _replaced(match: re.Match[str]) -> str:
    keep = match["keep"] if "keep" in match.re.groupindex and match["keep"] else ""
    quotes = _QUOTES.match(match[0], len(keep))
    return f"{keep}{quotes[0] if quotes and keep else ''}{SECRET}"
