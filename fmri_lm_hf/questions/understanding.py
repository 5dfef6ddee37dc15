"""From a question in anybody's words to queries, or to the reason why it cannot be answered.

A lexicon finds the networks, an encoder tells what is asked, and the rules here join both: every network of a query
stands in the question, and there are as many as what is asked needs. What does not fit is declined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .classes import CLASSES, KINDS, MAX_NAMES, NONE, Reader, Reading, most_probable
from .lexicon import Lexicon, Mention
from .query import Query

MIN_CONFIDENCE = 0.5
MIN_CONFIDENCE_BESIDE_UNKNOWN = 0.9  # where the question also names something that the atlas lacks
NAMED_BESIDES = 0.8  # factor of the confidence if a question names networks that what it asks for does not need
MAX_LETTERS = 2000  # of a question
DEFAULT_K = 3  # of "the strongest pairs"

_TOO_MANY = "It asks more than two things at once. Ask them one by one."
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
    (reading,) = reader.read([placeholders(text, mentions)])
    return resolve(text, reading, mentions, lexicon, min_confidence)


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


def resolve(
    text: str,
    reading: Reading,
    mentions: tuple[Mention, ...],
    lexicon: Lexicon,
    min_confidence: float = MIN_CONFIDENCE,
) -> Understanding:
    """Join what the encoder read with the names that were found; see `understand`."""
    names = [mention.networks[0] for mention in mentions if len(mention.networks) == 1]
    unknown = [mention for mention in mentions if len(mention.networks) != 1]
    no_answer = sum(p for name, p in reading.first.items() if name.startswith("unanswerable/"))
    best: tuple[float, tuple[Query, ...]] = (0.0, ())
    if no_answer < MIN_CONFIDENCE:
        best = max(_candidates(text, reading, names), key=lambda each: each[0], default=best)
    score, queries = best
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
    first, second = (
        [*dict.fromkeys([*known, *network_names])][:2] if len(network_names) > 1 else (network_names * 2)[:2]
    )
    asked = (
        f'"How strong is connectivity between {first} and {second}?", "Which network is {first} coupled with most?" '
        'or "Describe the graph."'
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
    if probability < MIN_CONFIDENCE or min(needed) <= len(names) <= max(needed):
        return None
    found = _listed(names) if names else "none"
    return f"That question needs {' or '.join(map(str, sorted(needed)))} networks; found: {found}."


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


def _candidates(text: str, reading: Reading, names: Sequence[str]) -> Iterator[tuple[float, tuple[Query, ...]]]:
    """List what a question may mean with the names that it has, each with its probability."""
    for first, p_first in _likely(reading.first):
        for query, p_pairing, rest in _queries(first, names, reading.pairings[0], text):
            for second, p_second in _likely(reading.second):
                p = p_first * p_second * p_pairing
                if second == NONE:
                    if set(rest) <= set(query.networks):
                        yield p, (query,)
                    elif not query.networks:  # "my money is on A, but which is the hub?"
                        yield p * NAMED_BESIDES, (query,)
                    continue
                for shared in _names_of_second(second, query, rest):
                    for other, p_other, left in _queries(second, shared, reading.pairings[1], text, query):
                        if not left:
                            yield p * p_other, (query, other)


def _likely(probabilities: dict[str, float]) -> list[tuple[str, float]]:
    return [(name, p) for name, p in probabilities.items() if p > 0.02 and not name.startswith("unanswerable/")]


def _names_of_second(name: str, first: Query, rest: Sequence[str]) -> list[list[str]]:
    """List the names that a second question may be about; it may refer to the first's ("and its partner?")."""
    shared = [[*first.networks[:n], *rest] for n in (0, 1, 2)]
    return [names for names in shared if len(names) in arity(name) or name.startswith("compare")]


def _queries(
    name: str, names: Sequence[str], pairings: dict[str, float], text: str, after: Query | None = None
) -> Iterator[tuple[Query, float, Sequence[str]]]:
    """Make the queries of a class from the first of the names: query, probability of its pairing, names left over."""
    intent, _, parameter = name.partition("/")
    if intent == "compare":
        yield from _comparisons(parameter, names, pairings)
        return
    for n in arity(name):
        used, rest = list(names[:n]), list(names[n:])
        # a name that is said again is not another network ("the default network, is default strong inside?")
        while rest and len(set(used)) < n and rest[0] in used:
            rest = rest[1:]
        if len(used) == n and len(set(used)) == n and (query := _query(intent, parameter, used, text, after)):
            yield query, 1.0, rest


def _comparisons(
    relation: str, names: Sequence[str], pairings: dict[str, float]
) -> Iterator[tuple[Query, float, Sequence[str]]]:
    unique = list(dict.fromkeys(names))
    possible = {pairing: p for pairing, p in pairings.items() if set(map(int, pairing)) == set(range(len(unique)))}
    total = sum(possible.values())
    for pairing, p in possible.items():
        networks = [unique[int(number)] for number in pairing]
        yield Query("compare", tuple(networks), {"relation": relation}), p / max(total, 1e-9), []


def _query(intent: str, parameter: str, names: Sequence[str], text: str, after: Query | None) -> Query | None:
    """Make the query of a class; None if the class does not fit the number of names."""
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
            return Query(
                intent,
                (),
                {"k": number_in(text, skip=after is not None and after.intent == "rank"), "direction": parameter},
            )
        case "describe":
            return Query(intent, networks, {"about": names[0] if names else parameter})
        case "spectral":
            measure, _, direction = parameter.partition("/")
            return Query(intent, networks, {"measure": measure, "direction": direction or None})
    return Query(intent, networks, {"measure": parameter})


# ----- numbers -----


@cache
def _number_words() -> dict[str, int]:
    words = json.loads(files(__package__).joinpath("numbers.json").read_text(encoding="utf-8"))
    return {word: int(number) for number, forms in words.items() for word in forms}


def number_in(text: str, skip: bool = False) -> int:
    """Return the number in a question (digits or words), the second one with `skip`; `DEFAULT_K` without any."""
    words = _number_words()
    spoken = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    # words of scripts without spaces (a letter beyond Latin, Greek and Cyrillic) may stand inside a longer run
    pattern = rf"(?<![\w.%])(\d{{1,2}})(?![\d.]*%|\d)|(?<![^\W\d_])({spoken})(?![a-zA-Z\u00c0-\u024f\u0400-\u04ff])"
    found = [int(m[1]) if m[1] else words[m[2].lower()] for m in re.finditer(pattern, text, re.IGNORECASE)]
    found = [number for number in found if number > 0]
    place = 1 if skip and len(found) > 1 else 0
    return found[place] if found else DEFAULT_K
