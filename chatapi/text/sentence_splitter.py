"""Splits a streamed answer into sentences for speech synthesis."""

from __future__ import annotations

import re
from collections.abc import Iterator

LIMIT = 300
"""Most characters of a part; a Chinese or Japanese character counts as three. Fenced code is one part, however long."""
WRAP = 50
"""Length of a line from which, without punctuation at its end, it continues in the next line."""

EARLY_WORDS = 4
"""Words given out until which a clause is enough, so that first audio comes early."""
CLAUSE_WORDS, CLAUSE_SIZE = 3, 15
"""Least size of a clause that is given out early."""
CONJUNCTION_WORDS = 4
"""Words after which an early part may end before a conjunction."""
MOST_WORDS, MOST_SIZE = 8, 52
"""Size at which an early part is cut between words, where nothing better came."""
HURRIED_WORDS, HURRIED_SIZE = 4, 26
"""The same in a live conversation; a word takes the default models 20 ms to generate and synthesize on two cores (a
token 8 ms, a second of speech 36 ms)."""

STOPS = ".!?…‼⁇⁈⁉"
UNSPACED_STOPS = "。！？｡؟۔।॥։።"
"""Punctuation after which a sentence ends without a space."""
CLOSERS = "'\")]}*_~`’”»›」』）】〉》〕"
OPENERS = "'\"([{*_~`‘“„«‹「『（【〈《〔¿¡"

_STOP = re.compile(rf"([{STOPS}]{{1,9}}|[{UNSPACED_STOPS}]{{1,9}})([{re.escape(CLOSERS)}]{{0,9}})$")
_UNSPACED = re.compile(rf"[{UNSPACED_STOPS}][{re.escape(CLOSERS)}]{{0,4}}$")
_CLAUSE = re.compile(rf"(?:[,;:،؛–—]|(?:^|\s)-{{1,3}})[{re.escape(CLOSERS)}]{{0,4}}$")
_UNSPACED_CLAUSE = "，、；：—"
_BREAK = re.compile(r"[,;:،؛–—](?=\s)|\s-(?=\s)|[，、；：—]")
_ENDS = frozenset(".!?。！？؟।")
_LIST_MARK = re.compile(r"(?:\d{1,2}|[A-Za-z]|[ivx]{1,4})\.")
_DOTTED = re.compile(r"(?:[^\W\d_]\.){1,5}[^\W\d_]|Ph\.D")
_UNIT = re.compile(
    r"\d(?: ?| ?-)(?:in|ft|yd|mi|oz|lbs?|gal|qt|tsp|tbsp|sec|secs|mins?|hrs?|yrs?|wks?|mos?|kg|km|cm|mm)\.$"
)
"""A unit that is abbreviated with a full stop."""
_WIDE = re.compile(r"[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")


