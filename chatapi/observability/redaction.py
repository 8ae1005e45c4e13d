"""Secrets taken out of texts that others will read: known ones by their value, unknown ones by their form.

`FORMS` is the one table of forms. A form is as narrow as it can be: ordinary text, numbers and names of settings stay.
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

SECRET = "(secret)"  # noqa: S105 - what stands in place of one
ALONE = 8
"""Characters; a known value that is shorter is taken out only where it stands alone, else it would eat syllables."""

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
"""Placeholders, and what stands where a setting is off."""
_LIKELY = r"(?![-+]?[\d.,]+(?:[eE][-+]?\d+)?(?:\s|[,;)}\]\"'&]|$))(?=[^\s\"']{0,200}\d|[^\s\"']{16}|\\?[\"'])"
"""A token is a word of English and of language models too: numbers and short words behind it are none."""
_QUOTED = r"\\\"(?:\\\\.|[^\"\\\r\n]){1,4096}|\"(?:\\.|[^\"\\\r\n]){1,4096}|'(?:\\.|[^'\\\r\n]){1,4096}"
"""Up to the closing quotation mark, which stays."""
_VALUE = rf"(?:{_QUOTED}|[^\s\"'\\,;&<>(){{}}\[\]]+)"
_ARMOUR = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_BLOCK = r"(?:[A-Za-z0-9+/=\s:,-]|\\[nr])"
"""What a block of PEM is made of; in JSON its line ends are written out."""

FORMS: tuple[tuple[str, str], ...] = (
    ("private key", rf"-----BEGIN {_ARMOUR}{_BLOCK}*?(?:-----END {_ARMOUR}|(?!{_BLOCK}))"),
    ("end of a private key", rf"\A{_BLOCK}*?-----END {_ARMOUR}"),
    # A password may hold a slash or a question mark; what looks like a port is none.
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
    ("OpenAI and kin", r"\b(?:sk|rk|pk)[-_](?=[\w-]{0,200}\d)[\w-]{16,}"),
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
"""What it is -> how it looks. What the group `keep` holds stays: it tells what was there."""

_MAYBE = re.compile(
    r"(?i)-----|://|token|key|secret|pass|pwd|auth|cookie|bearer|credential|eyj|chatapi_|[srp]k[-_]|hf_|api_org_|gh[oprsu]_"
    r"|github_pat|gl[a-z]{2,4}-|xox[a-z]-|hooks\.|discord|:aa|a[kgrisbc][a-z]a[a-z0-9]{16}|aiza|ya29|gocspx|py[p]i-|npm_|dckr_"
    r"|nvapi|sg\.|gsk_|r8_|xai-|[?&;#](?:sig|jwt|sas)|_(?:pat|dsn)|-u\b|user"
)
"""What each form has somewhere; most lines of a log have none of it, and are looked through once."""
_COMPILED = tuple(re.compile(form) for _, form in FORMS)
_QUOTES = re.compile(r"\\?[\"']")
_SECRETIVE = re.compile(rf"(?i)(?:\w+[._-])?(?:{_NAMES}|{_TOKENS}|authorization|cookie)")
_VARIABLE = re.compile(rf"{_VARIABLES}")

_known: set[str] = set()


def know(values: Iterable[str]) -> None:
    """From now on these are taken out of every text of this process, whatever they look like."""
    _known.update(value for value in values if value.strip())


def known() -> frozenset[str]:
    """The values that are taken out."""
    return frozenset(_known)


def redacted(text: str, values: Iterable[str] = ()) -> str:
    """The text without the known values, without these, and without what has the form of a secret."""
    for value in sorted({*_known, *values}, key=len, reverse=True):
        text = _without(text, value)
    for form in _COMPILED if _MAYBE.search(text) else ():
        text = form.sub(_replaced, text)
    return text


def redacted_tree(value: Any) -> Any:
    """The same of every text inside mappings and lists; a text under a name like `password` goes as a whole."""
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
    """The secrets among the settings: secret ones, and passwords inside addresses."""
    for key in dotted_keys():
        value = at(settings, key)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        for text in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
            yield from _of_url(str(text))


def of_environment(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Values of variables whose names say that they are secrets, and passwords inside addresses."""
    for name, value in environ.items():
        # A short one may be a word or a number that stands everywhere, such as the name of a file.
        if _VARIABLE.fullmatch(name) and len(value) >= ALONE and not value.startswith("/"):
            yield value
        yield from _of_url(value)


def of_files(data: Path) -> Iterator[str]:
    """Keys that lie in the data directory as they are sent."""
    try:
        for file in data.glob("local-*.key"):
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
    # A shorter one is taken out of addresses by its form.
    if password and len(password) >= ALONE:
        yield from {password, unquote(password)}


def _without(text: str, value: str) -> str:
    """As it is, as a URL writes it and as JSON does."""
    for form in {value, quote(value, safe=""), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}:
        if len(value) >= ALONE:
            text = text.replace(form, SECRET)
        elif form in text:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", SECRET, text)
    return text


def _replaced(found: re.Match[str]) -> str:
    keep = found["keep"] if "keep" in found.re.groupindex and found["keep"] else ""
    quotes = _QUOTES.match(found[0], len(keep))
    return f"{keep}{quotes[0] if quotes and keep else ''}{SECRET}"
