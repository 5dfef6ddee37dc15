"""From a question in anybody's words to queries, or to the reason why it cannot be answered.

A lexicon finds the networks, an encoder tells what is asked, and the rules here join both: every network of a query
stands in the question, and there are as many as what is asked needs. What does not fit is declined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from .classes import CLASSES, KINDS, MAX_NAMES, NONE, Reader, Reading, most_probable
from .lexicon import Lexicon, Mention
from .numbers import number_in
from .query import ENDS, Query

MIN_CONFIDENCE = 0.5
MIN_CONFIDENCE_BESIDE_UNKNOWN = 0.9  # where the question also names something that the atlas lacks
NAMED_BESIDES = 0.8  # factor of the confidence if a question names networks that what it asks for does not need
MAX_LETTERS = 2000  # of a question

_REASONS = {
    "not_in_atlas": "It asks about a region or network that this atlas does not have.",
    "not_in_scan": "That cannot be read from the networks of one resting-state scan.",
    "needs_reference": "That needs something to compare with (norms, a group, an earlier scan), and there is this scan "
    "alone.",
    "personal": "A scan does not tell that about a person, and this program makes no diagnosis.",
    "not_about_scan": "It is not a question about the scan.",
    "unclear": "It is not clear what is asked.",
    "action": "Only questions about the scan are answered; nothing else is done.",
}

_WHATEVER_NAMES = ("personal", "not_about_scan", "action")  # kinds of questions whose names do not matter


@dataclass(frozen=True)
class Understanding:
    """What a question was understood as.

    Attributes
    ----------
    queries : tuple of Query
        One or two; none if the question is declined.
    score : float
        Probability that this is what was meant, or that the question has no answer here.
    kind : str or None
        Why it is declined, one of `KINDS`.
    reason : str or None
        The same in a sentence, with what can be asked instead.
    mentions : tuple of Mention
        The names that were found.
    """

    queries: tuple[Query, ...] = ()
    score: float = 1.0
    kind: str | None = None
    reason: str | None = None
    mentions: tuple[Mention, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, self.queries)) or f"declined: {self.reason}"


def understand(text: str, lexicon: Lexicon, reader: Reader, min_confidence: float = MIN_CONFIDENCE) -> Understanding:
    """Understand a question about one scan.

    Parameters
    ----------
    text : str
        In any of the languages that the encoder was trained on.
    lexicon : Lexicon
        Names of the networks of the scan's atlas.
    reader : Reader
    min_confidence : float
        Least probability of an answer: a question that is understood with less is declined.

    Returns
    -------
    Understanding
    """
    text = text[:MAX_LETTERS].strip()
    if not re.search(r"\w", text):
        return decline("unclear", 1.0, (), lexicon, "The question is empty.")
    mentions = tuple(lexicon.find(text))
    shown = placeholders(text, mentions)
    (reading,) = reader.read([shown])
    return _resolve(text, shown, reading, mentions, lexicon, min_confidence)


def placeholders(text: str, mentions: Sequence[Mention]) -> str:
    """Replace the names in a question by the placeholders of the encoder."""
    numbers: dict[str, int] = {}
    parts, end = [], 0
    for mention in mentions:
        sure = len(mention.networks) == 1
        number = numbers.setdefault(mention.networks[0], len(numbers) + 1) if sure else 0
        word = f"[n{min(number, MAX_NAMES)}]" if sure else "[several]" if mention.networks else "[missing]"
        parts += [text[end : mention.start], f" {word} "]
        end = mention.end
    return "".join([*parts, text[end:]])


def _resolve(
    text: str,
    shown: str,
    reading: Reading,
    mentions: tuple[Mention, ...],
    lexicon: Lexicon,
    min_confidence: float,
) -> Understanding:
    """Join what the encoder read, shown the text with placeholders, with the names that were found."""
    names = [mention.networks[0] for mention in mentions if len(mention.networks) == 1]
    unknown = [mention for mention in mentions if len(mention.networks) != 1]
    no_answer = sum(p for name, p in reading.first.items() if name.startswith("unanswerable/"))
    score: float = 0.0
    queries: tuple[Query, ...] = ()
    if no_answer < MIN_CONFIDENCE:
        score, queries = _most_probable(_candidates(shown, reading, names))
    least = max(min_confidence, MIN_CONFIDENCE_BESIDE_UNKNOWN) if unknown else min_confidence
    if queries and score >= least:
        return Understanding(queries, score, mentions=mentions)
    kind = max(KINDS, key=lambda name: reading.first[f"unanswerable/{name}"])
    is_sure = reading.first[f"unanswerable/{kind}"] >= MIN_CONFIDENCE
    # What is sure to be about something else is told so, whatever names it has.
    if unknown and not (is_sure and kind in _WHATEVER_NAMES):
        return decline("not_in_atlas", 1 - score, mentions, lexicon, _about_name(text, unknown[0], lexicon))
    if no_answer >= MIN_CONFIDENCE:
        return decline(kind, no_answer, mentions, lexicon)
    guess = f"It might mean: {'; '.join(map(str, queries))}. Please say it in other words." if queries else None
    return decline("unclear", 1 - score, mentions, lexicon, guess or _about_count(reading, names))


def decline(
    kind: str, score: float, mentions: tuple[Mention, ...], lexicon: Lexicon, reason: str | None = None
) -> Understanding:
    """Decline a question, with a reason and what can be asked instead."""
    known = [mention.networks[0] for mention in mentions if len(mention.networks) == 1]
    instead = examples(known, lexicon.network_names)
    return Understanding((), score, kind, f"{reason or _REASONS[kind]} {instead}", mentions)


def examples(known: Sequence[str], network_names: Sequence[str]) -> str:
    """Say what can be asked about the networks that a question named, or about any others of the atlas."""
    first, *others = dict.fromkeys([*known, *network_names])
    asked = f'"How strong is connectivity within {first}?" or "Describe the graph."'
    if others:
        asked = (
            f'"How strong is connectivity between {first} and {others[0]}?", "Which network is {first} coupled with '
            'most?" or "Describe the graph."'
        )
    return f"You can ask, for example, {asked}"


def _about_name(text: str, mention: Mention, lexicon: Lexicon) -> str:
    """Say what is wrong with a name: it fits several networks, nearly fits some, is a part of one, or fits none."""
    name = text[mention.start : mention.end]
    if len(mention.networks) > 1:
        return f'"{name}" fits {len(mention.networks)} networks of this atlas: {_listed(mention.networks)}. Which one?'
    if mention.reason == "part":
        return f'"{name}" is a part of a network, which this atlas does not tell apart.'
    if mention.near:
        return f'This atlas has no "{name}"; the nearest is {_listed(mention.near)}, which is not the same.'
    return f'This atlas has no "{name}". Its networks are {_listed(lexicon.network_names)}.'


def _about_count(reading: Reading, names: Sequence[str]) -> str | None:
    """Say that the names do not fit what is asked; None if something else is unclear."""
    name, probability = most_probable({name: reading.first[name] for name in CLASSES})
    needed = arity(name)
    found = list(dict.fromkeys(names))
    if probability < MIN_CONFIDENCE or min(needed) <= len(found) <= max(needed):
        return None
    noun = "network" if needed == (1,) else "networks"
    return f"That question needs {' or '.join(map(str, needed))} {noun}; found: {_listed(found) or 'none'}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


# ----- classes and names to queries -----


def arity(name: str) -> tuple[int, ...]:
    """Return the numbers of names that a question of a class may mention."""
    intent, _, parameter = name.partition("/")
    if intent in ("within", "yesno1", "partner") or parameter in ("network", "position"):
        return (1,)
    if intent in ("level", "yesno2"):
        return (2,)
    if intent == "compare":
        return (2, 3, 4)
    if parameter == "node_strength":
        return (0, 1)
    if intent == "spectral" and "/" not in parameter:
        return (1,)
    return (0,)


_Classes = tuple[str, str]
_Candidate = tuple[_Classes, float, tuple[Query, ...]]


def _most_probable(candidates: Iterable[_Candidate]) -> tuple[float, tuple[Query, ...]]:
    """Return what a question most probably means; probabilities of classes that mean the same add up.

    Two times the same is one question ("its value, and what that means").
    """
    by_meaning: dict[Any, dict[_Classes, float]] = {}
    best: dict[Any, tuple[float, tuple[Query, ...]]] = {}
    for classes, p, queries in candidates:
        keys = tuple(dict.fromkeys(query.key for query in queries))
        of_classes = by_meaning.setdefault(keys, {})
        of_classes[classes] = max(p, of_classes.get(classes, 0.0))
        if p > best.get(keys, (0.0, ()))[0]:
            best[keys] = p, queries[: len(keys)]
    if not best:
        return 0.0, ()
    meant = max(best, key=lambda keys: sum(by_meaning[keys].values()))
    return min(sum(by_meaning[meant].values()), 1.0), best[meant][1]


def _with_number(probabilities: dict[str, float], number: int) -> dict[str, float]:
    """Let a number decide between the strongest pair and the k strongest, where the encoder finds both possible.

    "Two" stays open: it may count the networks of one pair.
    """
    decided = dict(probabilities)
    for end in ENDS:
        one, several = f"{end}/between", f"rank/{end}"
        if number >= 3 and decided[several] >= 0.02:
            decided[several] += decided[one]
            decided[one] = 0.0
        elif not number:
            decided[one] += decided[several]
            decided[several] = 0.0
    return decided


def _candidates(text: str, reading: Reading, names: Sequence[str]) -> Iterator[_Candidate]:
    """List what a question, with placeholders, may mean with the names that it has: classes, probability, queries.

    Of equally probable ones the first counts: a name that stands in the second question before one of the first.
    """
    order = list(dict.fromkeys(names))
    firsts = _with_number(reading.first, number_in(text, default=0))
    seconds = _with_number(reading.second, number_in(text, last=True, default=0))
    for (first, p_first), (second, p_second) in product(_likely(firsts), _likely(seconds)):
        p = p_first * p_second
        counts = {len(order)} if second == NONE else set(range(len(order) + 1))
        for query, p_pairing, rest in _queries(first, names, _Names(order, counts, reading.pairings[0]), text):
            if second != NONE:
                for other, p_other in _seconds(second, query, rest, order, reading.pairings[1], text):
                    yield (first, second), p * p_pairing * p_other, (query, other)
            elif set(rest) <= set(query.networks):
                yield (first, second), p * p_pairing, (query,)
            elif arity(first) == (0,):  # "my money is on A, but which is the hub?"
                yield (first, second), p * p_pairing * NAMED_BESIDES, (query,)


def _seconds(
    name: str, first: Query, rest: Sequence[str], order: Sequence[str], pairings: dict[str, float], text: str
) -> Iterator[tuple[Query, float]]:
    """List the second questions that the names left over allow; it may refer to the first's ("and its partner?")."""
    shared = [[*first.networks[:n], *rest] for n in (0, 1, 2)]
    fitting = [names for names in shared if len(set(names)) in arity(name)]
    compared = _Names(order, {len(set(names)) for names in fitting}, pairings)
    for names in fitting:
        for query, p, left in _queries(name, names, compared, text, after=first):
            if set(left) <= set(query.networks):
                yield query, p


