"""What the commands do: the appliance at work for somebody at a terminal."""

from chatapi.commands.bench import bench
from chatapi.commands.models import models
from chatapi.commands.serve import serve
from chatapi.commands.status import check
from chatapi.commands.turns import ask, say, transcribe

__all__ = ["ask", "bench", "check", "models", "say", "serve", "transcribe"]
