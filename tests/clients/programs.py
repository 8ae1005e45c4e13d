"""The programs: their pinned packages, their scripts, and what is known not to work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Program:
    """A third-party client, and the script that has it do its normal job."""

    name: str
    """Name in the table."""
    script: str
    """File in `scripts/`; one that ends in .mjs runs in Node."""
    packages: tuple[str, ...]
    """Pinned packages, as pip or npm takes them. The first one is the program, whose version the table states."""
    python: tuple[int, int] = (3, 11)
    """The least Python that it runs on."""
    fails: Mapping[str, str] = field(default_factory=dict)
    """Feature -> why it does not work. When it works, the test says so."""
    options: tuple[str, ...] = ()
    """Options of pip."""

    @property
    def is_node(self) -> bool:
        return self.script.endswith(".mjs")

    @property
    def folder(self) -> str:
        """Name of its environment."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def version(self) -> str:
        return self.packages[0].rpartition("@" if self.is_node else "==")[2]


NO_EMBEDDINGS = "the server has no embedding model"

PROGRAMS = (
    Program("openai", "openai_client.py", ("openai[realtime]==3.57.0",)),
    Program("openai for Node", "openai_node_client.mjs", ("openai@7.59.0", "ws@8.23.0")),
    Program("openai-agents", "openai_agents_client.py", ("openai-agents[voice]==0.24.0",)),
    Program(
        "openai-agents for Node",
        "openai_agents_node_client.mjs",
        ("@openai/agents@0.20.0", "openai@7.59.0", "zod@4.6.7"),
    ),
    Program(
        "AI SDK",
        "ai_sdk_client.mjs",
        ("ai@6.0.326", "@ai-sdk/openai@3.0.141", "@ai-sdk/openai-compatible@2.0.92", "zod@4.6.7"),
        fails={"embed": NO_EMBEDDINGS},
    ),
    Program("Pipecat", "pipecat_client.py", ("pipecat-ai[openai,silero]==1.14.0",)),
    Program(
        "LiveKit Agents",
        "livekit_client.py",
        ("livekit-agents==1.8.9", "livekit-plugins-openai==1.8.9", "livekit-plugins-silero==1.8.9"),
    ),
    Program(
        "LangChain",
        "langchain_client.py",
        ("langchain-openai==1.7.4", "langchain==1.5.2"),
        fails={"embeddings": NO_EMBEDDINGS},
    ),
    Program("LiteLLM", "litellm_client.py", ("litellm==1.110.2",)),
    Program("Instructor", "instructor_client.py", ("instructor==1.17.0",)),
    Program("llm", "llm_client.py", ("llm==0.36",)),
    Program(
        "LlamaIndex",
        "llama_index_client.py",
        ("llama-index-llms-openai==0.8.3", "llama-index-llms-openai-like==0.8.1"),
    ),
    Program("Wyoming", "wyoming_client.py", ("wyoming==1.10.2",)),
    Program("Wyoming Satellite", "wyoming_satellite_client.py", ("wyoming-satellite==1.0.0",)),
    Program("Wyoming OpenAI", "wyoming_openai_client.py", ("wyoming-openai==0.8.0",), (3, 12)),
    Program(
        "Home Assistant",
        "home_assistant_client.py",
        # What its integrations state in their manifests, and pycares as it was when this version came out.
        (
            "homeassistant==2025.11.3",
            "home-assistant-frontend==20251105.1",
            "home-assistant-intents==2025.11.7",
            "ha-ffmpeg==3.2.2",
            "hassil==3.4.0",
            "mutagen==1.47.0",
            "openai==2.2.0",
            "pycares==4.11.0",
            "pymicro-vad==1.0.1",
            "pyspeex-noise==1.0.2",
            "PyTurboJPEG==1.8.0",
            "wyoming==1.7.2",
        ),
        (3, 13),
        fails={
            "device control by the Wyoming conversation agent": "it has no tools of Home Assistant",
        },
        options=("--ignore-requires-python",),
    ),
)
"""All programs, in the order of the table."""
