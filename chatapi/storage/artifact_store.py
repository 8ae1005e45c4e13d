"""Artifacts in a folder or an object store, named by a URL (fsspec): files that are complete or absent."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from chatapi.errors import NotFound, SettingsError, StorageError
from chatapi.storage import atomic_files

NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._ -]{1,128}(?:/[A-Za-z0-9._ -]{1,128}){0,7}")
"""Names: up to 8 parts, none of them `.` or `..`."""
DRAFT = ".draft-"
"""How names of files begin that are not complete yet; they are not listed."""
OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl")
"""Protocols of object stores, in which a file appears whole when its upload ends. The library obstore serves them."""


@dataclass(frozen=True)
class StoredArtifact:
    """A file of the store."""

    name: str
    size: int
    """Bytes."""
    url: str


class ArtifactStore:
    """The files below one URL. All methods block, and may be called from any thread.

    Credentials come from the environment, as the store's library reads them (AWS_ACCESS_KEY_ID and the like); an
    address with a user or a password in it is rejected, because addresses are logged.
    """

    def __init__(self, url: str) -> None:
        """`url`: a folder of this machine, or an address such as s3://bucket/folder. Raises SettingsError."""
        scheme = url.partition("://")[0] if "://" in url else "file"
        self.url = url.rstrip("/")
        self._whole = scheme in OBJECT_STORES
        self._fs, self._root = _opened(scheme, self.url)

    def put(self, source: Path, name: str) -> StoredArtifact:
        """Store a file; one of the same name is replaced at once. Raises StorageError."""
        path = self._path(name)
        with self._translated("written"):
            if self._whole:
                self._fs.put_file(str(source), path)
            else:
                self._put_by_rename(source, path)
        return StoredArtifact(name, source.stat().st_size, f"{self.url}/{name}")

    def get(self, name: str, target: Path) -> None:
        """Copy a file to this machine, complete or not at all. Raises NotFound (artifact_not_found), StorageError."""
        path, draft = self._path(name), target.with_name(f"{DRAFT}{uuid.uuid4().hex}")
        try:
            with self._translated("read"):
                self._fs.get_file(path, str(draft))
            atomic_files.sync(draft)
            draft.replace(target)
        finally:
            with suppress(OSError):
                draft.unlink()

    def list(self, folder: str = "") -> Iterator[StoredArtifact]:
        """All files, or those of a folder and its folders, sorted by name. Raises StorageError."""
        path = self._path(folder) if folder else self._root
        with self._translated("listed"):
            self._fs.invalidate_cache()
            found = self._fs.find(path, detail=True) if self._whole or self._fs.exists(path) else {}
        for each, about in sorted(found.items()):
            name = str(each).strip("/").removeprefix(self._root.strip("/")).strip("/")
            if not name.rpartition("/")[2].startswith(DRAFT):
                yield StoredArtifact(name, int(about["size"]), f"{self.url}/{name}")

    def delete(self, name: str) -> None:
        """Delete a file; does nothing where there is none. Raises StorageError."""
        path = self._path(name)
        with suppress(NotFound), self._translated("written"):
            self._fs.rm_file(path)

    def check(self) -> None:
        """Store a small file, read it and delete it. Raises StorageError where one of these fails."""
        name = f"chatapi-check-{uuid.uuid4().hex}"
        try:
            with self._translated("written"):
                self._fs.makedirs(self._root, exist_ok=True)
                self._fs.pipe_file(self._path(name), b"chatapi")
            with self._translated("read"):
                found = self._fs.cat_file(self._path(name))
        except NotFound as error:
            raise StorageError(f"there is no {self.url}, or no right to it", code="artifact_store_fault") from error
        self.delete(name)
        if found != b"chatapi":
            raise StorageError(f"the artifact store {self.url} returns other bytes than were stored")

    def _put_by_rename(self, source: Path, path: str) -> None:
        """Store a file in a folder: under another name until it is complete."""
        folder = path.rpartition("/")[0]
        draft = f"{folder}/{DRAFT}{uuid.uuid4().hex}"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            self._fs.put_file(str(source), draft)
            if self._is_local:
                atomic_files.sync(Path(draft))
                Path(draft).replace(path)
                atomic_files.sync(Path(folder))
            else:
                self._fs.mv(draft, path)
        except BaseException:
            with suppress(OSError):
                self._fs.rm_file(draft)
            raise

    @property
    def _is_local(self) -> bool:
        return "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    def _path(self, name: str) -> str:
        if not NAME.fullmatch(name) or name.rpartition("/")[2].startswith(DRAFT):
            raise StorageError(f"{name[:80]!r} is no name of an artifact: letters, digits, '. _-' and up to 7 slashes")
        return f"{self._root}/{name}"

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Raise the errors of the store's library as StorageError, and its missing files as NotFound."""
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"there is no such artifact in {self.url}", code="artifact_not_found") from error
        except Exception as error:
            # Each library has errors of its own; what they quote may be long.
            reason = (os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error))[:200]
            message = f"the artifact store {self.url} cannot be {what}: {reason or type(error).__name__}"
            raise StorageError(message, code="artifact_store_fault") from error


def _opened(scheme: str, url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises SettingsError."""
    if re.match(r"[^/]*://[^/]*@", url):
        raise SettingsError(
            "the URL of the artifact store must not have a user or a password; set them in the environment"
        )
    if scheme in OBJECT_STORES:
        try:
            from obstore.fsspec import register
        except ImportError as error:
            remedy = "pip install 'chatapi-appliance[object_store]'"
            raise SettingsError(f"artifacts at {scheme}:// need a library that is not installed: {remedy}") from error
        register(scheme)
    if scheme not in fsspec.available_protocols():
        raise SettingsError(f"artifacts cannot be stored at {scheme}://; s3, gs, az and file are possible")
    try:
        file_system, path = url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise SettingsError(f"artifacts cannot be stored at {url}: {str(error)[:200]}") from error
    return file_system, str(path).rstrip("/")
