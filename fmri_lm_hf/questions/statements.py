"""Statements about one scan: sentences with the numbers that they state, and why a question has no answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..descriptors.ica import HIGH_BAND, LAG_SECONDS, LOW_BAND
from .bins import BOUNDS_BETWEEN, UNITS
from .measures import NetworkValue, ScanMeasures, ScanValue

# How people say a level of connectivity, and what they claim of it.
WORDS = {
    "markedly low": "very weak",
    "low": "weak",
    "moderate": "moderate",
    "high": "strong",
    "markedly high": "very strong",
    "negative": "negative",
}
TIMES = f"times the scan's {UNITS.removeprefix('scan ')}"


@dataclass(frozen=True)
class Statement:
    """A sentence about a scan, and the number that it states.

    Attributes
    ----------
    statement : str
    value : float or int
    units : str
    relative_to : str
        What the value and its level are compared with.
    level : str or None
        One of `BINS`, where there is one.
    networks : tuple of str
        Networks that the value is of; two for a pair, the same one twice for the connectivity within it.
    """

    statement: str
    value: float | int
    units: str
    relative_to: str
    level: str | None = None
    networks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields; without level or networks where there are none."""
        return {key: value for key, value in asdict(self).items() if key not in ("level", "networks") or value}


@dataclass(frozen=True)
class Answer:
    """An answer about one scan.

    Attributes
    ----------
    text : str
        The answer in plain English.
    value : float, int, list of float, or None
        The number that was asked for, or the number of what was asked for: of the strongest pair, say. Several for a
        rank and for the ends of a gradient; for a comparison, first minus second pair; None for a description.
    units : str or None
    level : str or None
        One of `BINS`, where there is one.
    relative_to : str or None
        What value and level are compared with.
    evidence : tuple of Statement
        What the text states, the answer proper first.
    """

    text: str
    value: Any
    units: str | None
    level: str | None
    relative_to: str | None
    evidence: tuple[Statement, ...]

    @classmethod
    def of(cls, *evidence: Statement, text: str | None = None, value: Any = None) -> Answer:
        """Make an answer of statements; value, units and level are those of the first, unless given."""
        first = evidence[0]
        text = " ".join(dict.fromkeys(one.statement for one in evidence)) if text is None else text
        value = first.value if value is None else value
        return cls(text, value, first.units, first.level, first.relative_to, evidence)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, with the evidence as of `Statement.to_json`."""
        return {**vars(self), "evidence": [one.to_json() for one in self.evidence]}


class Unanswerable(ValueError):
    """A question that the scan has no answer to.

    Parameters
    ----------
    reason : str
        Why, in a sentence.
    instead : str
        What could be asked in its place, in a sentence.
    """

    def __init__(self, reason: str, instead: str) -> None:
        super().__init__(f"{reason} {instead}")
        self.reason, self.instead = reason, instead


# ----- words -----


def number(value: float, against: float | None = None) -> str:
    """Write a number with two decimals, or two digits if it is below 0.1.

    Parameters
    ----------
    value : float
    against : float, optional
        Another number that stands beside it: as many decimals are written as tell the two apart, up to five.
    """
    if isinstance(value, int):
        return str(value)
    decimals = 2
    if 5e-6 <= abs(value) < 0.0995:
        decimals = min(5, 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    while against is not None and decimals < 5 and f"{against:.{decimals}f}" == text:
        decimals += 1
        text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def ordinal(rank: int) -> str:
    """Write a rank: 1st, 2nd, 11th."""
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def ranked(rank: int, n: int, first: str, last: str) -> str:
    """Write a rank among `n`: the strongest, 2nd strongest, the weakest."""
    if rank == 1:
        return f"the {first}"
    return f"the {last}" if rank == n else f"{ordinal(rank)} {first}"


def listed(items: Sequence[str]) -> str:
    """Join items with commas and "and"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def counted(n: int, noun: str) -> str:
    """Write a count with its noun: 1 pair, 2 pairs."""
    one, _, rest = noun.partition(" ")
    return f"{n} {noun}" if n == 1 else f"{n} {one}s {rest}".rstrip()


def pair_words(first: str, second: str) -> str:
    """Name a pair: ``between A and B``, or ``within A``."""
    return f"within {first}" if first == second else f"between {first} and {second}"


def sentence(text: str) -> str:
    """Begin with a capital letter and end with a full stop."""
    return text[0].upper() + text[1:] + "."


def graded(level: str, value: float, *, within: bool = False) -> str:
    """Say a level of connectivity in words, followed by its name where the words differ from it."""
    # A strong negative coupling is among the lowest, but no one would call it weak.
    opposed = value < 0 if within else value < BOUNDS_BETWEEN[0]
    word = WORDS["negative"] if opposed else WORDS[level]
    return word if word == level else f"{word} ({level})"


# ----- statements of single numbers -----


def kind_words(within: bool, n: int) -> str:
    """Count the couplings of a kind: ``21 pairs of different networks``, ``6 networks``."""
    return counted(n, "network" if within else "pair of different networks")


