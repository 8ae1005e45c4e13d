"""The packages for jetson-containers and the container files, checked without building anything."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from paths import ROOT

PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/Dockerfile"))
DOCKERFILES = sorted([*ROOT.glob("packages/*/Dockerfile"), *ROOT.glob("containers/*ockerfile")])
OWN_PACKAGES = {path.name for path in PACKAGES}
UPSTREAM_PACKAGES = {
    "cmake", "cuda", "mlc", "ninja", "numpy", "onnx", "onnxruntime", "onnxruntime:1.23.2", "onnxruntime:1.25.1", "rust",
    "torchaudio", "torchcodec", "transformers",
}  # fmt: skip
"""Packages of jetson-containers that ours depend on, at commit dd206bf of 2026-05-30 (packages/**)."""
KEYS = {
    "alias", "build_args", "build_flags", "buildkit_device", "config", "depends", "disabled", "dockerfile", "docs",
    "group", "name", "notes", "path", "postfix", "prefix", "requires", "test",
}  # fmt: skip
"""`_PACKAGE_KEYS` in jetson_containers/packages.py of that commit; any other key makes it ignore the header."""
BOARDS = {36: [87], 39: [87, 110, 120, 121]}
"""Major version of L4T -> its GPU architectures (`get_cuda_arch` in jetson_containers/l4t_version.py)."""


def header(folder: Path) -> dict[str, Any]:
    """The YAML between two lines `#---` at the top of a Dockerfile (`parse_yaml_header`)."""
    lines: list[str] = []
    inside = False
    for line in (folder / "Dockerfile").read_text().splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#---"):
            inside = not inside
        elif inside:
            lines.append(line[1:])
    parsed = yaml.safe_load("\n".join(lines))
    assert isinstance(parsed, dict)
    return parsed


def configured(folder: Path, l4t: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The package after jetson-containers has run its config.py on a board with this L4T."""

    def package_depends(package: dict[str, Any], *more: str) -> None:
        names = {name.partition(":")[0] for name in more}
        package["depends"] = [name for name in package["depends"] if name not in names] + list(more)

    jetson: Any = ModuleType("jetson_containers")
    jetson.CUDA_ARCHITECTURES = BOARDS[l4t]
    jetson.L4T_VERSION = SimpleNamespace(major=l4t)
    jetson.package_depends = package_depends
    monkeypatch.setitem(sys.modules, "jetson_containers", jetson)
    package = {**header(folder), "path": str(folder)}
    exec(compile((folder / "config.py").read_text(), folder / "config.py", "exec"), {"package": package})
    return package


def pins() -> dict[str, str]:
    """The versions in constraints.txt, by package name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if "==" in line]
    # The Python of JetPack 6.
    applied = [each for each in wanted if each.marker is None or each.marker.evaluate({"python_version": "3.10"})]
    return {each.name.lower(): str(each.specifier).removeprefix("==") for each in applied}


@pytest.fixture(params=PACKAGES, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_header_has_only_known_keys(folder: Path) -> None:
    found = header(folder)
    assert set(found) - KEYS == set()
    assert {"name", "group", "depends", "requires", "notes"} <= set(found)
    assert found["name"] == folder.name and found["requires"] == ">=36"


def test_build_arguments_of_dockerfile_and_config_match(folder: Path) -> None:
    text = (folder / "Dockerfile").read_text()
    assert "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}" in text
    declared = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE)) - {"BASE_IMAGE"}
    passed = re.findall(r'"([A-Z_]+)": ', (folder / "config.py").read_text())
    assert declared == set(passed)


@pytest.mark.parametrize("l4t", BOARDS)
def test_dependencies_are_known_packages(folder: Path, l4t: int, monkeypatch: pytest.MonkeyPatch) -> None:
    package = configured(folder, l4t, monkeypatch)
    assert set(package) - KEYS == set()
    assert set(package["depends"]) - OWN_PACKAGES - UPSTREAM_PACKAGES == set()
    # Our packages hide none of upstream: the first package of a name wins.
    assert folder.name not in UPSTREAM_PACKAGES


def test_dependencies_have_no_cycle() -> None:
    todo = {path.name: set(header(path)["depends"]) & OWN_PACKAGES for path in PACKAGES}
    while todo:
        ready = {name for name, needs in todo.items() if not needs & set(todo)}
        assert ready, f"these wait for each other: {sorted(todo)}"
        todo = {name: needs for name, needs in todo.items() if name not in ready}


def test_package_has_a_test_that_can_fail(folder: Path) -> None:
    assert header(folder)["test"] == "test.py"
    tree = ast.parse((folder / "test.py").read_text())
    ends = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.exit"]
    assert ends


def test_versions_match_the_constraints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = pins()
    for name, version in configured(folder, 36, monkeypatch).get("build_args", {}).items():
        if name.endswith("_VERSION"):
            assert known.get(folder.name, version) == version
    for name in configured(folder, 36, monkeypatch)["depends"]:
        base, _, version = name.partition(":")
        if version and base in known:
            assert known[base] == version


def test_onnxruntime_of_jetpack_7_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    depends = configured(ROOT / "packages/piper-tts", 39, monkeypatch)["depends"]
    chosen = next(name.partition(":")[2] for name in depends if name.startswith("onnxruntime:"))
    assert Version(chosen) >= Version("1.24")
    assert Requirement("onnxruntime>=1.20").specifier.contains(chosen)


@pytest.mark.parametrize(("l4t", "gpus"), [(36, "87"), (39, "87;110")])
@pytest.mark.parametrize("name", ["pywhispercpp", "xllamacpp"])
def test_native_code_is_compiled_for_the_gpus_of_the_boards(
    name: str, l4t: int, gpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured(ROOT / "packages" / name, l4t, monkeypatch)["build_args"]["BOARD_ARCHITECTURES"] == gpus


def test_build_context_is_this_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = configured(ROOT / "packages/chatapi", 36, monkeypatch)["build_flags"]
    assert flags == f"--build-context source={ROOT}"
    copied = re.findall(
        r"COPY --from=source (.+) \S+$", (ROOT / "packages/chatapi/Dockerfile").read_text(), re.MULTILINE
    )
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    # The build context has what the build copies.
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name for line in copied for name in line.split()} <= sent


def test_packages_built_for_the_board_are_not_replaced_by_wheels() -> None:
    lines = (ROOT / "packages/chatapi/kept.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {requirement.name for requirement in requirements} == {"onnxruntime", "pywhispercpp", "xllamacpp"}
    assert not any(requirement.marker is None or requirement.marker.evaluate() for requirement in requirements)


def test_dockerfiles_pass_hadolint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists() and shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed: pip install --group dev")
    found = subprocess.run(
        [str(hadolint) if hadolint.exists() else "hadolint", *map(str, DOCKERFILES)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


def test_scripts_pass_shellcheck() -> None:
    scripts = [*ROOT.glob("packages/*/*.sh"), *ROOT.glob("containers/*.sh")]
    shellcheck = Path(sys.executable).parent / "shellcheck"
    found = subprocess.run([shellcheck, *scripts], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("service", ["cpu", "cuda", "jetson"])
def test_compose_services_have_least_privilege(service: str) -> None:
    composed = yaml.safe_load((ROOT / "containers/compose.yaml").read_text())["services"][service]
    assert composed["read_only"] is True and composed["cap_drop"] == ["ALL"]
    assert composed["security_opt"] == ["no-new-privileges:true"]
    assert composed["tmpfs"] == ["/tmp"]
    assert not {"privileged", "pid", "ipc", "cap_add", "user"} & set(composed)
    written = [volume for volume in composed["volumes"] if not volume.endswith(":ro")]
    assert {volume.split(":")[1] for volume in written} <= {"/data", "/run/jtop.sock"}
    # No port is open to the network by default.
    assert all(port.startswith("127.0.0.1:") for port in composed.get("ports", []))
    if service == "cuda":
        [gpu] = composed["deploy"]["resources"]["reservations"]["devices"]
        assert (gpu["driver"], gpu["capabilities"]) == ("nvidia", ["gpu"])
    if service == "jetson":
        assert composed["environment"]["CHATAPI_SERVER_HOST"] is None and composed["runtime"] == "nvidia"
