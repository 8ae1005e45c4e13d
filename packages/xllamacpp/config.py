"""The GPUs that a build of llama.cpp is for: those of the boards, among those that this JetPack knows.

Run by jetson-containers (jetson_containers/packages.py, config_package), which puts `package` into this module.
"""

from jetson_containers import CUDA_ARCHITECTURES

BOARDS = (87, 110)
"""Orin and Thor. On JetPack 7 `CUDA_ARCHITECTURES` lists desktop GPUs too, which would only cost time and space."""

package["build_args"] = {
    "XLLAMACPP_VERSION": "2026.10.11549",
    "BOARD_ARCHITECTURES": ";".join(str(known) for known in CUDA_ARCHITECTURES if known in BOARDS),
}
