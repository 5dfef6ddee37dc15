"""What a question asks about a scan, in a form that programs share: question, truth, answer and benchmark alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CLAIMS = ("markedly low", "low", "moderate", "high", "markedly high", "negative")
SCOPES = ("between", "within", "any")
RELATIONS = ("stronger", "weaker")
ENDS = ("strongest", "weakest")
DIRECTIONS = ("most", "least")
TOPICS = ("all", "connectivity", "graph", "gradients", "ica", "spectral")
GRAPH = ("modularity", "global_efficiency", "clustering", "node_strength", "hub")
GRADIENT = ("position", "ends", "range")
SPECTRAL = ("amplitude", "falff", "low_high_ratio", "autocorrelation", "variability")

# intent -> (numbers of networks that it may name, values that each parameter may take; None: see `_check`)
INTENTS: dict[str, tuple[tuple[int, ...], dict[str, Sequence[Any] | None]]] = {
    "level": ((2,), {}),
    "within": ((1,), {}),
    "yesno": ((1, 2), {"claim": CLAIMS}),
    "compare": ((4,), {"relation": RELATIONS}),
    "strongest": ((0,), {"scope": SCOPES}),
    "weakest": ((0,), {"scope": SCOPES}),
    "partner": ((1,), {"direction": DIRECTIONS}),
    "rank": ((0,), {"k": None, "direction": ENDS}),
    "count": ((0,), {"claim": CLAIMS}),
    "describe": ((0, 1), {"about": None}),
    "graph": ((0, 1), {"measure": GRAPH}),
    "gradient": ((0, 1), {"measure": GRADIENT}),
    "spectral": ((0, 1), {"measure": SPECTRAL, "direction": (None, *DIRECTIONS)}),
}


@dataclass(frozen=True)
class Query:
    """What is asked about one scan.

    Attributes
    ----------
    intent : str
        One of `INTENTS`.
    networks : tuple of str
        Canonical names of the atlas, in the order of the question. For a comparison four: pair ab against pair cd,
        with the same name twice for the connectivity within one network.
    extra : dict
        Parameters of the intent, such as ``{"claim": "low"}``.

    Raises
    ------
    ValueError
        If the intent is unknown, or networks or parameters do not fit it.

    Examples
    --------
    >>> str(Query("yesno", ("default", "visual"), {"claim": "low"}))
    'whether connectivity between default and visual is low'
    """

    intent: str
    networks: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "networks", tuple(self.networks))
        object.__setattr__(self, "extra", dict(self.extra))
        problem = self._problem()
        if problem:
            raise ValueError(f"The query {self.to_json()} is not valid: {problem}.")

    def _problem(self) -> str | None:
        """Return what is wrong with the query; None if nothing is."""
        if self.intent not in INTENTS:
            return f"the intent is one of {', '.join(INTENTS)}"
        counts, parameters = INTENTS[self.intent]
        if len(self.networks) not in counts:
            return f"{self.intent} names {' or '.join(map(str, counts))} networks, not {len(self.networks)}"
        if set(self.extra) != set(parameters):
            return f"{self.intent} has the parameters {sorted(parameters)}, not {sorted(self.extra)}"
        for name, allowed in parameters.items():
            if allowed is not None and self.extra[name] not in allowed:
                return f"{name} is one of {', '.join(map(str, allowed))}, not {self.extra[name]!r}"
        if self.intent in ("level", "yesno") and len(set(self.networks)) < len(self.networks):
            instead = "the intent is within" if self.intent == "level" else "name it once"
            return f"a {self.intent} is about two different networks; for one network, {instead}"
        k = self.extra.get("k")
        if self.intent == "rank" and not (type(k) is int and k > 0):
            return f"k is a whole number above 0, not {k!r}"
        if self.intent == "describe":
            about = self.extra["about"]
            fits = about == self.networks[0] if self.networks else about in TOPICS
            return None if fits else f"about is one of {', '.join(TOPICS)}, or the network, not {about!r}"
        return self._problem_with_number()

    def _problem_with_number(self) -> str | None:
        """Return why the number of networks does not fit a measure; None if it does."""
        measure, named = self.extra.get("measure"), bool(self.networks)
        if self.intent == "gradient" and named != (measure == "position"):
            return f"gradient {measure} names {'one network' if measure == 'position' else 'no network'}"
        if self.intent == "graph" and named and measure != "node_strength":
            return f"graph {measure} names no network"
        if self.intent == "spectral" and named != (self.extra["direction"] is None):
            return "spectral names a network, or asks with a direction which network has the most or the least"
        return None

    # ----- forms -----

    def to_json(self) -> dict[str, Any]:
        """Return ``{"intent", "networks", "extra"}``."""
        return {"intent": self.intent, "networks": list(self.networks), "extra": dict(self.extra)}

    @classmethod
    def from_json(cls, query: Mapping[str, Any]) -> Query:
        """Make a query from the result of `to_json`."""
        return cls(query["intent"], tuple(query.get("networks", ())), query.get("extra", {}))

    @property
    def key(self) -> tuple[Any, ...]:
        """What the query means: equal for two questions with the same truth, whatever the order of their names."""
        names: tuple[Any, ...] = self.networks
        extra = dict(self.extra)
        if self.intent == "compare":
            names = tuple(sorted([tuple(sorted(names[:2])), tuple(sorted(names[2:]))]))
        elif self.intent in ("level", "yesno"):
            names = tuple(sorted(names))
        return (self.intent, names, tuple(sorted(extra.items())))

    def __hash__(self) -> int:
        return hash((self.intent, self.networks, tuple(sorted(self.extra.items(), key=str))))

    def __str__(self) -> str:
        return _WORDS[self.intent](self)


def _pair(first: str, second: str) -> str:
    return f"within {first}" if first == second else f"between {first} and {second}"


def _spoken(measure: str) -> str:
    return {"falff": "fALFF", "low_high_ratio": "low/high frequency ratio"}.get(measure, measure.replace("_", " "))


def _graph(query: Query) -> str:
    measure = query.extra["measure"]
    if measure == "hub":
        return "which network is the hub"
    return f"{_spoken(measure)} of {query.networks[0] if query.networks else 'the graph'}"


def _gradient(query: Query) -> str:
    return {
        "position": "position of {} on the principal gradient",
        "ends": "networks at the ends of the principal gradient",
        "range": "range of the principal gradient",
    }[query.extra["measure"]].format(*query.networks)


def _spectral(query: Query) -> str:
    measure = _spoken(query.extra["measure"])
    if query.networks:
        return f"{measure} of {query.networks[0]}"
    return f"which network has the {'highest' if query.extra['direction'] == 'most' else 'lowest'} {measure}"


def _extreme(query: Query) -> str:
    noun = {"between": "network pair", "within": "network inside itself", "any": "connectivity of all"}
    return f"{query.intent} {noun[query.extra['scope']]}"


_WORDS = {
    "level": lambda q: f"connectivity {_pair(*q.networks)}",
    "within": lambda q: f"connectivity within {q.networks[0]}",
    "yesno": lambda q: f"whether connectivity {_pair(q.networks[0], q.networks[-1])} is {q.extra['claim']}",
    "compare": lambda q: (
        f"whether connectivity {_pair(*q.networks[:2])} or {_pair(*q.networks[2:])} is {q.extra['relation']}"
    ),
    "strongest": _extreme,
    "weakest": _extreme,
    "partner": lambda q: f"which network {q.networks[0]} is coupled with {q.extra['direction']}",
    "rank": lambda q: f"the {q.extra['k']} {q.extra['direction']} network pairs",
    "count": lambda q: f"how many network pairs are {q.extra['claim']}",
    "describe": lambda q: f"a description of {'the scan' if q.extra['about'] == 'all' else q.extra['about']}",
    "graph": _graph,
    "gradient": _gradient,
    "spectral": _spectral,
}