def is_text(text: str) -> bool:
    """Whether all of the text is valid; JSON can contain NUL and lone surrogates, which later stages reject."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def word_set(words: str, between: str | None = None) -> frozenset[str]:
    """The set of words separated by spaces, or of phrases separated by another separator."""
    return frozenset(words.split(between))


BEFORE_A_NAME = word_set(
    "Mr Mrs Ms Messrs Dr Prof St Mt Ft Rev Hon Gen Col Capt Lt Sgt Gov Maj Cmdr Cpl Sen Rep Pres Herr Hr Fr Sra Dra "
    "Mme Mlle Me e.g i.e eg ie cf vs viz approx ca circa z.B d.h u.a s.u v.a bzw ggf vgl evtl incl inkl p.ej"
)
"""Abbreviations that never end a sentence."""
BEFORE_A_NUMBER = word_set(
    "No no Nos nos Nr nr Num N n p P pp S Fig fig Figs Vol vol Ch ch Sec sec Art art Abb Kap Bd Eq eq Ver ver v "
    "Ep ep Apt apt Ext ext Hwy Rte Rm"
)
"""Abbreviations when a number follows, words otherwise."""
MAY_END = word_set(
    "etc Inc Ltd Corp Co Cos Bros Jr Sr Esq Ave Blvd Rd Dept dept est Est usw al ft oz lb lbs min max "
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Wed Thu Fri Ph.D"
)
"""Abbreviations that end a sentence only when the next word looks like the start of one."""
STARTERS = word_set(
    "a an the it it's its he he's she she's they they're we we're you you're i i'm i'll i've his her their our your my "
    "this that that's these those there there's here in on at by for from with after before since during once and but "
    "or so yet if when while as although though because however then also thus therefore instead meanwhile finally "
    "what who why how where which yes no not now do does did is are was were can could will would should may let let's "
    "please some many most all each every both another one first next many today "
    "der die das es er sie wir ihr ich du ein eine und aber wenn dann le la les un une il elle nous vous je et mais "
    "el los las una y pero lo gli ma e"
)
"""Words that start sentences more often than they are part of a name."""
_MONTHS = word_set(
    "januar jänner februar märz april mai juni juli august september oktober november dezember jahrhundert"
)
"""After "3." these make it an ordinal, in German; other languages continue in lower case."""
_CONJUNCTIONS = word_set(
    "and but because while although whereas which where when unless und aber weil sondern denn mais lorsque pero "
    "porque aunque perché mentre"
)
_PAUSES_BEFORE = (
    _CONJUNCTIONS | word_set("or so that who whose if"),
    word_set(
        "as than after before in on at for from with to by through into over under between about is are was were has "
        "have can will"
    ),
)
"""Words before which a voice may pause when a part must be cut without punctuation; the first set is preferred."""


_DETERMINERS = word_set(
    "the a an my your his her its our their this that these those no low early late mid number of x"
)
"""Words that belong to the next one, which may be a number: in his 20s."""


class SentenceSplitter:
    """Receives text as it is generated and returns it in parts that can be synthesized.

    Parts are sentences; the first may be a clause. Joined, they are the text again except for white space, and they do
    not depend on how the text was split into deltas. One splitter per answer.
    """

    def __init__(self, hurried: bool = False) -> None:
        self._most_words, self._most_size = (HURRIED_WORDS, HURRIED_SIZE) if hurried else (MOST_WORDS, MOST_SIZE)
        self._text = ""
        """Text that is not given out yet; starts with a character that is not white space."""
        self._code: list[str] = []
        """Inside fenced code: the code so far."""
        self._size = 0
        """Size of `_text`, counted as for `LIMIT`."""
        self._words = 0.0
        """Words given out so far."""
        self._line, self._last_line = 0, 0
        """Lengths of the current line and of the one before."""

    def feed(self, delta: str) -> list[str]:
        """The parts that are certain after this delta."""
        return [piece for char in delta for piece in self._take(char)]

    def finish(self) -> list[str]:
        """The rest when the text has ended."""
        pieces = self.feed("\n")
        pieces += self._given("".join(self._code) or self._text)
        self._code, self._text, self._size = [], "", 0
        return pieces

    def _take(self, char: str) -> Iterator[str]:
        if char == "\n":
            self._line, self._last_line = 0, self._line
        else:
            self._line += 1
        if self._code:
            yield from self._take_code(char)
        elif self._text.endswith("```") and char != "`":
            before = self._text.rstrip("`")
            self._code = [self._text[len(before) :] + char]
            self._text, self._size = "", 0
            yield from self._given(before)
        elif self._text or not char.isspace():
            self._text += char
            self._size += _size(char)
            while self._text and (end := self._end()):
                piece, self._text = self._text[:end], self._text[end:].lstrip()
                self._size = _size(self._text)
                yield from self._given(piece)

    def _take_code(self, char: str) -> Iterator[str]:
        if char != "`" and self._code[-3:] == ["`"] * 3:
            piece, self._code = "".join(self._code), []
            yield from self._given(piece)
            yield from self._take(char)
        else:
            self._code.append(char)

    def _given(self, piece: str) -> Iterator[str]:
        if piece := piece.strip():
            self._words += count_words(piece)
            yield piece

    def _end(self) -> int:
        """Where the first part of the text ends, as far as its last character tells; 0: not known yet."""
        text = self._text
        if text[-1].isspace():
            end = self._end_at_space()
        elif len(text) == 1:
            end = 0
        elif text[-2].isspace():
            end = self._end_between(*_parted(text), whole=False)
        else:
            end = self._end_unspaced()
        return end or (_break(text) if self._size >= LIMIT else 0)

    def _end_at_space(self) -> int:
        text = self._text
        body = text.rstrip()
        if len(body) == len(text) - 1:
            before, gap, word = _parted(body)
            if before and (end := self._end_between(before, gap, word, whole=True)):
                return end
        if _sentence_ends(body, text[len(body) :], "", self._last_line, whole=False):
            return len(body)
        if self._early and (count_words(body) >= self._most_words or self._size >= self._most_size):
            return _early_break(body)
        return 0

    def _end_between(self, before: str, gap: str, word: str, *, whole: bool) -> int:
        """The end of `before` if a part ends there, once the next word (or its start) is known."""
        if _sentence_ends(before, gap, word, self._last_line, whole=whole):
            return len(before)
        if not self._early:
            return 0
        if _CLAUSE.search(before[-16:]) and not word[0].isdigit() and _is_clause(before):
            return len(before)
        if whole and word in _CONJUNCTIONS and count_words(before) >= CONJUNCTION_WORDS and not _counts(before):
            return len(before)
        return 0

    def _end_unspaced(self) -> int:
        before, char = self._text[:-1], self._text[-1]
        if char in CLOSERS or char in UNSPACED_STOPS:
            return 0
        if _UNSPACED.search(before[-6:]):
            return len(before)
        if self._early and before[-1] in _UNSPACED_CLAUSE and char not in "—-" and _is_clause(before):
            return 0 if char.isdigit() else len(before)
        return 0

    @property
    def _early(self) -> bool:
        return self._words < EARLY_WORDS


def _parted(text: str) -> tuple[str, str, str]:
    """The text before its last word, the white space between, and that word; the text does not end in white space."""
    parts = text.rsplit(None, 1)
    if len(parts) == 1:
        return "", "", text
    before, word = parts
    return before, text[len(before) : len(text) - len(word)], word


def _sentence_ends(before: str, gap: str, word: str, line: int, *, whole: bool) -> bool:
    """Whether a sentence ends after `before`, which is followed by `gap` and the next word or its start."""
    last = before.rsplit(None, 1)[-1]
    found = _STOP.search(last)
    if "\n" in gap:
        unfinished = gap.count("\n") == 1 and line >= WRAP and not found and not before.endswith(":")
        return not (unfinished and (not word or word[0].isalpha()))
    if not found or _is_list_mark(before, last):
        return False
    stop, closers = found.groups()
    if stop == "." and _UNIT.search(before[-24:]) and (not word or word[0].islower()):
        return False
    if closers or (len(stop) > 1 and stop[-1] == ".") or stop[-1] == "…":
        first = word.lstrip(OPENERS)[:1]
        return bool(first) and not first.islower()
    return stop != "." or _full_stop(last[: found.start()].lstrip(OPENERS), word, whole=whole)


def _full_stop(last: str, word: str, *, whole: bool) -> bool:
    """Whether the full stop after `last` ends a sentence and not an abbreviation, as far as the next word is known."""
    if last in BEFORE_A_NAME:
        return False
    if last in BEFORE_A_NUMBER:
        return bool(word) and not word[0].isdigit()
    plain = word.strip(OPENERS + CLOSERS + STOPS + ",;:").lower()
    if last.isdigit() and len(last) <= 2:
        return whole and plain not in _MONTHS and not word[0].islower()
    if last in MAY_END or _DOTTED.fullmatch(last) or (len(last) == 1 and last.isalpha() and last != "I"):
        return whole and not word[0].islower() and plain.replace("’", "'") in STARTERS
    return True


def _is_list_mark(before: str, last: str) -> bool:
    if not _LIST_MARK.fullmatch(last):
        return False
    return before == last or before[: -len(last)].rstrip().endswith(":")


def _is_clause(text: str) -> bool:
    return count_words(text) >= CLAUSE_WORDS and _size(text) >= CLAUSE_SIZE


def _counts(text: str) -> bool:
    """Whether the last word has a digit: its unit may follow, or the rest of a duration, a date or a range."""
    return any(char.isdigit() for char in text.rsplit(None, 1)[-1])


def _early_break(text: str) -> int:
    """Where to cut the start of a sentence without a clause: before the last word that allows a pause; 0 where only a
    number, whose unit may follow, would end it, or a word that belongs to the next.
    """
    ends = [found.start() for found in re.finditer(r"\s+", text)]
    words = text.split()
    linking = _PAUSES_BEFORE[0] | _PAUSES_BEFORE[1]
    for pauses in _PAUSES_BEFORE:
        for index in range(len(words) - 1, EARLY_WORDS - 1, -1):
            last = words[index - 1].lower()
            if words[index].lower() in pauses and last not in linking and not (last.endswith(".") or _counts(last)):
                return ends[index - 1]
    abbreviated = words[-1].endswith(".") and len(words) > 1
    last = words[-2 if abbreviated else -1].lower()
    unfinished = _counts(last) or last in linking or last in _DETERMINERS
    if unfinished and len(words) < MOST_WORDS + EARLY_WORDS:
        return 0
    return ends[-1] if abbreviated else len(text)


def _break(text: str) -> int:
    """Where to cut a text that reached `LIMIT`: at a clause, else between words, else at its end."""
    marks = [found.end() for found in _BREAK.finditer(text, len(text) // 3)]
    if marks:
        return marks[-1]
    return len(_parted(text.rstrip())[0]) or len(text)


def ends(token: str, rest: str) -> bool:
    """Whether a language model's token ends a sentence, or starts `rest`, with which its message would end."""
    token = token.strip()
    mark = token.rstrip("\"'")
    stop = bool(mark) and _ENDS.issuperset(mark) and mark.count(".") < 2
    return stop or (bool(token) and rest.startswith(token))


def count_words(text: str) -> float:
    """Words in the text; in scripts without spaces a character counts as half a word."""
    return len(text.split()) + len(_WIDE.findall(text)) / 2


def _size(text: str) -> int:
    return len(text) + 2 * len(_WIDE.findall(text))
