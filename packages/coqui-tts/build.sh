#!/usr/bin/env bash
# Installs Coqui TTS beside the board's own torch, torchaudio and torchcodec.
set -euxo pipefail

: "${COQUI_VERSION:?}"

# It must not replace what was built for this GPU: what is installed of these stays as it is.
uv pip freeze | grep -iE '^(torch|torchaudio|torchcodec|torchvision|triton|numpy)==' >/tmp/coqui-tts/kept.txt
grep -qi '^torch==' /tmp/coqui-tts/kept.txt
uv pip install --override /tmp/coqui-tts/kept.txt "coqui-tts==$COQUI_VERSION"
