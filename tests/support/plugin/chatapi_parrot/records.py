"""The records of the plug-in's engine and of its role."""

from chatapi.engines.call import EngineCall
from chatapi.engines.role import EngineEntry, Role, noise
from chatapi.settings import Settings
from chatapi_parrot.loudness import LoudnessMeter
from chatapi_parrot.settings import LoudnessSettings

PARROT = EngineEntry("chatapi_parrot.parrot:Parrot", needs_model=False)


def _warm_up(engine: LoudnessMeter, settings: Settings) -> EngineCall[float]:
    return EngineCall.of(LoudnessMeter.loudness, noise(16_000))


def _probe(engine: LoudnessMeter) -> EngineCall[float]:
    return EngineCall.of(LoudnessMeter.loudness, noise(320))


LOUDNESS: Role[LoudnessMeter] = Role(
    name="loudness",
    title="loudness of audio",
    protocol=LoudnessMeter,
    settings=LoudnessSettings,
    engines={"rms": EngineEntry("chatapi_parrot.loudness:RmsMeter", needs_model=False)},
    warm_up=_warm_up,
    probe=_probe,
)
