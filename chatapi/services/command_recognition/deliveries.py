"""Tells other programs of commands: a signed webhook, and MQTT. Each has one attempt: a command is of its moment."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio

from chatapi.errors import SettingsError
from chatapi.jobs.webhooks import WebhookSender
from chatapi.services.command_recognition.actions import ActionKind, Deliver
from chatapi.settings import Settings

MQTT_SECONDS = 10.0
"""Longest time to connect and to publish, in seconds."""
PORTS = {"mqtt": 1883, "mqtts": 8883}


def command_deliveries(settings: Settings) -> dict[ActionKind, Deliver]:
    """Those that the settings have an address for. Raises SettingsError."""
    found: dict[ActionKind, Deliver] = {}
    if (sender := WebhookSender.of(settings.webhook)) is not None:

        async def post(message: str, body: bytes) -> None:
            await sender.prepare()
            await sender.post(message, body)

        found["webhook"] = post
    if settings.mqtt.url is not None:
        found["mqtt"] = MqttPublisher(settings.mqtt.url.get_secret_value()).publish
    return found


class MqttPublisher:
    """Publishes to one broker, with a connection for each message."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError, which does not repeat the URL."""
        wanted = "mqtt.url must be mqtt://USER:PASSWORD@HOST:PORT, or mqtts://"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise SettingsError(wanted) from None
        if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
            raise SettingsError(wanted)
        self._options: dict[str, Any] = {
            "hostname": parts.hostname,
            "port": port or PORTS[parts.scheme],
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
            "tls_context": ssl.create_default_context() if parts.scheme == "mqtts" else None,
        }
        try:
            import aiomqtt
        except ImportError as error:
            raise SettingsError("mqtt.url needs the extra mqtt: pip install 'chatapi-appliance[mqtt]'") from error
        self._client = aiomqtt.Client

    async def publish(self, topic: str, body: bytes) -> None:
        """Publish a message that arrives at least once (QoS 1). Raises what the client library raises, TimeoutError."""
        with anyio.fail_after(MQTT_SECONDS):
            async with self._client(**self._options, timeout=MQTT_SECONDS) as client:
                await client.publish(topic, body, qos=1)
