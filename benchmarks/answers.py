"""Judges a language model's answers to the everyday questions of answers.tsv: correct, short, plain, speakable.

python benchmarks/answers.py [--url http://localhost:8000] [--times 5] [--body '{"temperature": 0}'] [--show]

The server is chatapi or another one with OpenAI's chat API; `--body` adds parameters to every request.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from chatapi.settings.roles import SYSTEM

QUESTIONS = Path(__file__).with_name("answers.tsv")
LONGEST_WORDS = 60
"""Words of an answer that is short: one to three sentences."""
REPEATED_WORDS = 5
"""Consecutive words that a plain answer does not repeat."""
MARKUP = re.compile(r"[*#_`|<>{}\[\]\\^~=]|https?:|^\s*(?:[-•+]|\d+[.)])\s", re.MULTILINE)
UNSPEAKABLE = re.compile(r"[^\w\s.,;:!?'\"%$€£°&/()+\u2010-\u201f\u2026-]|\(|\)")
MAX_TOKENS = 100


@dataclass(frozen=True)
class Verdict:
    """What one answer is."""

    correct: bool
    """It has one of the key words."""
    short: bool
    """At most LONGEST_WORDS, and it ended by itself."""
    plain: bool
    """No markup, lists or repetition."""
    speakable: bool
    """No parentheses, symbols or emoji, and not empty."""


def judged(answer: str, key_words: str, finished: bool) -> Verdict:
    """The verdict on an answer; `key_words`: alternatives, separated by `|`; `finished`: not cut at MAX_TOKENS."""
    has_key = any(re.search(rf"(?<!\w){re.escape(key)}(?!\w)", answer, re.IGNORECASE) for key in key_words.split("|"))
    words = re.findall(r"\w+", answer.lower())
    runs = Counter(tuple(words[at : at + REPEATED_WORDS]) for at in range(len(words) - REPEATED_WORDS + 1))
    repeated = any(count > 1 for count in runs.values())
    plain = not MARKUP.search(answer) and not repeated
    speakable = bool(words) and not UNSPEAKABLE.search(answer)
    return Verdict(has_key, finished and len(words) <= LONGEST_WORDS, plain, speakable)


async def answer(client: httpx.AsyncClient, question: str, seed: int, extra: Mapping[str, object]) -> tuple[str, bool]:
    """The answer and whether it ended by itself."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    body = {"model": "default", "messages": messages, "max_tokens": MAX_TOKENS, "seed": seed, **extra}
    response = await client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    choice = response.json()["choices"][0]
    return choice["message"]["content"] or "", choice["finish_reason"] == "stop"


def questions() -> Sequence[tuple[str, str]]:
    """Each question and its key words."""
    with QUESTIONS.open(encoding="utf-8", newline="") as file:
        return [(row["question"], row["key words"]) for row in csv.DictReader(file, delimiter="\t")]


def table(verdicts: Sequence[Verdict]) -> str:
    """Shares of all answers, in percent."""
    columns = ("correct", "short", "plain", "speakable")
    shares = [sum(getattr(each, column) for each in verdicts) / len(verdicts) for column in columns]
    shares.append(sum(all(vars(each).values()) for each in verdicts) / len(verdicts))
    head = f"| {' | '.join((*columns, 'all four'))} |\n|{' ---: |' * len(shares)}"
    return f"{head}\n| {' | '.join(f'{100 * share:.1f} %' for share in shares)} |"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--times", type=int, default=5, help="how often each question is asked, with another seed")
    parser.add_argument("--body", type=json.loads, default={}, help="JSON that is added to every request")
    parser.add_argument("--clients", type=int, default=4, help="requests at once")
    parser.add_argument("--show", action="store_true", help="print every answer")
    chosen = parser.parse_args()
    room = asyncio.Semaphore(chosen.clients)
    async with httpx.AsyncClient(base_url=chosen.url, timeout=300) as client:

        async def one(question: str, key_words: str, seed: int) -> Verdict:
            async with room:
                text, finished = await answer(client, question, seed, chosen.body)
            verdict = judged(text, key_words, finished)
            if chosen.show:
                failed = " ".join(name for name, good in vars(verdict).items() if not good)
                print(f"{question}\t{text!r}\tnot {failed}" if failed else f"{question}\t{text!r}")
            return verdict

        asked = [(question, keys, seed) for seed in range(chosen.times) for question, keys in questions()]
        print(table(await asyncio.gather(*(one(*each) for each in asked))))


if __name__ == "__main__":
    asyncio.run(main())
