"""The markers in the output of models: of reasoning, of chat templates (special tokens as text), and of roles."""

from __future__ import annotations

from enum import Enum


class MarkerMeaning(Enum):
    """What a marker means."""

    OPEN = "reasoning begins"
    CLOSE = "reasoning ends"
    CHANNEL = "a header of gpt-oss begins, which ends with MESSAGE"
    ROLE = "a message begins; its role follows"
    FOREIGN = "the message of another role begins, so that the answer is over"
    DROPPED = "it means nothing to a reader"


CHANNELS = ("<|channel|>", "<|start|>")
MESSAGE = "<|message|>"
"""End of a header of gpt-oss (https://cookbook.openai.com/articles/openai-harmony)."""

_TAGS = (
    "think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad", "seed:think",
    "seed:cot_budget_reflect", "inner_thoughts", "inner_monologue",
)  # fmt: skip
CLOSINGS: dict[str, tuple[str, ...]] = {
    **{f"<{tag}>": (f"</{tag}>", "</think>") for tag in _TAGS},
    # Magistral, Kimi, Sky-T1, Command A, Gemma 3 and 4.
    "[think]": ("[/think]",),
    "◁think▷": ("◁/think▷",),
    "<|begin_of_thought|>": ("<|end_of_thought|>",),
    "<|start_thinking|>": ("<|end_thinking|>",),
    "<|think_start|>": ("<|think_end|>",),
    "<unused94>thought": ("<unused95>",),
    "<|channel>thought": ("<channel|>",),
}
"""Marker that opens reasoning -> the markers that close it; both in lower case, as all markers here."""

# Of ChatML, Llama 3, Gemma, Mistral, Phi, Granite, DeepSeek, OLMo and gpt-oss.
_ROLES = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|start_of_role|>", "<|turn>")
_FOREIGN = ("[inst]", "<|user|>", "<|system|>", "<|observation|>", "<｜user｜>", "<|user_start|>")
_DROPPED = (
    "<|im_end|>", "<|im_sep|>", "<|end_header_id|>", "<|end_of_role|>", "<|end_of_text|>", "<|endoftext|>",
    "<|begin_of_text|>", "<|startoftext|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eos|>", "<|end|>", "<|return|>",
    "<|call|>", "<|assistant|>", "<|endofprompt|>", "<|constrain|>", MESSAGE, "<end_of_turn>", "<turn|>", "<eos>",
    "<bos>", "<pad>", "<unk>", "<s>", "</s>", "[/inst]", "<｜assistant｜>", "<｜end▁of▁sentence｜>",
    "<｜begin▁of▁sentence｜>", "<|begin_of_solution|>", "<|end_of_solution|>", "<|start_response|>",
    "<|end_response|>", "<|start_text|>", "<|end_text|>", "<|end_of_turn_token|>", "<|start_of_turn_token|>",
    "<|chatbot_token|>", "<think/>",
)  # fmt: skip

MARKERS: dict[str, MarkerMeaning] = {
    **dict.fromkeys(_DROPPED, MarkerMeaning.DROPPED),
    **dict.fromkeys(_FOREIGN, MarkerMeaning.FOREIGN),
    **dict.fromkeys(_ROLES, MarkerMeaning.ROLE),
    **dict.fromkeys(CHANNELS, MarkerMeaning.CHANNEL),
    **{closing: MarkerMeaning.CLOSE for closings in CLOSINGS.values() for closing in closings},
    **dict.fromkeys(CLOSINGS, MarkerMeaning.OPEN),
}
LONGEST = max(map(len, MARKERS))
ANSWERING_ROLES = frozenset(("assistant", "model", "assistant_response"))
OTHER_ROLES = frozenset(("user", "system", "tool", "human", "ipython", "developer", "environment", "function"))

START_MARKERS = ("assistant\n", "assistant\r\n", "model\n")
"""What is left of a header at the start of an answer when a tokenizer drops special tokens."""
STRIPPED_CHANNEL, STRIPPED_FINAL = "analysis", "assistantfinal"
"""What is left of gpt-oss's headers then: the first before the reasoning, the second before the answer."""
REASONING_STARTS = (
    "the user ", "okay, the user", "ok, the user", "alright, the user", "hmm, the user", "so the user", "okay, so the",
    "okay, so i need", "alright, so i ", "alright, so the user", "first, the user", "okay, let me ", "okay, let's see",
    "we need to respond", "we need to answer", "let me think about what the user",
)  # fmt: skip
"""How reasoning begins whose opening marker is in the prompt. Such an answer is held until its closing marker, or its
end: a wrong guess costs time and no text."""
