"""The simplest program that answers questions about a scan: keywords and exact names, and the computed numbers.

A baseline of the benchmark (`question_benchmark`): what it gets right needs no understanding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..questions.answers import Unanswerable, answer
from ..questions.query import Query
from .question_scans import measures_of

_LEVELS = {
    "markedly high": r"(?:very|markedly) (?:strong|high)",
    "markedly low": r"(?:very|markedly) (?:weak|low)",
    "moderate": r"moderate",
    "high": r"strong|high",
    "low": r"weak|low",
    "negative": r"negative|anti-?correlated|below zero",
}
_MEASURES = {
    "modularity": ("graph", r"modular"),
    "global_efficiency": ("graph", r"efficiency"),
    "clustering": ("graph", r"clustering"),
    "hub": ("graph", r"\bhub"),
    "range": ("gradient", r"gradient range|range of the .*gradient"),
    "amplitude": ("spectral", r"amplitude"),
    "falff": ("spectral", r"falff"),
    "low_high_ratio": ("spectral", r"ratio"),
    "autocorrelation": ("spectral", r"autocorrelation"),
    "variability": ("spectral", r"variab"),
}
_TOPICS = {"connectivity": r"connectivity", "graph": r"graph", "gradients": r"gradients?", "spectral": r"spectral"}


def keywords(scan: Mapping[str, Any] | None, question: str) -> dict[str, Any]:
    """Answer a question by keywords; an entrant of the benchmark."""
    query = None if scan is None else parse(question, scan["atlas"].network_names)
    if scan is None or query is None:
        return {"answer": "I do not understand the question.", "declined": True}
    try:
        found = answer(query, measures_of(scan))
    except Unanswerable as error:
        return {"answer": str(error), "declined": True, "queries": [query.to_json()]}
    return {"answer": found.text, "declined": False, "queries": [query.to_json()]}


def parse(question: str, network_names: tuple[str, ...]) -> Query | None:
    """Read a question by keywords and exact names of networks; None if no pattern fits."""
    text = question.lower()
    names = _names(text, network_names)
    for measure, (intent, pattern) in _MEASURES.items():
        if re.search(pattern, text):
            return _of_measure(intent, measure, names, text)
    claim = next((level for level, pattern in _LEVELS.items() if re.search(rf"\b(?:{pattern})\b", text)), None)
    end = next((end for end in ("strongest", "weakest") if end in text), None)
    if re.match(r"describe|summari[sz]e", text):
        topic = next((topic for topic, pattern in _TOPICS.items() if re.search(pattern, text)), "all")
        return Query("describe", names[:1], {"about": names[0] if names else topic})
    if len(names) == 4 and (relation := re.search(r"stronger|weaker", text)):
        return Query("compare", names, {"relation": relation[0]})
    if len(names) == 1 and re.search(r"most|least|strongest|weakest", text):
        least = re.search(r"least|weakest", text)
        return Query("partner", names, {"direction": "least" if least else "most"})
    if not names and end:
        number = re.search(r"\b(\d+)\b", text)
        if number and int(number[1]) > 0:
            return Query("rank", (), {"k": int(number[1]), "direction": end})
        return Query(end, (), {"scope": "within" if "within" in text else "between"})
    if not names and claim and "how many" in text:
        return Query("count", (), {"claim": claim})
    if len(names) in (1, 2) and claim and re.match(r"is|are|does|do\b", text):
        return Query("yesno", names, {"claim": claim})
    if len(names) in (1, 2):
        return Query("level" if len(names) == 2 else "within", names)
    return None


def _names(text: str, network_names: tuple[str, ...]) -> tuple[str, ...]:
    """The exact names in a text, in its order; a longer name hides a shorter one inside it."""
    longest_first = sorted(network_names, key=len, reverse=True)
    pattern = rf"(?<!\w)({'|'.join(re.escape(name.lower()) for name in longest_first)})(?!\w)"
    spelled = {name.lower(): name for name in network_names}
    return tuple(dict.fromkeys(spelled[found] for found in re.findall(pattern, text)))


def _of_measure(intent: str, measure: str, names: tuple[str, ...], text: str) -> Query | None:
    if intent != "spectral":
        return Query(intent, (), {"measure": measure})
    if names:
        return Query(intent, names[:1], {"measure": measure, "direction": None})
    direction = "least" if re.search(r"least|lowest|smallest", text) else "most"
    return Query(intent, (), {"measure": measure, "direction": direction})
