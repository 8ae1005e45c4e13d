"""Texts that are hard on a prompt and on a voice: many scripts, dots, abbreviations, nothing at all."""

from __future__ import annotations

import random

from hypothesis import strategies as st

SCRIPTS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "äöüßéèçñøåæ",
    "абвгдежзиклмнопрст",
    "αβγδεζηθικλμ",
    "אבגדהוזחטיכלמ",
    "ابتثجحخدذرزسش",
    "अआइईउऊकखगघङ",
    "กขฃคฅฆงจฉ",
    "的一是不了人我在有他",
    "あいうえおかきくけこ",
    "アイウエオカキ",
    "가나다라마바사",
    "ქართული",
    "հայերեն",
    "አማርኛ",
    "ᚠᚢᚦᚨᚱᚲ",
    "😀👩‍👩‍👧‍👦🏳️‍🌈🇩🇪",
    "e\u0301o\u0308n\u0303",
    "\u202e\u200f\u200d\u200b\ufeff",
    "0123456789",
    "٠١٢٣٤٥",
    "½¼²³€$£%&@#*",
    "\u0001\u0007\u001b\u0085\u2028",
    "\ufffe\uffff\U0010ffff",
)
ABBREVIATIONS = (
    "U.S.A.", "p.m.", "a.m.", "e.g.", "i.e.", "Dr.", "St.", "No.", "b.", "s'", "Ph.D.", "z.B.", "d.h.", "u.s.w.",
    "J.R.R.", "3.14.15", "1.2.3.4", "www.example.com", "a.b@c.d", "...", "?!", "§1.", "Fig.", "x.y.z.", "'s", "N.A.T.",
)  # fmt: skip
PLAIN = ("What is the capital of France? Tell me about the sea. It is 5 p.m. in Washington, D.C.").split()  # noqa: SIM905


def dotted(rng: random.Random) -> str:
    """Repeated abbreviations, with and without spaces: what espeak-ng's buffers could not hold."""
    parts = [rng.choice(ABBREVIATIONS) for _ in range(rng.choice((1, 1, 2, 4)))]
    if rng.random() < 0.3:
        letters = rng.choice(SCRIPTS)
        parts = [rng.choice(letters) + rng.choice((".", "'", ",", ":", "-")) for _ in range(rng.randint(1, 4))]
    between = rng.choice(("", "", " ", ".", "'", "\n"))
    return (between.join(parts) + between) * rng.choice((1, 10, 50, 70, 100, 150))


def mixed(rng: random.Random) -> str:
    """Letters of several scripts."""
    chosen = rng.sample(SCRIPTS, rng.choice((1, 2, 3)))
    return "".join(
        " " if rng.random() < 0.15 else rng.choice(rng.choice(chosen)) for _ in range(rng.choice((1, 8, 60, 300)))
    )


def plain(rng: random.Random) -> str:
    return " ".join(rng.choice(PLAIN) for _ in range(rng.choice((1, 3, 8, 20))))


def long(rng: random.Random) -> str:
    """About as long as is allowed, and longer."""
    return (rng.choice(PLAIN) + rng.choice((" ", "", "."))) * rng.choice((500, 2000, 4000))


def text(rng: random.Random) -> str:
    """Any of them."""
    roll = rng.random()
    if roll < 0.35:
        return plain(rng)
    if roll < 0.6:
        return dotted(rng)[:1500]
    if roll < 0.95:
        return mixed(rng)
    return rng.choice(("", " ", "\n" * 50, "\x00", "\ud800", long(rng)))


TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(ABBREVIATIONS), min_size=1, max_size=60).map("".join),
    st.lists(st.sampled_from(ABBREVIATIONS), min_size=1, max_size=60).map(" ".join),
    st.builds(lambda part, times: part * times, st.text(min_size=1, max_size=4), st.integers(1, 200)),
)
"""The same by hypothesis, which finds characters that no list names."""
