"""The engine processes of this one."""

from __future__ import annotations

import psutil

ROLES = ("asr", "llm", "tts", "turn_detection", "speaker")
"""Roles whose engine can run in a process."""
IN_PROCESSES = tuple(f"{role}.worker=process" for role in ROLES)
"""Settings with which they do."""


def engine_processes() -> dict[str, psutil.Process]:
    """Role -> the process of its engine."""
    found = {}
    for each in psutil.Process().children():
        try:
            command = each.cmdline()
        except psutil.Error:
            continue
        if "chatapi.runtime.engine_child" in command:
            found[command[command.index("chatapi.runtime.engine_child") + 1]] = each
    return found
