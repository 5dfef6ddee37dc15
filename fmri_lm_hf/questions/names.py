"""Names of networks and regions as people write them: what `lexicon.json` lists, matched in a sequence of words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from .words import Token, Vocabulary, data, fold, split_list, tokens

# What may stand between the words of one name.
JOINT = re.compile(r"[\s\-\u2010-\u2013_/.'\u2019·・]{0,3}\Z")
_HANGUL = re.compile("[\uac00-\ud7af]")

LETTER = re.compile("[A-E]|[a-e]")  # what tells subnetworks apart (Default A)
BASES = ("concept", "network")  # kinds of entries that name something


@dataclass(frozen=True)
class Entry:
    """What a form of the lexicon is.

    Attributes
    ----------
    kind : str
        "concept", "network" (a name of the atlas as it stands there), "modifier", "mask" (looks like a name and is
        none), or a small word: "tail" (network, lobe), "head" (before its name), "linker" (of), "conjunction", "one".
    concepts : tuple of (str, frozenset of str)
        Each with its modifiers; none for other kinds.
    value : str
        The modifier, or the network.
    careful : bool
        Whether the form is an abbreviation that is also a word, or says little.
    """

    kind: str
    concepts: tuple[tuple[str, frozenset[str]], ...] = ()
    value: str = ""
    careful: bool = False


@dataclass(frozen=True)
class Item:
    """Consecutive words of a text, and what they may be: `entries`, empty for a word that the lexicon lacks."""

    first: int
    last: int  # one past the last token
    entries: tuple[Entry, ...] = ()

    @property
    def base(self) -> bool:
        """Whether it may name a network or region."""
        return self.of(*BASES)

    def of(self, *kinds: str) -> bool:
        """Whether it may be of one of these kinds."""
        return any(x.kind in kinds for x in self.entries)


def concept_of(identifier: str) -> tuple[str, frozenset[str]]:
    """Divide "attention+dorsal" into the concept and its modifiers."""
    concept, *modifiers = identifier.split("+")
    return concept, frozenset(modifiers)


class Forms:
    """A set of forms, and the words that they consist of."""

    def __init__(self, ordinary: Iterable[str] = ()):
        self.tree: dict[str, Any] = {}
        self._words: set[str] = set()
        self._declined: set[str] = set()
        self._misspelt: set[str] = set()
        self._ordinary = set(ordinary)
        self.dense: set[str] = set()
        self.tails: tuple[str, ...] = ()
        self.vocabulary = Vocabulary(())

    def add(self, form: str, entry: Entry, declined: bool = False, misspelt: bool = False) -> None:
        """Add a form; whether its words may have other endings, and whether it may be misspelt."""
        words = [x.word for x in tokens(form)]
        glued = "".join(words)
        ways = [words]
        if 1 < len(words) <= 3 and (len(glued) >= 8 or "-" in form or any(x in self.dense for x in words)):
            ways.append([glued])
        for way in filter(None, ways):
            node = self.tree
            for word in way:
                node = node.setdefault(word, {})
                self._words.add(word)
            if entry not in node.setdefault("", []):
                node[""].append(entry)
        if declined:
            self._declined.update(words)
        if misspelt:
            short = 5 if len(words) == 1 or "-" in form else 9
            self._misspelt.update(x for way in ways for x in way if len(x) >= short)
        self.dense.update(x.word for x in tokens(form) if x.dense)
        if tokens(form) and all(x.dense for x in tokens(form)):
            self.dense.add(glued)

    def close(self, tails: Sequence[str] = ()) -> Forms:
        """Make the forms ready to be matched."""
        self.vocabulary = Vocabulary(self._words, self._ordinary, self._declined, self._misspelt)
        self.tails = tuple(sorted({fold(x) for x in tails if len(x) >= 3}, key=len, reverse=True))
        return self

    # ----- matching -----

    def readings(self, word: str) -> frozenset[str]:
        """Return the words of the forms that a written word may be."""
        found = self.vocabulary.lookup(word)
        return found or self._compound(word)

    @lru_cache(maxsize=20_000)  # noqa: B019 (the forms are few and live as long as the program)
    def _compound(self, word: str) -> frozenset[str]:
        """Return the readings of what stands before "netzwerk", "loben" and the like in one word."""
        for tail in self.tails:
            stem = word.removesuffix(tail)
            if stem != word and len(stem) >= 3:
                for candidate in (stem, stem.removesuffix("s")):
                    known = {candidate} & self.vocabulary.words or self.vocabulary.inflected(candidate)
                    if known:
                        return frozenset(known)
        return frozenset()

    def matches(self, text: Sequence[Token], index: int) -> dict[int, list[Entry]]:
        """Return the entries of all forms that begin at a token, by the token after their last."""
        found: dict[int, list[Entry]] = {}
        self._walk(text, index, self.tree, found)
        return found

    def _walk(self, text: Sequence[Token], index: int, node: dict[str, Any], found: dict[int, list[Entry]]) -> None:
        for word, after in self._steps(text, index):
            child = node.get(word)
            if child is None:
                continue
            for entry in child.get("", ()):
                if entry not in found.setdefault(after, []):
                    found[after].append(entry)
            if len(child) > ("" in child) and after < len(text) and JOINT.match(text[after].gap):
                self._walk(text, after, child, found)

    def _steps(self, text: Sequence[Token], index: int) -> Iterator[tuple[str, int]]:
        token = text[index]
        for word in self.readings(token.word):
            yield word, index + 1
        if index + 1 < len(text) and not token.dense and re.match(r"[\s\-]?\Z", text[index + 1].gap):
            if min(len(token.word), len(text[index + 1].word)) < 2:
                return
            glued = token.word + text[index + 1].word
            if len(glued) >= 6 and glued in self.vocabulary.words:
                yield glued, index + 2


def pieces(text: str, *forms: Forms) -> list[Token]:
    """Divide a text into tokens, and runs of dense scripts and compounds further into words that the forms know."""
    divided: list[Token] = []
    for token in tokens(text, forms[0].vocabulary.words):
        divided += _dense(token, forms) if token.dense else _prefixed(token, forms)
    return divided


def _dense(token: Token, forms: Sequence[Forms]) -> Iterator[Token]:
    """Find the known words in a run of a script without spaces, longest first; what is between stays a word."""
    known = forms[0].dense.union(*(x.dense for x in forms[1:]))
    word, length = token.word, len(token.word)
    start, unknown, gap = 0, 0, token.gap
    cuts: list[tuple[int, int]] = []
    while start < length:
        # A Korean word begins with its noun: what follows an unknown syllable is no name.
        inside = _HANGUL.match(word[start]) and unknown < start
        size = (
            0 if inside else next((n for n in range(min(12, length - start), 0, -1) if word[start:][:n] in known), 0)
        )
        if size:
            cuts += [(unknown, start)] if unknown < start else []
            cuts.append((start, start + size))
            unknown = start + size
        start += size or 1
    cuts += [(unknown, length)] if unknown < length else []
    same = len(token.written) == length
    for begin, end in cuts if same else [(0, length)]:
        place = (token.start + begin, token.start + end) if same else (token.start, token.end)
        yield Token(word[begin:end], *place, token.written[begin:end], gap, True)
        gap = ""


_PREFIX = re.compile(
    "(fronto|parieto|temporo|occipito|thalamo|cortico|striato|cerebello|hippocampo|amygdalo|insulo|cingulo)(.{5,})"
)
_SIDE = re.compile("(l|r)(vis|smn|ctrl|dmn|fpn|con|dan|van|aud|sal|lim|cont|default|sommot|motor|visual|control)")


def _prefixed(token: Token, forms: Sequence[Forms]) -> Iterator[Token]:
    """Divide "thalamocortical" and "Rvis", unless a form is written so."""
    match = _PREFIX.fullmatch(token.word) or (re.match("[LR][a-z]", token.written) and _SIDE.fullmatch(token.word))
    whole = any(token.word in x.vocabulary.words or x.vocabulary.inflected(token.word) for x in forms)
    if not match or whole or not any(x.readings(match.group(2)) for x in forms):
        yield token
        return
    cut = len(match.group(1))
    yield replace(token, word=token.word[:cut], end=token.start + cut, written=token.written[:cut])
    yield replace(token, word=token.word[cut:], start=token.start + cut, written=token.written[cut:], gap="")


@lru_cache(maxsize=1)
def known_forms() -> Forms:
    """Return the forms of `lexicon.json`."""
    content = data()
    forms = Forms(ordinary=map(fold, split_list(content["ordinary"])))
    wordlike = set(split_list(content["wordlike"]))
    for identifier, concept in content["concepts"].items():
        concepts = tuple(concept_of(x) for x in identifier.split("/"))
        for group, listed in concept.get("forms", {}).items():
            for form in split_list(listed):
                careful = form in wordlike or "".join(x.word for x in tokens(form)) in wordlike
                free = group not in ("abbr", "careful")
                forms.add(form, Entry("concept", concepts, careful=careful), declined=free, misspelt=free)
    for name, modifier in content["modifiers"].items():
        for form in split_list(modifier["words"]):
            forms.add(form, Entry("modifier", value=name), misspelt=len(form) >= 6)
    for kind in ("tail", "head"):
        for form in split_list(content["nouns"][f"{kind}s"]):
            forms.add(form, Entry(kind))
    for kind in ("linker", "conjunction", "one", "mask"):
        for form in split_list(content[f"{kind}s"]):
            forms.add(form, Entry(kind))
    return forms.close(split_list(content["nouns"]["tails"]))
