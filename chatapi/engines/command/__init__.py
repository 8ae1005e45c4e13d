"""Command classification engines: which of a few words a short clip is."""

from __future__ import annotations

from chatapi.engines import COMMAND_SAMPLES, CommandClassifier, CommandFeatures, CommandReplay
from chatapi.engines.call import EngineCall
from chatapi.engines.role import EngineEntry, Role, noise
from chatapi.settings import CommandSettings, Settings


def _warm_up(engine: CommandClassifier, settings: Settings) -> EngineCall[CommandFeatures]:
    return EngineCall.of(CommandClassifier.classify, noise(COMMAND_SAMPLES))


def _probe(engine: CommandClassifier) -> EngineCall[CommandFeatures]:
    return EngineCall.of(CommandClassifier.classify, noise(COMMAND_SAMPLES))


ROLE: Role[CommandClassifier] = Role(
    name="command",
    title="command classification",
    protocol=CommandClassifier,
    settings=CommandSettings,
    engines={
        "tc_resnet": EngineEntry(
            "chatapi.engines.command.tc_resnet:TcResNet", "onnxruntime", "pip install onnxruntime"
        ),
        "fake": EngineEntry("chatapi.engines.fake_sounds:FakeCommandClassifier", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=70,
    values=(CommandFeatures, CommandReplay),
)
