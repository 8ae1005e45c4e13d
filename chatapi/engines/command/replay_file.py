"""The files with the embeddings of known clips (`training/commands/replay.py`), one for each network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chatapi.audio import Samples
from chatapi.engines import CommandReplay

FOLDER = Path(__file__).parent


def read(features: str, labels: Sequence[str]) -> CommandReplay | None:
    """The replay set of embeddings of this form, where the package has one for these labels."""
    file = FOLDER / f"{features}.npz"
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as found:
        if tuple(found["names"].tolist()) != tuple(labels):
            return None
        embeddings: Samples = found["embeddings"].astype(np.float32) * found["scale"] + found["offset"]
        return CommandReplay(embeddings.astype(np.float32), tuple(found["labels"].tolist()),
                             tuple(found["parts"].tolist()), tuple(found["words"].tolist()))  # fmt: skip
