"""`chatapi serve`: the appliance and its faces, until a signal."""

from __future__ import annotations

import logging
import sys
import time

import anyio

from chatapi.appliance import ESSENTIAL, Appliance
from chatapi.errors import alone
from chatapi.faces.mic.conversation import MicConversation
from chatapi.faces.web.app import bound, carry, create_app, server
from chatapi.settings import Settings

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> int:
    """Listen at once, load meanwhile; `/ready` tells when. Raises what keeps the models from loading."""
    begun = time.monotonic()
    listening = bound(settings.server.host, settings.server.port)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    _warn_if_open(settings, host)
    try:
        async with Appliance(settings).running() as appliance, anyio.create_task_group() as group:
            web = server(create_app(appliance))

            async def answering() -> None:
                await carry(web, listening, settings)
                group.cancel_scope.cancel()

            group.start_soon(answering)
            roles = ESSENTIAL
            if settings.mic.enabled:
                appliance.microphone = conversation = MicConversation(appliance)
                appliance.parts["mic"] = lambda: conversation.health
                roles = (*roles, *conversation.roles)
                group.start_soon(conversation.run)
            _tell(f"listening on {url}, loading models")
            await appliance.load(roles)
            _tell(f"ready after {time.monotonic() - begun:.1f} s: {url}")
    except Exception as error:
        raise alone(error) from None
    finally:
        listening.close()
    return 0


def _tell(line: str) -> None:
    print(f"chatapi {line}", flush=True)


def _warn_if_open(settings: Settings, host: str) -> None:
    if settings.server.api_key is None and host not in ("127.0.0.1", "::1"):
        print(f"chatapi: {host} is open to everyone on the network; set server.api_key to close it", file=sys.stderr)
