"""The answer to a query about one scan, from the scan's own numbers: a sentence with its evidence, or a reason why not.

Sentences begin with the fact, never with yes or no: a bare yes to "it isn't weak, is it?" could mean either.
"""

from __future__ import annotations

from collections.abc import Callable

from .descriptions import answer_describe
from .measure_answers import answer_gradient, answer_graph, answer_spectral
from .measures import ScanMeasures
from .pair_answers import (
    answer_compare,
    answer_count,
    answer_extreme,
    answer_level,
    answer_partner,
    answer_rank,
    answer_yesno,
)
from .query import Query
from .reasons import require_networks
from .statements import Answer, Statement, Unanswerable

__all__ = ["Answer", "Statement", "Unanswerable", "answer"]

_ANSWERS: dict[str, Callable[[Query, ScanMeasures], Answer]] = {
    "level": answer_level,
    "within": answer_level,
    "yesno": answer_yesno,
    "compare": answer_compare,
    "strongest": answer_extreme,
    "weakest": answer_extreme,
    "partner": answer_partner,
    "rank": answer_rank,
    "count": answer_count,
    "describe": answer_describe,
    "graph": answer_graph,
    "gradient": answer_gradient,
    "spectral": answer_spectral,
}


def answer(query: Query, measures: ScanMeasures) -> Answer:
    """Answer a query about one scan.

    Parameters
    ----------
    query : Query
    measures : ScanMeasures

    Returns
    -------
    Answer

    Raises
    ------
    Unanswerable
        If the scan has no answer: the atlas lacks a network, say, or a network has no usable region.

    Examples
    --------
    >>> answer(Query("within", ("default",)), measures).text  # doctest: +SKIP
    'The coupling within default is strong (high), at 1.21 times ...: 2nd strongest of 6 networks.'
    """
    require_networks(measures, query.networks)
    return _ANSWERS[query.intent](query, measures)
