"""The fields and the rendering of python/mlc_llm/protocol/conversation_protocol.py, for texts."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Conversation(BaseModel):
    name: str | None = None
    system_template: str = "{system_message}"
    system_message: str = ""
    system_prefix_token_ids: list[int] | None = None
    add_role_after_system_message: bool = True
    roles: dict[str, str]
    role_templates: dict[str, str] = {"user": "{user_message}", "assistant": "{assistant_message}"}
    messages: list[tuple[str, str | None]] = Field(default_factory=list)
    seps: list[str]
    role_content_sep: str = ""
    role_empty_sep: str = ""
    stop_str: list[str] = Field(default_factory=list)
    stop_token_ids: list[int] = Field(default_factory=list)

    def as_prompt(self, config: Any = None) -> list[Any]:
        """All texts put together are one item, as in the original."""
        system = self.system_template.replace("{system_message}", self.system_message)
        return [system + "".join(self._rendered(number, bool(system)) for number in range(len(self.messages)))]

    def _rendered(self, number: int, after_system: bool) -> str:
        role, text = self.messages[number]
        if role not in self.roles:
            raise ValueError(f'Role "{role}" is not a supported role in {self.roles.keys()}')
        if text is None:
            return self.roles[role] + self.role_empty_sep
        bare = number == 0 and after_system and not self.add_role_after_system_message
        head = "" if bare else self.roles[role] + self.role_content_sep
        content = self.role_templates[role].replace("{" + role + "_message}", text)
        return head + content + (self.seps[-1] if role == "assistant" else self.seps[0])
