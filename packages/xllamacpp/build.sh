#!/usr/bin/env bash
# Builds llama.cpp with CUDA for the GPUs in BOARD_ARCHITECTURES ("87;110") and installs its Python binding.
set -euxo pipefail

: "${XLLAMACPP_VERSION:?}" "${BOARD_ARCHITECTURES:?}"

# Names of its scripts/build.py and setup.py; the wheel on PyPI computes on the CPU alone.
export XLLAMACPP_BUILD_CUDA=1 CUDA_PATH=/usr/local/cuda CUDA_ARCHITECTURES="$BOARD_ARCHITECTURES"
# What it links to at build time is only a stand-in: the board's runtime brings the real libcuda.
export LIBRARY_PATH="/usr/local/cuda/lib64/stubs${LIBRARY_PATH:+:$LIBRARY_PATH}"
uv pip install --no-cache --no-deps --no-binary xllamacpp "xllamacpp==$XLLAMACPP_VERSION"
