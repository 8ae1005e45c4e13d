"""Messages in the order of roles that a model's chat template accepts, whatever order clients send."""

from __future__ import annotations

import pytest

from chatapi.engines import PromptMessage
from chatapi.engines.llm.chat_template import ChatTemplate
from chatapi.engines.llm.role_rules import RoleRules

ANY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ALTERNATING = (
    "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set loop_messages = messages[1:] %}"
    "{%- else %}{% set system = '' %}{% set loop_messages = messages %}{% endif %}"
    "{%- for m in loop_messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[{{ system if loop.last }}{{ m.content }}]{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}"
)
"""Like Mistral's."""
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + ALTERNATING
)
"""Like the first Gemma's."""
SYSTEM_FIRST = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}<{{ m.role }}>{{ m.content }}"
    "{% endfor %}"
)
ROLES = {"S": "system", "U": "user", "A": "assistant"}
ORDERS = ("U", "S", "SU", "UU", "SUU", "UASU", "SAU", "SSU", "UAAU", "US", "USU", "AU", "A", "UAUS", "SUAUUA", "SAAUU")


def conversation(order: str) -> list[PromptMessage]:
    return [PromptMessage(ROLES[letter], f"{letter}{at}") for at, letter in enumerate(order)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("source", [ANY, ALTERNATING, NO_SYSTEM, SYSTEM_FIRST])
def test_every_order_is_accepted_and_loses_no_text(source: str, order: str) -> None:
    template, messages = ChatTemplate(source), conversation(order)
    fitted = RoleRules.of(template).fitted(messages)
    assert template.opened([{"role": each.role, "content": each.text} for each in fitted]) is not None
    words = " ".join(each.text for each in fitted).split()
    assert [word for word in words if word != "Hello."] == [each.text for each in messages]
    assert (fitted[-1].role == "assistant") == (messages[-1].role == "assistant")


def test_template_that_takes_everything_gets_the_messages_as_they_are() -> None:
    assert RoleRules.of(ChatTemplate(ANY)) == RoleRules.of(None) == RoleRules()
    messages = conversation("SUUASU")
    assert RoleRules().fitted(messages) == messages


@pytest.mark.parametrize(
    ("source", "order", "expected"),
    [
        (ALTERNATING, "SUU", [("system", "S0"), ("user", "U1\n\nU2")]),
        (ALTERNATING, "UASU", [("user", "U0"), ("assistant", "A1"), ("user", "S2\n\nU3")]),
        (ALTERNATING, "SAU", [("user", "S0"), ("assistant", "A1"), ("user", "U2")]),
        (ALTERNATING, "SSU", [("system", "S0\n\nS1"), ("user", "U2")]),
        (ALTERNATING, "AU", [("user", "Hello."), ("assistant", "A0"), ("user", "U1")]),
        (NO_SYSTEM, "SUA", [("user", "S0\n\nU1"), ("assistant", "A2")]),
        (
            SYSTEM_FIRST,
            "SUASU",
            [("system", "S0"), ("user", "U1"), ("assistant", "A2"), ("user", "S3"), ("user", "U4")],
        ),
    ],
)
def test_neighbours_are_joined_and_system_messages_moved(
    source: str, order: str, expected: list[tuple[str, str]]
) -> None:
    fitted = RoleRules.of(ChatTemplate(source)).fitted(conversation(order))
    assert [(each.role, each.text) for each in fitted] == expected


def test_empty_answer_between_two_questions_stays() -> None:
    messages = [PromptMessage("user", "a"), PromptMessage("assistant", ""), PromptMessage("user", "b")]
    assert RoleRules.of(ChatTemplate(ALTERNATING)).fitted(messages) == messages
