"""Answers about the coupling of network pairs: those that are named, and those that are looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .bins import BINS, BOUNDS_BETWEEN, UNITS
from .measures import ScanMeasures
from .query import Query
from .reasons import require_between, require_pair, require_within
from .statements import (
    TIMES,
    WORDS,
    Answer,
    Statement,
    counted,
    graded,
    kind_words,
    left_out,
    listed,
    number,
    pair_clause,
    pair_statement,
    pair_words,
    relative,
    sentence,
)

MOST_NAMED = 6  # pairs that the evidence of a count names
CLOSE = 0.05  # couplings that differ by less, in units of the scan's RMS correlation, are called close
# A negative coupling of this size is as strong as those that are called strong.
STRONG_NEGATIVE = -BOUNDS_BETWEEN[2]
# A question about "strong" also means "very strong"; one about "very strong" means no other.
_MEANT = {"low": ("low", "markedly low"), "high": ("high", "markedly high")}
_BEYOND = {"low": "markedly low", "high": "markedly high"}

Pairs = Mapping[tuple[str, str], float]

# ----- pairs that are named -----


def answer_level(query: Query, measures: ScanMeasures) -> Answer:
    """Answer how strong a coupling is."""
    first, second = query.networks[0], query.networks[-1]
    require_pair(measures, first, second)
    return Answer.of(pair_statement(measures, first, second))


def answer_yesno(query: Query, measures: ScanMeasures) -> Answer:
    """Answer whether a coupling has a level."""
    first, second, claim = query.networks[0], query.networks[-1], query.extra["claim"]
    require_pair(measures, first, second)
    holds = _holds(claim, measures, first, second)
    fact = f"It is {'' if holds else 'not '}{WORDS[claim]}: {pair_clause(measures, first, second)}."
    return Answer.of(pair_statement(measures, first, second, fact))


def _holds(claim: str, measures: ScanMeasures, first: str, second: str) -> bool:
    if claim == "negative":
        value = measures.pair(first, second)
        return value is not None and value < 0
    return measures.level(first, second) in _MEANT.get(claim, (claim,))


def answer_compare(query: Query, measures: ScanMeasures) -> Answer:
    """Answer which of two couplings is stronger or weaker."""
    pairs = [query.networks[:2], query.networks[2:]]
    values = [require_pair(measures, *pair) for pair in pairs]
    evidence = [pair_statement(measures, *pair) for pair in pairs]
    difference = values[0] - values[1]
    compared = Statement(
        statement=_comparison(query.extra["relation"], pairs, values, measures),
        value=difference,
        units=UNITS,
        relative_to=f"the coupling {pair_words(*pairs[1])}, in units of this scan's RMS correlation",
        networks=query.networks,
    )
    return Answer.of(compared, *evidence, text=compared.statement)


def _comparison(relation: str, pairs, values, measures: ScanMeasures) -> str:
    if set(pairs[0]) == set(pairs[1]):
        return f"Both are the same coupling, {pair_words(*pairs[0])}: {number(values[0])} {TIMES}."
    order = sorted(zip(values, pairs), key=lambda both: both[0], reverse=relation == "stronger")
    (value, pair), (other, other_pair) = order
    said = [
        f"{number(one, against)} ({measures.level(*of)})"
        for one, of, against in ((value, pair, other), (other, other_pair, value))
    ]
    if value == other:
        return f"The couplings {pair_words(*pair)} and {pair_words(*other_pair)} are equal: {said[0]}, {TIMES}."
    text = f"The coupling {pair_words(*pair)} is {relation}: {said[0]} against {said[1]} {pair_words(*other_pair)}"
    text += f", {TIMES}."
    if abs(value - other) <= CLOSE:
        text += f" They are close: they differ by {number(abs(value - other))}."
    if (abs(value) > abs(other)) != (value > other):
        larger = max(order, key=lambda both: abs(both[0]))[1]
        text += f" Regardless of sign, the larger of the two is the coupling {pair_words(*larger)}."
    return text


# ----- pairs that are looked for -----


_SCOPES = {"between": " between networks", "within": " inside a network", "any": ""}


def answer_extreme(query: Query, measures: ScanMeasures) -> Answer:
    """Answer which coupling is the strongest or the weakest."""
    scope = query.extra["scope"]
    pairs: Pairs = {
        "between": lambda: require_between(measures),
        "within": lambda: require_within(measures),
        "any": lambda: {**require_between(measures), **measures.within},
    }[scope]()
    kind = {
        "between": kind_words(False, len(pairs)),
        "within": f"{counted(len(pairs), 'network')} inside themselves",
        "any": f"{len(pairs)}, between and within networks,",
    }[scope]
    most = query.intent == "strongest"
    lead = f"the {query.intent} coupling of {kind} is {{pair}}"
    if len(pairs) == 1:
        lead = f"the only coupling{_SCOPES[scope]} is {{pair}}"
    return extreme_pair(measures, pairs, most, lead, f"this scan's RMS correlation; among {kind}")


def answer_partner(query: Query, measures: ScanMeasures) -> Answer:
    """Answer which network another is coupled with most or least."""
    (name,) = query.networks
    return partner(measures, name, query.extra["direction"] == "most")


def partner(measures: ScanMeasures, name: str, most: bool) -> Answer:
    """Answer which other network a network is coupled with most, or least."""
    pairs = partners(measures, name)
    end = "strongest" if most else "weakest"
    lead = f"of {len(pairs)} other networks, {{name}} has its {end} coupling with {{other}}"
    if len(pairs) == 1:
        lead = "the only other network that {name} can be coupled with is {other}"
    return extreme_pair(measures, pairs, most, lead, f"this scan's RMS correlation; among the pairs of {name}")


def partners(measures: ScanMeasures, name: str) -> Pairs:
    """Connectivity of a network with each other one; the network stands first."""
    pairs = {}
    for pair, value in require_between(measures, name).items():
        if name in pair:
            other = pair[0] if pair[1] == name else pair[1]
            pairs[name, other] = value
    return pairs


def extreme_pair(measures: ScanMeasures, pairs: Pairs, most: bool, lead: str, relative_to: str) -> Answer:
    """Answer with the highest or the lowest of some pairs, and with what else people may mean by it.

    Parameters
    ----------
    measures : ScanMeasures
    pairs : mapping of (str, str) to float
    most : bool
    lead : str
        Beginning of the sentence, with ``{pair}``, or ``{name}`` and ``{other}``.
    relative_to : str
    """
    pair = (max if most else min)(pairs, key=pairs.__getitem__)
    value, level = pairs[pair], str(measures.level(*pair))
    said = lead.format(pair=pair_words(*pair), name=pair[0], other=pair[1])
    grade = graded(level, value, within=pair[0] == pair[1])
    lowest = "" if most or len(pairs) == 1 else " (the lowest value)"
    text = sentence(f"{said}, at {number(value)} {TIMES}{lowest}: {grade}")
    first = Statement(text, value, UNITS, relative_to, level, pair)
    return Answer.of(first, *_other_meaning(measures, pairs, pair, most, relative_to), *left_out(measures))


def _other_meaning(measures, pairs: Pairs, pair, most: bool, relative_to: str) -> list[Statement]:
    """State the most negative pair for the strongest, and the one nearest to zero for the weakest, if it is another."""
    other = min(pairs, key=lambda one: pairs[one] if most else abs(pairs[one]))
    value = pairs[other]
    if other == pair or (most and value > STRONG_NEGATIVE):
        return []
    what = "the strongest negative coupling is that" if most else "nearest to zero is the coupling"
    text = sentence(f"{what} {pair_words(*other)}, at {number(value)}")
    return [Statement(text, value, UNITS, relative_to, measures.level(*other), other)]


def answer_rank(query: Query, measures: ScanMeasures) -> Answer:
    """Answer with the k strongest or weakest pairs."""
    k, direction = query.extra["k"], query.extra["direction"]
    pairs = require_between(measures)
    strongest = direction == "strongest"
    chosen = sorted(pairs, key=pairs.__getitem__, reverse=strongest)[:k]
    items = [f"{pair_words(*pair)} ({number(pairs[pair])})" for pair in chosen]
    n = len(pairs)
    if k > n:
        lead = f"There {'is' if n == 1 else 'are'} only {kind_words(False, n)}; from the {direction}: "
    elif k == 1:
        lead = f"The {direction} coupling of {kind_words(False, n)}: "
    else:
        lead = f"The {k} {direction} couplings of {kind_words(False, n)}, from the {direction}: "
    text = f"{lead}{listed(items)}, {TIMES}."
    evidence = [pair_statement(measures, *pair) for pair in chosen]
    missing = left_out(measures)
    found = Answer.of(*evidence, *missing, text=" ".join([text, *(one.statement for one in missing)]))
    values = [one.value for one in evidence]
    return Answer(found.text, values, UNITS, None, relative(False, n), found.evidence)


def answer_count(query: Query, measures: ScanMeasures) -> Answer:
    """Answer how many pairs have a level; the evidence names them if they are few."""
    claim = query.extra["claim"]
    pairs = require_between(measures)
    n = len(pairs)
    found = [_counted(measures, pairs, claim, f" of {kind_words(False, n)}")]
    if claim in _BEYOND:
        found.append(_counted(measures, pairs, _BEYOND[claim], " more"))
    missing = left_out(measures)
    answer = Answer.of(*found, *missing)
    named = _with_level(measures, pairs, claim)
    shown = [pair_statement(measures, *pair) for pair in named] if len(named) <= MOST_NAMED else []
    return replace(answer, evidence=(*found, *shown, *missing))


def _with_level(measures: ScanMeasures, pairs: Pairs, claim: str) -> list[tuple[str, str]]:
    return [
        pair for pair, value in pairs.items() if (value < 0 if claim == "negative" else measures.level(*pair) == claim)
    ]


def _counted(measures: ScanMeasures, pairs: Pairs, claim: str, of: str) -> Statement:
    n = len(_with_level(measures, pairs, claim))
    word = claim if WORDS[claim] == claim else f"{claim} ({WORDS[claim]})"
    return Statement(
        statement=f"{n}{of} {'is' if n == 1 else 'are'} {word}.",
        value=n,
        units="pairs of different networks",
        relative_to="bins of connectivity over this scan's RMS correlation" if claim in BINS else "zero",
        level=claim if claim in BINS else None,
    )
