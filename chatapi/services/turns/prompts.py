"""Prompts: the protocol that generation uses, a question in a stored conversation, and the messages of a caller."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from chatapi.engines import Capability, ContextOverflow, LanguageModel, PromptMessage, Sampling, TokenChunk
from chatapi.engines.call import EngineCall
from chatapi.errors import TooLarge, Unprocessable
from chatapi.services.turns import tool_call_parser
from chatapi.services.turns.reasoning import ReasoningFilter
from chatapi.services.turns.tool_call_parser import AnswerReader
from chatapi.storage.history import ConversationState, ToolResult

FILLED_SHARE = 0.7
"""Share of the context that stays filled after the oldest exchanges are dropped; the rest is room for further turns
before the prompt changes at its start and the prompt cache is lost."""

MIN_ANSWER_TOKENS = 16
"""Least room for an answer, in tokens; a higher limit is lowered to the room that the context has left."""


class Prompt(Protocol):
    """The messages for the model, and how to generate from them."""

    def messages(self) -> list[PromptMessage]:
        """The messages for the model."""

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, capabilities: Container[Capability]
    ) -> tuple[EngineCall[TokenChunk], AnswerReader]:
        """The call of the model, whose engine has these capabilities, and the reader of its chunks."""

    def shortened(self: P, overflow: ContextOverflow, sampling: Sampling) -> P:
        """A prompt that fits the context. Raises CallerError where there is none."""


P = TypeVar("P", bound=Prompt)


class PromptCall:
    """The call for a prompt, which depends on what the engine can do: another one may run it than there was before."""

    def __init__(
        self, prompt: Prompt, messages: Sequence[PromptMessage], sampling: Sampling, answer: ReasoningFilter
    ) -> None:
        self._prompt, self._messages, self._sampling, self._answer = prompt, messages, sampling, answer
        self.engine: LanguageModel | None = None
        """The engine that runs it; None: none yet."""
        self.reader = AnswerReader(())
        """The reader of its chunks."""

    def call(self, engine: LanguageModel) -> EngineCall[TokenChunk]:
        call, self.reader = self._prompt.generate(self._messages, self._sampling, engine.capabilities)
        self.engine, self.reader.reasoning = engine, self._answer
        return call


@dataclass(frozen=True)
class Question:
    """The next question in a stored conversation."""

    conversation_state: ConversationState
    text: str
    system: str
    """System prompt where the conversation has none of its own."""
    results: tuple[ToolResult, ...] = ()
    """Tool results since the last answer."""

    def messages(self) -> list[PromptMessage]:
        conversation_state = self.conversation_state
        messages = [
            PromptMessage("system", conversation_state.system if conversation_state.system is not None else self.system)
        ]
        for exchange in conversation_state.exchanges:
            _append_question(messages, exchange.results, exchange.asked)
            messages.append(PromptMessage("assistant", exchange.answered))
        _append_question(messages, self.results, self.text)
        return [message for message in messages if message.text or message.calls or message.call]

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, capabilities: Container[Capability]
    ) -> tuple[EngineCall[TokenChunk], AnswerReader]:
        return tool_call_parser.generate(messages, sampling, capabilities)

    def shortened(self, overflow: ContextOverflow, sampling: Sampling) -> Question:
        """The question without its oldest exchanges, so that it fits with room to spare.

        Raises TooLarge (prompt_too_long).
        """
        conversation_state = self.conversation_state
        if not conversation_state.exchanges:
            raise TooLarge(
                f"the prompt and the reserve for its answer need {overflow.needed} tokens; the model's context has "
                f"{overflow.context}{_remedy(overflow)}",
                code="prompt_too_long",
                details={"needed_tokens": overflow.needed, "context_tokens": overflow.context},
            )
        lengths = [
            len(exchange.asked) + len(exchange.answered) + _length(exchange.results)
            for exchange in conversation_state.exchanges
        ]
        question = len(self.text) + _length(self.results)
        tokens_per_char = overflow.needed / (sum(lengths) + question + len(conversation_state.system or "") + 1)
        excess = (overflow.needed - FILLED_SHARE * overflow.context) / tokens_per_char
        dropped = 1
        while dropped < len(lengths) and sum(lengths[:dropped]) < excess:
            dropped += 1
        return replace(
            self, conversation_state=replace(conversation_state, exchanges=conversation_state.exchanges[dropped:])
        )


@dataclass(frozen=True)
class FixedPrompt:
    """The messages of the caller; none is ever dropped."""

    given: tuple[PromptMessage, ...]
    max_tokens: int | None = None
    """Tokens that the context has left for the answer; None: the prompt fits so far."""

    def messages(self) -> list[PromptMessage]:
        return list(self.given)

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, capabilities: Container[Capability]
    ) -> tuple[EngineCall[TokenChunk], AnswerReader]:
        if self.max_tokens is not None:
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self.max_tokens))
        return tool_call_parser.generate(messages, sampling, capabilities)

    def shortened(self, overflow: ContextOverflow, sampling: Sampling) -> FixedPrompt:
        """The prompt with room for a shorter answer. Raises Unprocessable (context_length_exceeded)."""
        needed = overflow.needed - min(sampling.max_tokens, self.max_tokens or sampling.max_tokens)
        room = overflow.context - needed
        # A continued answer has less room each time, because its text so far is part of the prompt.
        if room >= MIN_ANSWER_TOKENS if self.max_tokens is None else 1 <= room < self.max_tokens:
            return replace(self, max_tokens=room)
        raise Unprocessable(
            f"the messages need {needed} tokens; the model's context has {overflow.context}, the answer "
            f"included{_remedy(overflow)}",
            code="context_length_exceeded",
            details={"param": "messages", "needed_tokens": overflow.needed, "context_tokens": overflow.context},
        )


def _remedy(overflow: ContextOverflow) -> str:
    return f": {overflow.remedy}" if overflow.remedy else ""


def _append_question(messages: list[PromptMessage], results: Sequence[ToolResult], text: str) -> None:
    """Append a question after the tool calls and results that precede it.

    Servers with tool support reject a call without its result, and a result without its call.
    """
    if results:
        # The call joins the text before it: templates (Mistral's) reject two messages in a row of the same role.
        before = messages.pop().text if messages and messages[-1].role == "assistant" else ""
        messages.append(PromptMessage("assistant", before, tuple(result.call for result in results)))
        messages += [PromptMessage("tool", result.output, call=result.call.id) for result in results]
    messages.append(PromptMessage("user", text))


def _length(results: Sequence[ToolResult]) -> int:
    return sum(len(result.call.name) + len(result.call.arguments) + len(result.output) for result in results)
