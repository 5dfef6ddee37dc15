"""Words of a question in any script: tokens with their places in the text, spelling variants and inflected endings."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

_MARKS = "\u0300-\u036f\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u200c\u200d\u3099\u309a"
_WORD = re.compile(rf"[^\W_][^\W_{_MARKS}]*(?:[{_MARKS}]+[^\W_]*)*")
# Scripts without spaces between words, and Korean, whose particles are glued to the word.
_DENSE = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_SCRIPTS = re.compile(rf"[{_DENSE}]+|[^{_DENSE}]+")
# Where a name in camel case is divided: DorsAttnA, rDMN, DANa.
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z]{2})(?=[a-e](?![a-z]))|(?<=[A-Z])(?=[A-Z][a-z]{3})")
_LETTERS = str.maketrans(
    {"ø": "o", "æ": "ae", "ß": "ss", "ł": "l", "đ": "d", "\u0131": "i", "œ": "oe", "ँ": "ं", "\u0451": "\u0435"}
)

_SAME = frozenset("ckzs")  # first letters that one sound is spelt with


@dataclass(frozen=True)
class Token:
    """A word of a text.

    Attributes
    ----------
    word : str
        In lower case, without accents.
    start, end : int
        Its place in the text as given.
    written : str
        As it stands there.
    gap : str
        What stands between it and the word before.
    dense : bool
        Whether its script puts no spaces between words (or, as in Korean, glues particles to them).
    """

    word: str
    start: int
    end: int
    written: str
    gap: str
    dense: bool


@lru_cache(maxsize=4096)
def fold(text: str) -> str:
    """Return `text` in lower case, without the accents of alphabetic scripts and in one spelling of the others."""
    folded = []
    for letter in unicodedata.normalize("NFKC", text).lower():
        parts = unicodedata.normalize("NFKD", letter)
        alphabetic = len(parts) > 1 and parts[0] < "\u0900"
        folded.append(parts[0] if alphabetic else letter)
    kept = (x for x in folded if not ("\u0300" <= x <= "\u036f" or x in "\u093c\u200c\u200d"))
    return unicodedata.normalize("NFC", "".join(kept)).translate(_LETTERS).replace("\u093c", "")


def tokens(text: str, whole: Container[str] = ()) -> list[Token]:
    """Divide a text into words: at spaces and signs, where the script changes, and inside names in camel case.

    Words of `whole` (folded) are not divided inside.
    """
    found: list[Token] = []
    for match in _WORD.finditer(text):
        for run in _SCRIPTS.finditer(match.group()):
            start = match.start() + run.start()
            dense = bool(re.match(f"[{_DENSE}]", run.group()))
            kept = fold(run.group()) in whole and not re.search("[a-z][A-E]$", run.group())
            inner = () if kept else (x.start() for x in _CAMEL.finditer(run.group()) if x.start())
            cuts = [0, *inner, len(run.group())]
            for begin, end in itertools.pairwise(cuts):
                gap = text[found[-1].end : start + begin] if found else ""
                piece = run.group()[begin:end]
                found.append(Token(fold(piece), start + begin, start + end, piece, gap, dense))
    return found


def split_list(text: str) -> list[str]:
    """Divide a list of `lexicon.json`."""
    return [x.strip() for x in text.split(",") if x.strip()]


@lru_cache(maxsize=1)
def data() -> dict[str, Any]:
    """Return what `lexicon.json` holds."""
    return json.loads((Path(__file__).parent / "lexicon.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=4)
def _endings(kind: str) -> frozenset[str]:
    """Return the endings that a declined name may have, or ("inherent") that it has and others replace."""
    return frozenset({"", *split_list(data()["endings"][kind])})


def stems(word: str) -> set[str]:
    """Return what is left of a name without an ending that other cases replace; the name itself is among them."""
    inherent = (x for x in _endings("inherent") if word.endswith(x) and len(word) - len(x) >= (5 if x else 4))
    return {word[: len(word) - len(x)] for x in inherent}


class Vocabulary:
    """Words that are looked up as they are, with another ending, or misspelt.

    Parameters
    ----------
    words : iterable of str
        Folded words.
    ordinary : iterable of str
        Words of everyday language, which are never read as an inflected or misspelt word of the vocabulary.
    declined : iterable of str
        Words that may have another ending.
    misspelt : iterable of str
        Words that may be misspelt or cut short.
    """

    def __init__(
        self,
        words: Iterable[str],
        ordinary: Iterable[str] = (),
        declined: Iterable[str] = (),
        misspelt: Iterable[str] = (),
    ):
        self.words = set(words)
        self._ordinary = set(ordinary)
        self._stems: dict[str, set[str]] = {}
        for word in declined:
            for stem in stems(word) if len(word) >= 5 else ():
                self._stems.setdefault(stem, set()).add(word)
        self._flexible = sorted(x for x in set(misspelt) if len(x) >= 5 and not re.match(f"[{_DENSE}]", x))
        self._counts = np.array([_letters(x) for x in self._flexible]).reshape(-1, 64)
        self._found: dict[str, frozenset[str]] = {}

    def lookup(self, word: str) -> frozenset[str]:
        """Return the words of the vocabulary that `word` is, is a form of, or a misspelling of."""
        if word not in self._found:
            if len(self._found) > 50_000:
                self._found.clear()
            self._found[word] = frozenset(self._lookup(word))
        return self._found[word]

    def _lookup(self, word: str) -> set[str]:
        found = {word} if word in self.words else set()
        if word in self._ordinary:
            return found
        return found | self.inflected(word) or self._cut(word) or self._misspelt(word)

    def inflected(self, word: str) -> set[str]:
        """Return the words that differ from `word` by their ending only."""
        found: set[str] = set()
        endings = _endings("declined")
        for size in range(min(9, len(word) - 3)):
            if word[len(word) - size :] in endings:
                found |= self._stems.get(word[: len(word) - size], set())
        return {x for x in found if len(x) > 5 or word.startswith(x)}

    def _cut(self, word: str) -> set[str]:
        """Return the words of which `word` is the beginning, for seven letters and more."""
        if len(word) < 7:
            return set()
        first = bisect_left(self._flexible, word)
        return set(self._flexible[first : bisect_left(self._flexible, word + "\uffff")])

    def _misspelt(self, word: str) -> set[str]:
        """Return the nearest words by Damerau-Levenshtein distance: 1 for 5 to 7 letters, 2 for 8 and more."""
        limit = 0 if len(word) < 5 or not word.isalpha() else 1 if len(word) < 8 else 2
        if not limit or not self._flexible:
            return set()
        far = np.abs(self._counts - _letters(word)).sum(1)
        near: dict[int, set[str]] = {}
        for index in np.flatnonzero(far <= 2 * limit):
            known = self._flexible[index]
            if not ({word[0], known[0]} <= _SAME or word[0] == known[0] or word[:2] == known[1::-1]):
                continue
            allowed = limit if len(known) >= 8 else min(limit, 1)
            distance = damerau_levenshtein(word, known, allowed)
            if distance <= allowed:
                near.setdefault(distance, set()).add(known)
        return near[min(near)] if near else set()


def _letters(word: str) -> np.ndarray:
    """Return how often each letter occurs, letters of all scripts in 64 classes."""
    counts = np.zeros(64, np.int8)
    for letter in word:
        counts[ord(letter) % 64] += 1
    return counts


def damerau_levenshtein(first: str, second: str, limit: int) -> int:
    """Return how many insertions, deletions, replacements and swaps of neighbours part two words.

    Anything above `limit` is given as ``limit + 1``.
    """
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, x in enumerate(first, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(second, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == second[j - 2] and first[i - 2] == y:
                best = min(best, older[j - 2] + 1)
            row.append(best)
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)
