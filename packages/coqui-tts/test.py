#!/usr/bin/env python3
"""Fails where Coqui TTS is not there, or torch does not compute on the GPU."""

import sys

import torch
from TTS.tts.configs.vits_config import VitsConfig
from TTS.tts.models.vits import Vits

SAMPLES_A_FRAME = 256
"""Of VITS's default audio settings (hop_length)."""


def spoken(device: str) -> torch.Tensor:
    """What a VITS voice with random weights makes of ten symbols, one channel of samples; no model is fetched."""
    torch.manual_seed(1)
    voice = Vits.init_from_config(VitsConfig()).to(device).eval()
    with torch.inference_mode():
        return voice.inference(torch.arange(1, 11, device=device)[None])["model_outputs"][0, 0]


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no GPU: something has replaced the board's own build of it")
    samples = spoken("cuda")
    if samples.device.type != "cuda" or len(samples) < SAMPLES_A_FRAME or not torch.isfinite(samples).all():
        sys.exit(f"Coqui's VITS made {samples} on the GPU")
    print(f"Coqui TTS computes on the GPU, with torch {torch.__version__}")


if __name__ == "__main__":
    main()
