"""The compile targets of the boards."""

from __future__ import annotations

import pytest

from chatapi.errors import ModelError
from chatapi.system.jetson import CHIPS, JetsonBoard
from chatapi_compile.boards import FILE, compile_target, compile_targets
from paths import ROOT


def board(gpu: str) -> JetsonBoard:
    return JetsonBoard("a board", "tegra210", gpu, (36, 4, 3), (12, 6, 68), 8 << 30)


def test_every_supported_chip_has_a_compile_target() -> None:
    assert set(compile_targets()) == {gpu for _, gpu in CHIPS.values()}


@pytest.mark.parametrize("gpu", sorted(gpu for _, gpu in CHIPS.values()))
def test_compile_target_is_valid_for_tvm(gpu: str) -> None:
    found = compile_target(board(gpu))
    assert (found.target["kind"], found.target["arch"]) == ("cuda", gpu)
    assert all(type(value) in (str, int) for value in found.target.values())
    assert found.host.format(machine="aarch64") == "aarch64-linux-gnu"


def test_board_without_a_compile_target_is_rejected() -> None:
    with pytest.raises(ModelError, match="no compile target; supported GPUs: sm_87, sm_110") as raised:
        compile_target(board(""))
    assert raised.value.code == "no_board"


def test_boards_file_is_in_the_wheel() -> None:
    build = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [packages] = [line for line in build.splitlines() if line.startswith('packages = ["chatapi", "compile')]
    assert f'"{FILE.parent.relative_to(ROOT)}"' in packages
