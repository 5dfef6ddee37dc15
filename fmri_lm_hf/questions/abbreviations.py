"""Abbreviations and lay words that are words of everyday language too: "con", "van", "put", "seeing", "memory"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from .names import BASES, LETTER, Item
from .words import Token, data, fold, split_list

_SIGN = re.compile("[-/\u2013\u2014~\u00d7*<>=|x]")


@lru_cache(maxsize=4)
def _words(kind: str) -> frozenset[str]:
    return frozenset(map(fold, split_list(data()[kind])))


def accepted(items: Sequence[Item], words: Sequence[Token]) -> list[Item]:
    """Drop abbreviations that are ordinary words here."""
    shouting = sum(x.written.isupper() for x in words) > 0.7 * len(words) and len(words) > 3
    sure = [_is_plain(x, words, shouting) for x in items]
    kept = []
    for index, item in enumerate(items):
        if item.base and not sure[index] and not _in_company(items, index, sure, words):
            item = Item(item.first, item.last, tuple(x for x in item.entries if x.kind not in BASES))
        if item.base and _lonely(item, items, index, words):
            item = Item(item.first, item.last)
        kept.append(item)
    return kept


def _is_plain(item: Item, words: Sequence[Token], shouting: bool) -> bool:
    """Whether a name needs no company to be one."""
    if not item.base:
        return False
    if any(not x.careful for x in item.entries if x.kind in BASES):
        return True
    written = "".join(x.written for x in words[item.first : item.last])
    letter = item.last < len(words) and not words[item.last].gap and LETTER.fullmatch(words[item.last].written)
    suspended = item.last < len(words) and words[item.last].gap.startswith("- ")  # "Seh- und Hörnetz"
    return bool(letter) or suspended or (len(written) > 1 and written.isupper() and not shouting)


def _in_company(items: Sequence[Item], index: int, sure: list[bool], words: Sequence[Token]) -> bool:
    """Whether a careful abbreviation stands beside another name, in a text that is not of another language."""
    word = words[items[index].first]
    after = words[items[index].last :][:1]
    signs = [word.gap, *(x.gap for x in after)] + ["x" for x in after if x.word == "x"]
    if _foreign(words) or (word.word in ("an", "at", "put") and not any(_SIGN.search(x) for x in signs)):
        return False
    if word.word not in _words("everyday") and len(word.word) > 1 and len(words) <= 9:
        return True
    if index + 1 < len(items) and items[index + 1].of("tail") and not items[index + 1].base:
        return True
    for step in (-1, 1):
        other = index + step
        while 0 <= other < len(items) and items[other].of("conjunction", "tail", "modifier") and not sure[other]:
            if items[other].base:
                return True
            other += step
        if 0 <= other < len(items) and items[other].base:
            return True
    return False


def is_slight(item: Item, words: Sequence[Token]) -> bool:
    """Whether a name that the atlas lacks is rather no name: "put", "tl;dr", "the GP"."""
    word, written = words[item.first].word, words[item.first].written
    careful = all(x.careful for x in item.entries if x.kind in BASES)
    return careful and (len(word) < 3 or (word in _words("everyday") and not written.isupper()))


def _lonely(item: Item, items: Sequence[Item], index: int, words: Sequence[Token]) -> bool:
    """Whether a name of one Chinese or Japanese character stands amid unknown ones: rather a part of another word."""
    token = words[item.first]
    if item.last - item.first > 1 or not token.dense or len(token.word) > 1:
        return False
    before = index > 0 and not token.gap and not items[index - 1].entries and words[items[index - 1].first].dense
    after = index + 1 < len(items) and not items[index + 1].entries and not words[items[index + 1].first].gap
    return bool(before or after)


def _foreign(words: Sequence[Token]) -> bool:
    """Whether a text is rather not English, so that "con" or "van" are words."""
    found = [x.word for x in words]
    accents = any(not x.written.isascii() for x in words)
    return sum(x in _words("foreign") for x in found) + accents > sum(x in _words("english") for x in found)