def relative(within: bool, n: int) -> str:
    """Say what connectivity is relative to."""
    return f"this scan's RMS correlation; ranked among its {kind_words(within, n)}"


def pair_clause(measures: ScanMeasures, first: str, second: str) -> str:
    """State a pair's connectivity in a clause: how strong, its value and its rank."""
    value, level = measures.pair(first, second), measures.level(first, second)
    assert value is not None
    assert level is not None
    within = first == second
    rank, n = measures.rank(first, second)
    place = f"{ranked(rank, n, 'strongest', 'weakest')} of {kind_words(within, n)}" if n > 1 else _ONLY[within]
    return (
        f"the coupling {pair_words(first, second)} is {graded(level, value, within=within)}, "
        f"at {number(value)} {TIMES}: {place}"
    )


_ONLY = {True: "the only network with such a coupling", False: "the only pair of different networks"}


def pair_statement(measures: ScanMeasures, first: str, second: str, text: str | None = None) -> Statement:
    """State a pair's connectivity; in a sentence of one's own with `text`."""
    value = measures.pair(first, second)
    assert value is not None
    _, n = measures.rank(first, second)
    return Statement(
        statement=sentence(pair_clause(measures, first, second)) if text is None else text,
        value=value,
        units=UNITS,
        relative_to=relative(first == second, n),
        level=measures.level(first, second),
        networks=(first, second),
    )


# measure of a network -> what it is called, and what its value is
NOUNS = {
    "node_strength": ("node strength", "sum of a region's strongest correlations"),
    "amplitude": ("signal amplitude", "SD of its mean signal, where single regions have 1"),
    "falff": ("fALFF", f"share of the signal's fluctuation below {LOW_BAND[1]:g} Hz"),
    "low_high_ratio": (
        "low/high frequency ratio",
        f"log10 of the power below {LOW_BAND[1]:g} Hz over that above {HIGH_BAND[0]:g} Hz",
    ),
    "autocorrelation": ("autocorrelation", f"correlation of the signal with itself {LAG_SECONDS:g} s later"),
    "variability": ("variability", "change of the amplitude from minute to minute, over its mean"),
}


def network_statement(measure: str, name: str, found: NetworkValue) -> Statement:
    """State a measure of one network among the networks of the scan."""
    noun, meaning = NOUNS[measure]
    text = f"the {noun} of {name} is {number(found.value)} ({meaning})"
    if found.n > 1:
        level = f"{found.level} for this scan, " if found.level else ""
        text += f": {level}{ranked(found.rank, found.n, 'highest', 'lowest')} of {found.n} networks"
    return measure_statement(sentence(text), found, name)


def measure_statement(text: str, found: NetworkValue, name: str) -> Statement:
    """State a measure of one network in a sentence of one's own."""
    return Statement(
        statement=text,
        value=found.value,
        units=found.units,
        relative_to=f"the {counted(found.n, 'network')} of this scan "
        f"(mean {number(found.mean)}, SD {number(found.sd)})",
        level=found.level,
        networks=(name,),
    )


# measure of the scan -> what it is called, and what it means to lie above, at and below chance
_WHOLE = {
    "modularity": (
        "modularity",
        "its regions fall into more separate groups than chance would make",
        "its regions fall into no clearer groups than chance would make",
        "its regions fall into less separate groups than chance would make",
    ),
    "global_efficiency": (
        "global efficiency",
        "paths between regions are shorter than chance would make them",
        "paths between regions are about as short as chance would make them",
        "paths between regions are longer than chance would make them",
    ),
    "clustering": (
        "clustering",
        "regions linked with a third are linked with each other more than by chance",
        "regions linked with a third are linked with each other about as much as by chance",
        "regions linked with a third are linked with each other less than by chance",
    ),
    "range": (
        "range of the principal gradient",
        "its ends lie further apart than chance would put them",
        "its ends lie about as far apart as chance would put them",
        "its ends lie closer together than chance would put them",
    ),
}


def whole_statement(measure: str, found: ScanValue) -> Statement:
    """State a measure of the whole scan against chance."""
    noun, above, equal, below = _WHOLE[measure]
    meaning = equal if found.level == "moderate" else above if found.z > 0 else below
    level = "about the same as" if found.level == "moderate" else f"{found.level} against"
    mean = number(found.chance, found.value)
    return Statement(
        statement=sentence(
            f"the {noun} is {number(found.value, found.chance)}, {level} {mean} in {found.null}: {meaning}"
        ),
        value=found.value,
        units=found.units,
        relative_to=f"{found.null} (mean {mean}, SD {number(found.sd)})",
        level=found.level,
    )


def left_out(measures: ScanMeasures) -> list[Statement]:
    """State which networks have no usable region, and enter no answer about all networks; nothing if all have."""
    absent = measures.absent
    if not absent:
        return []
    text = f"left out, since no region of it is usable in this scan: {listed(absent)}"
    if len(absent) > 1:
        text = text.replace("of it is", "of them is")
    return [Statement(sentence(text), 0, "usable regions", "the regions of the atlas", networks=absent)]
