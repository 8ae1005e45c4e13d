"""Embeddings of clips: by the word encoder where its model is installed, else by the command classifier's network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatapi.audio import Samples
from chatapi.engines import CommandClassifier, CommandReplay, WordEncoder
from chatapi.engines.call import EngineCall
from chatapi.errors import ModelError, NotFound, SettingsError, WrongMode
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class KnownClips:
    """What a version is trained and judged with, beside the samples of users."""

    features: str
    """The form of the embeddings."""
    replay: CommandReplay


class WordFeatures:
    """The embeddings of both engines."""

    def __init__(self, engines: Engines) -> None:
        self._classifier, self._encoder = engines.command, engines.word_encoder
        self._missing = ""
        """Why there is no encoder, as it was logged last."""

    async def encoder(self) -> WordEncoder | None:
        """The word encoder, loaded; None where its model or its library is not installed. Raises NotReady."""
        try:
            return await self._encoder.open()
        except (ModelError, NotFound, SettingsError) as error:
            if error.message != self._missing:
                self._missing = error.message
                log.info("taught commands are distinguished by the classifier's network: %s", error.message)
            return None

    async def usable(self, classifier: CommandClassifier) -> WordEncoder | None:
        """The encoder, where it joins the embeddings of this classifier with its own."""
        encoder = await self.encoder()
        return encoder if encoder is not None and encoder.beside == classifier.features else None

    async def embedding(self, features: str, clip: Samples, priority: Priority = Priority.REQUEST) -> Samples | None:
        """The embedding of this form of a clip, of shape (width,); None where no engine here makes that form."""
        [found] = await self._classifier.collect(EngineCall.of(CommandClassifier.classify, clip), priority)
        return await self.joined(features, clip, found.embedding, priority)

    async def joined(
        self, features: str, clip: Samples, other: Samples, priority: Priority = Priority.REQUEST
    ) -> Samples | None:
        """The same, where `other` is the classifier's embedding of the clip."""
        classifier = await self._classifier.open()
        if classifier.features == features:
            return other
        encoder = await self.usable(classifier)
        if encoder is None or encoder.features != features:
            return None
        [found] = await self._encoder.collect(EngineCall.of(WordEncoder.encode, clip, other), priority)
        return found

    async def embeddings(self, features: str, clips: Sequence[Samples]) -> Samples:
        """Those of several clips, as training work; of shape (clips, width). Raises WrongMode (model_changed)."""
        rows = [await self.embedding(features, clip, Priority.TRAINING) for clip in clips]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            raise WrongMode("the model was exchanged during the training; train again", code="model_changed")
        return np.stack(found)

    async def known(self) -> KnownClips:
        """The clips that are known in the best form. Raises WrongMode (not_teachable) where there are none."""
        engine = await self._classifier.open()
        encoder = await self.usable(engine)
        if encoder is not None:
            call = EngineCall.of(WordEncoder.known, engine.labels)
            if found := await self._encoder.collect(call, Priority.TRAINING):
                return KnownClips(encoder.features, found[0])
        found = await self._classifier.collect(EngineCall.of(CommandClassifier.replay), Priority.TRAINING)
        if not found:
            message = "the model in use cannot be taught, because it has no replay set; choose another command.model"
            raise WrongMode(message, code="not_teachable")
        return KnownClips(engine.features, found[0])
