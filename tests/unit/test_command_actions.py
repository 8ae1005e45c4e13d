"""What commands do: how actions are written, what each does with a session, the webhook, a real MQTT broker."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field

import anyio
import pytest
from pydantic import SecretStr

from chatapi.errors import SettingsError
from chatapi.events import CommandDetection
from chatapi.services.command_recognition.actions import CommandActions
from chatapi.services.command_recognition.deliveries import command_deliveries
from chatapi.settings import Settings
from chatapi.settings.services import MqttSettings
from chatapi.settings.tables import WebhookSettings
from webhook_receiver import receiving

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + "A" * 32


@dataclass
class RecordedSession:
    """A session that records what commands do to it."""

    done: list[str] = field(default_factory=list)

    def drop_command(self) -> None:
        self.done.append("clear")

    async def cancel(self) -> bool:
        self.done.append("cancel")
        return True

    async def repeat(self) -> None:
        self.done.append("repeat")

    async def say(self, text: str) -> None:
        self.done.append(f"say {text}")


def detection(label: str) -> CommandDetection:
    return CommandDetection(label, 0.97, 1.0, 2.0, 3)


@pytest.mark.parametrize(
    ("entry", "done"),
    [
        ("stop=stop", ["clear", "cancel"]),
        ("Again = again", ["clear", "repeat"]),
        ("hello=say Good morning, all", ["clear", "say Good morning, all"]),
        ("other=stop", []),
    ],
)
async def test_a_command_runs_its_action_and_others_are_left_to_the_conversation(entry: str, done: list[str]) -> None:
    session = RecordedSession()
    word = entry.partition("=")[0].strip().lower()
    await CommandActions((entry,), {}).run(detection("lamp" if word == "other" else word), session)
    assert session.done == done


@pytest.mark.parametrize(
    "entry",
    [
        "stop",
        "=stop",
        "lamp=blink",
        "lamp=say",
        "lamp=stop now",
        "lamp=webhook",
        "lamp=mqtt home/lamp",
        "lamp=mqtt a/#",
    ],
)
def test_an_action_that_cannot_be_run_is_rejected(entry: str) -> None:
    with pytest.raises(SettingsError) as raised:
        CommandActions((entry,), {})
    assert "commands.actions" in raised.value.message


async def test_a_webhook_is_signed_and_a_receiver_that_fails_ends_nothing() -> None:
    with receiving() as receiver:
        receiver.statuses = [500]
        url = SecretStr(f"http://127.0.0.1:{receiver.port}/hook")
        settings = Settings(webhook=WebhookSettings(url=url, secret=SecretStr(SECRET), private=True))
        actions = CommandActions(("lamp=webhook",), command_deliveries(settings))
        for _ in range(2):
            await actions.run(detection("lamp"), RecordedSession())
    assert len(receiver.received) == 2
    found = receiver.received[1]
    assert found.document["type"] == "command.detected"
    assert found.document["data"] == {"command": "lamp", "probability": 0.97, "version": 3}
    assert found.headers["webhook-signature"].startswith("v1,")
    assert found.id != receiver.received[0].id


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_broker_gets_the_command() -> None:
    aiomqtt = pytest.importorskip("aiomqtt")
    broker_module = pytest.importorskip("amqtt.broker")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listeners = {"default": {"type": "tcp", "bind": address}}
    broker = broker_module.Broker({"listeners": listeners, "plugins": plugins})
    await broker.start()
    try:
        settings = Settings(mqtt=MqttSettings(url=SecretStr(f"mqtt://{address}")))
        actions = CommandActions(("lamp=mqtt home/lamp",), command_deliveries(settings))
        async with aiomqtt.Client("127.0.0.1", port) as client:
            await client.subscribe("home/#", qos=1)
            await actions.run(detection("lamp"), RecordedSession())
            with anyio.fail_after(20):
                message = await anext(aiter(client.messages))
        assert str(message.topic) == "home/lamp"
        assert json.loads(message.payload)["data"]["command"] == "lamp"
    finally:
        await broker.shutdown()


@pytest.mark.parametrize("url", ["http://host", "mqtt://", "mqtt://host:port", "mqtt://host/topic"])
def test_an_address_that_is_no_broker_is_rejected(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        command_deliveries(Settings(mqtt=MqttSettings(url=SecretStr(url))))
    assert "mqtt.url must be" in raised.value.message
