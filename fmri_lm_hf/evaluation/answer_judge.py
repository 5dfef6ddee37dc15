"""Judge a text that answers a question about one scan against the scan's own numbers.

The judge reads the text only (`answer_text`): it holds for any program, whether or not that says how it understood the
question. Facts count before yes and no, since a bare yes to "it isn't weak, is it?" could mean either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from ..questions.measures import BINS, BOUNDS_BETWEEN, SCAN_MEASURES, ScanMeasures
from ..questions.query import Query
from .answer_lists import CLOSE, judge_list, levels_of
from .answer_text import Pair, Said

Verdict = Literal["true", "false", "irrelevant", "declined"]

N_DECIMALS = 3  # numbers of a text that are compared with the one that was asked for
_MEANT = {"low": ("low", "markedly low"), "high": ("high", "markedly high")}
# Words of the measures: a text about another one answers another question.
_TOPICS = {
    "modularity": r"modular|communit",
    "global_efficiency": r"efficien|path length|paths",
    "clustering": r"cluster",
    "node_strength": r"node strength|degree|strength of|hub",
    "hub": r"\bhubs?\b|node strength|most connected|central",
    "position": r"gradient|\bends?\b|axis|position",
    "ends": r"gradient|\bends?\b|axis",
    "range": r"gradient",
    "amplitude": r"amplitude",
    "falff": r"f?alff",
    "low_high_ratio": r"ratio|low[/ -]+(?:to[ -])?high",
    "autocorrelation": r"auto-?correl",
    "variability": r"variab",
}
_COUPLING = r"coupl|connect|correlat|link|communicat"
_ABOUT = {
    "all": r"",
    "connectivity": r"between|within|coupl|connect|correlat",
    "graph": r"modular|hub|cluster|efficien|node strength",
    "gradients": r"gradient",
    "ica": r"amplitude|alff|auto-?correl|ratio|variab|component",
    "spectral": r"amplitude|alff|auto-?correl|ratio|variab|frequen",
}


def judge_texts(answer: str, queries: Sequence[Query], measures: ScanMeasures) -> Verdict:
    """Judge the answer to a question that asks one thing or two.

    The text to two is true if it can be cut between two sentences so that each part is true of one of them.

    Parameters
    ----------
    answer : str
    queries : sequence of Query
        What the question asks: one or two.
    measures : ScanMeasures
    """
    if len(queries) == 1:
        return judge_text(answer, queries[0], measures)
    said = Said(answer, measures.network_names)
    if said.declines:
        return "declined"
    parts = [part.text for part in said.sentences()]
    cuts = [(" ".join(parts[:n]), " ".join(parts[n:])) for n in range(1, len(parts))] or [(answer, answer)]
    orders = [both for cut in cuts for both in (cut, cut[::-1])]
    verdicts = [[judge_text(text, query, measures) for text, query in zip(both, queries)] for both in orders]
    if any(both == ["true", "true"] for both in verdicts):
        return "true"
    # one true answer, and the other missing or beside the question, is no answer to both
    return "false" if any("false" in both for both in verdicts) else "irrelevant"


def judge_text(answer: str, query: Query, measures: ScanMeasures) -> Verdict:
    """Judge a text against the truth of one query about one scan.

    Parameters
    ----------
    answer : str
        In English.
    query : Query
        What the question asks.
    measures : ScanMeasures
        Of the scan whose truth counts.

    Returns
    -------
    {"true", "false", "irrelevant", "declined"}
        "irrelevant" if the text says nothing that can be checked about what was asked.

    Examples
    --------
    >>> judge_text("It is weak, at 0.31.", Query("level", ("default", "visual")), measures)  # doctest: +SKIP
    'true'
    """
    said = Said(answer, measures.network_names)
    if said.declines:
        return "declined"
    if _is_about_another_measure(said, query):
        return "irrelevant"
    if query.intent in _CHOICES and len(said.listed) > 1:
        is_true = judge_list(said.listed, query, measures)
        return "irrelevant" if is_true is None else _combined([is_true])
    return _JUDGES[query.intent](said, query, measures)


_CHOICES = ("compare", "strongest", "weakest", "partner", "rank", "count", "graph", "spectral")


def _is_about_another_measure(said: Said, query: Query) -> bool:
    """Whether the text speaks of measures, and not of the one that was asked for."""
    if query.intent == "describe":
        return not said.has(_ABOUT.get(query.extra["about"], ""))
    measure = query.extra.get("measure")
    spoken = [name for name, pattern in _TOPICS.items() if said.has(pattern)]
    if measure is None:
        return bool(spoken) and not said.has(_COUPLING) and not said.pairs
    return measure not in spoken and (bool(spoken) or said.has(_COUPLING))


# ----- numbers and levels -----


def _combined(signs: Iterable[bool]) -> Verdict:
    """All that was checked has to hold."""
    signs = list(signs)
    return "irrelevant" if not signs else "true" if all(signs) else "false"


def _states(said: Said, accepted: Sequence[float]) -> list[bool]:
    """Whether one of the first decimal numbers is one that is accepted; nothing without decimal numbers."""
    # the first ones: who lists numbers enough is right by chance
    first = said.decimals[:N_DECIMALS]
    return [any(abs(found - value) <= margin for found, margin in first for value in accepted)] if first else []


def _coupling(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    """Judge level, within and yesno."""
    pair = (query.networks[0], query.networks[-1])
    value = measures.pair(*pair)
    if value is None or not _names_fit(said, pair):
        return "irrelevant"
    own = [part for part in said.sentences() if _has_pair(part.pairs, pair)]
    about = own[0] if own else said
    claim = query.extra.get("claim")
    signs = _signs_of_coupling(about, pair, measures, claim)
    if not signs and claim is not None and said.says_yes is not None:
        signs = [said.says_yes == _holds(claim, value, pair[0] == pair[1])]
    return _combined(signs)


def _names_fit(said: Said, pair: Pair) -> bool:
    """Whether the text names the networks of a pair, or none at all, and not another pair alone."""
    if said.pairs:
        return _has_pair(said.pairs, pair)
    return not said.names or set(said.names) >= set(pair) or set(said.names) <= set(pair)


def _has_pair(pairs: Iterable[Pair], pair: Pair) -> bool:
    return any(sorted(each) == sorted(pair) for each in pairs)


def _signs_of_coupling(said: Said, pair: Pair, measures: ScanMeasures, claim: str | None = None) -> list[bool]:
    """Check each thing that a text says about one pair: the level, what it denies, the sign, the number."""
    value = measures.pair(*pair)
    assert value is not None
    is_within = pair[0] == pair[1]
    signs = []
    stated = said.stated()
    if stated is not None:
        # "it is strong" holds for markedly high, too, where the question is whether it is strong
        meant = _MEANT.get(stated, (stated,)) if stated == claim else (stated,)
        signs.append(bool(levels_of(value, is_within) & set(meant)))
    for level in said.levels:
        if level.name == "negative":
            signs.append((value < CLOSE) if not level.is_denied else (value > -CLOSE))
        elif level.is_denied:
            is_denied_truly = not levels_of(value, is_within) <= set(_MEANT.get(level.name, (level.name,)))
            # "it is not weak" answers the question whether it is weak, and not how strong it is
            signs += [is_denied_truly] if claim is not None or not is_denied_truly else []
    # a raw mean correlation is as good as one over the scan's RMS
    return signs + _states(said, [value, value * measures.rms])


def _holds(claim: str, value: float, is_within: bool) -> bool:
    if claim == "negative":
        return value < 0
    return bool(levels_of(value, is_within) & set(_MEANT.get(claim, (claim,))))


# ----- choices -----


def _compare(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    pairs = [query.networks[:2], query.networks[2:]]
    values = [value for pair in pairs if (value := measures.pair(*pair)) is not None]
    if len(values) < 2:
        return "irrelevant"
    difference = values[0] - values[1]
    if abs(difference) <= CLOSE or said.has(r"\b(?:equal(?:ly)?|identical|(?:is|are|about) the same)\b"):
        return _combined([abs(difference) <= 2.5 * CLOSE])
    chosen = _chosen_pair(said, pairs)
    if chosen is None:
        signs = [_states(said, [value, value * measures.rms]) for value in values]
        return "true" if all(each == [True] for each in signs) else "irrelevant"
    relation = _relation(said, query.extra["relation"])
    return _combined([(difference > 0) == ((chosen == 0) == (relation == "stronger"))])


def _chosen_pair(said: Said, pairs: Sequence[Sequence[str]]) -> int | None:
    """Which of two pairs a comparison puts first: 0 or 1; None if the text does not tell."""
    for found in said.pairs:
        for number, pair in enumerate(pairs):
            if sorted(found) == sorted(pair):
                return number
    for name in said.names:  # "more with visual", of default-visual and default-control
        holds = [number for number, pair in enumerate(pairs) if name in pair]
        if len(holds) == 1:
            return holds[0]
    if said.has(r"\b(?:first|former)\b"):
        return 0
    if said.has(r"\b(?:second|latter)\b"):
        return 1
    return None if said.says_yes is None else int(not said.says_yes)


def _relation(said: Said, asked: str) -> str:
    """Which of the two relations the text states first."""
    text = said.text.lower()
    words = {
        "stronger": ("stronger", "higher", "greater", "larger", "more "),
        "weaker": ("weaker", "lower", "smaller", "less "),
    }
    places = {
        relation: min((text.find(word) for word in of if word in text), default=len(text))
        for relation, of in words.items()
    }
    if places["stronger"] == places["weaker"]:
        return asked
    found = min(places, key=places.__getitem__)
    is_denied = "not " in text[max(0, places[found] - 6) : places[found]]
    return found if not is_denied else {"stronger": "weaker", "weaker": "stronger"}[found]


def _extreme(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    scope = query.extra["scope"]
    pairs = {
        "between": measures.between,
        "within": measures.within,
        "any": {**measures.between, **measures.within},
    }[scope]
    found: Pair | None = said.pairs[0] if said.pairs else None
    if said.names and (scope == "within" or (found is None and scope == "any")):
        found = (said.names[0], said.names[0])
    elif found is None and len(said.names) > 1:
        found = (said.names[0], said.names[1])
    return _is_extreme(found, pairs, query.intent == "strongest")


def _partner(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    (own,) = query.networks
    pairs = {pair: value for pair, value in measures.between.items() if own in pair}
    others = [name for name in said.names if name != own]
    return _is_extreme((own, others[0]) if others else None, pairs, query.extra["direction"] == "most")


def _is_extreme(found: Pair | None, values: dict[Pair, float], most: bool) -> Verdict:
    """Whether a pair is the strongest (or weakest): by its signed value or, as people also mean it, its size."""
    known = {tuple(sorted(pair)): value for pair, value in values.items()}
    if found is None or not known:
        return "irrelevant"
    if tuple(sorted(found)) not in known:
        return "false" if len(set(found)) > 1 or any(len(set(pair)) == 1 for pair in known) else "irrelevant"
    sign = 1 if most else -1
    value = known[tuple(sorted(found))]
    best = max(sign * each for each in known.values())
    best_size = max(sign * abs(each) for each in known.values())
    return _combined([sign * value >= best - CLOSE or sign * abs(value) >= best_size - CLOSE])


def _rank(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    sign = 1 if query.extra["direction"] == "strongest" else -1
    known = {tuple(sorted(pair)): sign * value for pair, value in measures.between.items()}
    k = min(query.extra["k"], len(known))
    found = list(dict.fromkeys(tuple(sorted(pair)) for pair in said.pairs if len(set(pair)) == 2))
    if not found:
        return "irrelevant"
    bound = sorted(known.values(), reverse=True)[k - 1]
    return _combined([len(found) == k, *(known.get(pair, -np.inf) >= bound - CLOSE for pair in found)])


def _count(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    claim, found = query.extra["claim"], said.count
    if found is None:
        return "irrelevant"
    values = measures.between.values()
    if claim == "negative":
        return _combined([found == sum(value < 0 for value in values)])
    return _combined([found == sum(BINS[int(np.digitize(value, BOUNDS_BETWEEN))] == claim for value in values)])


# ----- measures -----


def _graph(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    measure = query.extra["measure"]
    if measure == "hub":
        return _of_most(said, "node_strength", True, measures)
    if query.networks:
        return _of_network(said, measure, query.networks[0], measures)
    if measure == "node_strength":
        return _combined(_states(said, [measures.mean_strength, *measures.values(measure).values()]))
    return _of_scan(said, measure, measures)


def _gradient(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    measure, ends = query.extra["measure"], measures.ends
    if measure == "range":
        return _of_scan(said, "range", measures)
    if ends is None:
        return "irrelevant"
    if measure == "ends":
        return _combined([set(said.names[:2]) == set(ends)]) if len(said.names) > 1 else "irrelevant"
    position = measures.positions.get(query.networks[0])
    if position is None:
        return "irrelevant"
    # the sign of a gradient is arbitrary
    signs = _states(said, [position, 1 - position])
    named = [name for name in said.names if name in ends]
    if not signs and named:
        signs = [named[0] == ends[int(position > 0.5)]]
    return _combined(signs)


def _spectral(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    measure, direction = query.extra["measure"], query.extra["direction"]
    if direction is None:
        return _of_network(said, measure, query.networks[0], measures)
    return _of_most(said, measure, direction == "most", measures)


def _of_network(said: Said, measure: str, name: str, measures: ScanMeasures) -> Verdict:
    """Judge a measure of one network: its number, and its level among the networks of the scan."""
    found = measures.network(measure, name)
    if found is None or (said.names and name not in said.names):
        return "irrelevant"
    stated = said.stated()
    levels = [] if stated is None or found.level is None else [stated == found.level]
    return _combined([*levels, *_states(said, [found.value])])


def _of_most(said: Said, measure: str, most: bool, measures: ScanMeasures) -> Verdict:
    """Judge which network has the most or the least of a measure: the one that is named first."""
    values = measures.values(measure)
    if not said.names or not values:
        return "irrelevant"
    best = (max if most else min)(values.values())
    margin = 0.01 * (max(values.values()) - min(values.values()))
    return _combined([abs(values.get(said.names[0], np.inf) - best) <= margin])


def _of_scan(said: Said, measure: str, measures: ScanMeasures) -> Verdict:
    """Judge a measure of the whole scan: its number, and its level against chance."""
    found = measures.whole(measure)
    if found is None:
        return "irrelevant"
    stated = said.stated()
    return _combined([*([] if stated is None else [stated == found.level]), *_states(said, [found.value])])


# ----- descriptions -----


def _describe(said: Said, query: Query, measures: ScanMeasures) -> Verdict:
    """Judge a description: every sentence about one pair or one measure is checked, and all of them have to hold."""
    if query.networks and query.networks[0] not in said.names:
        return "irrelevant"
    return _combined(sign for part in said.sentences() for sign in _signs_of_sentence(part, measures))


def _signs_of_sentence(said: Said, measures: ScanMeasures) -> list[bool]:
    """Check a sentence of a description; nothing if it is about several things at once."""
    measure = _topic(said)
    if measure in ("position", "ends"):
        ends = measures.ends
        return [set(said.names[:2]) == set(ends)] if ends is not None and len(said.names) > 1 else []
    if measure in SCAN_MEASURES:
        return _signs(_of_scan(said, measure, measures))
    if measure is not None:
        return _signs(_of_network(said, measure, said.names[0], measures)) if len(said.names) == 1 else []
    pairs = {tuple(sorted(pair)) for pair in said.pairs}
    if len(pairs) == 1 and set(said.names) == set(*pairs) and measures.pair(*said.pairs[0]) is not None:
        return _signs_of_coupling(said, said.pairs[0], measures)
    return []


def _topic(said: Said) -> str | None:
    """Return the measure that a sentence names first; an explanation of it may name another."""
    if said.has(r"gradient"):
        return "range" if said.has(r"range") else "ends"
    found = {name: re.search(pattern, said.text, re.IGNORECASE) for name, pattern in _TOPICS.items()}
    places = {name: match.start() for name, match in found.items() if match and name != "hub"}
    return min(places, key=places.__getitem__, default=None)


def _signs(verdict: Verdict) -> list[bool]:
    return [] if verdict in ("irrelevant", "declined") else [verdict == "true"]


_JUDGES: dict[str, Callable[[Said, Query, ScanMeasures], Verdict]] = {
    "level": _coupling,
    "within": _coupling,
    "yesno": _coupling,
    "compare": _compare,
    "strongest": _extreme,
    "weakest": _extreme,
    "partner": _partner,
    "rank": _rank,
    "count": _count,
    "describe": _describe,
    "graph": _graph,
    "gradient": _gradient,
    "spectral": _spectral,
}
