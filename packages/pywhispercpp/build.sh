#!/usr/bin/env bash
# Builds whisper.cpp with CUDA for the GPUs in BOARD_ARCHITECTURES ("87;110") and installs its Python binding.
set -euxo pipefail

: "${PYWHISPERCPP_VERSION:?}" "${BOARD_ARCHITECTURES:?}"

# The index of jetson-containers may offer a wheel without CUDA, so the source alone will do, and libraries are looked for
# beside the module: the folder they are built in is gone afterwards. setup.py splits CMAKE_ARGS at blanks, so a list of
# architectures goes through the environment, which it hands to CMake too.
# What the libraries link to at build time is only a stand-in: the board's runtime brings the real libcuda.
export GGML_CUDA=1 CMAKE_CUDA_ARCHITECTURES="$BOARD_ARCHITECTURES" NO_REPAIR=1
# shellcheck disable=SC2016 # CMake and the loader read $ORIGIN
export CMAKE_ARGS='-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH=$ORIGIN -DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16'
export LIBRARY_PATH="/usr/local/cuda/lib64/stubs${LIBRARY_PATH:+:$LIBRARY_PATH}"
uv pip install --no-cache --no-deps --no-binary pywhispercpp "pywhispercpp==$PYWHISPERCPP_VERSION"
uv pip install requests tqdm platformdirs
