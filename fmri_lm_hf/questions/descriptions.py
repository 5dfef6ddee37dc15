"""Descriptions of a scan or of one network: the answers to a few questions that are worth asking, each number once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from .measure_answers import answer_gradient, answer_graph, answer_spectral, gradient_is_chance
from .measures import ScanMeasures
from .pair_answers import answer_count, answer_extreme, answer_level, answer_partner
from .query import SPECTRAL, Query
from .statements import Answer, Statement, Unanswerable, left_out, network_statement

MAX_SENTENCES = 6

_STRONGEST = Query("strongest", extra={"scope": "between"})
_WEAKEST = Query("weakest", extra={"scope": "between"})
_STRONGEST_WITHIN = Query("strongest", extra={"scope": "within"})
_HUB = Query("graph", extra={"measure": "hub"})
_MODULARITY = Query("graph", extra={"measure": "modularity"})
_ENDS = Query("gradient", extra={"measure": "ends"})
_RANGE = Query("gradient", extra={"measure": "range"})
_SIGNALS = tuple(Query("spectral", extra={"measure": measure, "direction": "most"}) for measure in SPECTRAL)

# topic -> the queries whose answers describe it
_ASKED: dict[str, Sequence[Query]] = {
    "all": (_STRONGEST, _WEAKEST, _STRONGEST_WITHIN, _MODULARITY, _ENDS),
    "connectivity": (
        _STRONGEST,
        _WEAKEST,
        Query("count", extra={"claim": "markedly high"}),
        Query("count", extra={"claim": "negative"}),
        _STRONGEST_WITHIN,
        Query("weakest", extra={"scope": "within"}),
    ),
    "graph": (
        _MODULARITY,
        Query("graph", extra={"measure": "global_efficiency"}),
        Query("graph", extra={"measure": "clustering"}),
        _HUB,
    ),
    "gradients": (_ENDS, _RANGE),
    "ica": _SIGNALS,
    "spectral": _SIGNALS,
}
_ANSWERS: dict[str, Callable[[Query, ScanMeasures], Answer]] = {
    "within": answer_level,
    "strongest": answer_extreme,
    "weakest": answer_extreme,
    "partner": answer_partner,
    "count": answer_count,
    "graph": answer_graph,
    "gradient": answer_gradient,
    "spectral": answer_spectral,
}
# Both of their statements belong in a description: the two ends of a ranking, or of a gradient and what is in between.
_WHOLE_ANSWERS = {"graph": (_HUB, _ENDS), "gradients": (_HUB, _ENDS)}


def answer_describe(query: Query, measures: ScanMeasures) -> Answer:
    """Describe the scan, a family of its measures, or one network, in up to six sentences."""
    about = query.extra["about"]
    missing = left_out(measures)
    if query.networks:
        name = query.networks[0]
        found, refusals = _statements(_of_network(name), measures)
        found += _notable_signal(measures, (name,))
        missing = []
    else:
        found, refusals = _statements(_ASKED[about], measures, _WHOLE_ANSWERS.get(about, ()))
        found += _notable_signal(measures, measures.present) if about == "all" else []
    if not found:
        raise refusals[0]
    if about == "ica" and not query.networks:
        found[0] = _of_mean_signals(found[0])
    evidence = [*_distinct(found)[: MAX_SENTENCES - len(missing)], *missing]
    text = " ".join(one.statement for one in evidence)
    return Answer(text, None, None, None, "this scan", tuple(evidence))


def _of_network(name: str) -> list[Query]:
    return [
        Query("within", (name,)),
        Query("partner", (name,), {"direction": "most"}),
        Query("partner", (name,), {"direction": "least"}),
        Query("graph", (name,), {"measure": "node_strength"}),
        Query("gradient", (name,), {"measure": "position"}),
    ]


def _statements(
    queries: Iterable[Query], measures: ScanMeasures, whole: Sequence[Query] = ()
) -> tuple[list[Statement], list[Unanswerable]]:
    """Collect the leading statement of each answer (all but what is left out for some), and what has no answer."""
    found: list[Statement] = []
    refusals: list[Unanswerable] = []
    for query in queries:
        # Unless gradients were asked for, places on one that may be chance are not worth saying; that it may be is.
        if query.intent == "gradient" and query not in whole and gradient_is_chance(measures):
            query = _RANGE
        try:
            evidence = _ANSWERS[query.intent](query, measures).evidence
        except Unanswerable as refusal:
            refusals.append(refusal)
        else:
            found += evidence[: 2 if query in whole else 1]
    return found, refusals


def _distinct(statements: Iterable[Statement]) -> list[Statement]:
    """Keep the first statement of each number: of two networks, the strongest pair is the weakest too."""
    known: dict[tuple, Statement] = {}
    for one in statements:
        subject = frozenset(one.networks) if one.networks else one.statement
        known.setdefault((subject, one.units), one)
    return list(known.values())


def _notable_signal(measures: ScanMeasures, names: Iterable[str]) -> list[Statement]:
    """State the measure of the signal in which one of the networks differs most from those of the scan."""
    values = [
        (measure, name, value)
        for measure in SPECTRAL
        for name in names
        if (value := measures.network(measure, name)) is not None
    ]
    if not values:
        return []
    measure, name, value = max(values, key=lambda found: abs(found[2].z))
    return [network_statement(measure, name, value)]


def _of_mean_signals(first: Statement) -> Statement:
    """Say with the first statement what stands in for components, which one scan alone does not give."""
    text = first.statement[0].lower() + first.statement[1:]
    return replace(first, statement=f"With the networks' mean signals in place of independent components, {text}")
