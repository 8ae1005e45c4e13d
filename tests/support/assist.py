"""A request as Home Assistant's Assist sends it to a conversation agent: 40 devices and 14 tools with its intents."""

from __future__ import annotations

from typing import Any

AREAS = ("Kitchen", "Living Room", "Bedroom", "Bathroom", "Office", "Hallway", "Garage", "Garden")
DEVICES = ("Ceiling Light", "Window Blind", "Temperature Sensor", "Smart Plug", "Media Player")
DOMAINS = ("light", "cover", "sensor", "switch", "media_player")
DETAILS = (
    "supports brightness from 1 to 100 percent and color temperature",
    "supports a position from 0, which is closed, to 100, which is open",
    "reports degrees Celsius and the percentage of humidity every minute",
    "reports its power in watts and its energy in kilowatt hours",
    "supports volume, pause, next track, previous track and search",
)
TOOLS = (
    "HassTurnOn", "HassTurnOff", "HassLightSet", "HassSetPosition", "HassClimateSetTemperature", "HassMediaPause",
    "HassMediaUnpause", "HassMediaNext", "HassMediaSearchAndPlay", "HassSetVolume", "HassStartTimer", "HassCancelTimer",
    "HassListAddItem", "GetLiveContext",
)  # fmt: skip
SYSTEM_CHARS, TOOLS_CHARS = 9000, 12_000


def system_prompt(home: str = "the family home", time: str = "14:23:05") -> str:
    """The system prompt of one home, SYSTEM_CHARS long, which ends with the time."""
    lines = [
        f"You control {home} through its tools. Answer in plain words, in one or two sentences, because they are",
        "spoken aloud. Prefer the name and the domain of a device; for a whole room pass the area and the domain.",
        "These are the areas and the devices that you may use:",
    ]
    for area in AREAS:
        for device, domain, detail in zip(DEVICES, DOMAINS, DETAILS, strict=True):
            lines += [f"- names: {area} {device}", f"  domain: {domain}", f"  areas: {area}"]
            lines.append(f"  description: The {device.lower()} in the {area.lower()} {detail}.")
    end = f"\nCurrent time is {time}. Today's date is 2025-11-24."
    text = "\n".join(lines)
    filler = "\nAsk which room is meant when a request could mean devices in several rooms of the home."
    while len(text) + len(end) < SYSTEM_CHARS:
        text += filler
    return text[: SYSTEM_CHARS - len(end)] + end


def tools() -> list[dict[str, Any]]:
    """The tools, some TOOLS_CHARS of JSON."""
    return [{"type": "function", "function": _function(name)} for name in TOOLS]


def _function(name: str) -> dict[str, Any]:
    slots = {
        "name": "Name of one device or alias, exactly as it is listed for the home",
        "area": "Area whose devices are meant, exactly as it is listed for the home",
        "floor": "Floor whose devices are meant, such as Ground Floor or First Floor",
    }
    properties: dict[str, Any] = {key: {"type": "string", "description": text} for key, text in slots.items()}
    domains = {"type": "array", "items": {"type": "string", "enum": list(DOMAINS)}}
    properties["domain"] = {**domains, "description": "Kinds of devices that are meant"}
    number = {"type": "integer", "minimum": 0, "maximum": 100}
    properties["value"] = {**number, "description": "Percentage of brightness, position or volume"}
    return {
        "name": name,
        "description": f"Runs the intent {name} for the devices with this name, or for all of the area or floor",
        "parameters": {"type": "object", "properties": properties, "required": []},
    }


def request(home: str = "the family home", time: str = "14:23:05", question: str = "") -> dict[str, Any]:
    """The body of a chat completion request."""
    messages = [
        {"role": "system", "content": system_prompt(home, time)},
        {"role": "user", "content": question or "Turn on the ceiling light in the kitchen, please."},
    ]
    return {"model": "default", "messages": messages, "tools": tools()}
