"""The box's models that may be registered, by the names that clients, archives and settings have for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from chatapi.appliance import Appliance
from chatapi.errors import NotFound, Unprocessable
from chatapi.interfaces.torchserve.model_role import ModelRole
from chatapi.interfaces.torchserve.served_model import DEFAULT

LONGEST_URL = 2000
ENDINGS = (".mar", ".zip", ".tar.gz", ".tgz", ".pth", ".pt", ".onnx", ".bin", ".model")
"""Endings of a file that are no part of a model's name."""


@dataclass(frozen=True)
class RegistrableModel:
    """One of the box's models, or whatever model of a role is in use."""

    role: str
    name: str
    """DEFAULT: the one in use."""


class RegistrableModels:
    """Finds the box's model that a name stands for."""

    def __init__(self, appliance: Appliance, roles: Collection[ModelRole], aliases: Mapping[str, str]) -> None:
        """`aliases`: further names -> the name of the model."""
        self._appliance = appliance
        self._roles = roles
        self._aliases = aliases

    def find(self, *names: str) -> RegistrableModel:
        """The model that the first of these names which is known stands for. Raises NotFound."""
        known = self._known()
        for name in names:
            if (found := known.get(_plain(stem(name)))) is not None:
                return found
        models = sorted(found.name for found in known.values() if found.name != DEFAULT)
        raise NotFound(
            f"{names[-1][:200]!r} is none of the box's models, which are {', '.join(dict.fromkeys(models))}; "
            "torchserve.models maps another name to one of them",
            code="model_not_registered",
        )

    def _known(self) -> dict[str, RegistrableModel]:
        """Plain name -> model."""
        known: dict[str, RegistrableModel] = {}
        for role in self._roles:
            manifests = self._appliance.catalog.manifests.values()
            names = {each.name for each in manifests if each.role == role.name}
            names |= {self._appliance.active.get(role.name, DEFAULT)} - {DEFAULT}
            known |= {_plain(each): RegistrableModel(role.name, each) for each in names}
            known |= {_plain(each): RegistrableModel(role.name, DEFAULT) for each in (role.name, *role.aliases)}
        mapped = {_plain(alias): known.get(_plain(model)) for alias, model in self._aliases.items()}
        return known | {alias: found for alias, found in mapped.items() if found is not None}


def file_name(url: str) -> str:
    """The last part of a URL's or a file's path. Raises Unprocessable."""
    if len(url) > LONGEST_URL:
        raise Unprocessable(
            f"url has {len(url)} characters; at most {LONGEST_URL} are allowed", details={"param": "url"}
        )
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        path = url
    name = PurePosixPath(path.replace("\\", "/")).name
    if not name or name in (".", "..") or not name.isprintable():
        raise Unprocessable(f"url {url[:200]!r} names no file", details={"param": "url"})
    return name


def stem(name: str) -> str:
    """A file's name without the ending of an archive or a model."""
    ending = next((each for each in ENDINGS if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)] if ending else name


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
