"""Judge an answer that lists levels in place of choosing: "between a and b: high; between a and c: low"."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..questions.measures import BINS, BOUNDS_BETWEEN, BOUNDS_WITHIN, ScanMeasures
from ..questions.query import Query

Item = tuple[str, ...]  # a pair, or a network

CLOSE = 0.02  # in units of the scan's RMS correlation: what lies closer together, or to a bound, is not told apart


def levels_of(value: float, is_within: bool) -> set[str]:
    """Return the bins that a coupling may be said to be in: two if it lies at the bound between them."""
    bounds = BOUNDS_WITHIN if is_within else BOUNDS_BETWEEN
    return {BINS[int(np.digitize(each, bounds))] for each in (value - CLOSE, value, value + CLOSE)}


def judge_list(listed: Mapping[Item, str], query: Query, measures: ScanMeasures) -> bool | None:
    """Judge a list of levels as the answer to a question that asks for a choice or a count.

    A list leaves the choice to the reader, who takes what has the highest (or lowest) level. The true choice has to be
    among these, with its true level.

    Parameters
    ----------
    listed : mapping of tuple of str to str
        Sorted pair, or network -> level.
    query : Query
    measures : ScanMeasures

    Returns
    -------
    bool or None
        None if a list is no answer to such a question, or lacks what it asks about.
    """
    if query.intent == "compare":
        return _compared(listed, query, measures)
    values = _candidates(query, measures)
    if not values or not set(values) <= set(listed):
        return None
    if query.intent == "count":
        true = sum(BINS[int(np.digitize(value, BOUNDS_BETWEEN))] == query.extra["claim"] for value in values.values())
        return sum(listed[item] == query.extra["claim"] for item in values) == true
    sign = 1 if _wants_most(query) else -1
    best = sorted(values, key=lambda item: -sign * values[item])[: query.extra.get("k", 1)]
    top = sorted((sign * BINS.index(listed[item]) for item in values), reverse=True)[: len(best)]
    return all(
        sign * BINS.index(listed[item]) >= top[-1] and _is_level(item, listed[item], query, measures) for item in best
    )


def _compared(listed: Mapping[Item, str], query: Query, measures: ScanMeasures) -> bool | None:
    pairs = [tuple(sorted(query.networks[:2])), tuple(sorted(query.networks[2:]))]
    if not set(pairs) <= set(listed):
        return None
    return all(_is_level(pair, listed[pair], query, measures) for pair in pairs)


def _candidates(query: Query, measures: ScanMeasures) -> dict[Item, float]:
    """Return the value of everything that a question chooses from."""
    extra = query.extra
    if query.intent in ("graph", "spectral"):
        return {(name,): value for name, value in measures.values(_measure(query)).items()}
    within = {pair: value for pair, value in measures.within.items() if extra.get("scope") in ("within", "any")}
    between = measures.between if extra.get("scope") != "within" else {}
    values = {tuple(sorted(pair)): value for pair, value in {**between, **within}.items()}
    return {item: value for item, value in values.items() if not query.networks or query.networks[0] in item}


def _measure(query: Query) -> str:
    return "node_strength" if query.extra["measure"] == "hub" else query.extra["measure"]


def _wants_most(query: Query) -> bool:
    return query.extra.get("direction") not in ("least", "weakest") and query.intent != "weakest"


def _is_level(item: Item, level: str, query: Query, measures: ScanMeasures) -> bool:
    if len(item) == 1:
        found = measures.network(_measure(query), item[0])
        return found is not None and found.level == level
    value = measures.pair(*item)
    return value is not None and level in levels_of(value, item[0] == item[1])
