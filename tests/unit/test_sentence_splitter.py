"""The sentence splitter: text is split where a voice may pause, as soon as that is certain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.text.sentence_splitter import LIMIT, SentenceSplitter, ends


def split(text: str) -> list[str]:
    splitter = SentenceSplitter()
    return [*splitter.feed(text), *splitter.finish()]


def without_space(text: str) -> str:
    return "".join(text.split())


FRAGMENTS = st.sampled_from(
    [" ", " ", " ", " ", "\n", "\n\n", ".", ". ", "? ", "! ", ", ", "; ", ": ", " — ", " - ", "...", "… ", "3.14", "5.",
     "1,000", "10:30", "Dr. ", "e.g. ", "U.S. ", "p.m. ", "No. ", "J. ", "The ", "and ", "he", "Army", "Oktober",
     "word", "another", "**", "_", '"', "”", "(", ")", "- ", "1. ", "# ", "| ", "```", "```\n", "`", "好", "的，",
     "了。", "？", "है।", "؟", "😊", "www.example.com", "x" * 40, "y" * 310, "\t", "\u00a0", "\r\n"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=60).map("".join)


@given(TEXTS)
def test_nothing_is_lost_but_white_space(text: str) -> None:
    assert without_space("".join(split(text))) == without_space(text)


@given(TEXTS, st.data())
def test_pieces_do_not_depend_on_the_chunk_size(text: str, data: st.DataObject) -> None:
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    splitter = SentenceSplitter()
    pieces = [
        piece
        for start, end in zip([0, *ends], [*ends, len(text)], strict=True)
        for piece in splitter.feed(text[start:end])
    ]
    assert [*pieces, *splitter.finish()] == split(text)


@given(TEXTS)
def test_pieces_are_stripped_never_empty_and_never_longer_than_the_limit(text: str) -> None:
    for piece in split(text):
        assert piece == piece.strip() != ""
        assert len(piece) <= LIMIT or piece.startswith("```")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Yes. It is sunny. Bring a hat!", ["Yes.", "It is sunny.", "Bring a hat!"]),
        ("hello there. how are you? fine.", ["hello there.", "how are you?", "fine."]),
        ("Pi is 3.14. It costs 1,000,000.", ["Pi is 3.14.", "It costs 1,000,000."]),
        ("Eat fruit e.g. Apples. Be healthy.", ["Eat fruit e.g. Apples.", "Be healthy."]),
        ("Dr. Smith met Mrs. Jones. They left.", ["Dr. Smith met Mrs. Jones.", "They left."]),
        ("The U.S. Army came. In the U.S. The end.", ["The U.S. Army came.", "In the U.S.", "The end."]),
        ("J. K. Rowling wrote it. Good.", ["J. K. Rowling wrote it.", "Good."]),
        ("Be there at 5 p.m. The bus waits.", ["Be there at 5 p.m.", "The bus waits."]),
        ("It is 5 p.m. now. See www.example.com. Bye.", ["It is 5 p.m. now.", "See www.example.com.", "Bye."]),
        ("No. 5 is good. No. I think not.", ["No. 5 is good.", "No.", "I think not."]),
        ("It is 10:30. Go.", ["It is 10:30.", "Go."]),
        ("Well... I see. He said... nothing.", ["Well...", "I see.", "He said... nothing."]),
        ("He is 42. She is 40.", ["He is 42.", "She is 40."]),
        ("Am 3. Oktober war es. Gut.", ["Am 3. Oktober war es.", "Gut."]),
        ("Das ist z.B. Berlin. Ja.", ["Das ist z.B. Berlin.", "Ja."]),
        ('"Stop!" he said. "Why?" She left.', ['"Stop!" he said.', '"Why?"', "She left."]),
        ("It is so (really.) Then we go.", ["It is so (really.)", "Then we go."]),
        ("**Bold.** Next. *It* is.", ["**Bold.**", "Next.", "*It* is."]),
        ("今天很好。我们走吧！“好的。”他说。", ["今天很好。", "我们走吧！", "“好的。”", "他说。"]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है।"]),
        ("كيف حالك؟ أنا بخير.", ["كيف حالك؟", "أنا بخير."]),
        ("1. Boil water\n2. Add tea\n- Drink", ["1. Boil water", "2. Add tea", "- Drink"]),
        ("Do this: 1. Boil it. 2. Drink it.", ["Do this: 1. Boil it.", "2. Drink it."]),
        ("A title\n\nSome text.\nMore", ["A title", "Some text.", "More"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_text_is_split_at_the_ends_of_sentences(text: str, pieces: list[str]) -> None:
    assert split(text) == pieces


@pytest.mark.parametrize(
    "ending", ["This is the end. ", "Is this the end? ", "This is it!\n", "完了。他", "He is 42. Now "]
)
def test_sentence_is_returned_as_soon_as_its_end_is_certain(ending: str) -> None:
    splitter = SentenceSplitter()
    assert splitter.feed("First we say something long enough. ") == ["First we say something long enough."]
    assert [splitter.feed(char) for char in ending[:-1]] == [[]] * (len(ending) - 1)
    assert len(splitter.feed(ending[-1])) == 1


def test_a_full_stop_waits_for_what_follows_it() -> None:
    splitter = SentenceSplitter()
    assert splitter.feed("The number is 3.") == []
    assert splitter.feed("14") == []
    assert splitter.feed(" or so. ") == ["The number is 3.14 or so."]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("When the sun goes down, the birds in all the trees fall silent.", "When the sun goes down,"),
        ("I went to the shop; it was shut.", "I went to the shop;"),
        ("There are two reasons: cost and time.", "There are two reasons:"),
        ("That is a fine idea — let us try.", "That is a fine idea —"),
        ("I would really like to go home because the rain is coming.", "I would really like to go home"),
        (
            "The quick brown fox jumps over the lazy dog in the old town today.",
            "The quick brown fox jumps",
        ),
        ("Sure, it costs 1,000 dollars.", "Sure, it costs 1,000 dollars."),
        ("He was born on July 4, 1998.", "He was born on July 4, 1998."),
        ("今天天气非常好，我们去公园吧。", "今天天气非常好，"),
    ],
)
def test_the_first_piece_may_be_a_clause(text: str, first: str) -> None:
    assert split(text)[0] == first


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The quake yesterday hit at a depth of 10 km below the city.", "10 km"),
        ("Set the timer in the kitchen for 5m 30s please.", "5m 30s"),
        ("The lows tonight will be in the 20s and 30s again.", "the 20s and 30s"),
        ("It was a party with music of the 60s and 70s.", "the 60s and 70s"),
        ("Please use about 3 tbsp. of the sugar.", "3 tbsp. of"),
        ("Be there at 5 p.m. sharp, please.", "5 p.m. sharp"),
        ("Turn to Ep. 12 now.", "Ep. 12"),
        ("He lives in Apt. 5 of the house.", "Apt. 5"),
    ],
)
@pytest.mark.parametrize("hurried", [False, True])
def test_number_and_what_belongs_to_it_stay_in_one_piece(text: str, kept: str, hurried: bool) -> None:
    splitter = SentenceSplitter(hurried)
    pieces = [*splitter.feed(text), *splitter.finish()]
    assert any(kept in piece for piece in pieces), pieces


def test_sentence_of_numbers_is_split_all_the_same() -> None:
    pieces = split("1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th 11th 12th 13th 14th 15th 16th 17th 18th 19th 20th")
    assert len(pieces) > 1


def test_first_piece_is_returned_before_its_sentence_is_complete() -> None:
    splitter = SentenceSplitter()
    deltas = ["the very long sentence of a model that never sets ", "any mark goes "]
    assert [splitter.feed(delta) for delta in deltas] == [["the very long sentence of a model"], []]


def test_after_a_very_short_sentence_a_clause_is_still_enough() -> None:
    assert split("Sure! If you like the sea, go to Brighton.") == ["Sure!", "If you like the sea,", "go to Brighton."]


def test_later_pieces_are_whole_sentences() -> None:
    text = "This is the first sentence. When the sun goes down, the birds fall silent, and so do we."
    assert split(text)[1:] == ["When the sun goes down, the birds fall silent, and so do we."]


def test_too_long_sentence_is_split_at_a_clause_or_between_words() -> None:
    start = "This is the first sentence. "
    clauses = split(start + ", ".join(["some words that go on"] * 30))[1:]
    assert all(piece.endswith(",") for piece in clauses[:-1])
    words = split(start + "word " * 200)[1:]
    assert {word for piece in words for word in piece.split()} == {"word"}
    assert len(words) > 1


def test_code_is_one_piece_however_long() -> None:
    code = "```python\n" + "print(1.5). And\n\n" * 40 + "```"
    assert split(f"Here it is:\n{code}\nThat is all. Bye.") == ["Here it is:", code, "That is all.", "Bye."]
    assert split(f"Unclosed:\n{code[:-3]}") == ["Unclosed:", code[:-3].strip()]


def test_wrapped_line_continues_in_the_next_and_a_short_one_does_not() -> None:
    wrapped = "This is the first sentence. And this one is long and was\nwrapped by hand. "
    assert split(wrapped) == ["This is the first sentence.", "And this one is long and was\nwrapped by hand."]
    assert split("Roses are red\nViolets are blue") == ["Roses are red", "Violets are blue"]


@pytest.mark.parametrize(
    "unit", ["a", ".", " ", "a ", "`", "```a\n", ". ", "1.", "好", "*", "A. ", "\n", "U.S. ", '" ']
)
def test_long_repetition_is_split_without_loss(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    assert without_space("".join(split(text))) == without_space(text)


@pytest.mark.parametrize(
    ("token", "over"),
    [
        (".", True),
        (" ?", True),
        ('."', True),
        ("...", False),
        ("", False),
        ('"', False),
        (" and", False),
        ("<|im", True),
    ],
)
def test_a_token_ends_a_sentence_or_the_message(token: str, over: bool) -> None:
    assert ends(token, "<|im_end|>") is over
