"""What a text says about a scan: names of networks, pairs, levels, numbers, yes or no, or that it declines.

A parser of answers in English, whoever wrote them: programs that state their query and programs that only talk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..questions.lexicon import Lexicon

Pair = tuple[str, str]

_VERY = r"(?:very|markedly|extremely|exceptionally|remarkably)\s+"
_LEVELS = {
    "markedly high": _VERY + r"(?:strong|high)(?:ly)?",
    "markedly low": _VERY + r"(?:weak|low)(?:ly)?|negligibl[ey]",
    "moderate": r"moderate(?:ly)?|medium|intermediate|about the same as",
    "high": r"strong(?:ly)?|high(?:ly)?",
    "low": r"weak(?:ly)?|low",
    "negative": r"negative(?:ly)?|anti-?correlated|below zero|opposed|inverse(?:ly)?",
}
_LEVEL = re.compile(
    "|".join(rf"(?P<l{number}>\b(?:{pattern})\b)" for number, pattern in enumerate(_LEVELS.values())), re.IGNORECASE
)
# Words between a denial and what it denies; after "but" comes what is the case.
_DENIAL = re.compile(
    r"(?:\bnot|n't|\bneither|\bnor|\bno|\brather than|\binstead of)\s+(?:(?!but\b)\w+\s+){0,2}$", re.IGNORECASE
)
# Names of measures that hold the words of a level.
_NO_LEVEL = re.compile(
    r"low\s*(?:/|to|-|over)\s*high(?:[- ]frequency)?|(?:low|high)[- ](?:frequency|frequencies|pass)", re.IGNORECASE
)
_DECIMAL = re.compile(r"(?<![\w.])([-\u2212]?)(\d+\.(\d+))(?![\d.])")
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen"),
)
_NUMBER_WORDS = {**{word: number for number, word in enumerate(_NUMBERS)}, "none": 0, "no": 0}
_COUNT = re.compile(
    rf"(?<!of )(?<!all )(?<!among )(?<!the )(?<![\w.])(\d+|{'|'.join(_NUMBER_WORDS)})(?![\w%]|\.\d)", re.IGNORECASE
)
_JOINED = re.compile(
    r"\s*(?:networks?|regions?|system|cortex|areas?)?\s*(?:and|with|to|-|\u2013|\u2014|&|/|~|<->|\u2194|x|vs\.?)\s*(?:the\s+)?",
    re.IGNORECASE,
)
_INSIDE = re.compile(r"(?:\b(?:within|inside)(?:\s+the)?|\bwith(?:in)? itself)\s*$", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+|;\s+")
_YES_NO = re.compile(r"\W*(yes|yeah|yep|correct|true|right|no|nope|incorrect|false|wrong)\b", re.IGNORECASE)
_YES = ("yes", "yeah", "yep", "correct", "true", "right")
_DECLINES = re.compile(
    r"\b(?:can(?:no|['\u2019])?t|cannot|could ?n[o'\u2019]t|unable|impossible|do(?:es)?(?: not|n['\u2019]t) "
    r"(?:know|have|say|tell|show|contain|understand)|(?:not|isn['\u2019]t) (?:able|possible|sure|clear|known|available|"
    r"about|in this|part of)|unclear|no (?:readable|usable|information|scan|such|idea)|there is no|has no|sorry|"
    r"declined?|unknown|n/a|please (?:ask|say|name|rephrase)|you can ask|only questions)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Level:
    """A level in a text: where, which one, and whether the text denies it."""

    start: int
    name: str
    is_denied: bool


@dataclass(frozen=True)
class Said:
    """A text, and what it says about networks.

    Parameters
    ----------
    text : str
    network_names : tuple of str
        Of the scan's atlas.
    """

    text: str
    network_names: tuple[str, ...]

    @cached_property
    def mentions(self) -> list[tuple[int, int, str]]:
        """Start, end and network of each name in the text that surely means one network of the atlas."""
        found = _lexicon(self.network_names).find(self.text)
        return [(each.start, each.end, each.networks[0]) for each in found if len(each.networks) == 1]

    @property
    def names(self) -> list[str]:
        """The networks that are named, once each, in the order of the text."""
        return list(dict.fromkeys(name for _, _, name in self.mentions))

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs that are named, in the order of the text; the same name twice for one network inside itself."""
        found, number = [], 0
        while number < len(self.mentions):
            start, end, name = self.mentions[number]
            following = self.mentions[number + 1] if number + 1 < len(self.mentions) else None
            if _INSIDE.search(self.text[:start]):
                found.append((name, name))
            elif following and _JOINED.fullmatch(self.text[end : following[0]]):
                found.append((name, following[2]))
                number += 1
            number += 1
        return found

    @cached_property
    def levels(self) -> list[Level]:
        """The levels that are stated or denied, in the order of the text."""
        text = _blanked(self.text, [(start, end) for start, end, _ in self.mentions])
        text = _blanked(text, [match.span() for match in _NO_LEVEL.finditer(text)])
        names = list(_LEVELS)
        return [
            Level(match.start(), names[int(str(match.lastgroup)[1:])], bool(_DENIAL.search(text[: match.start()])))
            for match in _LEVEL.finditer(text)
        ]

    def stated(self) -> str | None:
        """Return the first level that the text states, if any; "negative" is not a level but a sign."""
        stated = (each.name for each in self.levels if not each.is_denied and each.name != "negative")
        return next(stated, None)

    @cached_property
    def decimals(self) -> list[tuple[float, float]]:
        """The numbers with a decimal point, each with the distance that rounding allows."""
        found = []
        for sign, number, fraction in _DECIMAL.findall(self.text):
            found.append((float(number) * (-1 if sign else 1), max(0.51 * 10.0 ** -len(fraction), 0.006)))
        return found

    @cached_property
    def listed(self) -> dict[tuple[str, ...], str]:
        """The levels of a list, one in each part between semicolons or lines: sorted pair, or network -> level."""
        found: dict[tuple[str, ...], str] = {}
        parts = [Said(part, self.network_names) for part in re.split(r"[;\n]", self.text)]
        for part in parts if len(parts) > 1 else ():
            item = tuple(sorted(part.pairs[0])) if part.pairs else tuple(part.names)
            if (level := part.stated()) and len(part.levels) == 1 and len(item) in (1, 2):
                found[item] = level
        return found

    @property
    def count(self) -> int | None:
        """The first whole number that is not the size of what is counted from."""
        match = _COUNT.search(_blanked(self.text, [(start, end) for start, end, _ in self.mentions]))
        if match is None:
            return None
        return int(match[1]) if match[1].isdigit() else _NUMBER_WORDS[match[1].lower()]

    @property
    def says_yes(self) -> bool | None:
        """Whether the text begins with yes; None if it begins with neither yes nor no."""
        match = _YES_NO.match(self.text)
        return None if match is None else match[1].lower() in _YES

    @property
    def declines(self) -> bool:
        """Whether the text says that there is no answer, and gives no level and no number."""
        return not self.text.strip() or bool(
            _DECLINES.search(self.text) and not self.decimals and not any(not each.is_denied for each in self.levels)
        )

    def sentences(self) -> list[Said]:
        """Split the text into sentences."""
        return [Said(part, self.network_names) for part in _SENTENCES.split(self.text) if part.strip()]

    def has(self, pattern: str) -> bool:
        """Whether a regular expression occurs, in any case."""
        return re.search(pattern, self.text, re.IGNORECASE) is not None


def _blanked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Replace parts of a text by blanks of the same length."""
    for start, end in spans:
        text = text[:start] + "_" * (end - start) + text[end:]
    return text


@lru_cache(maxsize=64)
def _lexicon(network_names: tuple[str, ...]) -> Lexicon:
    return Lexicon(network_names)
