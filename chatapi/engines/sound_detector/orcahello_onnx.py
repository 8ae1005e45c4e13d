"""Sound detection by an ONNX network behind OrcaHello's front end.

The network takes `mels` of shape (windows, 1, 256, 312) and gives `logits` of shape (windows, labels). Its metadata has
`labels`, separated by commas, `target`, one of them, `front_end`, and `activation`: softmax or sigmoid.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples
from chatapi.engines import SoundOptions, SoundWindow, Stop, never, onnx_providers
from chatapi.engines.sound_detector.front_end import network_input, windows
from chatapi.engines.sound_detector.orcahello import FRONT_ENDS, V1, FrontEnd
from chatapi.engines.sound_protocols import DEFAULT_SOUND_OPTIONS, SOUND_RATE
from chatapi.errors import EngineFailed, ModelError, Unprocessable
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

SUITED = ("cuda", "cpu")
"""TensorRT would build an engine for each size of a batch."""


class OrcaHelloDetector:
    """One thread on a CPU. ModelError when the network cannot be loaded."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the orcahello engine needs a model and was given none; `chatapi models` lists them")
        onnx = next(path for path in models[0].files.values() if path.suffix == ".onnx")
        try:
            self._session = onnx_providers.session(onnx, onnx_providers.background_options(), settings, suited=SUITED)
            about: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
            self.labels = tuple(about["labels"].split(","))
            self.target = self.labels.index(about.get("target", self.labels[-1]))
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error
        self._front_end, self._sigmoid = about.get("front_end", V1), about.get("activation") == "sigmoid"

    def detect(
        self, samples: Samples, stop: Stop = never, options: SoundOptions = DEFAULT_SOUND_OPTIONS
    ) -> Iterator[SoundWindow]:
        how = self._chosen(options)
        found = windows(samples, SOUND_RATE, how)
        while batch := list(itertools.islice(found, max(1, options.batch))):
            if stop():
                return
            for (start, _), scores in zip(batch, self._scores([each for _, each in batch]), strict=True):
                yield SoundWindow(start, how.window, tuple(float(score) for score in scores))

    def _chosen(self, options: SoundOptions) -> FrontEnd:
        """Raises Unprocessable (unknown_front_end)."""
        name = options.front_end or self._front_end
        if name not in FRONT_ENDS:
            known = ", ".join(FRONT_ENDS)
            raise Unprocessable(f"there is no front end {name!r}; it can be one of: {known}", code="unknown_front_end")
        how = FRONT_ENDS[name]
        return dataclasses.replace(
            how,
            window=options.window or how.window,
            hop=options.hop or how.hop,
            normalized=how.normalized if options.normalized is None else options.normalized,
        )

    def _scores(self, batch: list[Samples]) -> npt.NDArray[Any]:
        mels = np.stack([network_input(each) for each in batch])[:, None]
        try:
            [logits] = self._session.run(["logits"], {"mels": mels})
        except Exception as error:
            raise EngineFailed("the sound detector failed; the log says why") from error
        if self._sigmoid:
            return np.asarray(1 / (1 + np.exp(-logits)))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))
