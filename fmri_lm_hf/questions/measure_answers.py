"""Answers about measures of networks and of the whole scan: graph, principal gradient, signals."""

from __future__ import annotations

from .measures import ScanMeasures
from .nulls import BOUNDS_NULL
from .query import Query
from .reasons import require_measure, require_positions, require_whole
from .statements import (
    NOUNS,
    Answer,
    Statement,
    counted,
    left_out,
    listed,
    measure_statement,
    network_statement,
    number,
    sentence,
    whole_statement,
)

POSITION = "share of the way between the ends"


def answer_graph(query: Query, measures: ScanMeasures) -> Answer:
    """Answer with a measure of the graph of the strongest correlations."""
    measure = query.extra["measure"]
    if measure == "hub":
        return network_extreme(measures, "node_strength", True, hub=True)
    if measure != "node_strength":
        return Answer.of(whole_statement(measure, require_whole(measures, measure)))
    if query.networks:
        return _network(measures, measure, query.networks[0])
    return _mean_strength(measures)


def _mean_strength(measures: ScanMeasures) -> Answer:
    found = Statement(
        f"The node strength of a region (sum of its strongest correlations) is {number(measures.mean_strength)} on "
        "average.",
        measures.mean_strength,
        "summed correlation",
        "all usable regions of this scan",
    )
    if len(measures.present) < 2:
        return Answer.of(found)
    return Answer.of(found, *network_extreme(measures, "node_strength", True).evidence)


def _network(measures: ScanMeasures, measure: str, name: str) -> Answer:
    return Answer.of(network_statement(measure, name, require_measure(measures, measure, name)))


def network_extreme(measures: ScanMeasures, measure: str, most: bool, *, hub: bool = False) -> Answer:
    """Answer which network has most or least of a measure, and which has least or most."""
    require_measure(measures, measure)
    values = measures.values(measure)
    chosen, other = (max, min) if most else (min, max)
    name, last = (extreme(values, key=values.__getitem__) for extreme in (chosen, other))
    found = measures.network(measure, name)
    assert found is not None
    noun, meaning = NOUNS[measure]
    end, other_end = ("highest", "lowest") if most else ("lowest", "highest")
    level = f": {found.level} for this scan" if found.level else ""
    if hub:
        lead = f"the hub is {name}, with the {end} {noun} of {counted(found.n, 'network')}"
    else:
        lead = f"of {counted(found.n, 'network')}, the {end} {noun} is that of {name}"
    text = f"{lead}, at {number(found.value)} ({meaning}){level}"
    first = measure_statement(sentence(text), found, name)
    if found.n == 1:
        return Answer.of(first, *left_out(measures))
    lowest = measures.network(measure, last)
    assert lowest is not None
    text = f"the {other_end} {noun} is that of {last}, at {number(lowest.value)}"
    return Answer.of(first, measure_statement(sentence(text), lowest, last), *left_out(measures))


def answer_gradient(query: Query, measures: ScanMeasures) -> Answer:
    """Answer with a measure of the principal gradient."""
    measure = query.extra["measure"]
    if measure == "range":
        return Answer.of(whole_statement("range", require_whole(measures, "range")))
    require_positions(measures)
    if measure == "position":
        return Answer.of(position_statement(measures, query.networks[0]), *_no_wider_than_chance(measures))
    evidence = (*ends_statements(measures), *_no_wider_than_chance(measures), *left_out(measures))
    return Answer.of(*evidence, value=list(measures.ends or ()))


def gradient_is_chance(measures: ScanMeasures) -> bool:
    """Whether the principal gradient is no wider than chance makes it, so that positions on it mean little."""
    found = measures.whole("range")
    return found is not None and found.z <= BOUNDS_NULL[2]


def _no_wider_than_chance(measures: ScanMeasures) -> list[Statement]:
    """State the range of a gradient that may be chance."""
    found = measures.whole("range")
    return [whole_statement("range", found)] if found and gradient_is_chance(measures) else []


def answer_spectral(query: Query, measures: ScanMeasures) -> Answer:
    """Answer with a measure of the networks' mean signals."""
    measure, direction = query.extra["measure"], query.extra["direction"]
    if query.networks:
        return _network(measures, measure, query.networks[0])
    return network_extreme(measures, measure, direction == "most")


# ----- the principal gradient -----


def ends_statements(measures: ScanMeasures) -> list[Statement]:
    """State which networks lie at the ends of the principal gradient, and the order of the others."""
    positions = measures.positions
    order = sorted(positions, key=positions.__getitem__)
    text = f"the principal gradient of this scan runs from {order[0]} at one end (0) to {order[-1]} at the other (1)"
    relative_to = f"the {len(order)} networks of this scan"
    found = [Statement(sentence(text), 1.0, POSITION, relative_to, networks=(order[0], order[-1]))]
    if len(order) > 2:
        between = [f"{name} ({number(positions[name])})" for name in order[1:-1]]
        text = sentence(f"from the {order[0]} end to the {order[-1]} end, in between: {listed(between)}")
        found.append(Statement(text, len(between), "networks", relative_to, networks=tuple(order[1:-1])))
    return found


def position_statement(measures: ScanMeasures, name: str) -> Statement:
    """State where a network lies between the two ends of the principal gradient."""
    first, last = measures.ends or ("", "")
    position = measures.positions[name]
    if name in (first, last):
        other = last if name == first else first
        text = f"on the principal gradient of this scan, {name} lies at one end, and {other} at the other"
    else:
        text = (
            f"on the principal gradient, which runs from {first} (0) to {last} (1) in this scan, {name} lies at "
            f"{number(position)}: {_place(position, first, last)}"
        )
    return Statement(
        sentence(text), position, POSITION, f"the {first} end (0) and the {last} end (1)", networks=(name,)
    )


def _place(position: float, first: str, last: str) -> str:
    if 0.4 <= position <= 0.6:
        return "about in the middle"
    near, distance = (first, position) if position < 0.5 else (last, 1 - position)
    return f"close to the {near} end" if distance < 0.15 else f"nearer to the {near} end"