def _likely(probabilities: dict[str, float]) -> list[tuple[str, float]]:
    return [(name, p) for name, p in probabilities.items() if p > 0.02 and not name.startswith("unanswerable/")]


@dataclass(frozen=True)
class _Names:
    """What a comparison has to know: the names of the message in order, how many it may have, and the pairings."""

    order: Sequence[str]
    counts: set[int]
    pairings: dict[str, float]


def _queries(
    name: str, names: Sequence[str], compared: _Names, text: str, after: Query | None = None
) -> Iterator[tuple[Query, float, Sequence[str]]]:
    """Make the queries of a class from the first of the names: query, probability of its pairing, names left over."""
    intent, _, parameter = name.partition("/")
    if intent == "compare":
        yield from _comparisons(parameter, names, compared)
        return
    for n in arity(name):
        # a name that is said again is not another network ("The default network: is default strong with visual?")
        used = list(dict.fromkeys(names))[:n]
        if len(used) == n:
            yield _query(intent, parameter, used, text, after), 1.0, _behind(used, names)


def _behind(used: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """Return the names that follow after all that are used were named once."""
    return names[max(map(names.index, used), default=-1) + 1 :]


def _comparisons(
    relation: str, names: Sequence[str], compared: _Names
) -> Iterator[tuple[Query, float, Sequence[str]]]:
    """Make the comparisons of the first names; a name that is said again may belong to it or to the next question."""
    numbers = {pairing: len(set(pairing)) for pairing in compared.pairings}
    total = sum(p for pairing, p in compared.pairings.items() if numbers[pairing] in compared.counts)
    for pairing, p in compared.pairings.items():
        used = list(dict.fromkeys(names))[: numbers[pairing]]
        if numbers[pairing] not in compared.counts or len(used) < numbers[pairing]:
            continue
        ordered = [name for name in compared.order if name in used]  # the encoder numbers them so
        query = Query("compare", tuple(ordered[int(number)] for number in pairing), {"relation": relation})
        rest = _behind(used, names)
        yield query, p / max(total, 1e-9), rest
        while rest and rest[0] in used:
            rest = rest[1:]
            yield query, p / max(total, 1e-9), rest


def _query(intent: str, parameter: str, names: Sequence[str], text: str, after: Query | None) -> Query:
    """Make the query of a class with as many names as it needs."""
    networks = tuple(names)
    match intent:
        case "level" | "within":
            return Query(intent, networks)
        case "yesno1" | "yesno2" | "count":
            return Query(intent.rstrip("12"), networks, {"claim": parameter})
        case "strongest" | "weakest":
            return Query(intent, (), {"scope": parameter})
        case "partner":
            return Query(intent, networks, {"direction": parameter})
        case "rank":
            return Query(intent, (), {"k": number_in(text, last=after is not None), "direction": parameter})
        case "describe":
            return Query(intent, networks, {"about": names[0] if names else parameter})
        case "spectral":
            measure, _, direction = parameter.partition("/")
            return Query(intent, networks, {"measure": measure, "direction": direction or None})
    return Query(intent, networks, {"measure": parameter})
